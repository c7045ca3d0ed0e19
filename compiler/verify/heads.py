"""Forwards that share one pass through the layers: they could."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.ops import InferMethod, InferOp
from rldsl.compiler.verify.facts import Facts


def heads(facts: Facts) -> Iterator[str]:
    """They have one trunk.

    A score is of a token that is appended to each row: the states that it is made from are those of no other forward.
    """
    for op in facts.ops:
        if not isinstance(op, InferOp) or not op.also:
            continue
        first, *others = op.parts
        for part in others:
            if facts.trunks[part.model] != facts.trunks[first.model]:
                yield f"`{op.id}` runs `{part.model}` with `{first.model}`, which has another trunk"
        if any(part.method is InferMethod.SCORE for part in op.parts):
            yield f"`{op.id}` takes a score with other passes: its states are of its own"
