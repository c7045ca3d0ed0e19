"""What goes from node to node as a table, and as data for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.compiler.plan import Plan
from rldsl.compiler.volume import Amount, Sent, Volume, total
from rldsl.render.facts import Facts
from rldsl.render.flows import Flow, Kind
from rldsl.render.nodes import nodes_of
from rldsl.render.sizes import amount_bytes, amount_json, bytes_words, crossing_words, symbols_words, volumes_words

_NAME = 30
_WIDE = 100
_NO_WEIGHTS = "as large as the parameters, which need the model's configuration"


class FlowView:
    """The edges by where they begin; what crosses ranks stands out. Below them what a step makes and sends in all."""

    def __init__(self, plan: Plan, flows: tuple[Flow, ...]) -> None:
        self._plan = plan
        self._flows = flows
        self._titles = {n.id: n.label for n in (*nodes_of(plan), *nodes_of(plan, unrolled=True))}
        self._order = {name: i for i, name in enumerate(self._titles)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._flows:
            return
        wide = options.max_width >= _WIDE
        yield Text("What moves", style="bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), expand=True, header_style="dim")
        table.add_column("from -> to", max_width=_NAME if wide else 24, overflow="fold")
        heads = ("what", "how", "how much, on all ranks") if wide else ("what, how, and how much on all ranks",)
        for name, ratio in zip(heads, (3, 3, 5), strict=False):
            table.add_column(name, ratio=ratio, overflow="fold")
        for source, each in groupby(sorted(self._flows, key=lambda f: self._order[f.source]), key=lambda f: f.source):
            table.add_row(self._titles[source])
            for flow in each:
                cells = _cells(flow)
                table.add_row(f"  -> {self._titles[flow.target]}", *(cells if wide else [_stacked(*cells)]))
        yield table
        yield from (Text(line, style="dim") for line in totals(self._plan, self._flows))


def _stacked(what: Text, how: Text, size: Text) -> Group:
    return Group(Text.assemble(what, "  " if what else "", how), *([size] if size else []))


def _cells(flow: Flow) -> tuple[Text, Text, Text]:
    how = Text.assemble((f"{flow.kind} ", "dim"), (flow.way.value, "bold yellow" if flow.crosses else "dim"))
    how.append(f" {flow.between}", style="dim")
    return Text(", ".join(flow.what), style="cyan"), how, Text(size_of(flow))


def size_of(flow: Flow) -> str:
    """`16 x 2 rows, at most (P + 24) x 9 B; 8 of 16 prompts change ranks; copies stay`; of weights those of a copy."""
    if flow.kind is Kind.WEIGHTS:
        return _copy_words(flow) if flow.crosses else ""
    moved = (crossing_words(s) for s in flow.sent[:1])
    left = "" if not flow.left else "copies" if flow.left == flow.what else f"copies of {', '.join(flow.left)}"
    return "; ".join(filter(None, (volumes_words(flow.volumes), *moved, left and f"{left} stay")))


def _copy_words(flow: Flow) -> str:
    return _NO_WEIGHTS if flow.weights is None else f"{bytes_words(flow.weights)} a copy"


def totals(plan: Plan, flows: Sequence[Flow]) -> Iterator[str]:
    """What a step makes and what it sends, fields on all ranks together; of weights only that they are sent."""
    volumes = Facts(plan).volumes
    made, moved = volumes.made(), volumes.moved()
    if not made.symbols and not made.constant:
        return
    sent = f"; moves send at most {amount_bytes(moved)} between ranks" if moved.symbols or moved.constant else ""
    left = volumes.left()
    stay = f"; copies that stay where rows were have at most {amount_bytes(left)} more" if left != Amount() else ""
    yield f"A step's fields have at most {amount_bytes(made)}{sent}{stay}."
    crossing = (f for f in flows if f.kind is Kind.WEIGHTS and f.crosses)
    weights = dict.fromkeys(f"{', '.join(f.what)}, {_copy_words(f)}" for f in crossing)
    if weights:
        yield f"To these come {'; '.join(weights)}."
    if made.symbols:
        yield f"{symbols_words(made)}."


def flows_json(plan: Plan, flows: Sequence[Flow]) -> list[dict[str, object]]:
    """The edges with their bytes: a `constant`, and how often each of the `symbols` that only a run knows."""
    return [_flow_json(flow) for flow in flows]


def _flow_json(flow: Flow) -> dict[str, object]:
    made: dict[str, object] = {"source": flow.source, "target": flow.target, "kind": flow.kind.value}
    made |= {"carries": list(flow.what), "how": flow.way.value, "groups": flow.between}
    if flow.kind is Kind.WEIGHTS:
        return {**made, "bytes": None if flow.weights is None else amount_json(Amount(flow.weights))}
    if flow.kind is Kind.ORDER:
        return made
    size = {**amount_json(total(v.bytes for v in flow.volumes)), "at_most": any(v.bound for v in flow.volumes)}
    rows = [{"field": f, **_volume_json(v)} for f, v in zip(flow.what, flow.volumes, strict=False)]
    return {**made, "bytes": size, "fields": rows, "sent": [_sent_json(s) for s in flow.sent], "left": list(flow.left)}


def _volume_json(volume: Volume) -> dict[str, object]:
    tokens = volume.tokens and {"tokens_a_row": amount_json(volume.tokens)}
    return {
        "type": str(volume.kind),
        "rows": volume.rows.count,
        "bytes_a_row": amount_json(volume.row),
        **(tokens or {}),
    }


def _sent_json(sent: Sent) -> dict[str, object]:
    size = {**amount_json(sent.bytes), "at_most": sent.bound}
    return {"prompts": sent.prompts, "of": sent.of, "messages": sent.messages, "bytes": size}
