"""Rewards of one row each: text in, a number out."""

from __future__ import annotations

import re
import threading

_INTEGER = re.compile(r"-?\d+")


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
