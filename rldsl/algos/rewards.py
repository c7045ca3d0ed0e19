"""Functions of one row each: rewards (text in, a number out), and the environments and prompts of several turns."""

from __future__ import annotations

import ast
import operator
import re
import threading
from collections.abc import Callable

_INTEGER = re.compile(r"-?\d+")
# At most 100 characters, so that neither nesting nor a product can grow without bound.
_REQUEST = re.compile(r"calc\(([0-9+*() -]{1,100})\)\s*\Z")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def math_verify(completions: str, answers: str) -> float:
    """1.0 if the answer found in the completion equals `answers` as mathematics, else 0.0, by the math-verify library.

    Numbers, LaTeX and `\\boxed{}` are understood; `1/2` equals `0.5`. One row takes 5 seconds at most.
    """
    from math_verify import parse, verify  # (brings sympy: seconds to import)

    # Its time limit is a signal, which Python allows in the main thread only.
    limit = 5 if threading.current_thread() is threading.main_thread() else None
    gold = parse(answers, parsing_timeout=limit)
    found = parse(completions, parsing_timeout=limit)
    return float(verify(gold, found, timeout_seconds=limit))


def exact_match(completions: str, answers: str) -> float:
    """1.0 if the completion is the answer, white space at both ends apart."""
    return float(completions.strip() == answers.strip())


def last_number(completions: str, answers: str) -> float:
    """1.0 if the last integer in the completion equals the answer, else 0.0."""
    found = _INTEGER.findall(completions)
    return float(bool(found) and int(found[-1]) == int(answers))


def char_accuracy(completions: str, answers: str) -> float:
    """The fraction of positions, counted over the longer of the two texts, that hold the same character; in [0, 1]."""
    longest = max(len(completions), len(answers))
    if longest == 0:
        return 1.0
    return sum(a == b for a, b in zip(completions, answers, strict=False)) / longest


def calculator(completions: str, *, before: str = " = ", after: str = "\n") -> tuple[str, bool]:
    """A tool: (observation, done). Answers a completion that ends with `calc(12 + 7)` with `before`, 19 and `after`.

    Between the brackets stand integers, `+`, `-`, `*` and brackets, 100 characters at most. Anything else is no
    request: the observation is then empty, and the conversation is done. For a chat model, `before` and `after` hold
    the marks of its turns.
    """
    # The last one: what stands before it is the model's text.
    start = completions.rfind("calc(")
    request = _REQUEST.match(completions, start) if start >= 0 else None
    value = _calculated(request[1]) if request else None
    return ("", True) if value is None else (f"{before}{value}{after}", False)


def _calculated(text: str) -> int | None:
    """The value of an integer expression, or None if it is none."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return None


def _value(node: ast.expr) -> int:
    """Walks the tree: nothing is ever executed. Raises ValueError at what is not allowed."""
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
        case _:
            raise ValueError(f"{type(node).__name__} is not arithmetic of integers")


def rebuttal(
    prompts: str,
    completions: str,
    *,
    before: str = "\nAnother answered: ",
    after: str = "\nSay what is wrong with that, and answer yourself: ",
) -> str:
    """The second speaker's prompt in a debate: the question, what the first speaker said, and what to do with it."""
    return f"{prompts}{before}{completions}{after}"


def last_said(completions: str, said: str, done: bool) -> str:
    """What a row said last, after a further turn: `said`, or `completions` where it was `done` before that turn."""
    return completions if done else said
