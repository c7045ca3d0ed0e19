"""The TextMate grammar colours what the language has, and as what it is."""

from __future__ import annotations

import json
import re

import pytest

from rldsl.compiler.lexemes import scan
from tests.compiler.programs import EXAMPLES
from tests.compiler.test_syntax_errors import BLOCKS

FOLDER = EXAMPLES.parent / "grammar" / "vscode"
GRAMMAR = json.loads((FOLDER / "syntaxes" / "rl.tmLanguage.json").read_text())
RULES = GRAMMAR["repository"]
ORDER = [p["include"].removeprefix("#") for p in GRAMMAR["patterns"]]


def keywords() -> list[str]:
    """The words of the grammar, units included."""
    source = (EXAMPLES.parent / "grammar" / "rl.lark").read_text()
    return sorted({w for w in re.findall(r'"([a-z]+)"', source) if w.isalpha()})


def scopes(text: str) -> list[tuple[str, str]]:
    """(text, scope) of everything coloured, as an editor does it: line by line, the earliest match wins, then the first."""
    found = []
    for line in text.split("\n"):
        at = 0
        while at <= len(line):
            hits = [(m.start(), i, m) for i, name in enumerate(ORDER) if (m := _compiled(name).search(line, at))]
            if not hits:
                break
            _, index, match = min(hits, key=lambda h: h[:2])
            found += _coloured(RULES[ORDER[index]], match)
            at = match.end()
            if "end" in RULES[ORDER[index]]:
                at = _inside(RULES[ORDER[index]], line, at, found)
    return found


def _compiled(name: str) -> re.Pattern[str]:
    return re.compile(RULES[name].get("match") or RULES[name]["begin"])


def _coloured(rule: dict, match: re.Match[str]) -> list[tuple[str, str]]:
    captures = rule.get("captures") or rule.get("beginCaptures")
    if not captures:
        return [(match.group(), rule["name"])]
    return [(match[int(n)], c["name"]) for n, c in captures.items() if match[int(n)]]


def _inside(rule: dict, line: str, at: int, found: list[tuple[str, str]]) -> int:
    end = re.compile(rule["end"]).search(line, at)
    while rule.get("name", "").startswith("string") and end and line[end.start() - 1] == "\\":
        end = re.compile(rule["end"]).search(line, end.end())
    stop = end.start() if end else len(line)
    for inner in rule["patterns"]:
        found += [(m.group(), inner["name"]) for m in re.finditer(inner["match"], line[at:stop])]
    return end.end() if end else len(line)


def test_files_fit_together() -> None:
    package = json.loads((FOLDER / "package.json").read_text())
    (language,), (grammar,) = package["contributes"]["languages"], package["contributes"]["grammars"]
    assert language["extensions"] == [".rl"] and grammar["language"] == language["id"]
    assert grammar["scopeName"] == GRAMMAR["scopeName"]
    for path in (grammar["path"], language["configuration"]):
        json.loads((FOLDER / path).read_text())
    assert sorted(ORDER) == sorted(RULES)


def test_every_keyword_is_in_it() -> None:
    patterns = " ".join(r.get("match") or r["begin"] for r in RULES.values())
    assert {"algorithm", "carry", "samples", "x", "not"} <= set(keywords())
    assert [w for w in keywords() if not re.search(rf"\b{w}\b", patterns.replace(r"\b", " "))] == []


def test_every_word_of_the_examples_has_a_scope() -> None:
    for path in sorted(EXAMPLES.rglob("*.rl")):
        text = path.read_text()
        coloured = " ".join(said for said, _ in scopes(text))
        words = [w.text for w in scan(text) if w.kind == "name"]
        assert [w for w in words if w not in coloured] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("algorithm grpo {  # GRPO", {"algorithm": "keyword.declaration", "grpo": "entity.name.type.algorithm", "# GRPO": "comment"}),
        ('  param model : str = "a\\n"', {"param": "keyword.declaration", "model": "variable.parameter.definition", "str": "storage.type", "\\n": "constant.character.escape"}),
        ("  param batch : int = 4 prompts in [1, )", {"4": "constant.numeric", "prompts": "keyword.other.unit", "in": "keyword.control"}),
        ("  param lr : float = 1e-05", {"1e-05": "constant.numeric"}),
        ("  model actor : policy = hf(model; precision)", {"model": "variable.other", "actor": "entity.name.type.model", "policy": "storage.type", "hf": "support.function"}),
        ("  model reference : policy = frozen actor", {"frozen": "storage.modifier", "actor": "variable.other"}),
        ("  input prompts, answers : text[prompt] = jsonl(path) with batch", {"input": "keyword.declaration", "prompts, answers": "variable.other.field", "text": "storage.type", "prompt": "storage.modifier.axis", "with": "keyword.control"}),
        ("  node ref = reference.logprob(tokens) -> ref_logp when kl > 0", {"node": "keyword.declaration", "ref": "entity.name.function.node", "reference": "variable.other.model", "logprob": "entity.name.function.method", "->": "keyword.operator.arrow", "when": "keyword.control", ">": "keyword.operator.comparison", "tokens": "variable.other"}),
        ("  node r : REWARD, COMPUTE = compute gae(x?)", {"REWARD": "support.constant.role", "COMPUTE": "support.constant.type", "compute": "keyword.control", "gae": "entity.name.function.call", "?": "keyword.operator.optional"}),
        ("  node u = actor.train policy_loss(tokens) with lr", {"train": "entity.name.function.method", "policy_loss": "entity.name.function.call"}),
        ("  metric kl = mean(x) when not true", {"metric": "keyword.declaration", "kl": "entity.name.function.metric", "mean": "support.function.reduction", "not": "keyword.operator.logical", "true": "constant.language"}),
        ("  loop dialogue max turns carry tokens {", {"loop": "keyword.declaration", "dialogue": "entity.name.section.loop", "max": "keyword.control", "carry": "keyword.control"}),
        ("  validate test every 10 {", {"validate": "keyword.declaration", "every": "keyword.control"}),
        ("  output seen = prompts with every = 10", {"output": "keyword.declaration", "every": "variable.other"}),
        ("  cluster 8 x h100", {"cluster": "keyword.declaration", "x": "keyword.operator", "h100": "support.constant.cluster"}),
        ("  actor.train : fsdp(dp = 2) on 4..7", {"on": "keyword.control", "4": "constant.numeric", "..": "keyword.operator.range", "7": "constant.numeric"}),
        ("  reward on 12", {"on": "keyword.control", "12": "constant.numeric"}),
        ('use "mine.py"', {"use": "keyword.control.import"}),
        ("deploy {", {"deploy": "keyword.declaration"}),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_scopes(line: str, expected: dict[str, str]) -> None:
    found = scopes(line)
    for text, scope in expected.items():
        assert any(said == text and name.startswith(scope) for said, name in found), (text, found)


def test_words_that_are_names_elsewhere() -> None:
    """`model`, `max` and the like are keywords only where the language takes them for such."""
    assert not [s for s in scopes("  node x = compute f(model, input; max = 3, node) -> output") if s[0] != "node" and s[0] != "compute" and s[1].startswith("keyword.declaration")]  # fmt: skip
    assert ("max", "variable.other.rldsl") in scopes("f(x; max = 3)")
    assert not [s for s in scopes(BLOCKS) if s[1].startswith("comment")]


def test_it_lies_beside_the_grammar() -> None:
    package = json.loads((FOLDER / "package.json").read_text())
    assert (FOLDER / package["main"]).is_file()
    assert package["contributes"]["languages"][0]["id"] in (FOLDER / "extension.js").read_text()
