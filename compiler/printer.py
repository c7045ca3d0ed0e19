"""The IR as `.rl` text that parses back to the same graph."""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.expr import ParamRef, format_expr, format_scalar
from rldsl.compiler.ir import (
    SINKS,
    Block,
    BlockKind,
    Call,
    Deploy,
    FieldArg,
    Graph,
    Input,
    Keyword,
    Method,
    Model,
    Module,
    Node,
    Param,
    PhaseLayout,
    Range,
    SourceCall,
)
from rldsl.compiler.ops import AnyOp, FreeOp, ReshardOp
from rldsl.compiler.ranks import words

_INDENT = "  "


def print_graph(graph: Graph) -> str:
    """Canonical text of `graph`. `parse(print_graph(g), f) == g` for every graph that a front end makes."""
    blocks = [f"use {format_scalar(u.path)}\n" for u in graph.uses]
    blocks += [f"import {format_scalar(i.path)}\n" for i in graph.imports]
    if graph.name:
        blocks.append(f"algorithm {graph.name} {{\n{_body(graph)}}}\n")
    if graph.deploy:
        blocks.append(_deploy(graph.deploy))
    return "\n".join(blocks)


def _body(graph: Graph) -> str:
    sections = (
        [_param(p) for p in graph.params],
        [_model(m) for m in graph.models],
        [_input(i) for i in graph.inputs],
        [print_node(n) for n in graph.nodes],
        *(_block(b) for b in graph.blocks),
    )
    return "\n".join("".join(f"{_INDENT}{line}\n" for line in s) for s in sections if s)


def _param(param: Param) -> str:
    unit = f" {param.unit}" if param.unit else ""
    within = f" in {_range(param.range)}" if param.range else ""
    return f"param {param.name} : {param.type} = {format_scalar(param.default)}{unit}{within}"


def _end(end: float | None) -> str:
    return "" if end is None else f"{end:g}" if float(f"{end:g}") == end else repr(end)


def _range(within: Range) -> str:
    if within.choices:
        return f"{{{', '.join(map(format_scalar, within.choices))}}}"
    opening, closing = "(" if within.low_open else "[", ")" if within.high_open else "]"
    return f"{opening}{_end(within.low)}, {_end(within.high)}{closing}"


def _block(block: Block) -> list[str]:
    """A block's lines, indented within."""
    body = [*map(_input, block.inputs), *map(print_node, block.nodes)]
    return [f"{_head(block)} {{", *(f"{_INDENT}{line}" for line in body), "}"]


def _head(block: Block) -> str:
    bound = format_expr(block.bound)
    if block.kind is BlockKind.VALIDATE:
        return f"validate {block.id} every {bound}"
    if block.where is None:
        return f"loop {block.id} max {bound} carry {', '.join(map(_field, block.carry))}"
    until = f" until {format_expr(block.until)}" if block.until else ""
    collected = ", ".join(map(_field, block.collect))
    return f"loop {block.id} max {bound} collect {collected} where {_field(block.where)}{until}"


def _model(model: Model) -> str:
    frozen = "frozen " if model.frozen else ""
    origin = _source(model.source) if model.source else f"{'' if frozen else 'copy '}{model.copy_of}"
    if model.shares:
        origin = f"shared {model.shares}"
    return f"model {model.name} : {model.kind} = {frozen}{origin}{_options(model.options)}"


def _options(options: tuple[Keyword, ...]) -> str:
    return f" with {', '.join(map(_keyword, options))}" if options else ""


def _source(source: SourceCall) -> str:
    return f"{source.kind}({_arguments([format_expr(a) for a in source.args], source.keywords)})"


def _input(item: Input) -> str:
    batch = _keyword(Keyword(name="batch", value=item.batch))
    return f"input {', '.join(item.names)} : {item.type} = {_source(item.source)} with {batch}"


def print_node(node: Node) -> str:
    """One node statement, on one line."""
    return " ".join(_node_parts(node))


def _node_parts(node: Node) -> Iterator[str]:
    roles = ", ".join(filter(None, (node.role, node.stated_type)))
    kind = node.call.method if node.call.method in SINKS else "node"
    yield f"{kind} {node.id}{' : ' if roles else ''}{roles} = {_call(node.call)}{_options(node.call.options)}"
    if node.outputs:
        yield "-> " + ", ".join(node.outputs)
    if node.when:
        yield f"when {format_expr(node.when)}"
    if node.after:
        yield "after " + ", ".join(node.after)


def _call(call: Call) -> str:
    if call.method is Method.OUTPUT:
        return ", ".join(_field(a) for a in call.args)
    by_place = call.method is Method.METRIC
    arguments = f"({_arguments([_field(a, by_place=by_place) for a in call.args], call.keywords)})"
    if call.method is Method.METRIC:
        return f"{call.function}{arguments}"
    if call.method is Method.COLLECT:
        return f"collect{arguments}"
    if call.model is None:
        return f"compute {call.function}{arguments}"
    loss = f" {call.function}" if call.function else ""
    return f"{call.model}.{call.method}{loss}{arguments}"


def _arguments(positional: list[str], keywords: tuple[Keyword, ...]) -> str:
    named = ", ".join(_keyword(k) for k in keywords)
    return ", ".join(positional) + (f"; {named}" if named else "")


def _field(arg: FieldArg, *, by_place: bool = False) -> str:
    bound = arg.param is None or (arg.param == arg.name and not by_place)
    name = arg.name if bound else f"{arg.param} = {arg.name}"
    return name + ("?" if arg.optional else "")


def _keyword(keyword: Keyword) -> str:
    if keyword.value == ParamRef(name=keyword.name):
        return keyword.name
    return f"{keyword.name} = {format_expr(keyword.value)}"


def _deploy(deploy: Deploy) -> str:
    return "deploy {\n" + "".join(f"{_INDENT}{line}\n" for line in deploy_lines(deploy)) + "}\n"


def deploy_lines(deploy: Deploy) -> list[str]:
    """The lines of a `deploy` block, as they are written."""
    figures = f"({', '.join(map(_keyword, deploy.figures))})" if deploy.figures else ""
    lines = [f"cluster {deploy.count} x {deploy.cluster}{figures}"] if deploy.cluster else []
    lines += [layout_line(p) for p in deploy.layouts]
    return lines + [f"{p.node} on {_ranks(p.ranks)}" for p in deploy.places]


def layout_line(layout: PhaseLayout) -> str:
    """`actor.generate : vllm(tp = 2) on 4..7`."""
    on = "" if layout.ranks is None else f" on {_ranks(layout.ranks)}"
    return f"{layout.model}.{layout.phase} : {layout.engine}({', '.join(_keyword(k) for k in layout.axes)}){on}"


def _ranks(ranks: tuple[int, int]) -> str:
    first, last = ranks
    return str(first) if first == last else f"{first}..{last}"


def _op(op: AnyOp) -> str:
    """`compute reward on world: completions, answers -> score`; of a move between which groups."""
    kind = op.__struct_config__.tag
    flow = ", ".join(op.reads) + (f" -> {', '.join(op.writes)}" if op.writes else "")
    if isinstance(op, FreeOp):
        flow = ", ".join(op.fields)
    if isinstance(op, ReshardOp):
        flow = f"{', '.join(op.fields)} from {op.source} to {op.target}, {op.kind}"
    return f"{kind:<13} {op.id} on {op.group}{': ' if flow else ''}{flow.strip()}"


def print_module(module: Module) -> str:
    """What `--print-after` shows: the graph, then what has been decided about it so far."""
    parts = [print_graph(module.graph)]
    if module.fields:
        parts.append(
            "".join(f"# {name} : {i.type} x {i.per_prompt}, by {i.producer}\n" for name, i in module.fields.items())
        )
    bases = [m for m in module.graph.models if m.base_of]
    parts.append("".join(f"# {m.name} is {m.base_of} without its adapters\n" for m in bases))
    if module.order:
        parts.append(
            "".join(f"# depth {module.depths[n]}  {n}  on {module.placement.get(n, '?')}\n" for n in module.order)
        )
    if module.groups:
        parts.append(
            "".join(f"# group {g.name}: {words(g.ranks) if g.ranks else 'all ranks'}\n" for g in module.groups)
        )
    if module.ops:
        parts.append("".join(f"# {_op(op)}\n" for op in module.ops))
    for program in module.programs:
        last = "" if program.last is None else f" to {program.last - 1}"
        parts.append(f"# program of ranks {program.first}{last}: {', '.join(op.id for op in program.ops)}\n")
    parts.append("".join(f"# dropped {d.what} ({d.by}): {d.why}\n" for d in module.dropped))
    return "\n".join(p for p in parts if p)
