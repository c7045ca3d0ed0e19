"""Explanations of plans built by hand, as they are drawn."""

from itertools import pairwise

import msgspec
import pytest

from rldsl.compiler.plan import Arg, Dropped, Program
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
    assert page.sections[-1].lines == ("merge_equal_nodes took `again`: `ref` computes the same",)


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
