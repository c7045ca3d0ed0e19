"""Definitions, references and scopes, over the files that a document brings in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rldsl.lsp.facts import hover
from rldsl.lsp.outline import outline
from rldsl.lsp.scan import Kind, scan
from rldsl.lsp.view import View, analyse
from tests.lsp.conftest import BASE, MAIN, MINE, at


def defined_at(view: View, offset: int) -> list[tuple[str, int]]:
    """(file, line) of the definitions of the name at `offset`."""
    occurrence = view.source.scan.at(offset)
    assert occurrence is not None
    return [(p.text.path.name, p.text.position(p.start)[0] + 1) for p in view.definitions(occurrence)]


def line_of(needle: str, text: str = MAIN) -> int:
    assert text.count(needle) == 1
    return text[: text.index(needle)].count("\n") + 1


TALK, ROLLOUT = "-> tokens, response_mask, rollout_logp, completions\n  }", "node rollout"


@pytest.mark.parametrize(
    ("needle", "places"),
    [
        ("compute brevity(compl|etions", [("main.rl", line_of("node rollout")), ("main.rl", line_of("node act"))]),
        ("calculator(|completions", [("main.rl", line_of("node rollout")), ("main.rl", line_of("node act"))]),
        ("exact_match(completions|, truth)", [("main.rl", line_of("node greedy"))]),
        ("observation|, done;", [("main.rl", line_of("node tool"))]),
        ("exact_match(completions, trut|h)", [("main.rl", line_of("input questions"))]),
        ("max t|urns", [("main.rl", line_of("param turns"))]),
        ("with l|r\n", [("main.rl", line_of("param lr"))]),
        ("after sho|rt", [("main.rl", line_of("node short"))]),
        ("refere|nce.logprob", [("main.rl", line_of("model reference"))]),
        ("frozen |actor", [("base.rl", line_of("model actor", BASE))]),
        ("n = grou|p", [("base.rl", line_of("param group", BASE))]),
        ("compute brev|ity", [("mine.py", line_of("def brevity", MINE))]),
        ('"base|.rl"', [("base.rl", 1)]),
        ('"mine|.py"', [("mine.py", 1)]),
        ("compute nothing|", []),
    ],
)
def test_definitions(view: View, edited: Callable[[str], View], needle: str, places: list[tuple[str, int]]):
    text = MAIN if "nothing" not in needle else MAIN.replace("compute calculator", "compute nothing")
    assert defined_at(edited(text), at(needle, text)) == places


PLACED = MAIN.replace("  actor.generate", "  short on 0..1\n  talk.tool on 2\n  actor.generate")


@pytest.mark.parametrize(
    ("needle", "defines", "says"),
    [
        ("  sho|rt on", "node short", "node short : COMPUTE"),
        ("  talk.to|ol on", "node tool", "node tool : "),
        ("  ta|lk.tool on", "loop talk", "loop talk"),
    ],
)
def test_what_a_deployment_puts_on_ranks(edited: Callable[[str], View], needle: str, defines: str, says: str):
    view, offset = edited(PLACED), at(needle, PLACED)
    assert defined_at(view, offset) == [("main.rl", line_of(defines, PLACED))]
    shown = hover(view, offset)
    assert shown is not None and says in shown[0]
    occurrence = view.source.scan.at(offset)
    assert occurrence is not None and len(view.references(occurrence)) >= 2


def test_a_node_may_be_called_on():
    found = scan("deploy {\n  on on 3\n  actor.train : fsdp() on 4..5\n}\n").occurrences
    assert [(o.kind, o.name) for o in found] == [(Kind.NODE, "on"), (Kind.MODEL, "actor")]


def test_a_shipped_function_is_found_in_its_file(view: View):
    ((file, line),) = defined_at(view, at("compute group_adv|antage"))
    from rldsl.algos import advantages

    source = Path(advantages.__file__ or "").read_text().splitlines()
    assert file == "advantages.py" and source[line - 1].startswith("def group_advantage(")


def referred(view: View, needle: str, *, declaration: bool = True) -> list[tuple[str, int]]:
    occurrence = view.source.scan.at(at(needle))
    assert occurrence is not None
    places = view.references(occurrence, declaration=declaration)
    return [(p.text.path.name, p.text.position(p.start)[0] + 1) for p in places]


def test_references_stay_in_their_scope(view: View):
    outer = ["short  ", "brief   =", "output samples", "node advantage"]
    assert referred(view, "metric brief   = mean(|score)") == [("main.rl", line_of(o)) for o in outer]
    inner = ["node right", "metric brief ="]
    assert referred(view, "truth) -> s|core") == [("main.rl", line_of(i)) for i in inner]
    without = referred(view, "truth) -> s|core", declaration=False)
    assert without == [("main.rl", line_of("metric brief ="))]


def test_references_reach_into_imported_files(view: View):
    files = [file for file, _ in referred(view, "n = gro|up")]
    assert files == ["main.rl", "base.rl"]


def test_what_a_loop_carries_is_one_name(view: View):
    lines = [line for _, line in referred(view, "max turns carry to|kens")]
    assert set(lines) == {line_of(n) for n in ("node rollout", "loop talk", "node act", "node ref ", "node update")}


def test_names_that_can_be_seen(view: View):
    assert "observation" in view.names(Kind.FIELD, "talk")
    assert "observation" not in view.names(Kind.FIELD)
    assert "greedy" not in view.names(Kind.NODE) and "greedy" in view.names(Kind.NODE, "test")
    assert view.names(Kind.PARAM) == ["turns", "lr", "group"]


def test_files_that_are_missing_broken_or_circular_are_left_out(folder: Path):
    (folder / "base.rl").write_text('import "main.rl"\nimport "base.rl"\nimport "none.rl"\nuse "bad.py"')
    (folder / "bad.py").write_text("def f(:")
    (folder / "mine.py").write_bytes(b"\xff\xfe")
    view = View.of(folder / "main.rl", MAIN)
    assert [s.text.path.name for s in view.imported] == ["base.rl"]
    assert "brevity" not in view.functions and "group_advantage" in view.functions


def test_a_changed_file_is_read_again(folder: Path):
    path = folder / "main.rl"
    assert "brevity" in View.of(path, MAIN).functions
    (folder / "mine.py").write_text(MINE.replace("brevity", "terseness"))
    import os

    os.utime(folder / "mine.py", ns=(1, 1))
    assert "terseness" in View.of(path, MAIN).functions


def test_analysis_says_what_check_says(folder: Path):
    from rldsl.compiler.pipeline import check_file

    for text in (MAIN, MAIN.replace("score)\n  output", "scor)\n  output"), MAIN.replace("group,", "group +,")):
        (folder / "main.rl").write_text(text)
        assert analyse(folder / "main.rl", text).diagnostics == check_file(folder / "main.rl")


def test_a_type_error_leaves_the_module(folder: Path):
    found = analyse(folder / "main.rl", MAIN.replace("mean(score)\n  output", "mean(completions)\n  output"))
    assert [d.code for d in found.diagnostics] == ["RL0301"]
    assert found.module is not None and "talk.tokens" in found.module.fields


def test_the_outline_is_a_tree(view: View):
    (algorithm,) = outline(view.source)
    assert (algorithm.name, algorithm.kind) == ("main", Kind.ALGORITHM)
    names = [e.name for e in algorithm.children]
    assert names == [
        *("turns", "lr", "reference", "prompts", "answers", "rollout", "talk", "ref", "short", "brief", "samples"),
        *("advantage", "update", "test"),
    ]
    talk = algorithm.children[6]
    assert [e.name for e in talk.children] == ["tool", "act"]
    assert [e.name for e in talk.children[0].children] == ["observation", "done"]
    assert MAIN[talk.start : talk.end].startswith("loop talk") and MAIN[talk.start : talk.end].endswith("}")
    assert algorithm.children[0].detail == ": int = 3 in [1, 8]"
    for entry in (algorithm, talk, *talk.children):
        assert entry.start <= entry.name_start < entry.name_end <= entry.end
        assert all(entry.start <= c.start and c.end <= entry.end for c in entry.children)


@pytest.mark.parametrize("text", ["", "algorithm", "algorithm a {", "loop {", "deploy {", "}}}", "node = x"])
def test_the_outline_of_a_broken_text(text: str):
    assert all(0 <= e.start <= e.end <= len(text) for e in outline(View.of(Path("a.rl"), text).source))
