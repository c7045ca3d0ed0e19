"""Diagnostics at their places in the document, and what mends them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldsl.diagnostics import Diagnostic, Severity
from rldsl.lsp.problems import Problem, problems
from rldsl.lsp.view import Source, analyse
from tests.lsp.conftest import BASE, MAIN, MINE


def found_in(folder: Path, text: str) -> list[Problem]:
    path = folder / "main.rl"
    return problems(Source.of(path, text), analyse(path, text).diagnostics)


def test_a_clean_text(folder: Path):
    assert found_in(folder, MAIN) == []


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        ("mean(score)\n  output", "mean(scor)\n  output", "RL0201"),
        ("= frozen actor", "= frozen actr", "RL0202"),
        ("n = group", "n = grup", "RL0203"),
        ("compute calculator", "compute calculater", "RL0204"),
        ("train policy_loss", "train polcy_loss", "RL0204"),
        ("actor.extend", "actor.extnd", "RL0206"),
        ("; weight = 0.5", "; wieght = 0.5", "RL0207"),
        ("after short", "after shrt", "RL0208"),
        ('jsonl("rows', 'jsnl("rows', "RL0209"),
        (" : int   = 3", " : itn   = 3", "RL0210"),
        ("  node short", "  noed short", "RL0102"),
    ],
)
def test_a_misspelt_name_can_be_mended(folder: Path, right: str, wrong: str, code: str):
    assert MAIN.count(right) == 1
    text = MAIN.replace(right, wrong)
    mends = [p for p in found_in(folder, text) if p.code == code and p.edit]
    assert mends, found_in(folder, text)
    edit = mends[0].edit
    assert edit is not None
    assert text[: edit.start] + edit.text + text[edit.end :] == MAIN


def test_a_message_says_everything(folder: Path):
    (one,) = found_in(folder, MAIN.replace("mean(score)\n  output", "mean(scor)\n  output"))
    assert one.message.startswith("unknown field `scor`\nexpected: ")
    assert one.message.endswith("found: scor\nfix: did you mean `score`?")
    assert one.place.text.text[one.place.start : one.place.end] == "scor"


def test_labels_are_related_places(folder: Path):
    text = MAIN.replace("  metric brief", "  node short     = compute brevity(completions) -> again\n  metric brief", 1)
    twice = next(p for p in found_in(folder, text) if p.code == "RL0205")
    ((place, message),) = twice.related
    assert "first" in message and text[place.start : place.end] == "short"


def test_a_fault_in_another_file_stands_where_it_is_named(folder: Path):
    (folder / "mine.py").write_text(MINE.replace("completions: str", "completions: int8"))
    (one,) = [p for p in found_in(folder, MAIN) if p.code == "RL0305"]
    assert one.place.text.text[one.place.start : one.place.end] == '"mine.py"'
    place, _ = one.related[0]
    assert place.text.path.name == "mine.py" and place.text.text[place.start : place.end].startswith("int8")
    assert one.edit is None


def test_a_fault_in_an_imported_file_stands_at_the_import(folder: Path):
    (folder / "base.rl").write_text(BASE.replace("int", "itn"))
    one = next(p for p in found_in(folder, MAIN) if p.code == "RL0210")
    assert one.place.text.text[one.place.start : one.place.end] == '"base.rl"'


def test_a_message_without_a_place(tmp_path: Path):
    source = Source.of(tmp_path / "a.rl", "algorithm a {}")
    (one,) = problems(source, [Diagnostic(code="RL0000", message="so", severity=Severity.WARNING)])
    assert (one.place.start, one.place.end, one.message) == (10, 11, "so")
    (nowhere,) = problems(Source.of(tmp_path / "a.rl", ""), [Diagnostic(code="RL0000", message="so")])
    assert (nowhere.place.start, nowhere.place.end) == (0, 0)
