"""What goes from node to node, fields and weights, and how: where it lies, by all-to-all, or gathered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.compiler.plan import (
    AnyOp,
    ExtendOp,
    GenerateOp,
    Plan,
    ReshardOp,
    SyncKind,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
    WaitOp,
)
from rldsl.render.facts import Facts
from rldsl.render.nodes import node_id, nodes_of
from rldsl.render.scopes import leaf
from rldsl.render.sizes import size_words

Rollout = GenerateOp | ExtendOp

_NAME = 30


class Way(StrEnum):
    """How something gets from one node to another."""

    LOCAL = "local"
    ALL_TO_ALL = "all-to-all"
    GATHERED = "gathered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """`what` goes from `source` to `target`, nodes; `between` says from which ranks to which, `size` how much."""

    source: str
    target: str
    what: tuple[str, ...]
    way: Way
    between: str = ""
    size: str = ""


def flows_of(plan: Plan, *, unrolled: bool = False) -> tuple[Flow, ...]:
    """Every edge of fields, split where fields go in different ways; then the weights. Rounds of a loop are one."""
    facts = Facts(plan)
    found: dict[tuple[str, str, Way, str], dict[str, str]] = {}
    for source, op, field in _edges(facts):
        way, between = _way(facts, source, op, field)
        key = node_id(source, unrolled=unrolled), node_id(op, unrolled=unrolled), way, between
        found.setdefault(key, {}).setdefault(leaf(field), field)
    made = [
        Flow(source=a, target=b, what=tuple(fields), way=way, between=between, size=size_words(facts, fields.values()))
        for (a, b, way, between), fields in found.items()
    ]
    return (*made, *dict.fromkeys(_weights(facts, unrolled=unrolled)))


def _edges(facts: Facts) -> Iterator[tuple[AnyOp, AnyOp, str]]:
    for op in facts.ops:
        if isinstance(op, TakeOp):
            yield from ((c, op, f) for c in facts.collects(op.collection) for f in op.outputs)
        elif not isinstance(op, ReshardOp | WaitOp):
            yield from ((facts.writer[f], op, f) for f in dict.fromkeys(op.reads) if f in facts.writer)


def _way(facts: Facts, source: AnyOp, op: AnyOp, field: str) -> tuple[Way, str]:
    if isinstance(op, TakeOp):
        return Way.ALL_TO_ALL, "" if source.group == op.group else f"{source.group} -> {op.group}"
    moves = facts.moves(field, op)
    if not moves:
        return Way.LOCAL, ""
    return Way.ALL_TO_ALL, " -> ".join((moves[0].source, *(m.target for m in moves)))


def _weights(facts: Facts, *, unrolled: bool) -> Iterator[Flow]:
    """From the trainings of a model, or of the model whose trunk it has, to its rollouts."""
    trainings = [op for op in facts.ops if isinstance(op, TrainOp)]
    for sync in facts.ops:
        if not isinstance(sync, SyncWeightsOp):
            continue
        way = Way.GATHERED if sync.sync is SyncKind.ALL_GATHER else Way.LOCAL
        for training in (t for t in trainings if trunk(facts.plan, t.model) == trunk(facts.plan, sync.model)):
            source = node_id(training, unrolled=unrolled)
            for rollout in rollouts_of(facts, sync):
                target, what = node_id(rollout, unrolled=unrolled), (f"weights of {sync.model}",)
                yield Flow(
                    source=source,
                    target=target,
                    what=what,
                    way=way,
                    between=f"over {sync.group}" if way is Way.GATHERED else "",
                )


def trunk(plan: Plan, model: str) -> str:
    """The model whose trunk `model` has: itself, unless it shares one."""
    return next((m.shares for m in plan.models if m.name == model and m.shares), model)


def rollouts_of(facts: Facts, sync: SyncWeightsOp) -> Iterator[AnyOp]:
    """The ops that sample with the weights that `sync` hands over."""
    for op in facts.ops:
        if isinstance(op, Rollout) and (op.model, op.staleness) == (sync.model, sync.staleness):
            yield op


class FlowView:
    """The edges as a table, by where they begin; what crosses ranks stands out."""

    def __init__(self, plan: Plan, flows: tuple[Flow, ...]) -> None:
        self._flows = flows
        self._titles = {n.id: n.label for n in (*nodes_of(plan), *nodes_of(plan, unrolled=True))}
        self._order = {name: i for i, name in enumerate(self._titles)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._flows:
            return
        yield Text("What moves", style="bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), expand=True, header_style="dim")
        table.add_column("from -> to", max_width=_NAME, overflow="fold")
        for name, ratio, least in (("what", 4, 14), ("how", 3, 10), ("how much, on all ranks", 4, 14)):
            table.add_column(name, ratio=ratio, min_width=least, overflow="fold")
        for source, each in groupby(sorted(self._flows, key=lambda f: self._order[f.source]), key=lambda f: f.source):
            table.add_row(self._titles[source])
            for flow in each:
                how = Text(flow.way.value, style="dim" if flow.way is Way.LOCAL else "bold yellow")
                how.append(f" {flow.between}", style="dim")
                what = Text(", ".join(flow.what), style="cyan")
                table.add_row(f"  -> {self._titles[flow.target]}", what, how, flow.size)
        yield table
