"""Explanations of a plan's names: nodes, also those that are gone, fields, models, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from rldsl.compiler.ops import AnyOp, FreeOp, LoadOp, OffloadOp, OnloadOp, ReshardOp, SaveOp, SyncWeightsOp, WaitOp
from rldsl.compiler.plan import ModelSpec, Plan
from rldsl.render.arithmetic import move_purpose, op_lines, state_lines
from rldsl.render.blocks import BlockView, blocks_of
from rldsl.render.explain_node import ModelOp, NodeExplainer
from rldsl.render.facts import Facts
from rldsl.render.flows import flows_of
from rldsl.render.lowered import Lowered
from rldsl.render.memory import fit_words, moved_words, unplanned_words
from rldsl.render.moves import totals
from rldsl.render.nodes import node_id, nodes_of
from rldsl.render.origin import Origin, Statement
from rldsl.render.pages import Page, page
from rldsl.render.ranks import group_words, places_words
from rldsl.render.scopes import general, leaf
from rldsl.render.sizes import left_words, rows_words, sent_words, share_words, size_words
from rldsl.render.words import describe, guard_words, kind_of, model_words, ranks_words, scalar

HELPERS = (ReshardOp, SyncWeightsOp, WaitOp, FreeOp, SaveOp, OnloadOp, OffloadOp)
"""The kinds of op that have a page of their own: those that belong to no node, or serve one."""


class Explainer:
    """Everything that can be asked about one plan."""

    def __init__(self, plan: Plan, origin: Origin | None = None, most: int | None = None) -> None:
        """Of what is upstream or downstream of a node `most` nodes are told; None: all."""
        self._plan = plan
        self._origin = origin or Origin(plan)
        self._facts = Facts(plan)
        self._blocks = blocks_of(plan)
        self._nodes = NodeExplainer(plan, self._facts, self._origin, most)
        self._lowered = Lowered(self._facts)

    def names(self) -> tuple[str, ...]:
        """All that can be asked for; rounds of a loop are one."""
        plan = self._plan
        parts: tuple[Iterable[str], ...] = (
            (n.label for n in nodes_of(plan)),
            (b.id for b in self._blocks),
            (d.what for d in plan.dropped),
            (f.name for f in plan.fields),
            (m.name for m in plan.models),
            plan.parameters,
            self._helpers,
        )
        return tuple(dict.fromkeys(general(name) for part in parts for name in part))

    def pages(self, name: str) -> tuple[Page, ...]:
        """One page for each thing called `name`: as it stands in the plan, or the only one that ends so. None: ()."""
        found = tuple(self._called(name))
        if found:
            return found
        ending = [n for n in self.names() if leaf(n) == name]
        return tuple(self._called(ending[0])) if len(ending) == 1 else ()

    def summary(self) -> Page:
        """What the compiler decided for the whole plan, and why."""
        plan = self._plan
        ranks = [f"{ranks_words(plan)[0].upper()}{ranks_words(plan)[1:]}", *self._classes()]
        because = ((op, r) for op in self._facts.ops for r in op.because)
        chosen = list(dict.fromkeys(f"`{general(op.id)}`: {r.why} ({r.by})" for op, r in because))
        dropped = [f"`{general(d.what)}`: {d.why} ({d.by})" for d in plan.dropped]
        sections = [
            ("ranks", ranks),
            ("bytes", list(totals(plan, flows_of(plan, weights=self._origin.weights)))),
            ("memory", self._memory()),
            ("not in the program", dropped),
            ("because", chosen),
        ]
        return page(plan.algorithm, "what the compiler decided", plan.source.path, sections)

    def _memory(self) -> list[str]:
        memory = self._plan.memory
        fits = fit_words(self._plan)
        if memory is None:
            return [fits] if fits else []
        told = [fits, unplanned_words(self._plan, memory), moved_words(self._plan, memory)]
        return [*told, *(f"assumed of {note}" for note in memory.assumed)]

    def _classes(self) -> Iterator[str]:
        for group in self._plan.groups:
            nodes = dict.fromkeys(node_id(op) for op in self._facts.ops if op.group == group.name and op.node)
            if group.ranks and nodes:
                yield f"group `{group.name}`, {group_words(self._plan, group.name)}: {', '.join(nodes)}"

    def _called(self, name: str) -> Iterator[Page]:
        yield from self._nodes.pages(name)
        yield from (self._block(b) for b in self._blocks if b.id == name)
        if fields := self._fields.get(name):
            yield self._field(name, fields)
        if model := self._models.get(name):
            yield self._model(model)
        if name in self._plan.parameters:
            yield self._param(name)
        if op := self._helpers.get(name):
            yield self._op(op)

    @cached_property
    def _fields(self) -> dict[str, list[str]]:
        """By name, with and without the number of a round."""
        found: dict[str, list[str]] = {}
        for spec in self._plan.fields:
            for name in dict.fromkeys((spec.name, general(spec.name))):
                found.setdefault(name, []).append(spec.name)
        return found

    @cached_property
    def _models(self) -> dict[str, ModelSpec]:
        return {m.name: m for m in self._plan.models}

    @cached_property
    def _helpers(self) -> dict[str, AnyOp]:
        """The ops that belong to no node, or only serve one; of those of a loop the first."""
        helpers: list[AnyOp] = [op for op in self._facts.ops if isinstance(op, HELPERS)]
        return {general(op.id): op for op in reversed(helpers)} | {op.id: op for op in helpers}

    def _op(self, op: AnyOp) -> Page:
        statements = (self._statement(each) for each in self._lowered.origins(op))
        place = next((s.place for s in statements if s), "")
        sizes = (sent_words(self._facts, op), left_words(self._facts, op)) if isinstance(op, ReshardOp) else ()
        sections = [
            ("does", [describe(op), *([f"only {guard_words(op.guard)}"] if op.guard else [])]),
            ("is there for", list(self._purpose(op))),
            ("bytes", [*filter(None, sizes)]),
            ("runs", [f"on {group_words(self._plan, op.group)}, as {places_words(self._facts, op)}"]),
            *op_lines(self._plan, self._origin.terms, op),
            ("passes", [f"made by {op.by}", *(f"{r.by}: {r.why}" for r in op.because)]),
        ]
        return page(op.id, f"op, {kind_of(op)}", place, sections)

    def _purpose(self, op: AnyOp) -> Iterator[str]:
        if isinstance(op, OnloadOp | OffloadOp):
            yield from move_purpose(self._plan, op)
        else:
            yield from self._lowered.purpose(op)

    def _block(self, block: BlockView) -> Page:
        inside = [n for n in nodes_of(self._plan) if n.block == block.id]
        sections = [
            ("is", [block.title, *([block.note] if block.note else [])]),
            ("nodes", [f"`{n.label}`: {n.call}" for n in inside]),
        ]
        return page(block.id, "block", self._place(block.id), sections)

    def _field(self, name: str, fields: list[str]) -> Page:
        facts = self._facts
        first = fields[0]
        writers = dict.fromkeys(self._label(facts.writer[f]) for f in fields if f in facts.writer)
        readers = dict.fromkeys(self._label(op) for f in fields for op in facts.readers.get(f, ()))
        rows = facts.rows(first)
        ranks = [f"{rows_words(rows)}, {share_words(rows, self._ranks_of(first))}"] if rows else []
        moves = [op for f in fields for op in facts.moves_of(f)]
        freed = list({op.id: op for f in fields for op in facts.frees.get(f, ())}.values())
        sections = [
            ("written by", [", ".join(writers)] if writers else []),
            ("read by", [", ".join(readers)] if readers else []),
            ("rows", ranks),
            ("size", [size_words(facts, [first])] if rows else []),
            ("moved", [f"{describe(op)}, {places_words(facts, op)}" for op in moves]),
            ("freed", [places_words(facts, op) for op in freed]),
            ("of a loop", [f"{len(fields)} of these, one a round"] if len(fields) > 1 else []),
        ]
        loaded = self._origin.input(name) if isinstance(facts.writer.get(first), LoadOp) else None
        return page(name, f"field, {facts.type(first)}", loaded.place if loaded else self._place(name), sections)

    def _ranks_of(self, field: str) -> int | None:
        writer = self._facts.writer.get(field)
        return self._facts.ranks(writer.group) if writer else None

    def _model(self, model: ModelSpec) -> Page:
        ops = [
            op for op in self._facts.ops if isinstance(op, ModelOp | SyncWeightsOp | SaveOp) and op.model == model.name
        ]
        users = [f"{self._label(op)}: {describe(op)}" for op in ops if isinstance(op, ModelOp)]
        trained = [
            f"{'its trunk ' if op.model != model.name else ''}by {self._label(op)}, {places_words(self._facts, op)}"
            for op in self._facts.trainings
            if self._facts.trunk(op.model) == self._facts.trunk(model.name)
        ]
        syncs = [f"{describe(op)}, {places_words(self._facts, op)}" for op in ops if isinstance(op, SyncWeightsOp)]
        saves = [describe(op) for op in ops if isinstance(op, SaveOp)]
        related = [f"copied by {m.name}" for m in self._plan.models if m.copy_of == model.name]
        related += [f"its trunk is also that of {m.name}" for m in self._plan.models if m.shares == model.name]
        sections = [
            ("is", [model_words(model), *related]),
            ("used by", users),
            ("trained", trained or ["never"]),
            ("synced", [*syncs, *(r.why for op in ops if isinstance(op, SyncWeightsOp) for r in op.because)]),
            ("saved", saves),
            ("memory", state_lines(self._plan, self._origin.terms, [self._facts.trunk(model.name), model.name])),
        ]
        return page(model.name, "model", self._place(model.name), sections)

    def _param(self, name: str) -> Page:
        users = [f"`{user}`" for user in self._origin.users(name)]
        return page(
            name,
            "parameter",
            self._place(name),
            [("value", [scalar(self._plan.parameters[name])]), ("stands in", [", ".join(users)] if users else [])],
        )

    def _statement(self, op: AnyOp) -> Statement | None:
        of = self._origin
        return of.input(op.columns[0]) if isinstance(op, LoadOp) else of.node(op.node or "")

    def _place(self, name: str) -> str:
        statement = self._origin.statement(name)
        return statement.place if statement else ""

    def _label(self, op: AnyOp) -> str:
        return f"`{self._nodes.label(op)}`"
