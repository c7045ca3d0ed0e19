"""What a number of bytes is of, how it came about, and sums of such numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil


class Category(StrEnum):
    """What memory is taken by."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    LOGITS = "logits"
    KV_CACHE = "kv_cache"
    COMMUNICATION = "communication"
    FIELDS = "fields"
    RESERVE = "reserve"


class Origin(StrEnum):
    """Where a number comes from: counted from what the engine does, set by the user, or measured once."""

    FORMULA = "formula"
    CONFIGURATION = "configuration"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Some bytes: `formula` is the arithmetic with its numbers, `what` says in words what they are of."""

    category: Category
    what: str
    bytes: int
    formula: str
    origin: Origin = Origin.FORMULA


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is held at one point of an op."""

    name: str
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> int:
        """All terms together."""
        return sum(t.bytes for t in self.terms)

    def by_category(self) -> dict[Category, int]:
        """Bytes of each category that there is, in the order of `Category`."""
        found = {c: sum(t.bytes for t in self.terms if t.category is c) for c in Category}
        return {c: b for c, b in found.items() if b}


ALLOWANCE = 0.01
"""For what no term counts, a part of all that an op makes: indices, scalars, tensors of a few numbers a place. Fitted:
the modules needed up to 0.3 % more than the terms in the configurations that the formulas were derived with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What an op needs on a rank: the points of it that can be its peak, and what it leaves behind, `resident`."""

    moments: tuple[Moment, ...]
    resident: tuple[Term, ...] = ()

    @classmethod
    def of(cls, resident: tuple[Term, ...], moments: Mapping[str, Iterable[Term]]) -> Footprint:
        """`moments` name what there is beside what is resident; each gets its allowance."""
        made = []
        for name, terms in moments.items():
            found = nonzero(terms)
            passing = sum(t.bytes for t in found)
            rest = Term(
                category=Category.RESERVE,
                what="small things",
                bytes=ceil(ALLOWANCE * passing),
                formula=f"{ALLOWANCE:.0%} of {passing:,} B",
                origin=Origin.MEASURED,
            )
            made.append(Moment(name=name, terms=(*resident, *found, *nonzero([rest]))))
        return cls(moments=tuple(made), resident=resident)

    @property
    def peak(self) -> Moment:
        """The greatest, the first of equals."""
        return max(self.moments, key=lambda m: m.bytes)

    @property
    def bytes(self) -> int:
        """At the peak."""
        return self.peak.bytes

    @property
    def resident_bytes(self) -> int:
        """Held also while other ops run."""
        return sum(t.bytes for t in self.resident)


def product(
    category: Category, what: str, *factors: tuple[float, str], over: int = 1, origin: Origin = Origin.FORMULA
) -> Term:
    """A term of factors and their names, `over` a number of ranks: `4 B x 7,615,616,512 parameters / 8 ranks`."""
    total = 1.0
    for number, _ in factors:
        total *= number
    text = " x ".join(f"{_written(number)} {name}".strip() for number, name in factors)
    return Term(
        category=category,
        what=what,
        bytes=-int(-total // over),
        formula=text + (f" / {over:,} ranks" if over > 1 else ""),
        origin=origin,
    )


def _written(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:,.4g}"


def nonzero(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Without those of no bytes."""
    return tuple(t for t in terms if t.bytes)
