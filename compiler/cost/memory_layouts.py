"""Layouts that give each rank less of the phases that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import gcd

from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.memory_edits import Variant
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ops import AnyOp, ExtendOp, GenerateOp, InferOp, SaveOp, SyncWeightsOp, TrainOp
from rldsl.compiler.plan import Group, Phase, Plan

Axes = dict[str, int]
Phases = dict[tuple[str, Phase], str]
"""The engine of each phase of each model."""

# Of a training's layouts copies beyond so many nodes are not tried.
_NODES = 8
_STAGES = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """A variant's plan as far as memory depends on it, and the bytes that ops lack with all that can leave away."""

    plan: Plan
    lacking: Mapping[str, int]

    def ops(self) -> Iterator[AnyOp]:
        """Those that lack bytes."""
        return (op for op in self.plan.ops() if op.id in self.lacking)

    def rollouts(self) -> Phases:
        """What generates, or is handed weights to generate with, and does not fit."""
        found = (op.model for op in self.ops() if isinstance(op, GenerateOp | ExtendOp | SyncWeightsOp))
        engines = {p.model: p.engine for p in self.plan.phases if p.phase is Phase.GENERATE}
        return {(m, Phase.GENERATE): engines[m] if engines[m] != "hf" else "vllm" for m in dict.fromkeys(found)}

    def passes(self) -> Phases:
        """What trains or scores and does not fit, with all that lies on its weights."""
        used = (m for op in self.ops() for m in _run(op))
        holders = dict.fromkeys(self.plan.model(m).holder for m in used)
        there = {(p.model, p.phase) for p in self.plan.phases}
        every = ((p.model, p.phase) for p in self.plan.phases if p.phase is not Phase.GENERATE)
        mine = [key for key in every if self.plan.model(key[0]).holder in holders]
        # A head on another's trunk is laid out with that; a base beneath adapters has a layout of its own.
        heads = {key for key in mine if self.plan.model(key[0]).shares}
        trunks = {(self.plan.model(m).holder, phase) for m, phase in heads} & there
        return dict.fromkeys((key for key in (*mine, *sorted(trunks)) if key not in heads), "megatron")


def _run(op: AnyOp) -> tuple[str, ...]:
    """The models whose layers an op runs, or whose weights it writes."""
    if isinstance(op, InferOp):
        return tuple(p.model for p in op.parts)
    return (op.model,) if isinstance(op, TrainOp | SaveOp) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSearch:
    """Finds layouts for what does not fit; `see` lowers a variant, None for one that is no program."""

    see: Callable[[Variant], Seen | None]
    facts: Mapping[str, ModelFacts]
    hardware: Hardware

    def fitting(self, variant: Variant, most: int = 1) -> list[Variant]:
        """At most so many that fit, of the least cutting up that is enough; the variant itself where it fits."""
        seen = self.see(variant)
        if seen is None or not seen.lacking:
            return [variant] if seen else []
        # Where no rollout's layout helps, weights to be handed over may be too many where they are trained.
        wider = self._generating(variant, seen) or variant
        made = self.see(wider)
        if made is None:
            return []
        if not made.lacking:
            return [wider]
        return [v for v in self._training(wider, made, most) if not self._lacking(v)]

    def _lacking(self, variant: Variant, among: Iterable[str] | None = None) -> bool:
        """Whether any op, or one `among` some, does not fit, or nothing can be said."""
        seen = self.see(variant)
        return seen is None or any(among is None or op in among for op in seen.lacking)

    def _generating(self, variant: Variant, seen: Seen) -> Variant | None:
        """With rollouts spread so that all of them fit."""
        phases = seen.rollouts()
        if not phases:
            return variant
        if self.hardware.name == "cpu":
            return None  # such engines are for devices
        rollouts = [op.id for op in seen.ops() if isinstance(op, GenerateOp | ExtendOp | SyncWeightsOp)]
        now = [_group(seen.plan, key) for key in phases]
        for axes in self._rollout_axes(max(g.copies for g in now), max(g.ep for g in now)):
            made = variant.laid_out(phases, axes)
            if not self._lacking(made, rollouts):
                return made
        return None

    def _rollout_axes(self, copies: int, ep: int) -> Iterator[Axes]:
        """Within a node, then stages of whole nodes."""
        node = _power(self.hardware.per_node)
        sizes = [(tp, 1) for tp in _doublings(2, node)] + [(node, pp) for pp in _doublings(2, _STAGES)]
        yield from ({"tp": tp, "pp": pp, "ep": ep} for tp, pp in sizes if tp * pp > copies)

    def _training(self, variant: Variant, seen: Seen, most: int) -> list[Variant]:
        """With trainings and forwards cut up, by the least that is enough: found by halving."""
        phases = seen.passes()
        if not phases or self.hardware.name == "cpu":
            return []
        passes = [op.id for op in seen.ops() if _run(op)]
        groups = [_group(seen.plan, key) for key in phases]
        size = gcd(*(g.size(seen.plan.world_size or 1) for g in groups))
        experts = gcd(*(self.facts[m].experts for m, _ in phases))
        low = 1 if experts else 2
        levels = list(_doublings(low, min(_power(size), _NODES * self.hardware.per_node)))

        def at(level: int) -> list[Variant]:
            made = (variant.laid_out(phases, axes) for axes in self._training_axes(level, size, experts))
            found = []
            for each in made:
                if not self._lacking(each, passes):
                    found.append(each)
                    if len(found) == most:
                        break
            return found

        found, high = [], len(levels)
        for index in range(len(levels) - 1, max(-1, len(levels) - 3), -1):
            found, high = at(levels[index]), index
            if found:
                break
        below = 0
        while found and below < high:
            middle = (below + high) // 2
            milder = at(levels[middle])
            found, high, below = (milder, middle, below) if milder else (found, high, middle + 1)
        return found

    def _training_axes(self, copies: int, size: int, experts: int) -> Iterator[Axes]:
        """All ways to make so many copies: tp within a node first, as much of it as there is room for."""
        node = _power(self.hardware.per_node)
        for tp in reversed(list(_doublings(1, min(copies, node)))):
            if copies > node and tp < node // 2:
                return
            for cp in reversed(list(_doublings(1, copies // tp))):
                pp = copies // tp // cp
                data = size // (tp * pp)
                ep = gcd(_power(data), experts, node) if experts else 1
                yield {"tp": tp, "cp": cp, "pp": pp, "ep": ep}


def _group(plan: Plan, key: tuple[str, Phase]) -> Group:
    return plan.group(next(p.group for p in plan.phases if (p.model, p.phase) == key))


def _power(count: int) -> int:
    """The greatest power of two that is not above it."""
    return 1 << (count.bit_length() - 1)


def _doublings(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2
