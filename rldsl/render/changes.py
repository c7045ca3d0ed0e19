"""What two plans do differently. Order of declarations, names of files and places in them make no difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from rldsl.compiler.ops import LoadOp, SaveOp, SyncKind, SyncWeightsOp, parts
from rldsl.compiler.passes.order_equal_depths import OrderEqualDepths
from rldsl.compiler.plan import FunctionSpec, Plan
from rldsl.render.changes_nodes import Said, node_facts, sayings
from rldsl.render.facts import Facts
from rldsl.render.memory import fit_words, moved_words, presence, states_on, unplanned
from rldsl.render.order import moved
from rldsl.render.ranks import group_words
from rldsl.render.renames import renamed, renames
from rldsl.render.scopes import general, leaf, scope_of_op
from rldsl.render.words import (
    guard_words,
    memory_words,
    model_words,
    move_word,
    number,
    ranks_words,
    source_words,
    state_words,
)

Digest = Callable[[FunctionSpec], str | None]
"""A digest of a function's code, the same after a change of comments or formatting; None: there is no code to see."""


class Kind(StrEnum):
    """What became of something."""

    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference: in which `part` (parameters, nodes, ...), of what, and how it was `before` and is `after`."""

    part: str
    kind: Kind
    name: str
    what: str = ""
    before: str | None = None
    after: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """A plan, and how to see the code of its functions."""

    plan: Plan
    digest: Digest = field(default=lambda spec: spec.sha256)


def changes(before: Side, after: Side) -> tuple[Change, ...]:
    """Everything that `after` does otherwise; empty if the two mean the same. Names are those of `after`."""
    names = renames(before.plan, after.plan)
    before = replace(before, plan=renamed(before.plan, names))
    a, b = before.plan, after.plan
    parts = (
        _compared("algorithm", {"name": {"": a.algorithm}}, {"name": {"": b.algorithm}}),
        _compared("parameters", _parameters(a), _parameters(b)),
        _compared("ranks", _ranks(a), _ranks(b)),
        _compared("models", _models(a), _models(b)),
        _compared("inputs", _inputs(a), _inputs(b)),
        _renamed("nodes", names.nodes),
        _nodes(a, b),
        _renamed("fields", names.fields),
        _compared("fields", *_common(_fields(a), _fields(b))),
        _passes(a, b),
        _functions(before, after),
        _compared("data movement", *_common(_movement(a), _movement(b))),
        _compared("weights", _weights(a), _weights(b)),
        _compared("memory", _memory(a), _memory(b)),
        _compared("schedule", *_schedule(a, b)),
    )
    return tuple(change for part in parts for change in part)


def _renamed(part: str, names: Mapping[str, str]) -> Iterator[Change]:
    yield from (Change(part=part, kind=Kind.RENAMED, name=old, after=new) for old, new in names.items())


def _compared(
    part: str, a: Mapping[str, Said], b: Mapping[str, Said], *, whys: Mapping[str, str] | None = None
) -> Iterator[Change]:
    """Names that came, went, or of which something else is said."""
    for name in dict.fromkeys((*a, *b)):
        why = (whys or {}).get(name, "")
        if name not in b:
            yield Change(part=part, kind=Kind.REMOVED, name=name, before=_brief(a[name]), why=why)
        elif name not in a:
            yield Change(part=part, kind=Kind.ADDED, name=name, after=_brief(b[name]), why=why)
        else:
            for what in dict.fromkeys((*a[name], *b[name])):
                old, new = a[name].get(what), b[name].get(what)
                if old != new:
                    yield Change(part=part, kind=Kind.CHANGED, name=name, what=what, before=old, after=new)


def _brief(said: Said) -> str:
    """The first of what is said, which tells most."""
    return next(iter(said.values()), None) or ""


def _common(a: Mapping[str, Said], b: Mapping[str, Said]) -> tuple[dict[str, Said], dict[str, Said]]:
    """What comes and goes with a node is said there."""
    return {n: s for n, s in a.items() if n in b}, {n: s for n, s in b.items() if n in a}


def _parameters(plan: Plan) -> dict[str, Said]:
    return {name: sayings({"": value}) for name, value in {"seed": plan.seed, **plan.parameters}.items()}


def _ranks(plan: Plan) -> dict[str, Said]:
    figures = {name: f"{value:g}" for name, value in plan.figures.items()}
    return {"plan": {"for": ranks_words(plan), "on": plan.cluster, **figures}}


def _models(plan: Plan) -> dict[str, Said]:
    """What a copy is of may itself not be in the plan, so the source of its weights is said, too."""
    sources = {m.name: source_words(m.source, dict(sorted(m.source_args.items()))) for m in plan.models if m.copy_of}
    return {m.name: {"is": model_words(m), "weights": sources.get(m.name)} for m in plan.models}


def _inputs(plan: Plan) -> dict[str, Said]:
    """By the fields read, so that a second input is not taken for the first."""
    found: dict[str, Said] = {}
    for op in plan.ops():
        if isinstance(op, LoadOp):
            block = scope_of_op(op).block
            name = f"{block}: " if block else ""
            columns = dict(zip(op.columns, op.names or op.columns, strict=True))
            renamed = [f"{leaf(c)} = {leaf(n)}" for c, n in sorted(columns.items()) if leaf(c) != leaf(n)]
            source = source_words(op.source.kind, dict(sorted(op.source.args.items())))
            found[name + ", ".join(sorted(map(leaf, columns)))] = {
                "source": source,
                "columns": ", ".join(renamed),
                "prompts": number(op.batch),
                "rounds": number(op.rounds),
                "rows": "always the first" if op.first else "the next",
                "read ahead": "yes" if op.prefetch else None,
            }
    return found


def _nodes(a: Plan, b: Plan) -> Iterator[Change]:
    """Nodes; for one that came or went, what the pass said that took it away on the other side."""
    old, new = node_facts(a), node_facts(b)
    whys = {general(d.what): f"{d.why} ({d.by})" for d in b.dropped if general(d.what) not in new}
    whys |= {general(d.what): f"before: {d.why} ({d.by})" for d in a.dropped if general(d.what) not in old}
    # An argument that was taken away is dropped under the name `node.param`.
    arguments = {d.what: f"{d.why} ({d.by})" for d in (*a.dropped, *b.dropped)}
    for change in _compared("nodes", old, new, whys=whys):
        yield replace(
            change, why=change.why or arguments.get(f"{change.name}.{change.what.removeprefix('reads ')}", "")
        )


def _fields(plan: Plan) -> dict[str, Said]:
    return {general(f.name): {"type": f.type, "rows a prompt": number(f.per_prompt)} for f in plan.fields}


def _passes(a: Plan, b: Plan) -> Iterator[Change]:
    """Which nodes of both an optimisation changed in one of them only; the order of equal depths means nothing."""
    old, new = _reasons(a), _reasons(b)
    nodes = node_facts(a).keys() & node_facts(b).keys()
    for by, node in sorted(old.keys() ^ new.keys()):
        if node in nodes:
            why = new.get((by, node)) or old.get((by, node), "")
            said = ("does not change it", "changes it")
            before, after = said if (by, node) in new else reversed(said)
            yield Change(part="passes", kind=Kind.CHANGED, name=by, what=node, before=before, after=after, why=why)


def _reasons(plan: Plan) -> dict[tuple[str, str], str]:
    ops = (op for op in parts(plan.ops()) if op.node is not None and not isinstance(op, SyncWeightsOp))
    reasons = ((r, op) for op in ops for r in op.because if r.by not in (OrderEqualDepths.name, op.by))
    return {(r.by, general(op.node or "")): r.why for r, op in reasons}


def _functions(before: Side, after: Side) -> Iterator[Change]:
    old, new = ({f.name: f for f in side.plan.functions} for side in (before, after))
    for name in sorted(old.keys() & new.keys()):
        a, b = old[name], new[name]
        if (a.module, a.file is None) != (b.module, b.file is None):
            yield _otherwise(name, "comes from", a.module or a.file, b.module or b.file)
        elif a.sha256 != b.sha256 and before.digest(a) != after.digest(b):
            yield _otherwise(name, "file", *(f"{f.file}, sha256 {(f.sha256 or '')[:12]}" for f in (a, b)))
        for module in sorted(m for m in a.modules.keys() | b.modules.keys() if a.modules.get(m) != b.modules.get(m)):
            yield _otherwise(name, f"imports {module}", *(f.modules.get(module, "")[:12] or None for f in (a, b)))


def _otherwise(name: str, what: str, before: str | None, after: str | None) -> Change:
    return Change(part="functions", kind=Kind.CHANGED, name=name, what=what, before=before, after=after)


def _schedule(a: Plan, b: Plan) -> tuple[dict[str, Said], dict[str, Said]]:
    found = moved(a, b)
    return {m.name: {"runs": m.before} for m in found}, {m.name: {"runs": m.after} for m in found}


def _movement(plan: Plan) -> dict[str, Said]:
    """By field; which of its readers a move is made for has no meaning."""
    facts = Facts(plan)
    found: dict[str, Said] = {}
    for name in facts.writer:
        moves = [
            f"{move_word(op)} {op.source} to {op.target}{' (a copy stays)' if name in op.keeps else ''}"
            for op in facts.moves_of(name)
        ]
        found.setdefault(general(name), {"": ", ".join(moves) or "local"})
    return found


def _memory(plan: Plan) -> dict[str, Said]:
    """What there is room for, the peak, and of each state its bytes and when it is on the device."""
    if plan.memory is None:
        return {"plan": {"": why}} if (why := unplanned(plan)) else {}
    memory = plan.memory
    found: dict[str, Said] = {
        "plan": {"": fit_words(plan), "moves": moved_words(plan, memory)},
    }
    for program in plan.programs:
        for state in states_on(plan, program):
            where = f" on {group_words(plan, state.group)}" if state.group != "world" else ""
            said: Said = {"a rank": memory_words(state.bytes), "on the device": presence(program, state)}
            found.setdefault(f"{state_words(state)}{where}", said)
    return found


def _weights(plan: Plan) -> dict[str, Said]:
    found: dict[str, Said] = {}
    for op in plan.ops():
        if isinstance(op, SyncWeightsOp):
            stale = f", staleness {op.staleness}" if op.staleness else ""
            to = f"{op.sync.value.replace('_', '-')} over {group_words(plan, op.group)}"
            if op.sync is SyncKind.BROADCAST:
                to = f"broadcast from {group_words(plan, op.source)} to {group_words(plan, op.target)}"
            found[f"{op.model} to its sampler{stale}"] = {"": to, "when": guard_words(op.guard)}
        elif isinstance(op, SaveOp):
            found[f"{op.model} saved"] = {"": op.path, "every": number(op.every)}
    return found
