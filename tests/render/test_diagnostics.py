"""Diagnostics drawn at a fixed width, with and without their source."""

import json

import pytest

from rldsl.diagnostics import Diagnostic, Label, Severity, Span
from rldsl.render.diagnostics import DiagnosticList, DiagnosticView, as_json, shown_path

SOURCE = """algorithm grpo {
  param group : int = 4

  node reward = compute last_number(completion, answers) -> score
\tnode tabbed = compute f(x)
  node 長い名前 = compute g(質問, x)
}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grpo.rl").write_text(SOURCE)
    return "grpo.rl"


def full(file):
    return Diagnostic(
        code="RL0201",
        message="unknown field `completion`",
        span=Span(file, 4, 37, 4, 47),
        labels=(Label(span=Span(file, 2, 9, 2, 14), message="`group` is set here"),),
        notes=("fields are written by `input` and by nodes; a note long enough to be folded under itself at 80",),
        expected="a field",
        found="`completion`",
        fix="did you mean `completions`?",
    )


@pytest.mark.parametrize("width", [80, 120])
def test_all_parts(file, drawn, golden, width):
    text = drawn(DiagnosticView(full(file)), width)
    assert text == golden(f"diagnostic-{width}.txt", text)


def carets(text):
    return [line.partition("| ")[2] for line in text.splitlines() if "^" in line]


def test_carets_stand_under_the_span(file, drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0201", message="m", span=Span(file, 4, 37, 4, 47))), 80)
    assert text.splitlines()[1] == " --> grpo.rl:4:37"
    source, under = text.splitlines()[3:5]
    assert source[under.index("^") : under.rindex("^") + 1] == "completion"


def test_tabs_are_four_wide(file, drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0201", message="m", span=Span(file, 5, 26, 5, 27))), 80)
    source, under = text.splitlines()[3:5]
    assert source[under.index("^")] == "x"


def test_wide_letters_take_two_cells(file, drawn):
    line = SOURCE.splitlines()[5]
    at = line.index("質問") + 1
    text = drawn(DiagnosticView(Diagnostic(code="RL0201", message="m", span=Span(file, 6, at, 6, at + 2))), 80)
    before = line[: at - 1]
    assert carets(text) == [" " * (len(before) + 4) + "^^^^"]


def test_a_span_of_several_lines_marks_its_first_to_the_end(file, drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0401", message="m", span=Span(file, 1, 1, 7, 2))), 80)
    assert carets(text) == ["^" * len("algorithm grpo {")]


def test_whole_line_has_no_caret(file, drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0705", message="m", span=Span.whole_line(file, 2))), 80)
    assert "param group" in text
    assert "^" not in text


def test_a_file_that_is_gone_shows_the_place(drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0101", message="m", span=Span("gone.rl", 3, 1, 3, 2))), 80)
    assert text == "error[RL0101]: m\n --> gone.rl:3:1\n"


def test_a_file_shorter_than_the_span_shows_the_place(file, drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0101", message="m", span=Span(file, 99, 1, 99, 2))), 80)
    assert text == "error[RL0101]: m\n  --> grpo.rl:99:1\n"


def test_without_a_place(drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0403", message="m", fix="add a `train` node")), 80)
    assert text == "error[RL0403]: m\n  = help: add a `train` node\n"


@pytest.mark.parametrize("column", [1, 150, 290])
def test_a_long_line_is_cut_around_the_span(tmp_path, drawn, column):
    path = tmp_path / "long.rl"
    path.write_text("x" * 299 + "\n")
    text = drawn(
        DiagnosticView(Diagnostic(code="RL0102", message="m", span=Span(str(path), 1, column, 1, column + 3))),
        80,
    )
    source, under = text.splitlines()[-2:]
    assert len(source) <= 80
    assert "^^^" in under
    assert len(under) <= 80


def test_a_label_of_another_file(file, tmp_path, drawn):
    (tmp_path / "rewards.py").write_text("def last_number(completions, answers):\n    return 0.0\n")
    label = Label(span=Span("rewards.py", 1, 5, 1, 16), message="defined here")
    text = drawn(
        DiagnosticView(Diagnostic(code="RL0303", message="m", span=Span(file, 4, 3, 4, 7), labels=(label,))),
        80,
    )
    assert " ::: rewards.py:1:5" in text
    assert "----------- defined here" in text


def test_labels_of_this_file_and_of_an_imported_one(file, tmp_path, drawn):
    (tmp_path / "base.rl").write_text("algorithm base {\n" + "\n" * 118 + "  param group : int = 8\n}\n")
    labels = (
        Label(span=Span("base.rl", 120, 9, 120, 14), message="first defined here"),
        Label(span=Span(file, 1, 1, 1, 10), message="which this file imports"),
    )
    text = drawn(
        DiagnosticView(Diagnostic(code="RL0205", message="m", span=Span(file, 2, 9, 2, 14), labels=labels)), 80
    )
    assert text.splitlines() == [
        "error[RL0205]: m",
        "   --> grpo.rl:2:9",
        "    |",
        "  1 | algorithm grpo {",
        "    | --------- which this file imports",
        "  2 |   param group : int = 4",
        "    |         ^^^^^",
        "   ::: base.rl:120:9",
        "    |",
        "120 |   param group : int = 8",
        "    |         ----- first defined here",
    ]


def test_lines_are_counted_as_parsers_count_them(tmp_path, drawn):
    path = tmp_path / "feed.rl"
    path.write_text("# one \x0c \u2028 line\r\nsecond\r\n")
    text = drawn(DiagnosticView(Diagnostic(code="RL0101", message="m", span=Span(str(path), 2, 1, 2, 7))), 80)
    assert "2 | second" in text
    beyond = drawn(DiagnosticView(Diagnostic(code="RL0101", message="m", span=Span(str(path), 3, 1, 3, 7))), 80)
    assert "|" not in beyond


def test_many_errors_are_all_shown(file, drawn):
    found = [Diagnostic(code="RL0201", message=f"unknown {i}", span=Span(file, 2, 9, 2, 14)) for i in range(500)]
    text = drawn(DiagnosticList(found), 80)
    assert text.count("error[RL0201]: unknown") == 500
    assert text.endswith("500 errors; `rldsl explain RL0201` says more\n")


def test_a_long_label_goes_below(file, drawn):
    label = Label(span=Span(file, 2, 9, 2, 14), message="word " * 20)
    text = drawn(
        DiagnosticView(Diagnostic(code="RL0205", message="m", span=Span(file, 4, 3, 4, 7), labels=(label,))),
        80,
    )
    assert text.count("word") == 20
    assert max(map(len, text.splitlines())) <= 80


def test_a_list_ends_with_its_count(file, drawn):
    warning = Diagnostic(code="RL0452", message="w", severity=Severity.WARNING)
    text = drawn(DiagnosticList([full(file), full(file), warning]), 80)
    assert text.endswith("2 errors, 1 warning; `rldsl explain RL0201` says more\n")
    assert drawn(DiagnosticList([]), 80) == ""


def test_braces_and_brackets_are_text(drawn):
    text = drawn(DiagnosticView(Diagnostic(code="RL0301", message="[bold]f32[sample, token][/bold] :smile:")), 80)
    assert text == "error[RL0301]: [bold]f32[sample, token][/bold] :smile:\n"


def test_json_has_every_key(file):
    found = as_json(full(file))
    assert json.loads(json.dumps(found)) == found
    assert found["span"] == {"file": file, "line": 4, "column": 37, "end_line": 4, "end_column": 47}
    assert found["labels"][0]["message"] == "`group` is set here"
    bare = as_json(Diagnostic(code="RL0403", message="m"))
    assert bare["span"] is None
    assert set(bare) == set(found)


def test_paths_under_the_working_directory_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_path(str(tmp_path / "a" / "b.rl")) == "a/b.rl"
    assert shown_path("/elsewhere/b.rl") == "/elsewhere/b.rl"
