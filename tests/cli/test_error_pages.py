"""Every code has a page, every page's examples do what it says, every code is tested somewhere."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import rldsl
from rldsl.cli.explain import codes, page, title
from rldsl.compiler.frontend import load_graph
from rldsl.compiler.pipeline import check_file
from rldsl.diagnostics import DiagnosticError, Severity

ROOT = Path(__file__).parents[2]
PACKAGE = Path(rldsl.__file__).parent
CODE = re.compile(r"\bRL\d{4}\b")
FILE = re.compile(r"^# (\w+\.(?:rl|py))\n", re.MULTILINE)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)

# Known only when a run starts or goes on: compiling the wrong example finds nothing.
AT_RUN_TIME = {"RL0602", "RL0603", "RL0604", "RL0606", "RL0607", "RL0608", "RL0610", "RL0611", "RL0612", "RL0814"}

ALGORITHM = """
param group : int = 4
param clip : float = 0.2
param kl_coef : float = 0.1
model actor : policy = scratch(; alphabet = "0123456789+= ")
model reference : policy = frozen actor
input prompts, answers : text[prompt] = reasoning_gym("basic_arithmetic"; max_digits = 1) with batch = 16
node rollout = actor.generate(prompts; n = group, max_new_tokens = 24) -> tokens, response_mask, rollout_logp, completions
node reward = compute last_number(completions, answers) -> score
node ref = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
node advantage = compute group_advantage(score; group) -> advantages
node old = actor.logprob(tokens, response_mask) -> old_logp
node update = actor.train policy_loss(tokens, response_mask, old_logp, advantages, rollout_logp, ref_logp?; clip, kl_coef) with lr = 1e-5
"""


MINE = """
def brevity(completions: str) -> float:
    return 1 / (1 + len(completions))
"""


def with_statements(fragment: str) -> str:
    """The algorithm above with the fragment's statements in place of those of the same kind and name."""
    if fragment.startswith(("algorithm", "#")):
        return fragment
    if fragment.startswith("deploy"):
        return f"algorithm page {{ {ALGORITHM} }}\n{fragment}"
    new = fragment.strip().splitlines()
    # What stands in a block is indented, and has names of its own.
    keys = {tuple(line.split()[:2]) for line in new if line[:1].isalpha()}
    kept = [line for line in ALGORITHM.strip().splitlines() if tuple(line.split()[:2]) not in keys]
    uses = [line for line in new if line.startswith("use ")]
    body = kept + [line for line in new if line not in uses]
    return "\n".join([*uses, "algorithm page {", *body, "}\n"])


def found_in(text: str, folder: Path, name: str = "page.rl") -> dict[str, Severity]:
    """The codes that `check` finds; a text of several files, `# a.rl` above each, is that of the first."""
    parts = FILE.split(text)[1:] or [name, text, "mine.py", MINE]
    for each, content in zip(parts[::2], parts[1::2], strict=True):
        (folder / each).write_text(content)
    return {d.code: d.severity for d in check_file(folder / parts[0])}


def blocks(code: str) -> list[tuple[str, str]]:
    return BLOCK.findall(page(code))


def with_language(language: str) -> list[str]:
    return [code for code in codes() if blocks(code)[0][0] == language]


def sources() -> list[Path]:
    folders = (PACKAGE, ROOT / "compiler", ROOT / "backends")
    return [p for f in folders for p in f.rglob("*.py") if p.is_file()]


def test_every_code_used_has_a_page_and_every_page_a_use():
    used = {code for path in sources() for code in re.findall(r'"(RL\d{4})"', path.read_text())}
    assert used == set(codes())


def test_every_code_appears_in_a_test():
    texts = [p.read_text() for p in (ROOT / "tests").rglob("*.*") if p.suffix in (".py", ".rl")]
    tested = {code for text in texts for code in CODE.findall(text)} | set(with_language("rl"))
    assert sorted(set(codes()) - tested) == []


@pytest.mark.parametrize("code", codes())
def test_a_page_has_its_parts(code):
    text = page(code)
    assert text.startswith(f"# {code}: ")
    assert title(code)
    assert [language for language, _ in blocks(code)][1] == "text"
    assert len(blocks(code)) == 3
    assert blocks(code)[1][1].startswith((f"error[{code}]: ", f"warning[{code}]: "))
    assert 10 <= len(text.splitlines()) <= 40
    assert max(map(len, re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines())) <= 121


@pytest.mark.parametrize("code", sorted(set(with_language("rl")) - AT_RUN_TIME))
def test_the_wrong_example_is_wrong(code, tmp_path):
    assert code in found_in(with_statements(blocks(code)[0][1]), tmp_path)


@pytest.mark.parametrize("code", with_language("rl"))
def test_the_right_example_is_right(code, tmp_path):
    found = found_in(with_statements(blocks(code)[2][1]), tmp_path)
    assert code not in found
    assert Severity.ERROR not in found.values(), found


def test_python_algorithms(tmp_path):
    for code in ("RL0104", "RL0105"):
        wrong, right = (text for language, text in blocks(code) if language == "python")
        head = "" if wrong.startswith("import") else "import rldsl as rl\n\n"
        assert code in found_in(head + wrong, tmp_path, "page.py")
        (tmp_path / "page.py").write_text(head + right)
        try:
            load_graph(tmp_path / "page.py", head + right)
        except DiagnosticError as error:
            assert code not in {d.code for d in error.diagnostics}


def test_python_functions(tmp_path):
    for text, expected in zip((blocks("RL0305")[0][1], blocks("RL0305")[2][1]), (True, False), strict=True):
        (tmp_path / "own.py").write_text(text)
        node = "node reward = compute reward(completions, answers) -> score"
        assert ("RL0305" in found_in('use "own.py"\n' + with_statements(node), tmp_path)) is expected


def test_other_examples_parse():
    for code in codes():
        for language, text in blocks(code):
            if language == "python":
                ast.parse(text)
    rows = list(blocks("RL0605")[2][1].splitlines())
    assert [set(json.loads(row)) for row in rows] == [{"prompts", "answers"}] * 2
