"""Nodes and fields that only have another name in another plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from rldsl.compiler.ops import ComputeOp, ExtendOp, GenerateOp, InferOp, TrainOp, parts
from rldsl.compiler.plan import Plan, to_builtins
from rldsl.render.scopes import general, leaf, scope_of

_Named = GenerateOp | ExtendOp | InferOp | ComputeOp | TrainOp
_NODES = frozenset({"id", "node", "compute"})
_FIELDS = frozenset(
    {
        "columns",
        "prompts",
        "outputs",
        "output",
        "tokens",
        "response_mask",
        "rollout_logp",
        "observation",
        "done",
        "field",
        "fields",
        "skip_where_zero",
        "where",
        "mask",
        "holds",
    }
)
"""The keys of ops whose values are names of nodes, and of fields."""


@dataclass(frozen=True, slots=True)
class Renames:
    """Old names to new ones, those of a loop without the number of the round."""

    nodes: Mapping[str, str]
    fields: Mapping[str, str]


def renames(a: Plan, b: Plan) -> Renames:
    """Nodes of `a` that `b` does not have, for each of which it has one that does the same with the same fields.

    And the fields that a node of both writes in the place of others.
    """
    old, new = _nodes(a), _nodes(b)
    came = [name for name in new if name not in old]
    nodes: dict[str, str] = {}
    fields: dict[str, str] = {}
    before, after = ({general(f.name) for f in plan.fields} for plan in (a, b))
    for name, op in old.items():
        other = new.get(name) or _same(op, (new[n] for n in came if n not in nodes.values()), fields)
        if other is None:
            continue
        if name not in new:
            nodes[name] = general(other.node or "")
        for was, now in zip(_outputs(op), _outputs(other), strict=False):
            if was and now and was != now and was not in after and now not in before:
                fields[was] = now
    return Renames(nodes, fields)


def renamed(plan: Plan, names: Renames) -> Plan:
    """The plan with the new names."""
    if not names.nodes and not names.fields:
        return plan
    body = to_builtins(plan)
    for program in body["programs"]:
        program["ops"] = [_replaced(op, names) for op in program["ops"]]
    for key in ("roles", "depths"):
        body[key] = {_new(n, names.nodes): value for n, value in body[key].items()}
    body["edges"] = [[_new(a, names.nodes), _new(b, names.nodes), kind] for a, b, kind in body["edges"]]
    for spec in body["fields"]:
        spec["name"], spec["producer"] = _new(spec["name"], names.fields), _new(spec["producer"], names.nodes)
    for dropped in body["dropped"]:
        dropped["what"] = _new(_new(dropped["what"], names.nodes), names.fields)
    return msgspec.convert(body, Plan)


def _nodes(plan: Plan) -> dict[str, _Named]:
    """The first op of each node that a user names."""
    found: dict[str, _Named] = {}
    for op in parts(plan.ops()):
        if isinstance(op, _Named) and op.node is not None:
            found.setdefault(general(op.node), op)
    return found


def _same(op: _Named, others: Iterable[_Named], fields: Mapping[str, str]) -> _Named | None:
    """The only one that does the same with the same fields."""
    reads = [_new(general(f), fields) for f in op.reads]
    alike = [other for other in others if [general(f) for f in other.reads] == reads and _body(other) == _body(op)]
    return alike[0] if len(alike) == 1 else None


def _body(op: _Named) -> str:
    """What the op does, without names of nodes and fields, and without why and where."""
    apart = _NODES | _FIELDS | {"because", "by", "group", "guard", "background"}
    body: dict[str, Any] = json.loads(msgspec.json.encode(op))
    args = [(a["param"], a["current"], a["field"] is None) for a in body.pop("args", ())]
    kept = {k: v for k, v in body.items() if k not in apart and k != "also"}
    return json.dumps([kept, args, scope_of(op.node or "").block], sort_keys=True)


def _outputs(op: _Named) -> Iterator[str | None]:
    """What is written, result after result."""
    if isinstance(op, ComputeOp):
        yield from (o and general(o) for o in op.outputs)
    elif isinstance(op, GenerateOp | ExtendOp):
        slots = ("tokens", "response_mask", "rollout_logp", "completions")
        yield from (general(op.outputs[s]) if s in op.outputs else None for s in slots)
    else:
        yield from map(general, op.writes)


def _new(name: str, names: Mapping[str, str]) -> str:
    """The new name, with the round that the old one has; of `free:reward` that of what follows the colon."""
    kind, colon, rest = name.rpartition(":")
    target = names.get(general(rest))
    if target is None:
        return name
    scope = scope_of(rest)
    made = f"{scope.prefix}.{leaf(target)}" if scope.round else target
    return f"{kind}{colon}{made}"


def _replaced(op: dict[str, Any], names: Renames) -> dict[str, Any]:
    def of(mapping: Mapping[str, str]) -> Callable[[Any], Any]:
        return lambda value: _everywhere(value, mapping)

    made = {k: of(names.nodes)(v) if k in _NODES else of(names.fields)(v) if k in _FIELDS else v for k, v in op.items()}
    if "args" in made:
        made["args"] = [{**a, "field": a["field"] and _new(a["field"], names.fields)} for a in made["args"]]
    if "also" in made:
        made["also"] = [_replaced(head, names) for head in made["also"]]
    return made


def _everywhere(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _new(value, names)
    if isinstance(value, list):
        return [_everywhere(v, names) for v in value]
    if isinstance(value, dict):
        return {_everywhere(k, names): _everywhere(v, names) for k, v in value.items()}
    return value
