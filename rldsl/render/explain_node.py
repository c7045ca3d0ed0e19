"""Why a node is as it is in a plan, and why one is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from rldsl.compiler.ops import (
    AnyOp,
    Arg,
    ComputeOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    LoadOp,
    Move,
    Recompute,
    SyncWeightsOp,
    TakeOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.plan import Dropped, ModelSpec, Plan
from rldsl.compiler.volume import Rows
from rldsl.render.arithmetic import op_lines
from rldsl.render.facts import Facts
from rldsl.render.lowered import Lowered
from rldsl.render.nodes import NodeView, edges_of, node_id, nodes_of
from rldsl.render.origin import Origin
from rldsl.render.pages import Page, page
from rldsl.render.ranks import group_words, places_words, ranks_of
from rldsl.render.scopes import general, leaf, scope_of
from rldsl.render.sizes import amount_words, left_words, rows_words, sent_words, share_words, size_words
from rldsl.render.words import describe, guard_words, move_word, plural

_FAR = 8
_QUOTED = re.compile(r"`([^`]+)`")

_AGAIN = {
    Recompute.SELECTIVE: "in the backward pass all of a layer is made again but products and attention",
    Recompute.FULL: "in the backward pass each layer is made again",
}

ModelOp = GenerateOp | ExtendOp | InferOp | TrainOp


class NodeExplainer:
    """The pages of nodes; of a loop's node one for all rounds, and one for each where its round is named."""

    def __init__(self, plan: Plan, facts: Facts, origin: Origin, most: int | None = None) -> None:
        """Of more than `most` nodes upstream or downstream the rest is left out; None: all are told or counted."""
        self._most = most
        self._plan = plan
        self._facts = facts
        self._origin = origin
        self._nodes = {unrolled: {n.id: n for n in nodes_of(plan, unrolled=unrolled)} for unrolled in (False, True)}
        self._up: dict[bool, dict[str, list[str]]] = {False: {}, True: {}}
        self._down: dict[bool, dict[str, list[str]]] = {False: {}, True: {}}
        for unrolled in (False, True):
            for edge in edges_of(plan, unrolled=unrolled):
                self._up[unrolled].setdefault(edge.target, []).append(edge.source)
                self._down[unrolled].setdefault(edge.source, []).append(edge.target)
        self._lowered = Lowered(facts)
        self._blocks = {n.block for n in self._nodes[False].values()}
        self._named = {
            unrolled: {name: n for n in reversed(nodes.values()) for name in (n.label, n.id)}
            for unrolled, nodes in self._nodes.items()
        }
        self._ops: dict[bool, dict[str, list[AnyOp]]] = {False: {}, True: {}}
        for op in facts.ops:
            if not isinstance(op, SyncWeightsOp | WaitOp):  # they carry the name of the node that they serve
                for unrolled, found in self._ops.items():
                    found.setdefault(node_id(op, unrolled=unrolled), []).append(op)

    def pages(self, name: str) -> Iterator[Page]:
        """The page of the node with this id or label, and what became of one that is gone."""
        unrolled = scope_of(name).round > 0
        node = self._named[unrolled].get(name)
        if node:
            yield self._page(node, unrolled=unrolled)
        elif gone := self._gone(name):
            yield self._absent(name, gone)

    def label(self, op: AnyOp, *, unrolled: bool = False) -> str:
        """The name of the op's node, as views show it."""
        name = node_id(op, unrolled=unrolled)
        node = self._nodes[unrolled].get(name)
        return node.label if node else name

    def _page(self, node: NodeView, *, unrolled: bool) -> Page:
        ops = self._ops[unrolled][node.id]
        first = ops[0]
        of = self._origin
        statement = of.input(first.columns[0]) if isinstance(first, LoadOp) else of.node(node.id)
        sections = [
            ("source", [statement.text] if statement and statement.text else []),
            ("does", [*dict.fromkeys(describe(op) for op in ops), *_rounds(ops)]),
            ("condition", self._condition(node.id)),
            ("reads", list(self._reads(ops, unrolled=unrolled))),
            ("writes", list(self._writes(ops))),
            ("rows", list(self._rows(ops))),
            ("bytes", list(self._bytes(ops))),
            ("steps", [line for op in ops if isinstance(op, TrainOp) for line in self._steps(op)]),
            ("upstream", self._reached(node.id, self._up[unrolled], unrolled=unrolled)),
            ("downstream", self._reached(node.id, self._down[unrolled], unrolled=unrolled)),
            ("runs", list(self._runs(ops))),
            ("weights", [line for op in ops[:1] for line in self._weights(op)]),
            *op_lines(self._plan, self._origin.terms, first),
            ("lowered to", list(self._lowered.lines(ops))),
            ("passes", list(self._passes(node.id, ops))),
        ]
        kind = ", ".join(filter(None, ("node", node.role, node.type if node.type != node.role else "")))
        return page(node.label, kind, statement.place if statement else "", sections, role=node.role)

    def _reads(self, ops: list[AnyOp], *, unrolled: bool) -> Iterator[str]:
        for op in ops:
            if isinstance(op, TakeOp):
                sources = dict.fromkeys(self.label(c, unrolled=unrolled) for c in self._facts.collects(op.collection))
                yield f"what {_listed(sources)} kept, by all-to-all: prompt i lies on rank i again"
        by_name: dict[str, list[tuple[AnyOp, str]]] = {}
        for op in ops:
            for field in dict.fromkeys(op.reads):
                by_name.setdefault(leaf(field), []).append((op, field))
        for name, uses in by_name.items():
            op, field = uses[0]
            writers = dict.fromkeys(self.label(self._facts.writer[f]) for _, f in uses if f in self._facts.writer)
            yield f"`{name}`{self._type(field)} from {_listed(writers)}, {self._way(op, field)}"
        yield from dict.fromkeys(f"`{a.param}`: the policy's own log-probs of the running step" for a in _current(ops))

    def _way(self, op: AnyOp, field: str) -> str:
        moves = self._facts.moves(field, op)
        if not moves:
            return "local"
        ways = dict.fromkeys(move_word(m) for m in moves if m.kind is not Move.LOCAL) or {move_word(moves[-1]): None}
        stays = dict.fromkeys(m.source for m in moves if field in m.keeps)
        copies = f"; a copy stays in {' and in '.join(stays)}" if stays else ""
        return f"by {', '.join(ways)} {' -> '.join((moves[0].source, *(m.target for m in moves)))}{copies}"

    def _writes(self, ops: list[AnyOp]) -> Iterator[str]:
        by_name: dict[str, list[str]] = {}
        for field in (f for op in ops for f in op.writes):
            by_name.setdefault(leaf(field), []).append(field)
        for name, fields in by_name.items():
            readers = dict.fromkeys(self.label(op) for f in fields for op in self._facts.readers.get(f, ()))
            yield f"`{name}`{self._type(fields[0])}, read by {_listed(readers)}"

    def _type(self, field: str) -> str:
        kind = self._facts.type(field)
        return f" {kind}" if kind else ""

    def _rows(self, ops: list[AnyOp]) -> Iterator[str]:
        """The arithmetic of what is written, or else of what is read."""
        by_rows: dict[str, dict[str, None]] = {}
        for op in ops:
            for field in op.writes or op.reads:
                if rows := self._facts.rows(field):
                    words = f"{rows_words(rows)}, {share_words(rows, self._facts.ranks(op.group))}"
                    by_rows.setdefault(words, {})[leaf(field)] = None
        for words, fields in by_rows.items():
            yield words if len(by_rows) == 1 else f"{_listed(fields)}: {words}"

    def _bytes(self, ops: list[AnyOp]) -> Iterator[str]:
        """Of what one round reads and writes on all ranks together, and of what is moved for it."""
        for verb, fields in (("reads", ops[0].reads), ("writes", ops[0].writes)):
            if words := size_words(self._facts, dict.fromkeys(fields)):
                yield f"{verb} {words}"
        for move in dict.fromkeys(m for f in ops[0].reads for m in self._facts.moves(f, ops[0])):
            if words := "; ".join(filter(None, (sent_words(self._facts, move), left_words(self._facts, move)))):
                yield f"`{move.id}` for it: {words}"

    def _steps(self, op: TrainOp) -> Iterator[str]:
        """The arithmetic of optimiser steps; the last minibatch of a pass may be smaller."""
        passes = "1 pass" if op.epochs == 1 else f"{op.epochs} passes"
        steps = plural(-(-op.batch // op.minibatch) * op.epochs, "optimiser step")
        yield f"{plural(op.batch, 'prompt')} / {op.minibatch} a minibatch x {passes} = {steps}"
        if volume := self._facts.volumes.volume(op.tokens):
            rows = Rows(op.minibatch, volume.rows.per_prompt, volume.rows.at_most)
            yield f"a minibatch: {rows_words(rows)}, {share_words(rows, self._facts.ranks(op.group))}"
            own, chosen = f"at most {op.micro_batch_tokens} tokens", "as many tokens as the engine chooses"
            each = f"; a row has at most {amount_words(volume.tokens)}" if volume.tokens else ""
            yield f"in micro-batches of {own if op.micro_batch_tokens else chosen}{each}"
        if again := _AGAIN.get(op.recompute):
            yield again

    def _condition(self, name: str) -> list[str]:
        condition = self._origin.condition(name)
        return [f"{condition}: it holds"] if condition else []

    def _reached(self, start: str, nearby: Mapping[str, list[str]], *, unrolled: bool) -> list[str]:
        """`1 step: reward`, `2 steps: rollout`: the fewest edges to each node; far ones are only counted."""
        seen, front = {start}, [start]
        lines: list[str] = []
        while front := [f for f in dict.fromkeys(f for n in front for f in nearby.get(n, ())) if f not in seen]:
            room = None if self._most is None else self._most - len(seen) + 1
            seen.update(front)
            names = [self._nodes[unrolled][n].label for n in front[:room]]
            if room is not None and len(front) >= room:
                return [*lines, f"{plural(len(lines) + 1, 'step')}: {', '.join([*names, '...'])}"]
            if len(lines) == _FAR:
                rest = len(_all(front, nearby) - seen) + len(front)
                return [*lines, f"more than {_FAR} steps: {plural(rest, 'node')}"]
            lines.append(f"{plural(len(lines) + 1, 'step')}: {', '.join(names)}")
        return lines

    def _runs(self, ops: list[AnyOp]) -> Iterator[str]:
        op = ops[0]
        meets = "; they wait for each other in it" if op.collective else ""
        where = places_words(self._facts, op)
        yield f"on {group_words(self._plan, op.group)}" + ("" if len(ops) > 1 else f", as {where}") + meets
        if len(ops) > 1:
            yield from (f"round {number}: {places_words(self._facts, each)}" for number, each in enumerate(ops, 1))
        holding = {(p.first, p.last) for p in self._facts.places[op.id]}
        idle = [ranks_of(p, self._plan.world_size) for p in self._plan.programs if (p.first, p.last) not in holding]
        if idle:
            yield f"not on {', '.join(idle)}"
        yield from dict.fromkeys(f"only {guard_words(o.guard)}" for o in ops if o.guard)

    def _weights(self, op: AnyOp) -> Iterator[str]:
        if not isinstance(op, ModelOp):
            return
        model = self._plan.model(op.model)
        own = self._facts.trunk(op.model)
        trainings = [t for t in self._facts.trainings if self._facts.trunk(t.model) == own]
        if isinstance(op, TrainOp):
            yield f"changes those of `{op.model}`{_trunk_words(model)}"
        elif isinstance(op, InferOp):
            yield from self._read_weights(op, trainings)
        for sync in self._facts.syncs:
            trained = isinstance(op, TrainOp) and self._facts.trunk(sync.model) == own
            if trained or (isinstance(op, GenerateOp | ExtendOp) and op in self._facts.rollouts(sync)):
                yield f"{describe(sync)}: {places_words(self._facts, sync)}"

    def _read_weights(self, op: InferOp, trainings: list[TrainOp]) -> Iterator[str]:
        if not trainings:
            yield f"those of `{op.model}`, which never change"
            return
        before = [t for t in trainings if self._facts.comes_before(t, op)]
        when = f"after {_listed(map(self.label, before))}" if before else "as the step began"
        yield f"those of `{op.model}` {when}; trained by {_listed(map(self.label, trainings))}"

    def _passes(self, node: str, ops: list[AnyOp]) -> Iterator[str]:
        """Why passes made it as it is, what they took from it, and how often it was copied."""
        if rounds := _rounds(ops):
            yield f"unroll_loops: {rounds[0]}"
        reasons = dict.fromkeys(r for op in ops for r in op.because)
        yield from (f"{r.by}: {r.why}" for r in reasons)
        told = {r.by for r in reasons}
        for dropped in self._taken.get(general(node), ()):
            if dropped.by not in told:
                yield f"{dropped.by} took `{general(dropped.what).removeprefix(f'{general(node)}.')}`: {dropped.why}"

    @cached_property
    def _taken(self) -> dict[str, list[Dropped]]:
        """By node what passes took of its arguments and results, or because of it."""
        found: dict[str, list[Dropped]] = {}
        for dropped in self._plan.dropped:
            what = general(dropped.what)
            owner = what.rpartition(".")[0]
            if owner and owner not in self._blocks and what not in self._nodes[False]:
                found.setdefault(owner, []).append(dropped)
            elif not owner or owner == scope_of(what).block:
                for name in dict.fromkeys(_QUOTED.findall(dropped.why)):
                    found.setdefault(name, []).append(dropped)
        return found

    @cached_property
    def _dropped(self) -> dict[str, list[Dropped]]:
        """By name, with and without the number of a round."""
        found: dict[str, list[Dropped]] = {}
        for dropped in self._plan.dropped:
            for name in dict.fromkeys((dropped.what, general(dropped.what))):
                found.setdefault(name, []).append(dropped)
        return found

    def _gone(self, name: str) -> list[Dropped]:
        return self._dropped.get(name, [])

    def _absent(self, name: str, gone: list[Dropped]) -> Page:
        statement = self._origin.statement(name)
        condition = self._origin.condition(name)
        why = [f"{d.why}{f': {condition}' if d.by == 'fold_conditions' and condition else ''} ({d.by})" for d in gone]
        readers = dict.fromkeys(self._origin.readers(name))
        sections = [
            ("source", [statement.text] if statement and statement.text else []),
            ("why", why),
            ("its readers", [f"`{f}` was for `{reader}`{self._became(f, reader)}" for f, reader in readers]),
        ]
        return page(general(name), "not in the program", statement.place if statement else "", sections)

    def _became(self, field: str, reader: str) -> str:
        """Why the reader no longer reads the field."""
        node = self._origin.nodes[reader]
        params = {field, *(a.param for a in node.call.args if a.param and leaf(a.name) == field)}
        taken = [d for d in self._plan.dropped if general(d.what) in {f"{reader}.{p}" for p in params}]
        taken = taken or self._gone(reader)
        return "".join(f"; {d.by}: {d.why}" for d in taken[:1])


def _all(start: Iterable[str], nearby: Mapping[str, list[str]]) -> set[str]:
    """Everything that can be reached."""
    seen, waiting = set(start), list(start)
    while waiting:
        new = set(nearby.get(waiting.pop(), ())) - seen
        seen |= new
        waiting += new
    return seen


def _current(ops: Iterable[AnyOp]) -> Iterator[Arg]:
    return (a for op in ops if isinstance(op, ComputeOp | TrainOp) for a in op.args if a.current)


def _rounds(ops: list[AnyOp]) -> list[str]:
    rounds = [scope_of(op.node or "").round for op in ops]
    return [f"alike in {plural(len(ops), 'round')} of a loop"] if any(rounds) and len(ops) > 1 else []


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names) or "nothing"


def _trunk_words(model: ModelSpec) -> str:
    return f", and the trunk of `{model.shares}` with them" if model.shares else ""
