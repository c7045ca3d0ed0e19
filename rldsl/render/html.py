"""A plan as one page that needs nothing else: graph, schedule, programs, fields, what was dropped, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import accumulate

from rldsl.compiler.ops import AnyOp
from rldsl.compiler.plan import FieldSpec, Plan, Program, plan_hash, to_builtins
from rldsl.render.blocks import parts_of
from rldsl.render.explain import HELPERS, Explainer
from rldsl.render.export import fill_of
from rldsl.render.facts import Facts
from rldsl.render.flows import Flow, flows_of
from rldsl.render.html_assets import SCRIPT, STYLE
from rldsl.render.layout import HEIGHT, Picture, Spot, laid_out, path
from rldsl.render.memory_page import memory_section
from rldsl.render.moves import size_of
from rldsl.render.nodes import edges_of, node_id, node_ids, nodes_of
from rldsl.render.origin import Origin
from rldsl.render.pages import as_data
from rldsl.render.rank import phases_words
from rldsl.render.ranks import ranks_of
from rldsl.render.schedule import Bar, Chart, Mark, charts_of, round_seconds
from rldsl.render.scopes import general
from rldsl.render.sizes import rows_words, size_words
from rldsl.render.timeline import wait_words
from rldsl.render.words import describe, duration, flow, guard_words, kind_of, model_words, ranks_words, scalar

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_WHOLE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: plan</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="pages">{pages}</script>
<script>{script}</script>
</body>
</html>
"""
_GRAPH_NOTE = "Point at a node for its explanation. Orange lines cross ranks, dashed ones go to the next round."
_SCHEDULE_NOTE = (
    "Outlined in black: ranks meet in it. Orange: only moves rows or weights. Red frame: waits. "
    "Pale: in the background."
)
_IN_ORDER = "A column an op, in order: no lengths of time are known yet."
_TO_SCALE = "To scale, as predicted: {} is {} pixels wide; what is shorter, or not known, has {}."
_ROOM = 900  # pixels for a step, beside what ops have at least
_CELL, _ROW, _NAMES = 16, 18, 190
_MOST = 24  # of the nodes up and down of one: the page must not grow faster than the graph


def page_of(plan: Plan, origin: Origin | None = None, *, unrolled: bool = False) -> str:
    """The page, as text; the same for the same plan. Every name in it shows, when asked, what `explain` says."""
    explainer = Explainer(plan, origin, most=_MOST)
    flows = flows_of(plan, unrolled=unrolled, weights=origin.weights if origin else {})
    parts = (
        _header(plan),
        _graph(plan, flows, unrolled=unrolled),
        _schedule(plan),
        memory_section(plan),
        _moves(plan, flows, unrolled=unrolled),
        *(_program(plan, p, first=p is plan.programs[0]) for p in plan.programs),
        _fields(plan),
        _dropped(plan),
    )
    pages = json.dumps(_pages(plan, explainer, unrolled=unrolled), ensure_ascii=False).replace("<", "\\u003c")
    return _WHOLE.format(
        policy=_POLICY, title=escape(plan.algorithm), style=STYLE, body="\n".join(parts), pages=pages, script=SCRIPT
    )


def _pages(plan: Plan, explainer: Explainer, *, unrolled: bool) -> dict[str, list[dict[str, object]]]:
    """What each name shows; the empty name is the whole plan."""
    nodes = [n.label for n in nodes_of(plan, unrolled=unrolled)]
    names = dict.fromkeys([*explainer.names(), *nodes])
    found = {name: [as_data(p) for p in explainer.pages(name)] for name in names}
    return {"": [as_data(explainer.summary())], **found}


def _header(plan: Plan) -> str:
    digest = plan_hash(to_builtins(plan))[:12]
    ranks = ranks_words(plan) + (f", on {plan.cluster}" if plan.cluster else "")
    settings = ", ".join(f"{n}={scalar(v)}" for n, v in plan.parameters.items())
    facts = [("from", plan.source.path), ("ranks", ranks), ("parameters", settings)]
    lines = "".join(f'<div><span class="dim">{name}</span> {escape(text)}</div>' for name, text in facts if text)
    models = "".join(f"<div>{_ask(m.name, m.name, 'code')} : {escape(model_words(m))}</div>" for m in plan.models)
    phases = "".join(f"<div><code>{escape(name)}</code> : {escape(at)}</div>" for name, at in phases_words(plan))
    head = f'<h1>{escape(plan.algorithm)}</h1> <span class="dim">plan {digest}</span>'
    return f"<header>{head}{lines}{models}{phases}</header>"


def _graph(plan: Plan, flows: Sequence[Flow], *, unrolled: bool) -> str:
    edges = edges_of(plan, unrolled=unrolled)
    picture = laid_out(parts_of(plan, unrolled=unrolled), edges)
    crossing = {(f.source, f.target) for f in flows if f.crosses}
    inner = [*_frames(picture)]
    for edge in edges:
        kind = f"edge{' again' if edge.again else ''}{' crosses' if (edge.source, edge.target) in crossing else ''}"
        ends = f'data-source="{escape(edge.source)}" data-target="{escape(edge.target)}"'
        what = escape(", ".join(edge.fields) + (" (next round)" if edge.again else ""))
        inner.append(f'<path class="{kind}" {ends} d="{path(edge, picture)}"><title>{what}</title></path>')
    inner += [_box(spot) for spot in picture.spots.values()]
    width, height = f"{picture.width:g}", f"{picture.height:g}"
    head = f'<svg id="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    drawing = f'<div class="scroll">{head}{"".join(inner)}</svg></div>'
    panel = '<aside id="panel" data-first=""></aside>'
    note = f'<p class="dim">{_GRAPH_NOTE}</p>'
    return f'<section><h2>Graph</h2>{note}<div class="graph">{drawing}{panel}</div></section>'


def _frames(picture: Picture) -> Iterator[str]:
    for frame in picture.frames:
        yield f'<rect class="frame" x="{frame.x:g}" y="{frame.y:g}" width="{frame.width:g}" height="{frame.height:g}"/>'
        yield f'<text x="{frame.x + 12:g}" y="{frame.y + 18:g}">{escape(frame.title)}</text>'
        yield f'<text class="call" x="{frame.x + 12:g}" y="{frame.y + 36:g}">{escape(frame.note)}</text>'


def _box(spot: Spot) -> str:
    node = spot.node
    name = f'data-name="{escape(node.label)}" data-id="{escape(node.id)}"'
    return (
        f'<g class="node" tabindex="0" {name}>'
        f'<rect x="{spot.x:g}" y="{spot.y:g}" width="{spot.width:g}" height="{HEIGHT}" fill="{fill_of(node.role)}"/>'
        f'<text x="{spot.x + 10:g}" y="{spot.y + 18:g}" font-weight="600">{escape(node.title)}</text>'
        f'<text class="call" x="{spot.x + 10:g}" y="{spot.y + 35:g}">{escape(node.call)}</text></g>'
    )


def _schedule(plan: Plan) -> str:
    made = charts_of(plan)
    note, offsets = _scaled(made)
    charts = "".join(f"<h3>{escape(c.title)}</h3>{_chart(c, offsets)}{_waits(c)}" for c in made)
    lanes = _lanes(made, offsets) if len(made) > 1 else ""
    return f'<section><h2>Schedule</h2><p class="dim">{note} {_SCHEDULE_NOTE}</p>{lanes}{charts}</section>'


def _scaled(charts: Sequence[Chart]) -> tuple[str, list[int]]:
    """What a column's width means, and where each begins and the last one ends."""
    seconds = charts[0].seconds if charts else ()
    count = len(charts[0].numbers) if charts else 0
    if not seconds:
        return _IN_ORDER, [_NAMES + _CELL * i for i in range(count + 1)]
    hundred = round_seconds(sum(seconds) / _ROOM * 100)
    widths = (max(_CELL, round(s / hundred * 100)) for s in seconds)
    note = _TO_SCALE.format(escape(duration(hundred)), 100, _CELL)
    return note, list(accumulate(widths, initial=_NAMES))


def _lanes(charts: Sequence[Chart], offsets: Sequence[int]) -> str:
    """All that each class of ranks does, a line each."""
    inner = []
    for line, chart in enumerate(charts):
        inner.append(f'<text x="0" y="{_ROW * line + 12}" font-weight="600">{escape(chart.title)}</text>')
        inner += [_bar(bar, line, offsets, chart, bar.role) for bar in chart.lane]
    width, height = offsets[-1], _ROW * len(charts)
    return f'<div class="scroll"><svg width="{width}" height="{height}">{"".join(inner)}</svg></div>'


def _waits(chart: Chart) -> str:
    return "".join(f'<p class="dim">{escape(wait_words(chart, wait))}</p>' for wait in chart.waits)


def _chart(chart: Chart, offsets: Sequence[int]) -> str:
    width, height = offsets[-1], _ROW * (len(chart.rows) + 1)
    inner = list(_ruler(chart, offsets))
    for line, row in enumerate(chart.rows, 1):
        label = escape(row.label if len(row.label) < 26 else f"{row.label[:24]}…")
        inner.append(f'<text x="0" y="{_ROW * line + 12}" data-name="{escape(row.label)}">{label}</text>')
        inner += [_bar(bar, line, offsets, chart, row.role) for bar in row.bars]
    return f'<div class="scroll"><svg width="{width}" height="{height}">{"".join(inner)}</svg></div>'


def _ruler(chart: Chart, offsets: Sequence[int]) -> Iterator[str]:
    """The numbers of the ops that have room behind the one before."""
    free = 0
    for number, x in zip(chart.numbers, offsets, strict=False):
        if number is not None and x >= free:
            yield f'<text class="call" x="{x}" y="12">{number}</text>'
            free = x + 3 * _CELL


def _bar(bar: Bar, line: int, offsets: Sequence[int], chart: Chart, role: str) -> str:
    fill = {Mark.TALKS: "#e8963a", Mark.WAITS: "#fff"}.get(bar.mark, fill_of(role))
    stroke = {Mark.MEETS: "#111", Mark.WAITS: "#c0392b"}.get(bar.mark, "#889")
    faint = ' opacity=".5"' if bar.mark is Mark.BESIDE else ""
    x, width = offsets[bar.begin], offsets[bar.end] - offsets[bar.begin] - 2
    place = f'x="{x}" y="{_ROW * line}" width="{width}" height="{_ROW - 4}"'
    seconds = chart.taken.get(bar.number, 0.0) if bar.mark not in (Mark.BESIDE, Mark.WAITS) else 0.0
    title = f"<title>op {bar.number}: {escape(duration(seconds))}</title>" if seconds else ""
    return f'<rect {place} fill="{fill}" stroke="{stroke}"{faint}>{title}</rect>'


def _moves(plan: Plan, flows: Sequence[Flow], *, unrolled: bool) -> str:
    labels = {n.id: n.label for n in nodes_of(plan, unrolled=unrolled)}
    rows = []
    for each in flows:
        way = f"<b>{each.way.value}</b>" if each.crosses else each.way.value
        how = f"{each.kind} {way} {escape(each.between)}"
        ends = [_ask(labels[end], labels[end]) for end in (each.source, each.target)]
        rows.append([*ends, _cell(", ".join(each.what)), f'<td class="how">{how}</td>', _cell(size_of(each))])
    return _section("What moves", ("from", "to", "what", "how", "how much, on all ranks together"), rows)


def _program(plan: Plan, program: Program, *, first: bool) -> str:
    labels = {n.id: n.label for n in nodes_of(plan)}
    rows = [[_cell(str(i), "num"), *_op_cells(op, labels)] for i, op in enumerate(program.ops)]
    title = escape(f"Each step of {ranks_of(program, plan.world_size)}")
    table = _table(("#", "op", "node", "what it does", "group"), rows)
    return f"<section><details{' open' if first else ''}><summary>{title}</summary>{table}</details></section>"


def _op_cells(op: AnyOp, labels: dict[str, str]) -> list[str]:
    names = [_ask(label, label, "span") for n in node_ids(op) if (label := labels.get(n, ""))]
    guard = f' <span class="dim">({escape(guard_words(op.guard))})</span>' if op.guard else ""
    why = "".join(f'<div class="why">because {_code(f"{r.why} ({r.by})")}</div>' for r in op.because)
    fields = f"<div><code>{escape(flow(op))}</code></div>" if flow(op) else ""
    what = f"<td>{escape(describe(op))}{guard}{fields}{why}</td>"
    kind = kind_of(op) + (" *" if op.collective else "")
    return [
        _ask(general(op.id), kind) if isinstance(op, HELPERS) else _cell(kind),
        f"<td>{', '.join(names)}</td>",
        what,
        _cell(op.group),
    ]


def _fields(plan: Plan) -> str:
    facts = Facts(plan)
    rows = []
    first: dict[str, FieldSpec] = {}
    for spec in plan.fields:
        first.setdefault(general(spec.name), spec)
    for name, spec in first.items():
        counted = facts.rows(spec.name)
        readers = dict.fromkeys(general(node_id(op)) for op in facts.readers.get(spec.name, ()))
        cells = (spec.type, general(spec.producer), ", ".join(readers), rows_words(counted) if counted else "")
        rows.append([_ask(name, name), *map(_cell, cells), _cell(size_words(facts, [spec.name]))])
    return _section("Fields", ("field", "type", "written by", "read by", "rows", "size"), rows)


def _dropped(plan: Plan) -> str:
    rows = []
    for what, why, by in dict.fromkeys((general(d.what), d.why, d.by) for d in plan.dropped):
        rows.append([_ask(what, what), f"<td>{_code(why)}</td>", _cell(by)])
    return _section("Not in the program", ("what", "why", "pass"), rows)


def _section(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<section><h2>{title}</h2>{_table(heads, rows)}</section>" if rows else ""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _ask(name: str, text: str, tag: str = "td") -> str:
    """A name that shows its explanation when it is clicked."""
    return f'<{tag} class="name" data-name="{escape(name)}">{escape(text)}</{tag}>' if name else f"<{tag}></{tag}>"


def _code(text: str) -> str:
    """What stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
