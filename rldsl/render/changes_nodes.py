"""What is to be said of a node, so that two plans can be compared: what it calls, reads, writes, its settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from rldsl.compiler.ops import AnyOp, Arg, Guard, LoadOp, SyncWeightsOp, WaitOp, parts
from rldsl.compiler.plan import Plan
from rldsl.render.nodes import node_id, node_ids, nodes_of
from rldsl.render.ranks import group_words
from rldsl.render.scopes import general, scope_of
from rldsl.render.words import call_of, guard_words, scalar

Said = dict[str, str | None]
"""Texts by what they are about."""

_APART = frozenset(
    {
        "id",
        "node",
        "group",
        "guard",
        "because",
        "by",
        "args",
        "params",
        "outputs",
        "fields",
        "model",
        "function",
        "also",
    }
)


def node_facts(plan: Plan) -> dict[str, Said]:
    """By node; the rounds of a loop are one, which reads what any of them does."""
    roles = {n.id: n.role for n in nodes_of(plan)}
    waits: dict[str, list[str]] = {}
    for source, target, kind in plan.edges:
        if kind == "after":
            waits.setdefault(general(target), []).append(general(source))
    found: dict[str, Said] = {}
    for op, others in _works(plan):
        if op.node is None or isinstance(op, LoadOp | SyncWeightsOp | WaitOp):
            continue
        name = general(op.node)
        said = _op_facts(plan, op)
        if name in found:
            found[name] = _joined(found[name], said)
            continue
        after = ", ".join(dict.fromkeys(waits.get(name, ()))) or None
        found[name] = {
            **said,
            "role": roles.get(name),
            "after": after,
            "in one pass with": ", ".join(others) or None,
            "rounds": "1" if scope_of(op.node).round else None,
        }
    return found


def _works(plan: Plan) -> Iterator[tuple[AnyOp, tuple[str, ...]]]:
    """The ops, a forward with several heads as so many, with the nodes of the other heads."""
    for whole in plan.ops():
        for op in parts((whole,)):
            yield op, tuple(n for n in node_ids(whole) if n != node_id(op))


def sayings(values: Mapping[str, Any]) -> Said:
    """Each value as text; None for what is not there."""
    return {key: None if value is None else _text(value) for key, value in values.items()}


def _op_facts(plan: Plan, op: AnyOp) -> Said:
    values = msgspec.structs.asdict(op)
    said: Said = {"calls": call_of(op, scope_of(op.node or ""))}
    said |= {f"reads {a.param}": _argument(a) for a in values.get("args", ()) if a.field or a.current}
    said |= sayings(values.get("params", {}))
    said |= sayings({key: value for key, value in values.items() if key not in _APART})
    for key in ("outputs", "fields"):
        said |= _columns(key, values.get(key))
    return {**said, "when": guard_words(op.guard) or None, "runs on": group_words(plan, op.group)}


def _argument(arg: Arg) -> str:
    return "the running step's own log-probs" if arg.current else general(arg.field or "")


def _columns(key: str, value: Any) -> Said:
    """What is written by the name that the op has for it; in an unordered list where there is none."""
    verb = "writes" if key == "outputs" else "takes"
    if isinstance(value, dict):
        return {f"{verb} {general(k)}": general(v) for k, v in sorted(value.items())}
    if not value:
        return {}
    if key == "fields":
        return {verb: ", ".join(sorted(map(general, value)))}
    return {f"{verb} result {i}": v and general(v) for i, v in enumerate(value, 1)}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return general(value)
    if isinstance(value, Guard):
        return guard_words(value)
    if isinstance(value, Iterable):
        return ", ".join(map(_text, value))
    return scalar(value)


def _joined(first: Said, other: Said) -> Said:
    """What a further round reads otherwise stands beside what the first does."""
    made = dict(first)
    for key, text in other.items():
        known = (made.get(key) or "").split(" or ")
        if text and text not in known:
            made[key] = f"{made[key]} or {text}" if made.get(key) else text
    return {**made, "rounds": str(int(first["rounds"] or 1) + 1)}
