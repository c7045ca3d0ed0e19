"""What a hover says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.lsp_speed import large
from rldsl.lsp.facts import hover
from rldsl.lsp.view import View, analyse
from tests.lsp.conftest import MAIN, at


def words(view: View, needle: str, text: str = MAIN) -> str:
    found = hover(view, at(needle, text))
    assert found is not None, needle
    markdown, place = found
    assert place.start <= at(needle, text) <= place.end
    return markdown


@pytest.mark.parametrize(
    ("needle", "said"),
    [
        (
            "mean(sco|re)\n  output",
            ["field score : f32[sample]", "One row a sample of `rollout`, 4 a prompt", "Written by `short`", "`advantage`"],
        ),
        ("calculator(|completions", ["text[sample]", "Written by `rollout`, `talk.act`", "Read by `short`"]),
        ("ref_log|p?", ["f32[sample, token]", "a value for each token", "Written by `ref`", "Read by `update`"]),
        ("generate(quest|ions", ["text[prompt]", "One row a prompt", 'jsonl("test.jsonl")', "Read by `test.greedy`"]),
        ("act|  = actor", ["node act : ACTOR, MODEL_INFERENCE", "Reads `tokens`", "`done`", "Writes `tokens`"]),
        ("upd|ate ", ["node update : ACTOR, MODEL_TRAIN", "`ref_logp?`", "Trains `actor`", "clipped surrogate"]),
        ("node r|ef ", ["Runs when `turns > 1`"]),
        ("metric br|ief   =", ["metric brief", "Reads `score`"]),
        ("output sam|ples", ["output samples", "Reads `prompts`, `completions`, `score`"]),
        ("max tur|ns", ["param turns : int = 3 in [1, 8]", "int, 3 unless set, at least 1 and at most 8"]),
        ("n = gro|up", ["param group : int = 4 in [2, 64]"]),
        ("frozen act|or", ['model actor : policy = scratch(; alphabet = "01=")', "Trained by `update`", "`rollout`"]),
        ("model refer|ence", ["policy = frozen actor", "begin as those of `model actor : policy = scratch(", "Never trained", "Used by `ref`"]),
        ("loop ta|lk", ["loop talk max turns carry"]),
        ("compute group_adv|antage", ["group_advantage(score : f32[sample]; group : int", "GRPO's advantage"]),
        ("compute brev|ity", ["brevity(completions : text[sample]; weight : float = 1.0)", "Short answers", "`mine.py`"]),
        ("actor.ext|end", ["extend(tokens : i64[sample, token]"]),
        ("actor.tr|ain", ["train LOSS(", "lr : float in [0, )"]),
        ("temper|ature = 0", ["temperature : float = 1.0 in [0, )"]),
        ("wei|ght = 0.5", ["weight : float = 1.0"]),
        ("bat|ch = 8 prompts", ["batch : int in [1, )"]),
        ("old_l|ogp = rollout", ["old_logp : f32[sample, token]"]),
        ('json|l("rows', ["jsonl(path : str"]),
    ],
)  # fmt: skip
def test_hover(view: View, needle: str, said: list[str]):
    markdown = words(view, needle)
    for part in said:
        assert part in markdown, markdown


@pytest.mark.parametrize("needle", ["al|gorithm main", "# A com|ment", "= 0.0|01", '"rows|.jsonl"'])
def test_nothing_to_say(view: View, needle: str):
    assert hover(view, at(needle)) is None


def test_what_is_not_known_yet_is_shown_as_it_stands(edited: Callable[[str], View]):
    text = MAIN.replace(
        "  node advantage", "  node fresh = compute calculator(completions) -> note, over\n  node advantage"
    )
    view = edited(text)
    for needle in ("node fre|sh", "-> no|te"):
        assert "node fresh = compute calculator(completions) -> note, over" in words(view, needle, text)


def test_a_broken_text_keeps_what_was_known(edited: Callable[[str], View]):
    text = MAIN.replace("  node ref ", "  node half = actor.\n  node ref ")
    assert "Written by `short`" in words(edited(text), "mean(sco|re)\n  output", text)


def test_without_a_compiler_there_is_the_text(folder: Path):
    view = View.of(folder / "main.rl", MAIN)
    assert "node short = compute brevity" in words(view, "mean(sco|re)\n  output")
    assert words(view, "max tur|ns") == "```rl\nparam turns : int = 3 in [1, 8]\n```"


def test_every_place_of_a_large_file_has_an_answer(tmp_path: Path):
    """How fast is for `bench/lsp_speed.py` to say."""
    text, path = large(30), tmp_path / "large.rl"
    module = analyse(path, text).module
    assert module is not None
    view = View.of(path, text, module)
    places = [o for offset in range(0, len(text), 7) if (o := view.source.scan.at(offset))]
    assert len(places) > 150
    assert all(hover(view, o.start) or not view.definitions(o) for o in places)
