"""What could be changed of a plan that does not fit, alone or together, and how long its step would then take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import combinations
from math import gcd

from rldsl.compiler.cost.hardware import hardware_of
from rldsl.compiler.cost.memory_edits import Variant
from rldsl.compiler.cost.memory_layouts import LayoutSearch, Seen
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Shortage
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.plan_time import PlanTime, plan_time
from rldsl.compiler.ir import Module
from rldsl.compiler.trials import Trials, Tried

_MORE_RANKS = (2, 4, 8, 16)
# Responses are not made shorter than by this.
_SHORTEST = 8
# Kinds of change that alter what is computed, and not only where and how.
_OTHER_WORK = {"lower", "tokens"}
# Of layouts that cut up as much so many are compared.
_ALIKE = 3
# So many are compiled as a whole, to know their seconds: a tenth of a second each.
_TIMED = 6
# So many variants are lowered, of plans of not too many ops: some milliseconds each.
_SEEN, _OPS = 200, 20_000
# Of more ranks than that FSDP makes no use: they have less than a row of a matrix each.
_MOST_RANKS = 1 << 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to write, all of it, and the seconds of a step with it; the `kinds` of change that it is made of."""

    what: tuple[str, ...]
    seconds: float
    kinds: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enough:
    """So many ranks are enough where nothing else changes; `divides` unless batches must be others for them."""

    ranks: int
    divides: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Never:
    """More ranks alone, up to `most`, are not enough; on `ranks` of them least is lacking, this. `divides` as above."""

    most: int
    ranks: int
    divides: bool
    shortage: Shortage


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """The `changes` that make a plan fit, no more kinds of them together than needed, the fastest of as many first.

    Where all of these change what is computed, those that are needed at least to leave that alone come behind them.
    `tried` says how far each kind of change was tried; `all_tried`: all of them together are not enough. `ranks` is
    what is known of more ranks alone, None where there can be none.
    """

    changes: tuple[Change, ...]
    tried: tuple[str, ...]
    all_tried: bool
    ranks: Enough | Never | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mix:
    """How strong each kind of change in it is; None or False of those that are not."""

    pins: int | None = None
    lower: bool = False
    times: int | None = None
    tokens: int | None = None
    layouts: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of those in it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return tuple(name for name, value in values.items() if value is not None and value is not False)

    def parts(self, count: int) -> Iterator[_Mix]:
        """All mixes of so many of its kinds, as strong."""
        for names in combinations(self.kinds, count):
            yield _Mix(**{name: getattr(self, name) for name in names})


def remedies(
    trials: Trials, planner: Callable[[Module], MemoryPlanner], facts: Mapping[str, ModelFacts], budget: int
) -> Remedies:
    """What makes the plan fit: changes of one kind, else of two together, else of more; the mildest that do.

    Each is compiled as the source will be once it is written. `planner` plans the memory of lowered ops in the ways
    that need least.
    """
    return _Search(trials, planner, facts, budget).remedies()


class _Search:
    def __init__(
        self,
        trials: Trials,
        planner: Callable[[Module], MemoryPlanner],
        facts: Mapping[str, ModelFacts],
        budget: int,
    ) -> None:
        self.trials, self.planner, self.budget = trials, planner, budget
        self.start = Variant(trials.start)
        self.left, self._known = _SEEN, dict[tuple[str, ...], Seen | None]()
        first = self.see(self.start)
        assert first is not None and first.plan.world_size is not None, "what does not fit has been lowered"
        self.world, self.divides = first.plan.world_size, first.plan.divides
        self.left = min(_SEEN, _OPS // max(1, len(list(first.plan.ops()))))
        hardware = hardware_of(first.plan.cluster or "cpu", first.plan.figures)
        self.layouts = LayoutSearch(see=self.see, facts=facts, hardware=hardware)
        self.times = [t for t in _MORE_RANKS if self.see(self.start.on_ranks(t)) is not None]
        self.tokens = _fewer(self.start.longest)
        self.every = _Mix(
            pins=len(pins) - 1 if (pins := self.start.pinned()) else None,
            lower=self.start.in_bfloat16() is not None,
            times=self.times[-1] if self.times else None,
            tokens=self.tokens[-1] if self.tokens else None,
            layouts=hardware.name != "cpu" and (self.world > 1 or bool(self.times)),
        )

    def see(self, variant: Variant) -> Seen | None:
        """A variant lowered, with what it lacks; None for one that is no program, or one too many."""
        key = (*variant.lines(self.trials.start), *variant.batches)
        if key not in self._known:
            if not self.left:
                return None
            self.left -= 1
            self._known[key] = self._seen(variant)
        return self._known[key]

    def _seen(self, variant: Variant) -> Seen | None:
        module = self.trials.lowered(variant.draft)
        planner = self.planner(module) if module else None
        return Seen(planner.plan, planner.lacking(self.budget)) if planner else None

    def remedies(self) -> Remedies:
        """The changes that are enough, or how far all of them go."""
        possible = self._possible()
        changes = self._fewest(self.every) if possible else []
        if changes and all(c.kinds & _OTHER_WORK for c in changes):
            changes += self._fewest(replace(self.every, lower=False, tokens=None))
        alone = any(c.kinds == {"times"} for c in changes)
        return Remedies(
            changes=tuple(changes),
            tried=tuple(self._tried()),
            all_tried=self.left > 0 and not possible,
            ranks=None if alone else self._ranks(),
        )

    # Mixes of changes.

    def _fewest(self, every: _Mix) -> list[Change]:
        """Changes of the fewest kinds out of `every` that are enough together, the fastest first."""
        for count in range(1, len(every.kinds) + 1):
            found = [(mix, v) for strong in every.parts(count) for mix, v in self._mildest(strong)]
            changes = [made for mix, v in found[:_TIMED] if (made := self._timed(mix, v))]
            if changes:
                return sorted(changes, key=lambda c: c.seconds)
        return []

    def _possible(self) -> bool:
        """Whether all changes together are enough, in the order that is written or, with other layouts aside, any."""
        return bool(self._fitting(self.every)) or self._planned(self._made(self.every)) is not None

    def _made(self, mix: _Mix) -> Variant:
        """With all changes but layouts."""
        made = self.start
        if mix.pins is not None:
            made = made.unpinned(made.pinned()[mix.pins])
        if mix.lower:
            made = made.in_bfloat16() or made
        if mix.times is not None:
            made = made.on_ranks(mix.times)
        return made if mix.tokens is None else made.shorter(mix.tokens)

    def _fitting(self, mix: _Mix, most: int = 1) -> list[Variant]:
        """At most so many variants that fit; more than one where there are several layouts."""
        made = self._made(mix)
        if mix.layouts:
            return self.layouts.fitting(made, most)
        seen = self.see(made)
        return [made] if seen is not None and not seen.lacking else []

    def _mildest(self, mix: _Mix) -> Iterator[tuple[_Mix, Variant]]:
        """Changes of these kinds of which none could be milder; nothing if the strongest are not enough."""
        found = self._fitting(mix)
        if not found:
            return
        for pins in range(mix.pins or 0):
            if weaker := self._fitting(replace(mix, pins=pins)):
                mix, found = replace(mix, pins=pins), weaker
                break
        if mix.tokens is not None:
            yield self._longest(*self._fewer_ranks(mix, found[0])[0])
        elif mix.times is not None:
            yield from self._fewer_ranks(mix, found[0])
        else:
            yield from ((mix, each) for each in self._fitting(mix, _ALIKE))

    def _fewer_ranks(self, mix: _Mix, found: Variant) -> list[tuple[_Mix, Variant]]:
        """On the fewest ranks that are enough, then on more of them where less else need be written."""
        kept: list[tuple[_Mix, Variant]] = []
        for times in self.times if mix.times is not None else ():
            fewer = replace(mix, times=times)
            for each in self._fitting(fewer):
                if not kept or len(each.lines(self.trials.start)) < len(kept[-1][1].lines(self.trials.start)):
                    kept.append((fewer, each))
        return kept or [(mix, found)]

    def _longest(self, mix: _Mix, found: Variant) -> tuple[_Mix, Variant]:
        """With the longest responses that fit, in the layout that has been found."""
        low, high = 0, len(self.tokens) - 1
        while low < high:
            middle = (low + high) // 2
            milder = self._made(replace(mix, tokens=self.tokens[middle])).deployed(found.deploy)
            seen = self.see(milder)
            if seen is not None and not seen.lacking:
                found, high = milder, middle
            else:
                low = middle + 1
        return replace(mix, tokens=self.tokens[high]), found

    def _planned(self, variant: Variant) -> Tried | None:
        """Compiled as a whole; None unless it fits with its margin."""
        made = self.trials.planned(variant.draft)
        return None if made is None or any(w.code == "RL0811" for w in made.warnings) else made

    def _timed(self, mix: _Mix, variant: Variant) -> Change | None:
        """With the seconds of a step, if what it promises is so."""
        made = self._planned(variant)
        time = plan_time(made.plan) if made else None
        if not isinstance(time, PlanTime):
            return None
        return Change(what=variant.lines(self.trials.start), seconds=time.step_seconds, kinds=frozenset(mix.kinds))

    def _tried(self) -> Iterator[str]:
        """How far each kind of change was tried."""
        words = {
            "pins": "options left to the compiler",
            "lower": '`precision = "bf16"`',
            "times": f"up to {self.world * self.times[-1]:,} ranks" if self.times else "",
            "tokens": f"`max_new_tokens` down to {self.tokens[-1]:,}" if self.tokens else "",
            "layouts": "other layouts",
        }
        return (words[name] for name in self.every.kinds)

    # More ranks alone.

    def _ranks(self) -> Enough | Never | None:
        """How many are enough, in multiples of those that there are; else what is lacking where least is."""
        self.left = max(self.left, 2 * _MOST_RANKS.bit_length())
        low, high, lacking = 1, 2, dict[int, int]()
        while lack := self._lack(high):
            lacking[high] = lack
            if self.world * high >= _MOST_RANKS:
                return self._never(min(lacking, key=lambda times: lacking[times]), high)
            low, high = high, 2 * high
        if lack is None:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._lack(middle) else (low, middle)
        return Enough(ranks=self.world * high, divides=self.divides % (self.world * high) == 0)

    def _never(self, times: int, most: int) -> Never:
        module = self.trials.lowered(self._larger(times).draft)
        assert module is not None, "it has been lowered before"
        lack = self.planner(module).shortage(self.budget)
        divides = self.divides % (2 * self.world) == 0
        return Never(most=self.world * most, ranks=self.world * times, divides=divides, shortage=lack)

    def _lack(self, times: int) -> int | None:
        """The most bytes that an op lacks on so many times the ranks; None where they cannot be more."""
        seen = self.see(self._larger(times))
        return None if seen is None else max(seen.lacking.values(), default=0)

    def _larger(self, times: int) -> Variant:
        """On more ranks, with batches that divide over them."""
        ranks, made = self.world * times, self.start.on_ranks(times)
        return made if self.divides % ranks == 0 else made.with_batches(ranks // gcd(ranks, self.divides))


def _fewer(tokens: int) -> list[int]:
    """Rounder numbers below it, the largest first: multiples of a sixteenth of it, of 256 where that is less."""
    each = min(256, 1 << max(0, tokens.bit_length() - 5))
    return [n * each for n in range((tokens - 1) // each, max(0, tokens // _SHORTEST // each - 1), -1)]
