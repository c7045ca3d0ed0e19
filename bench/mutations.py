"""Programs broken on purpose: bytes, tokens and syntax trees of `.rl` text changed at random, alike for each seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from lark import Token, Tree
from lark.exceptions import UnexpectedInput

from rldsl.compiler.syntax_errors import parser
from tests.compiler.programs import PPO, PROGRAM

ROOT = Path(__file__).parents[1]
FUNCTIONS = '''\
import rldsl as rl


def brevity(completions: str, answers: str, *, weight: float = 0.1) -> float:
    """A reward of the user's own."""
    return -weight * len(completions)


def spread(score: rl.PerSample, *, group: int) -> rl.PromptFlag:
    """A filter of the user's own."""
    return score.view(-1, group).std(1) > 0
'''
"""The file that the seeds' `use "mine.py"` names."""

TOKEN = re.compile(r'#[^\n]*|"(?:\\.|[^"\\\n])*"|[0-9][0-9_.eE]*|\w+|->|==|!=|<=|>=|//|[^\s\w]|\s+')
_NASTY = (
    "", "\0", '"', "\\", "\ufeff", "\u2028", "\x85", "\r", "\t", "}", "{", "(", ")", "[", "]", ",", ";", "?", "=", "->",
    "#", "e", "-", "1e999", "1e-999", "9" * 30, "9" * 5000, "9223372036854775808", "-1", "0", "0.5", "1_0", "none",
    "true", "not", "and", "x" * 300, '"\\ud800"', '"%s %d {x} {}"', '"\\x00"', '"a" * 99999999', "9 ** 9", "1 // 0",
    "1 % 0", "é", "λ", "ﬁ", "²", "algorithm", "node", "model", "param", "input", "loop", "validate", "metric", "output",
    "deploy", "cluster", "use", "import", "when", "after", "with", "carry", "collect", "where", "until", "max 99999",
    "every 0", "in [1, 0]", "in {}", "prompts", "samples", "tokens", "frozen", "copy", "shared", "staleness = 1",
    'import "grpo.rl"\n', 'import "program.rl"\n', 'use "mine.py"\n', 'use "."\n', "batch = 999999999999999999",
    "group", "seed", "n = 2", "dp = 3", "every = 2", "(" * 500, "not " * 1000, "1 + " * 500, "__class__", "score?",
)  # fmt: skip
_NUMBERS = ("0", "1", "2", "3", "7", "0.0", "0.5", "1.5", "1e999", "9" * 20, "9" * 400, "9" * 5000, "1000000", "1e300")

Mutation = Callable[[str, random.Random], str]


@dataclass(frozen=True)
class Program:
    """One program to check, its file of functions, and how they were made."""

    text: str
    functions: str
    made: str


@cache
def seeds() -> tuple[str, ...]:
    """Programs, nearly all correct: the examples, those of the tests, of the language reference and of error pages."""
    examples = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "examples").rglob("*.rl"))]
    pages = [ROOT / "grammar" / "reference.md", *sorted((ROOT / "rldsl" / "errors").glob("*.md"))]
    blocks = [b for p in pages for b in re.findall(r"```rl\n(.*?)```", p.read_text(encoding="utf-8"), re.DOTALL)]
    return (PROGRAM, PPO, *examples, *(b for b in blocks if "algorithm" in b))


def program(seed: int, number: int) -> Program:
    """Program `number` of the run `seed`."""
    rng = random.Random(f"{seed}:{number}")
    text = rng.choice(seeds())
    made = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        mutate = rng.choice(_MUTATIONS)
        made.append(mutate.__name__)
        text = mutate(text, rng)
    functions = _tokens(_bytes(FUNCTIONS, rng), rng) if rng.random() < 0.03 else FUNCTIONS
    return Program(text=text, functions=functions, made=" ".join(made))


def _span(length: int, rng: random.Random, most: int) -> slice:
    start = rng.randrange(length + 1)
    return slice(start, min(length, start + rng.randrange(1, most)))


def _bytes(text: str, rng: random.Random) -> str:
    """Bytes flipped, cut, doubled or put in. What is no UTF-8 then is mostly replaced: such a file is not parsed."""
    data = bytearray(text.encode("utf-8", "surrogateescape"))
    where = _span(len(data), rng, 12)
    match rng.randrange(5):
        case 0:
            data[where] = b""
        case 1:
            data[where] = bytes(b ^ 1 << rng.randrange(8) for b in data[where])
        case 2:
            data[where.start : where.start] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
        case 3:
            data[where.start : where.start] = data[_span(len(data), rng, 200)]
        case _:
            del data[rng.randrange(len(data) + 1) :]
    return data.decode("utf-8", "surrogateescape" if rng.random() < 0.05 else "replace")


def _tokens(text: str, rng: random.Random) -> str:
    """One token left out, doubled, swapped with another, or replaced by one from elsewhere or by a nasty one."""
    tokens = TOKEN.findall(text) or [""]
    solid = [i for i, t in enumerate(tokens) if not t.isspace()] or [0]
    here, there = rng.choice(solid), rng.choice(solid)
    match rng.randrange(6):
        case 0:
            tokens[here] = ""
        case 1:
            tokens[here] += f" {tokens[here]}"
        case 2:
            tokens[here], tokens[there] = tokens[there], tokens[here]
        case 3:
            tokens[here] = tokens[there]
        case 4:
            tokens[here] = rng.choice(TOKEN.findall(rng.choice(seeds())))
        case _:
            tokens[here] += f" {rng.choice(_NASTY)} "
    return "".join(tokens)


def _words(text: str, rng: random.Random) -> str:
    """A few names, numbers or strings replaced by others: what is left mostly parses."""
    tokens = TOKEN.findall(text) or [""]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice([i for i, t in enumerate(tokens) if not t.isspace()] or [0])
        kind = _kind(tokens[at])
        like = [t for t in tokens if _kind(t) == kind] or tokens
        if rng.random() < 0.3:
            like = [t for t in TOKEN.findall(rng.choice(seeds())) if _kind(t) == kind] or like
        tokens[at] = rng.choice(_NUMBERS) if kind == "0" and rng.random() < 0.5 else rng.choice(like)
    return "".join(tokens)


def _kind(token: str) -> str:
    """A letter for names, `0` for numbers, the first character of anything else."""
    first = token[:1]
    return "a" if first.isalpha() else "0" if first.isdigit() else first


def _trees(text: str, rng: random.Random) -> str:
    """One subtree left out, doubled, or replaced by one of the same kind: from here or from another program."""
    places = _places(text)
    if not places:
        return _lines(text, rng)
    kind = rng.choice(sorted(places))
    start, end = rng.choice(places[kind])
    other = text if rng.random() < 0.5 else rng.choice(seeds())
    donors = _places(other).get(kind)
    match rng.randrange(6):
        case 0:
            new = ""
        case 1:
            new = f"{text[start:end]} {text[start:end]}"
        case 2 | 3 if donors:
            a, b = rng.choice(donors)
            new = other[a:b]
        case _:
            new = rng.choice(_NASTY)
    return text[:start] + new + text[end:]


def _lines(text: str, rng: random.Random) -> str:
    """Lines left out, doubled, or moved."""
    lines = text.splitlines(keepends=True) or [""]
    taken = lines[(where := _span(len(lines), rng, 4))]
    if rng.random() < 0.7:
        del lines[where]
    if rng.random() < 0.7:
        at = rng.randrange(len(lines) + 1)
        lines[at:at] = taken
    return "".join(lines)


_MUTATIONS: Sequence[Mutation] = (_bytes, _tokens, _trees, _trees, _trees, _words, _words, _words, _words, _lines)


@lru_cache(maxsize=1000)
def _places(text: str) -> dict[str, list[tuple[int, int]]]:
    """Where the subtrees of each kind stand; nothing for a text that does not parse."""
    try:
        tree = parser().parse(text)
    except UnexpectedInput:
        return {}
    found: dict[str, list[tuple[int, int]]] = {}
    _collect(tree, found)
    return found


def _collect(tree: Tree[Token], found: dict[str, list[tuple[int, int]]]) -> None:
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if not part.meta.empty:
            found.setdefault(str(part.data), []).append((part.meta.start_pos, part.meta.end_pos))
        waiting += [c for c in part.children if isinstance(c, Tree)]
