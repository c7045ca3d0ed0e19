"""Explanations of plans built by hand, as they are drawn."""

from itertools import pairwise

import msgspec
import pytest

from rldsl.compiler.ops import Arg
from rldsl.compiler.plan import Dropped, Program
from rldsl.render.explain import Explainer
from rldsl.render.pages import PageView
from tests.render.loops import collecting, talking
from tests.render.test_timeline import split, typed

WIDTHS = (80, 120)
ASKED = {
    "ppo": ("rollout", "advantage", "update_actor", "tokens", "actor", "node old", "clip"),
    "collecting": (
        "test",
        "resample",
        "resample.rollout",
        "resample.2.reward",
        "resample.score",
        "test.accuracy",
        "actor",
    ),
    "talking": ("talk.act", "talk.env", "talk.tokens", "critic", "kept"),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ASKED)
def test_pages(plan, name, width, drawn, golden):
    shown = {"ppo": split(plan), "collecting": typed(collecting()), "talking": typed(talking())}[name]
    explainer = Explainer(shown)
    pages = [explainer.summary(), *(p for asked in ASKED[name] for p in explainer.pages(asked))]
    text = "\n".join(drawn(PageView(p), width) for p in pages)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"{name}-explained-{width}.txt", text)


@pytest.mark.parametrize("made", [collecting, talking])
def test_every_name_has_a_page(made):
    explainer = Explainer(made())
    assert [n for n in explainer.names() if not explainer.pages(n)] == []


def test_a_name_that_ends_so_only_once_is_enough():
    explainer = Explainer(talking())
    assert [p.title for p in explainer.pages("env")] == ["talk.env"]
    assert explainer.pages("nope") == ()


def test_a_node_and_its_field_of_one_name_have_a_page_each(plan):
    fields = (*plan.fields, msgspec.structs.replace(plan.fields[3], name="values"))
    kinds = [p.kind for p in Explainer(msgspec.structs.replace(plan, fields=fields)).pages("values")]
    assert kinds == ["node, CRITIC, MODEL_INFERENCE", "field, f32[sample]"]


def test_what_was_merged_into_a_node_is_said_there(plan):
    dropped = (Dropped(what="again", by="merge_equal_nodes", why="`ref` computes the same"),)
    (page,) = Explainer(msgspec.structs.replace(plan, dropped=dropped)).pages("ref")
    assert page.sections[-1].heading == "passes"
    assert page.sections[-1].lines[-1] == "merge_equal_nodes took `again`: `ref` computes the same"


def test_ops_without_a_node_say_whom_they_serve(plan):
    explainer = Explainer(split(plan))
    pages = {name: explainer.pages(name)[0] for name in ("back", "sync_actor", "save_actor", "free_0")}
    told = {name: {s.heading: s.lines for s in page.sections} for name, page in pages.items()}
    assert pages["back"].kind == "op, reshard"
    assert told["back"]["is there for"][0] == "`tokens` of `rollout` for `ref`"
    assert told["back"]["bytes"][0].startswith("8 of 16 prompts change ranks, 2 messages, at most (")
    assert told["sync_actor"]["is there for"] == ("what `update_actor` trained, for `rollout`",)
    assert told["save_actor"]["is there for"] == ("what `update_actor` made",)
    assert told["free_0"]["is there for"] == ("`score`, which `advantage` needs last",)
    assert told["back"]["passes"] == ("made by lower_reshards",)


def test_what_a_node_was_lowered_to(plan):
    (page,) = Explainer(split(plan)).pages("rollout")
    (lines,) = (s.lines for s in page.sections if s.heading == "lowered to")
    first, second = lines
    assert first.startswith("ranks 0 to 1: op 1 `sync_actor` by lower_weights, op 2 `there` by lower_reshards, op 3 ")
    assert second == "ranks 2 to 3: op 1 `sync_actor` by lower_weights, op 2 `there` by lower_reshards"


def test_a_page_tells_of_so_many_nodes_only(plan):
    (page,) = Explainer(plan, most=3).pages("rollout")
    (down,) = (s.lines for s in page.sections if s.heading == "downstream")
    assert down == ("1 step: reward, ref, values, ...",)


def test_far_nodes_are_counted(plan):
    """A chain of twelve more nodes behind `reward`."""
    reward = plan.programs[0].ops[3]
    names = ["score", *(f"more{i}" for i in range(12))]
    links = tuple(
        msgspec.structs.replace(reward, id=b, node=b, args=(Arg(param="score", field=a),), outputs=(b,))
        for a, b in pairwise(names)
    )
    longer = msgspec.structs.replace(plan, programs=(Program(ops=(*plan.ops(), *links)),))
    (page,) = Explainer(longer).pages("reward")
    (down,) = (s.lines for s in page.sections if s.heading == "downstream")
    assert down[0] == "1 step: advantage, more0"
    assert down[-1] == "more than 8 steps: 4 nodes"
