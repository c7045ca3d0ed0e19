"""Loops become as many copies of their body as their bound allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Literal
from rldsl.compiler.ir import Block, BlockKind, FieldInfo, Graph, Input, Method, Module, Node, changed
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.infer_edges import edges_of
from rldsl.diagnostics import Diagnostics

Rename = Callable[[str], str]

MOST_COPIES = 2_000
"""As many nodes a loop may become: each is an op of every step's program."""


@dataclass(frozen=True, kw_only=True)
class UnrollLoops:
    """Repeat each loop's body, each iteration under names of its own, so that a plan needs no jumps.

    An iteration of a collecting loop waits for the one before, whose count decides whether it runs at all.
    Before: `node talk.act = actor.extend(tokens, ...) -> talk.tokens`, at most 2 times.
    After:  `talk.1.act = actor.extend(tokens, ...) -> talk.1.tokens`,
            `talk.2.act = actor.extend(talk.1.tokens, ...) -> talk.tokens`.
    """

    name: ClassVar[str] = "unroll_loops"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph without loops. Node ids and private fields of iteration k begin with `LOOP.k.`."""
        for block in module.graph.blocks:
            if block.kind is BlockKind.LOOP and _is_bounded(module, block, context.found):
                module = _unrolled(module, block)
        return module


def _rounds(block: Block) -> int:
    assert isinstance(block.bound, Literal) and isinstance(block.bound.value, int)
    return block.bound.value


def _is_bounded(module: Module, block: Block, found: Diagnostics) -> bool:
    """RL0404 for a loop that would become too long a program."""
    body, rounds = sum(n.block == block.id for n in module.graph.nodes), _rounds(block)
    if body * rounds <= MOST_COPIES:
        return True
    found.error(
        "RL0404",
        f"`{block.id}` repeats {body} nodes {rounds} times: a plan has no jumps, it would hold each of them",
        span=block.bound.span,
        expected=f"at most {MOST_COPIES // body} times",
        found=str(rounds),
    )
    return False


def _unrolled(module: Module, block: Block) -> Module:
    rounds = _rounds(block)
    body = [n for n in module.graph.nodes if n.block == block.id]
    loads = [i for i in module.graph.inputs if i.block == block.id]
    private = {f for n in body for f in (n.id, *n.outputs)} | {f for i in loads for f in i.names}
    fields, nodes, inputs = dict[str, FieldInfo](), list[Node](), list[Input]()
    for number in range(1, rounds + 1):
        outside = _Outside(block, number, rounds)
        read, write = _renaming(block, number, private, outside.read), _renaming(block, number, private, outside.write)
        copies = [_copy(n, number, read, write) for n in body]
        nodes += [_waiting(n, block, number) for n in copies] if block.where and number > 1 else copies
        inputs += [replace(i, names=tuple(map(write, i.names)), round=number) for i in loads]
        for name, info in module.fields.items():
            if name in private:
                fields[write(name)] = changed(info, producer=read(info.producer), lineage=_lineage(info, read))
    graph = _with_body(module.graph, block, nodes, inputs, rounds)
    known = {n: i for n, i in module.fields.items() if n not in private}
    return replace(module, graph=replace(graph, edges=edges_of(graph)), fields=known | fields)


@dataclass(frozen=True)
class _Outside:
    """What the names that a loop carries mean in iteration `number`: before it when read, after it when written."""

    block: Block
    number: int
    rounds: int

    def read(self, name: str) -> str | None:
        for arg in self.block.carry:
            if name == arg.name:
                return name if self.number == 1 else self._after(arg.param or "", self.number - 1)
        return None

    def write(self, name: str) -> str | None:
        carried = any(name == arg.param for arg in self.block.carry)
        return self._after(name, self.number) if carried else None

    def _after(self, name: str, number: int) -> str:
        """Only the last iteration writes what the loop hands out."""
        return name if number == self.rounds else _numbered(name, self.block, number)


def _numbered(name: str, block: Block, number: int) -> str:
    return f"{block.id}.{number}.{name.removeprefix(f'{block.id}.')}"


def _renaming(block: Block, number: int, private: set[str], carried: Callable[[str], str | None]) -> Rename:
    def rename(name: str) -> str:
        return carried(name) or (_numbered(name, block, number) if name in private else name)

    return rename


def _copy(node: Node, number: int, read: Rename, write: Rename) -> Node:
    args = tuple(changed(a, name=read(a.name)) for a in node.call.args)
    return changed(
        node,
        id=read(node.id),
        call=changed(node.call, args=args),
        outputs=tuple(map(write, node.outputs)),
        after=tuple(map(read, node.after)),
        round=number,
    )


def _lineage(info: FieldInfo, read: Rename) -> str | None:
    return None if info.lineage is None else read(info.lineage)


def _waiting(node: Node, block: Block, number: int) -> Node:
    return changed(node, after=(*node.after, f"{block.id}.{number - 1}.collect"))


def _with_body(graph: Graph, block: Block, nodes: list[Node], inputs: list[Input], rounds: int) -> Graph:
    """The graph with the iterations in place of the body; of a loop that never runs, what it was given comes out."""
    kept = [n for n in graph.nodes if n.block != block.id]
    if rounds == 0:
        given = {c.param: c.name for c in block.carry}
        kept = [_reading(n, given) for n in kept]
    at = next((i for i, n in enumerate(graph.nodes) if n.block == block.id), len(kept))
    return replace(
        graph,
        nodes=(*kept[:at], *nodes, *kept[at:]),
        inputs=(*(i for i in graph.inputs if i.block != block.id), *inputs),
    )


def _reading(node: Node, given: dict[str | None, str]) -> Node:
    args = tuple(changed(a, name=given.get(a.name, a.name)) for a in node.call.args)
    return changed(node, call=changed(node.call, args=args))


def is_take(node: Node) -> bool:
    """Whether a node hands out what a loop collected."""
    return node.call.method is Method.COLLECT and node.block is None
