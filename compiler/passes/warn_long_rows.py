"""Rows that are longer than a model's positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from rldsl.compiler.cost.find_facts import NoFacts, facts_of
from rldsl.compiler.ir import Method, Module, Node
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import number_of
from rldsl.compiler.passes.unroll_loops import is_take
from rldsl.compiler.specs import model_spec
from rldsl.diagnostics import DiagnosticError, Diagnostics, Span

_SAMPLING = frozenset({Method.GENERATE, Method.EXTEND})
_READING = frozenset({Method.LOGPROB, Method.VALUE, Method.SCORE, Method.TRAIN})


@dataclass(frozen=True, kw_only=True)
class WarnLongRows:
    """Warn of rows, prompts and responses together, that may have more tokens than a model has positions for.

    Prompts count as far as a rollout limits them. Of models whose configuration is not at hand nothing is known.
    Before: `actor.generate(prompts; max_new_tokens = 40000)` of a model with 32,768 positions.   After: RL0466.
    """

    name: ClassVar[str] = "warn_long_rows"

    def apply(self, module: Module, context: Context) -> Module:
        """The module as it is."""
        walk = _Walk(module, context.found)
        for node_id in module.graph.in_order:
            walk.node(module.graph.node_of[node_id])
        return module


@dataclass
class _Walk:
    module: Module
    found: Diagnostics
    # At most so many tokens a row, of the fields that have the tokens.
    longest: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int | None] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def node(self, node: Node) -> None:
        call = node.call
        if call.method in _SAMPLING:
            self.longest[node.outputs[0]] = self.sampled(node)
            self.check(node, self.longest[node.outputs[0]])
        elif call.method in _READING and call.args[0].name in self.longest:
            self.check(node, self.longest[call.args[0].name])
        elif is_take(node):
            self.longest |= self.taken(node)

    def sampled(self, node: Node) -> int:
        """A prompt without a limit has one token at least."""
        before = [self.longest[a.name] for a in node.call.args if a.name in self.longest]
        limit = int(number_of(node.call, "max_prompt_tokens"))
        return max([*before, 0 if limit else 1]) + limit + int(number_of(node.call, "max_new_tokens"))

    def taken(self, node: Node) -> dict[str, int]:
        """What a loop has collected may come from any of its iterations."""
        rounds = [n.call.args[1:] for n in self.module.graph.nodes if self.collects_for(n, node)]
        columns = zip(node.outputs, zip(*rounds, strict=True), strict=False)
        known = {name: [self.longest[a.name] for a in args if a.name in self.longest] for name, args in columns}
        return {name: max(lengths) for name, lengths in known.items() if lengths}

    @staticmethod
    def collects_for(node: Node, take: Node) -> bool:
        return node.call.method is Method.COLLECT and node.block == take.id

    def check(self, node: Node, tokens: int) -> None:
        """RL0466, once for each source of models."""
        assert node.call.model is not None, "a model samples, scores or is trained"
        spec = model_spec(self.module.graph.model_of[node.call.model], self.module)
        positions = self.positions_of(node.call.model, spec.source)
        if positions is None or tokens <= positions or spec.source in self.told:
            return
        self.told.add(spec.source)
        self.found.warning(
            "RL0466",
            f"rows of `{node.id.rpartition('.')[2]}` may have {tokens:,} tokens, and `{spec.name}` has {positions:,} "
            "positions",
            span=_place(node),
            notes=(f"{' + '.join(_parts(node))}; positions are `max_position_embeddings`, scaled rotations counted in",)
            if node.call.method in _SAMPLING
            else (),
            fix=_fix(node, tokens - positions),
        )

    def positions_of(self, model: str, source: str) -> int | None:
        if source not in self.positions:
            try:
                facts = facts_of(model_spec(self.module.graph.model_of[model], self.module))
            except DiagnosticError:  # the memory plan complains of it
                facts = NoFacts("")
            self.positions[source] = None if isinstance(facts, NoFacts) else facts.max_positions
        return self.positions[source]


def _place(node: Node) -> Span | None:
    """Where the number of new tokens is given, else where the call is."""
    given = (k.span for k in (*node.call.keywords, *node.call.options) if k.name == "max_new_tokens")
    return next(given, node.call.span)


def _parts(node: Node) -> Iterator[str]:
    limit, new = (int(number_of(node.call, name)) for name in ("max_prompt_tokens", "max_new_tokens"))
    extends = node.call.method is Method.EXTEND
    if extends:
        yield "what is there before"
    if limit:
        yield f"{'an observation' if extends else 'a prompt'} of at most {limit:,} tokens (`max_prompt_tokens`)"
    elif not extends:
        yield "a prompt"
    yield f"{new:,} new ones (`max_new_tokens`)"


def _fix(node: Node, over: int) -> str:
    """For a rollout the number that fits."""
    scaled = "or take a config.json whose rotations are scaled (`rope_scaling`)"
    if node.call.method is Method.GENERATE and (fitting := int(number_of(node.call, "max_new_tokens")) - over) > 0:
        return f"lower `max_new_tokens` to {fitting:,}, {scaled}"
    return f"lower `max_new_tokens` of what makes them, {scaled}"
