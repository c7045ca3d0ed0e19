"""Weights: whoever holds a model takes part in all that is collective over it, and nobody uses stale weights.

Every node of a step works with the weights that the step began with, or, a rollout of staleness 1, with those of the
step before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rldsl.compiler.ir import Method, ModelKind
from rldsl.compiler.methods import ENGINE_AXES, ENGINES, METHODS
from rldsl.compiler.ops import ExtendOp, GenerateOp, InferOp, SaveOp, SyncKind, SyncWeightsOp, TrainOp, parts
from rldsl.compiler.plan import Phase, Program
from rldsl.compiler.verify.facts import ROLLOUTS, WITH_MODEL, Facts, Rollout, WithModel, ranks_of

Engine = tuple[str, int]


def weights(facts: Facts) -> Iterator[str]:
    """Kinds of models, the ranks that hold them, and the order of transfers, uses, trainings and saves."""
    used = [op for op in parts(facts.ops) if isinstance(op, WITH_MODEL)]
    for op in used:
        yield from _kind(op, facts)
    yield from _holders(used, facts)
    yield from _phases(used, facts)
    yield from _bases(used, facts)
    yield from _draws(used)
    rollouts: dict[Engine, list[Rollout]] = {}
    for op in used:
        if isinstance(op, ROLLOUTS):
            rollouts.setdefault((op.model, op.staleness), []).append(op)
    yield from _transfers(used, rollouts, facts)
    yield from _saves(used, facts)
    for program in facts.plan.programs:
        where = f" ({ranks_of(program)})"
        yield from (p + where for p in _Walk(facts, program, rollouts).problems())


def _kind(op: WithModel, facts: Facts) -> Iterator[str]:
    """The model has what the op asks of it."""
    model = facts.models[op.model]
    kinds: tuple[str, ...] = (ModelKind.POLICY,)
    if isinstance(op, (InferOp, TrainOp)):
        kinds = METHODS[Method(op.method.value) if isinstance(op, InferOp) else Method.TRAIN].kinds
    if model.kind not in kinds:
        yield f"`{op.id}` asks of `{model.name}`, a {model.kind} model, what only a {' or '.join(kinds)} model has"
    if isinstance(op, TrainOp):
        if not model.trainable:
            yield f"`{op.id}` trains `{model.name}`, which is frozen"
        if op.guard is not None:
            yield f"`{op.id}` trains under a guard: blocks train nothing"
        if any(a.current for a in op.args) and model.kind != ModelKind.POLICY:
            yield f"`{op.id}` gives its loss log-probs of `{model.name}`, a {model.kind} model"
        if any(a.current for a in op.args) and op.epochs * -(-op.batch // max(op.minibatch, 1)) != 1:
            yield f"`{op.id}` takes the running log-probs for the old ones, and more than one step changes them"


def _holders(used: Sequence[WithModel], facts: Facts) -> Iterator[str]:
    """A trunk lies on one group: that of its passes and trainings, else that of its rollouts; an engine on another."""
    holder: dict[str, str] = {}
    engine: dict[Engine, str] = {}
    for kinds in ((InferOp, TrainOp), ROLLOUTS, (SyncWeightsOp, SaveOp)):
        for op in used:
            if not isinstance(op, kinds):
                continue
            end = op.source if isinstance(op, SyncWeightsOp) else op.group
            group = holder.setdefault(facts.holders[op.model], end)
            if not isinstance(op, ROLLOUTS) and facts.layouts[end] != facts.layouts[group]:
                yield f"`{op.id}` runs on `{end}`, and `{op.model}` is sharded over `{group}`"
            if isinstance(op, (*ROLLOUTS, SyncWeightsOp)):
                end = op.target if isinstance(op, SyncWeightsOp) else op.group
                group = engine.setdefault((op.model, op.staleness), end)
                if facts.layouts[end] != facts.layouts[group]:
                    yield f"`{op.id}` is of an engine on `{end}`, and that lies on `{group}`"


def _phases(used: Sequence[WithModel], facts: Facts) -> Iterator[str]:
    """What a plan says of engines and groups is so; it may say nothing."""
    trained = {facts.trunks[op.model] for op in used if isinstance(op, TrainOp)}
    said = {(p.model, p.phase): p for p in facts.plan.phases}
    found: dict[tuple[str, Phase], str] = {}
    for op in used:
        if isinstance(op, (SyncWeightsOp, SaveOp)):
            continue
        phase = Phase.TRAIN if facts.trunks[op.model] in trained else Phase.INFER
        key = (op.model, Phase.GENERATE if isinstance(op, ROLLOUTS) else phase)
        found.setdefault(key, op.group)
        spec = said.get(key)
        if spec is not None and facts.layouts[spec.group] != facts.layouts[op.group]:
            yield f"`{op.id}` runs on `{op.group}`, and the plan says that `{op.model}` does so on `{spec.group}`"
    for model, phase in said.keys() ^ found.keys() if said else ():
        yield f"the plan and its ops do not agree whether there is a phase `{model}.{phase}`"
    for spec in facts.plan.phases:
        engines, axes = ENGINES.get(spec.phase, ()), ENGINE_AXES.get(spec.engine, ())
        if spec.engine not in engines:
            yield f"`{spec.model}.{spec.phase}` has no engine that is known: `{spec.engine}`"
            continue
        group = facts.plan.group(spec.group)
        for axis in ("tp", "cp", "pp", "ep"):
            if getattr(group, axis) > 1 and axis not in axes:
                yield f"`{spec.model}.{spec.phase}` has {axis} = {getattr(group, axis)}, which `{spec.engine}` has not"


def _bases(used: Sequence[WithModel], facts: Facts) -> Iterator[str]:
    """What lies beneath another's adapters only scores, by the engine that trains these."""
    for op in used:
        base_of = facts.models[op.model].base_of
        if base_of is not None and not isinstance(op, InferOp):
            yield f"`{op.id}` needs weights of `{op.model}`'s own, and they are those of `{base_of}`"
    engines = {(p.model, p.phase): p.engine for p in facts.plan.phases}
    for model in facts.plan.models:
        if model.base_of is None or not engines:
            continue
        mine, theirs = engines.get((model.name, Phase.INFER)), engines.get((model.base_of, Phase.TRAIN))
        if mine != theirs:
            yield f"`{model.name}` runs by {mine}, and `{model.base_of}`, whose base it is, by {theirs}"


def _draws(used: Sequence[WithModel]) -> Iterator[str]:
    """Random draws depend on the node's name: no two rollouts may draw alike."""
    seen: dict[str, str] = {}
    for op in used:
        if isinstance(op, ROLLOUTS):
            other = seen.setdefault(op.node or op.id, op.id)
            if other != op.id:
                yield f"`{op.id}` draws the same random numbers as `{other}`: both are of one node"


def _transfers(used: Sequence[WithModel], rollouts: dict[Engine, list[Rollout]], facts: Facts) -> Iterator[str]:
    """Each engine has one transfer a step, of the kind that the ranks call for, whenever its rollouts run."""
    synced: dict[Engine, SyncWeightsOp] = {}
    for op in used:
        if not isinstance(op, SyncWeightsOp):
            continue
        engine = (op.model, op.staleness)
        if synced.setdefault(engine, op) is not op:
            yield f"`{op.id}` transfers again what `{synced[engine].id}` does"
        if engine not in rollouts:
            yield f"`{op.id}` transfers weights that no rollout of staleness {op.staleness} uses"
        if op.staleness not in (0, 1):
            yield f"`{op.id}` has staleness = {op.staleness}"
        kind = _kind_of(op, facts)
        if op.sync is not kind:
            yield f"`{op.id}` says {op.sync}, and with these ranks it is {kind}"
        if op.staleness and op.guard is not None:
            yield f"`{op.id}` runs only now and then: weights would grow older than a step"
    for engine, ops in rollouts.items():
        sync = synced.get(engine)
        if sync is None:
            yield f"no transfer brings `{engine[0]}` to the rollout `{ops[0].id}`"
        elif sync.guard is not None:
            yield from (
                f"`{op.id}` may run when `{sync.id}` does not: their guards differ"
                for op in ops
                if op.guard != sync.guard
            )


def _kind_of(op: SyncWeightsOp, facts: Facts) -> SyncKind:
    source = facts.layouts[op.source]
    if not source.covers(facts.layouts[op.target]):
        return SyncKind.BROADCAST
    if source.size != 1:
        return SyncKind.ALL_GATHER
    return SyncKind.COPY if op.staleness else SyncKind.LOCAL


def _saves(used: Sequence[WithModel], facts: Facts) -> Iterator[str]:
    """Every policy that is trained is saved, once, in a place of its own."""
    trained = {op.model for op in used if isinstance(op, TrainOp)}
    paths: dict[str, str] = {}
    saved: set[str] = set()
    for op in used:
        if not isinstance(op, SaveOp):
            continue
        if op.model not in trained:
            yield f"`{op.id}` saves `{op.model}`, which nothing trains"
        if op.model in saved:
            yield f"`{op.id}` saves `{op.model}` again"
        saved.add(op.model)
        if paths.setdefault(op.path, op.id) != op.id:
            yield f"`{op.id}` saves over what `{paths[op.path]}` writes"
        parts = op.path.split("/")
        if not op.path or op.path.startswith("/") or ".." in parts or "\\" in op.path or "\0" in op.path:
            yield f"`{op.id}` saves outside the run folder: `{op.path}`"
        if op.guard is not None:
            yield f"`{op.id}` has a guard besides the steps in which it saves"
    for model in sorted(trained - saved):
        if facts.models[model].kind == ModelKind.POLICY:
            yield f"`{model}` is trained and never saved"


class _Walk:
    """One program's transfers, uses and trainings, in order."""

    def __init__(self, facts: Facts, program: Program, rollouts: dict[Engine, list[Rollout]]) -> None:
        self.facts, self.program, self.rollouts = facts, program, rollouts
        self.synced: set[Engine] = set()
        self.trained: dict[str, str] = {}
        self.saved: dict[str, str] = {}

    def problems(self) -> Iterator[str]:
        """What uses weights too new or too old."""
        for op in self.program.ops:
            if not isinstance(op, WITH_MODEL):
                continue
            trunk = self.facts.trunks[op.model]
            if isinstance(op, SaveOp):
                self.saved[trunk] = op.id
            elif isinstance(op, TrainOp):
                yield from self.train(op, trunk)
            elif trunk in self.trained:
                verb = "transfers" if isinstance(op, SyncWeightsOp) else "uses"
                yield f"`{op.id}` {verb} `{op.model}` after `{self.trained[trunk]}` has changed its weights"
            if isinstance(op, SyncWeightsOp):
                self.synced.add((op.model, op.staleness))
            elif isinstance(op, (GenerateOp, ExtendOp)):
                yield from self.rollout(op)

    def train(self, op: TrainOp, trunk: str) -> Iterator[str]:
        if trunk in self.trained and any(a.current for a in op.args):
            yield f"`{op.id}` takes the running log-probs for the old ones, after `{self.trained[trunk]}`"
        if trunk in self.saved:
            yield f"`{op.id}` trains `{op.model}` after `{self.saved[trunk]}` has saved its weights"
        for (model, staleness), ops in self.rollouts.items():
            if staleness and self.facts.trunks[model] == trunk and (model, staleness) not in self.synced:
                late = ops[-1].id
                yield f"`{late}` wants the weights of the step before, and no transfer follows it before `{op.id}`"
        self.trained[trunk] = op.id

    def rollout(self, op: Rollout) -> Iterator[str]:
        synced = (op.model, op.staleness) in self.synced
        if op.staleness == 0 and not synced:
            yield f"`{op.id}` generates with weights of `{op.model}` that no transfer brought up to date"
        if op.staleness and synced:
            yield f"`{op.id}` wants the weights of the step before, and the transfer of this step precedes it"
