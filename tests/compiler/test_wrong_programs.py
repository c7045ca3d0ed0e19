"""Every mistake gets its code, its place and, where there is one, its fix; one mistake gives one error."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rldsl.compiler.pipeline import Options, check_file
from rldsl.diagnostics import Diagnostic, Severity
from tests.compiler.programs import PPO, PROGRAM, compiled
from tests.compiler.wrong_programs import FOLDER, Program, all_programs, programs

PROGRAMS = all_programs()
# What only files, models, plans, runs and Python can be guilty of: no text of the language raises it.
NOT_OF_TEXT = re.compile(r"RL(0104|0105|050[1-59]|06\d\d|07\d\d|080[12]|081[46])")


def described(found: Diagnostic) -> str:
    place = "nowhere" if found.span is None else f"{found.span.line}:{found.span.column}-{found.span.end_column}"
    return f"{place} {found.code} {found.message}; {found.fix}"


@pytest.mark.parametrize("program", PROGRAMS, ids=[f"{p.file}: {p.name}" for p in PROGRAMS])
def test_exactly_these_diagnostics_in_source_order(program: Program) -> None:
    found = program.diagnostics()
    shown = "\n".join(["found:", *map(described, found), "expected:", *map(str, program.expected)])
    assert len(found) == len(program.expected), shown
    for one, expected in zip(found, program.expected, strict=True):
        assert expected.matches(one, program.file), shown
    # Files in alphabetical order, and within each the lines from above.
    places = [(d.span.file, d.span.line, d.span.column) for d in found if d.span is not None]
    assert places == sorted(places)


def test_every_code_of_the_language_has_a_program() -> None:
    pages = {p.stem for p in Path(__file__).parents[2].joinpath("rldsl", "errors").glob("RL*.md")}
    said = {e.code for p in PROGRAMS for e in p.expected}
    assert sorted(c for c in pages - said if not NOT_OF_TEXT.fullmatch(c)) == []
    assert len(pages) >= 60


def test_many_mistakes_at_once_and_one_mistake_once() -> None:
    several, poison = (list(programs(FOLDER / name)) for name in ("several.rl", "poison.rl"))
    assert len(several) >= 15 and all(len(p.expected) >= 3 for p in several)
    assert len(poison) >= 15 and all(len(p.expected) == 1 for p in poison)
    mixed = [p for p in several if {"RL0102"} < {e.code for e in p.expected}]
    assert mixed, "syntax errors and others in one program"


def test_the_annotations_are_read() -> None:
    text = "# a name\nparam a : int = 4.5  #! RL0304 no int\nnode b = c\n#        ^ RL0102\n#! RL0201 x ... y\n"
    program = Program("a.rl")
    for line in text.splitlines():
        program.read(line)
    assert program.text == "param a : int = 4.5\nnode b = c\n"
    assert [(e.code, e.line, e.columns) for e in program.expected] == [
        ("RL0304", 1, None),
        ("RL0102", 2, (10, 11)),
        ("RL0201", 2, None),
    ]
    first = program.expected[0]
    wrong = Diagnostic(code="RL0304", message="the default is no float")
    assert not first.matches(wrong, "a.rl") and replace(first, line=0, pieces=("no float",)).matches(wrong, "a.rl")


def test_correct_programs_have_neither_errors_nor_warnings() -> None:
    assert compiled(PROGRAM).warnings == () and compiled(PPO).warnings == ()


def test_warnings_do_not_stop() -> None:
    for program in programs(FOLDER / "warnings.rl"):
        assert all(d.severity is Severity.WARNING for d in program.diagnostics()), program.name


def named(name: str) -> Program:
    return next(p for p in PROGRAMS if p.name == name)


def test_a_circle_is_drawn() -> None:
    (found,) = named("a circle of fields").diagnostics()
    assert "advantage -> advantage" in found.message or "reward -> advantage -> reward" in found.message
    assert len(found.labels) == 2


def test_other_places_of_an_unknown_name_are_labels() -> None:
    (found,) = named("a misspelt output, which five nodes read").diagnostics()
    assert [label.message for label in found.labels] == ["here too"] * 2
    assert found.span is not None
    assert all(label.span.line > found.span.line for label in found.labels)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("none.rl", None, "RL0101"),
        ("algorithm.txt", "", "RL0103"),
        ("latin.rl", b"algorithm \xe9 {}", "RL0101"),
        ("broken.py", "def f(:\n", "RL0102"),
        ("raises.py", "x = 1\ny = 1 / 0\n", "RL0104"),
    ],
)
def test_files(tmp_path: Path, name: str, content: str | bytes | None, code: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = check_file(path, Options())
    assert [d.code for d in found] == [code]
    if code == "RL0104":
        assert found[0].span is not None and found[0].span.line == 2
