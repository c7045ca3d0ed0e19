"""Explanations of plans built by hand, as they are drawn."""

import msgspec
import pytest

from rldsl.compiler.plan import Dropped
from rldsl.render.explain import Explainer
from rldsl.render.pages import PageView
from tests.render.loops import collecting, talking
from tests.render.test_timeline import split, typed

WIDTHS = (80, 120)
ASKED = {
    "ppo": ("rollout", "advantage", "update_actor", "tokens", "actor", "node old", "clip"),
    "collecting": ("test", "resample", "resample.rollout", "resample.2.reward", "resample.score", "test.accuracy", "actor"),
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
