"""Each rank's memory is kept within its budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from msgspec import structs

from rldsl.compiler.cost.find_facts import NoFacts, facts_of
from rldsl.compiler.cost.hardware import Hardware, hardware_of
from rldsl.compiler.cost.memory_changes import remedies
from rldsl.compiler.cost.memory_edits import pins_of
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Planned, Shortage
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ir import Model, Module
from rldsl.compiler.ops import AnyOp, Reason, SaveOp, TrainOp
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.emit_programs import EmitPrograms
from rldsl.compiler.passes.memory_faults import (
    beyond_device,
    does_not_fit,
    full_below,
    pins_cost,
    seconds,
    size,
    within_margin,
)
from rldsl.compiler.passes.order_for_memory import Order, better_order, reordered
from rldsl.compiler.plan import Dropped, FieldSpec, Plan
from rldsl.compiler.specs import figures_of_deploy, model_spec
from rldsl.diagnostics import Diagnostic, DiagnosticError, Label, Severity

# Steps are equally long that differ by less seconds, and of two peaks the lower one is the less only by this factor.
_SAME, _LOWER = 1e-6, 0.99


@dataclass(frozen=True, kw_only=True)
class PlanMemory:
    """Choose micro-batches, recomputation and where states leave the device, so that each rank keeps to its budget.

    The budget is that of the cluster's hardware, or of `--memory`; without one, or where a model's size is not known,
    nothing changes. What the user has set in a training's options stays as it is. Where states must move, or not all
    fits, nodes of one depth may change places.
    Before: `rollout`, `ref`, `update`.
    After:  `rollout`, `offload actor.engine`, `onload reference.weights`, `ref`, `offload reference.weights`, ...
    """

    name: ClassVar[str] = "plan_memory"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with their choices and moves, and `memory`.

        RL0801 and RL0802 for what is wrong with a model's config.json, RL0810 where it does not fit, RL0815 where what
        leaves does not fit below, RL0816 for a budget that no device has; warnings RL0811, RL0812.
        """
        deploy = module.graph.deploy
        figures = figures_of_deploy(deploy) if deploy else {}
        hardware = hardware_of((deploy and deploy.cluster) or "cpu", figures)
        budget = context.memory or hardware.budget
        if budget is None or beyond_device(module, context.found, budget, hardware):
            return module
        facts = _facts(module, context)
        if isinstance(facts, str) or module.world_size is None:
            why = facts if isinstance(facts, str) else "how many ranks there are is not known: say --world-size"
            return _unplanned(module, why)
        planning = _Planning(context=context, facts=facts, hardware=hardware, pinned=_pinned(module))
        return _fitted(module, planning, budget)


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What became of an order of equal depths within a budget; `module` has it, and its ops."""

    module: Module
    planner: MemoryPlanner
    outcome: Planned | Shortage

    def better(self, than: _Attempt) -> bool:
        """First less is lacking, on the device and then below it, then a step is shorter, then its peak is lower by so
        much that it is worth a word.
        """
        mine, other = self.outcome, than.outcome
        if isinstance(mine, Shortage) or isinstance(other, Shortage):
            return _lacking(mine) < _lacking(other)
        if mine.missing or other.missing:
            return mine.missing < other.missing
        if abs(mine.step - other.step) > _SAME:
            return mine.step < other.step
        return mine.peak < other.peak * _LOWER


def _lacking(outcome: Planned | Shortage) -> int:
    return outcome.bytes if isinstance(outcome, Shortage) else 0


@dataclass(frozen=True, kw_only=True)
class _Planning:
    """Plans the memory of a module in this order and others."""

    context: Context
    facts: Mapping[str, ModelFacts]
    hardware: Hardware
    pinned: Mapping[str, frozenset[str]]

    def best(self, module: Module, budget: int) -> _Attempt:
        """As ordered; where that does not fit, or states move, in the best order of equal depths that is found."""
        first = self.first(module, budget)
        relower = self.context.relower
        if relower is None or (isinstance(first.outcome, Planned) and not first.outcome.memory.moved_seconds):
            return first

        def attempt(order: Order, best: _Attempt) -> _Attempt | None:
            return self.other(relower(replace(module, order=order)), budget, best)

        best = better_order(module, first, attempt)
        if best is first:
            return first
        told = reordered(module, best.module.order, PlanMemory.name, _gained(first.outcome, best.outcome))
        return self.first(relower(told), budget, best.planner)

    def planner(self, module: Module) -> MemoryPlanner:
        """Of the ops as they are now."""
        plan = _draft(module, self.context)
        return MemoryPlanner(plan, module.ops, self.facts, self.hardware, self.pinned)

    def smallest(self, module: Module) -> MemoryPlanner:
        """Of lowered ops, in the ways alone that need least: enough to see whether anything fits."""
        moved = _saves_moved(module)
        plan = _draft(moved, self.context)
        return MemoryPlanner(plan, moved.ops, self.facts, self.hardware, _pinned(module), smallest=True)

    def first(self, module: Module, budget: int, known: MemoryPlanner | None = None) -> _Attempt:
        """As ordered; `known` has planned the same ops in another order."""
        moved = _saves_moved(module)
        planner = self.planner(moved)
        if known is not None:
            planner.runs.learn(known.runs)
        return _Attempt(module=moved, planner=planner, outcome=planner.fit(budget))

    def other(self, module: Module, budget: int, best: _Attempt) -> _Attempt | None:
        """In another order than the best one known; None if it is no better."""
        moved = _saves_moved(module)
        planner = self.planner(moved)
        planner.runs.learn(best.planner.runs)
        known = best.outcome
        if isinstance(known, Planned) and not known.missing and planner.least(budget) > known.step:
            return None
        made = _Attempt(module=moved, planner=planner, outcome=planner.fit(budget, highs=False))
        return made if made.better(best) else None


def _gained(first: Planned | Shortage, best: Planned | Shortage) -> str:
    """Why another order was taken."""
    if isinstance(first, Shortage):
        return f"in the first order `{first.op}` would need {size(first.bytes)} more than a rank has"
    assert isinstance(best, Planned), "what fits is better than what does not"
    if first.missing:
        return f"in the first order the tiers below the device would lack {size(first.missing)}"
    saved = first.step - best.step
    if saved > _SAME:
        return f"so a step takes {seconds(saved)} less within the budget"
    return f"so the peak is {size(first.memory.peak - best.memory.peak)} lower, and a step as long"


def _fitted(module: Module, planning: _Planning, budget: int) -> Module:
    found, hardware = planning.context.found, planning.hardware
    made = planning.best(module, budget)
    if isinstance(made.outcome, Shortage) and planning.context.memory is None and hardware.memory is not None:
        wider = planning.best(module, hardware.memory)
        if isinstance(wider.outcome, Planned):
            within_margin(module, found, made.outcome, wider.outcome, hardware)
            made = wider
    planned = made.outcome
    trials = planning.context.trials
    if isinstance(planned, Shortage):
        helping = remedies(trials, planning.smallest, planning.facts, budget) if trials else None
        does_not_fit(module, found, planned, made.planner, budget, helping)
        return module
    full_below(made.module, found, planned, hardware)
    if trials and planning.pinned:
        pins_cost(found, trials)
    ops = tuple(_explained(op, old) for op, old in _with_old(planned.ops, made.module.ops))
    return replace(made.module, ops=ops, memory=planned.memory, planned=planned)


def _with_old(ops: tuple[AnyOp, ...], before: tuple[AnyOp, ...]) -> list[tuple[AnyOp, AnyOp | None]]:
    old = {op.id: op for op in before}
    return [(op, old.get(op.id)) for op in ops]


def _explained(op: AnyOp, old: AnyOp | None) -> AnyOp:
    """The op with what was chosen for it."""
    if old is None or op == old:
        return op
    names = {
        "micro_batch_tokens": "tokens a micro-batch",
        "recompute": "recomputation",
        "logits": "logits at once",
        "rows_at_once": "rows decoded at once",
    }
    changed = {n: getattr(op, n) for n in names if getattr(op, n, None) != getattr(old, n, None)}
    words = ", ".join(f"{names[n]}: {v:,}" if isinstance(v, int) else f"{names[n]}: {v}" for n, v in changed.items())
    reason = Reason(by=PlanMemory.name, why=f"the fastest that fits the budget: {words}")
    return structs.replace(op, because=(*op.because, reason))


def _unplanned(module: Module, why: str) -> Module:
    return replace(module, dropped=(*module.dropped, Dropped(what="memory plan", by=PlanMemory.name, why=why)))


def _draft(module: Module, context: Context) -> Plan:
    """As much of the plan as memory depends on."""
    emitted = EmitPrograms().apply(module, context)
    deploy = module.graph.deploy
    return Plan(
        algorithm=module.graph.name,
        parameters={},
        cluster=deploy.cluster if deploy else None,
        world_size=module.world_size,
        divides=module.divides,
        models=tuple(model_spec(m, module) for m in module.graph.models),
        fields=tuple(
            FieldSpec(name=n, type=str(i.type), producer=i.producer, per_prompt=i.per_prompt)
            for n, i in module.fields.items()
        ),
        functions=(),
        groups=emitted.groups,
        phases=emitted.phases,
        programs=emitted.programs,
    )


def _saves_moved(module: Module) -> Module:
    """Each model is saved as soon as it is trained, while its weights are on the device."""
    shares = {m.name: m.shares or m.name for m in module.graph.models}
    last = {shares[op.model]: op.id for op in module.ops if isinstance(op, TrainOp)}
    saves: dict[str, list[AnyOp]] = {}
    for op in module.ops:
        if isinstance(op, SaveOp):
            saves.setdefault(last[shares[op.model]], []).append(op)
    ops = [each for op in module.ops if not isinstance(op, SaveOp) for each in (op, *saves.get(op.id, ()))]
    return replace(module, ops=tuple(ops))


def _facts(module: Module, context: Context) -> dict[str, ModelFacts] | str:
    """Of all models; else why there are none. What is wrong with a config.json is told, once."""
    found: dict[str, ModelFacts] = {}
    why: list[str] = []
    told: set[Diagnostic] = set()
    for model in module.graph.models:
        try:
            facts = facts_of(model_spec(model, module))
        except DiagnosticError as error:
            why.append(error.diagnostics[0].message)
            for each in error.diagnostics:
                if each not in told:
                    told.add(each)
                    context.found.add(_of_config(each, model, context))
            continue
        if isinstance(facts, NoFacts):
            why.append(facts.reason)
        else:
            found[model.name] = facts
    return why[0] if why else found


def _of_config(told: Diagnostic, model: Model, context: Context) -> Diagnostic:
    """What is wrong with a config.json, with the model that it is of.

    A kind of model that is not known is no mistake, unless its memory was asked for: it runs, within no budget.
    """
    labels = (Label(span=model.span, message=f"`{model.name}` is described there"),) if model.span else ()
    if told.code != "RL0801":
        return replace(told, labels=labels)
    if context.memory is not None:
        return replace(told, labels=labels, fix=told.fix or "without --memory a plan is made all the same")
    note = "a plan is made all the same, without one of its memory"
    return replace(told, labels=labels, severity=Severity.WARNING, notes=(note,))


def _pinned(module: Module) -> dict[str, frozenset[str]]:
    """By node the options of trainings that the user has set."""
    return {node.id: frozenset(names) for node in module.graph.nodes if (names := pins_of(node))}
