"""Each rank's memory is kept within its budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from msgspec import structs

from rldsl.compiler.cost.find_facts import NoFacts, facts_of
from rldsl.compiler.cost.hardware import Hardware, hardware_of
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Planned, Shortage
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ir import Method, Module
from rldsl.compiler.ops import AnyOp, Reason, SaveOp, TrainOp
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import option_of
from rldsl.compiler.passes.emit_programs import EmitPrograms
from rldsl.compiler.passes.memory_faults import does_not_fit, pins_cost, within_margin
from rldsl.compiler.plan import Dropped, FieldSpec, ModelSpec, Plan
from rldsl.compiler.specs import figures_of_deploy, model_spec
from rldsl.diagnostics import DiagnosticError

_PINS = ("micro_batch_tokens", "recompute", "logits")


@dataclass(frozen=True, kw_only=True)
class PlanMemory:
    """Choose micro-batches, recomputation and where states leave the device, so that each rank keeps to its budget.

    The budget is that of the cluster's hardware, or of `--memory`; without one, or where a model's size is not known,
    nothing changes. What the user has set in a training's options stays as it is.
    Before: `rollout`, `ref`, `update`.
    After:  `rollout`, `offload actor.engine`, `onload reference.weights`, `ref`, `offload reference.weights`, ...
    """

    name: ClassVar[str] = "plan_memory"

    def apply(self, module: Module, context: Context) -> Module:
        """The ops with their choices and moves, and `memory`. RL0810 where it does not fit, warnings RL0811, RL0812."""
        deploy = module.graph.deploy
        figures = figures_of_deploy(deploy) if deploy else {}
        hardware = hardware_of((deploy and deploy.cluster) or "cpu", figures)
        budget = context.memory or hardware.budget
        if budget is None:
            return module
        plan = _draft(_saves_moved(module), context)
        facts = _facts(plan.models, context)
        if isinstance(facts, str) or module.world_size is None:
            why = facts if isinstance(facts, str) else "how many ranks there are is not known: say --world-size"
            return _unplanned(module, why)
        return _fitted(module, context, plan, facts, hardware, budget)


def _fitted(
    module: Module, context: Context, plan: Plan, facts: Mapping[str, ModelFacts], hardware: Hardware, budget: int
) -> Module:
    ordered, pinned = _saves_moved(module), _pinned(module)
    planner = MemoryPlanner(plan, ordered.ops, facts, hardware, pinned)
    planned = planner.fit(budget)
    if isinstance(planned, Shortage) and context.memory is None and hardware.memory is not None:
        wider = planner.fit(hardware.memory)
        if isinstance(wider, Planned):
            within_margin(module, context.found, planned, wider, hardware)
            planned = wider
    if isinstance(planned, Shortage):
        does_not_fit(module, context.found, planned, planner, budget, facts, pinned)
        return module
    if pinned:
        free = MemoryPlanner(plan, ordered.ops, facts, hardware).fit(budget)
        pins_cost(module, context.found, planned, free, pinned)
    ops = tuple(_explained(op, old) for op, old in _with_old(planned.ops, ordered.ops))
    return replace(module, ops=ops, memory=planned.memory, planned=planned)


def _with_old(ops: tuple[AnyOp, ...], before: tuple[AnyOp, ...]) -> list[tuple[AnyOp, AnyOp | None]]:
    old = {op.id: op for op in before}
    return [(op, old.get(op.id)) for op in ops]


def _explained(op: AnyOp, old: AnyOp | None) -> AnyOp:
    """The op with what was chosen for it."""
    if old is None or op == old:
        return op
    names = {"micro_batch_tokens": "tokens a micro-batch", "recompute": "recomputation", "logits": "logits at once"}
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


def _facts(models: tuple[ModelSpec, ...], context: Context) -> dict[str, ModelFacts] | str:
    """Of all models; else why there are none."""
    found: dict[str, ModelFacts] = {}
    for spec in models:
        try:
            facts = facts_of(spec, context.source_dir)
        except DiagnosticError as error:
            return error.diagnostics[0].message
        if isinstance(facts, NoFacts):
            return facts.reason
        found[spec.name] = facts
    return found


def _pinned(module: Module) -> dict[str, frozenset[str]]:
    """By node the options of trainings that the user has set."""
    found = {
        node.id: frozenset(name for name in _PINS if option_of(node.call, name) not in (None, 0))
        for node in module.graph.nodes
        if node.call.method is Method.TRAIN
    }
    return {node: names for node, names in found.items() if names}
