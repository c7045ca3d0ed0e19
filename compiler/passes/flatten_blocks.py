"""Blocks become plain nodes with names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rldsl.compiler.ir import SINKS, Block, BlockKind, Call, FieldArg, Graph, Input, Method, Module, Node, changed
from rldsl.compiler.passes.base import Context
from rldsl.diagnostics import Diagnostics, did_you_mean


@dataclass(frozen=True, kw_only=True)
class FlattenBlocks:
    """Move what stands in blocks into the graph, once, under names that say where it stands.

    A block is a scope: a name means what the block defines, else what is outside. So that all later checks see one
    graph in which each field is written once, a loop's body stands for its first iteration, which is also its last.
    Before: `loop talk max 3 carry tokens { node act = actor.extend(tokens, ...) -> tokens }`; `tokens` is read after.
    After:  `node talk.act = actor.extend(tokens, ...) -> talk.tokens`; `talk.tokens` is read after.
    """

    name: ClassVar[str] = "flatten_blocks"

    def apply(self, module: Module, context: Context) -> Module:
        """The graph with flat nodes. RL0212 to RL0215 for what blocks may not do."""
        graph = module.graph
        if not graph.blocks:
            return module
        flat = _Flattener(graph, context.found)
        return replace(module, graph=flat.graph())


@dataclass
class _Flattener:
    source: Graph
    found: Diagnostics
    # What a name outside blocks means once the loops so far have run, and who keeps which names to itself.
    outside: dict[str, str] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict)
    # What a loop was told to hand out and cannot: an error has been reported, and what reads it stays silent.
    lost: set[str] = field(default_factory=set)

    def graph(self) -> Graph:
        inputs, nodes, blocks = list(self.source.inputs), list[Node](), []
        for block in self.source.blocks:
            made = self.loop(block) if block.kind is BlockKind.LOOP else self.validation(block)
            inputs += made[1]
            nodes += made[2]
            blocks.append(made[0])
        outer = [self.reading(n, self.outside) for n in self.source.nodes]
        # Not by place in the source: a `.rl` file and its Python twin must give one order.
        poisoned = self.source.poisoned | self.lost
        return replace(
            self.source, inputs=tuple(inputs), nodes=(*outer, *nodes), blocks=tuple(blocks), poisoned=poisoned
        )

    def loop(self, block: Block) -> tuple[Block, list[Input], list[Node]]:
        self.no_training(block)
        return self.collecting(block) if block.where else self.carrying(block)

    def carrying(self, block: Block) -> tuple[Block, list[Input], list[Node]]:
        written = {f for n in block.nodes for f in n.outputs}
        there = {*self.outer_fields, *self.outside}
        block = replace(block, carry=tuple(self.meant(c, block, written & there) for c in block.carry))
        carried = [c for c in block.carry if self.can_carry(block, c, written, there)]
        lost = {c.name for c in block.carry} - there - self.source.poisoned
        self.lost |= lost
        names = {f: f"{block.id}.{f}" for f in written}
        own = written - lost - {c.name for c in carried}
        inside = {**self.outside, **{f: names[f] for f in own}}
        nodes = [self.moved(n, block, names, inside) for n in block.nodes]
        carry = tuple(changed(c, name=self.outside.get(c.name, c.name), param=f"{block.id}.{c.name}") for c in carried)
        self.keep(block, own)
        self.outside |= {c.name: f"{block.id}.{c.name}" for c in carried}
        return replace(block, carry=carry, inputs=(), nodes=()), [], nodes

    def meant(self, arg: FieldArg, block: Block, both: set[str]) -> FieldArg:
        """The field that a misspelt one (RL0213) stands for: one that stands outside and is written inside."""
        known = both | self.source.poisoned
        near = None if arg.name in known else next((f for f in sorted(both) if did_you_mean(arg.name, [f])), None)
        if near is None or near in {c.name for c in block.carry}:
            return arg
        what = f"`{block.id}` carries `{arg.name}`, which is no field"
        self.found.error("RL0213", what, span=arg.span, fix=f"did you mean `{near}`?")
        return changed(arg, name=near)

    def can_carry(self, block: Block, arg: FieldArg, written: set[str], there: set[str]) -> bool:
        if arg.name in self.source.poisoned:
            return arg.name in written
        if arg.name not in there:
            what = f"`{block.id}` carries `{arg.name}`, but nothing outside it writes that field"
            self.found.error("RL0213", what, span=arg.span, fix=f"let a node before the loop write `{arg.name}`")
        elif arg.name not in written:
            what = f"`{block.id}` carries `{arg.name}`, but no node in it writes that field anew"
            self.found.error(
                "RL0213", what, span=arg.span, fix=f"let a node in the loop write `{arg.name}`, or drop it"
            )
        return arg.name in there and arg.name in written

    def collecting(self, block: Block) -> tuple[Block, list[Input], list[Node]]:
        assert block.where is not None
        written = {f for n in block.nodes for f in n.outputs}
        read = {a.name for n in block.nodes for a in n.call.args} | {c.name for c in block.collect}
        inputs = [_own(i, block) for i in self.source.inputs if read.intersection(i.names) - written]
        if not inputs and not self.source.poisoned:
            what = f"`{block.id}` collects prompts, but its body reads no input"
            fix = "let a node in the loop read an input field, such as `prompts`"
            self.found.error("RL0215", what, span=block.span, fix=fix)
        names = {f: f"{block.id}.{f}" for f in (*written, *(n.rpartition(".")[2] for i in inputs for n in i.names))}
        inside = {**self.outside, **names}
        nodes = [self.moved(n, block, names, inside) for n in block.nodes]
        known = {*inside, *self.outer_fields}
        where = block.where
        block = replace(block, collect=tuple(c for c in block.collect if self.can_collect(c, known)))
        kept = {c.name: _kept(c.name, block, self.outer_fields) for c in block.collect}
        gather, take = _collecting_nodes(block, inside, kept)
        self.keep(block, written - set(kept))
        self.outside |= kept
        collect = tuple(changed(c, name=inside.get(c.name, c.name), param=kept[c.name]) for c in block.collect)
        bare = replace(block, collect=collect, where=changed(where, name=gather.call.args[0].name), nodes=())
        return bare, inputs, [*nodes, gather, take]

    def can_collect(self, arg: FieldArg, known: set[str]) -> bool:
        if arg.name in known:
            return True
        self.lost.add(arg.name)
        if arg.name not in self.source.poisoned:
            listed, hint = ", ".join(sorted(known)), did_you_mean(arg.name, known)
            what = f"unknown field `{arg.name}`"
            self.found.error("RL0201", what, span=arg.span, expected=listed, found=arg.name, fix=hint)
        return False

    def validation(self, block: Block) -> tuple[Block, list[Input], list[Node]]:
        self.no_training(block)
        own = {n for i in block.inputs for n in i.names} | {f for n in block.nodes for f in n.outputs}
        names = {f: f"{block.id}.{f}" for f in own}
        inside = {**self.outside, **names}
        if not block.inputs:  # it may be a loop whose head was not understood, and which of these it carries
            inside = {f: n for f, n in inside.items() if f not in self.source.poisoned}
        nodes = [self.moved(n, block, names, inside) for n in block.nodes]
        inputs = [_own(i, block) for i in block.inputs]
        self.keep(block, own)
        return replace(block, inputs=(), nodes=()), inputs, nodes

    @property
    def outer_fields(self) -> set[str]:
        return {*self.source.producer_of, *self.source.input_of}

    def keep(self, block: Block, names: set[str]) -> None:
        for name in names:
            self.private.setdefault(name, block.id)

    def no_training(self, block: Block) -> None:
        unclosed = any(d.code == "RL0102" and d.expected == "`}`" for d in self.found)
        for node in block.nodes:
            if node.call.method is Method.TRAIN and not unclosed:
                what = f"`{node.id}` trains a model inside `{block.id}`"
                self.found.error(
                    "RL0214", what, span=node.span, fix="move it out of the block; it may read what that hands out"
                )

    def moved(self, node: Node, block: Block, names: Mapping[str, str], inside: Mapping[str, str]) -> Node:
        siblings = {n.id for n in block.nodes}
        made = changed(
            node,
            id=f"{block.id}.{node.id}",
            outputs=tuple(names.get(f, f) for f in node.outputs),
            after=tuple(f"{block.id}.{n}" if n in siblings else n for n in node.after),
            block=block.id,
        )
        return self.reading(made, inside)

    def reading(self, node: Node, meaning: Mapping[str, str]) -> Node:
        """The node with the names it reads as they are in the flat graph."""
        for arg in node.call.args:
            elsewhere = {*meaning, *self.outer_fields, *self.source.poisoned}
            if arg.name in self.private and arg.name not in elsewhere and node.block is None:
                block = self.private[arg.name]
                loop = self.source.block_of[block]
                verb = "collect" if loop.where else "carry"
                fix = f"{verb} it: `loop {block} ... {verb} ..., {arg.name}`" if loop.kind is BlockKind.LOOP else None
                self.found.error(
                    "RL0212", f"`{arg.name}` is written inside `{block}` and stays there", span=arg.span, fix=fix
                )
                meaning = {**meaning, arg.name: f"{block}.{arg.name}"}
        args = tuple(_renamed(a, meaning) for a in node.call.args)
        return changed(node, call=changed(node.call, args=args))


def _renamed(arg: FieldArg, meaning: Mapping[str, str]) -> FieldArg:
    """The argument under its name in the flat graph; what the user wrote still says which parameter it is for."""
    name = meaning.get(arg.name, arg.name)
    return arg if name == arg.name else changed(arg, name=name, written=arg.name)


def _own(item: Input, block: Block) -> Input:
    return replace(item, names=tuple(f"{block.id}.{n}" for n in item.names), block=block.id)


def _kept(name: str, block: Block, outer: set[str]) -> str:
    return f"{block.id}.kept.{name}" if name in outer else name


def _collecting_nodes(block: Block, inside: Mapping[str, str], kept: Mapping[str, str]) -> tuple[Node, Node]:
    """One node that puts an iteration's rows aside, and one that hands out what was put aside."""
    assert block.where is not None
    args = tuple(_renamed(a, inside) for a in (block.where, *block.collect))
    call = Call(method=Method.COLLECT, args=args, span=block.span)
    # What an iteration reports comes before its count, which may end the loop.
    reports = tuple(f"{block.id}.{n.id}" for n in block.nodes if n.call.method in SINKS)
    gather = Node(id=f"{block.id}.collect", call=call, after=reports, block=block.id, span=block.span)
    take = Node(
        id=block.id, call=Call(method=Method.COLLECT, span=block.span), outputs=tuple(kept.values()), span=block.span
    )
    return gather, take
