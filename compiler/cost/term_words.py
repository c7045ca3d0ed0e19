"""What the numbers in the terms of an op are made of: parameters by what they belong to, bytes by their factors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rldsl.compiler.cost.activations import FLOAT32, INT64, Attention
from rldsl.compiler.cost.layer_words import LayerWords, Part, told
from rldsl.compiler.cost.memory import Forward, Scoring, Training
from rldsl.compiler.cost.memory_generation import Generating
from rldsl.compiler.cost.memory_states import States
from rldsl.compiler.cost.memory_terms import Term
from rldsl.compiler.cost.shard import Shard

Words = Mapping[str, str]
"""By a number with its unit, as formulas have it (`1,089,998,336 parameters`), the arithmetic behind it."""

_LAST = re.compile(r"(?:^| )([\d,]+) (B|parameters|numbers|tokens|B a token|pairs of a pack)(?: / [\d,]+ ranks)?$")
_NUMBER = re.compile(r"([\d,]+ (?:B a token|tokens|parameters|pairs of a pack))")


def formula_words(term: Term, words: Words) -> str:
    """The term's formula, and behind it what its numbers are made of, as far as `words` tell."""
    named = [m[1] for m in _NUMBER.finditer(term.formula)]
    last = _LAST.search(term.formula)
    named += [f"{last[1]} {last[2]}"] if last else []
    behind = [f"{name} = {words[name]}" for name in dict.fromkeys(named) if words.get(name)]
    if behind and named[0] == term.formula:
        return "; ".join(behind)
    return "; ".join([term.formula, *behind])


def state_words(states: States) -> Words:
    """Of a model's states: how many parameters of a rank's part are the model's, and how many fill rows up."""
    found = {_key(states.base, "parameters"): parameter_words(states, states.base)}
    shared = states.base + _spread(states)
    return {**found, _key(shared, "parameters"): parameter_words(states, shared)}


def _spread(states: States) -> int:
    """Numbers of experts that ep has spread already, counted for the ranks over which it has."""
    shard = states.shard
    return sum(shard.count(m) * _experts(states) for m in shard.kinds if m) * (shard.axes.ep - 1)


def _experts(states: States) -> int:
    """Numbers of a layer's experts on this rank, padding included."""
    dense = {m: sum(t.numbers for t in states.shard.layer_tensors(moe=m)) for m in states.shard.kinds}
    return states.layer(True) - dense[True] if True in dense else 0


def parameter_words(states: States, count: int) -> str:
    """`count` parameters of a rank's part of a model; empty where they are just its own, or no sum is known."""
    axes, own, whole = states.shard.axes, states.shard.parameters, states.shard.facts.parameters
    part = f"this rank's part of {whole:,} (tp = {axes.tp}, pp = {axes.pp}, ep = {axes.ep})"
    rest = count - own
    if rest <= 0:
        return part if own != whole and not rest else ""
    held = f"{own:,}, {part}," if own != whole else f"{own:,} of the model"
    if axes.ep > 1:
        return f"{held} + {rest:,}: experts once for each of {axes.ep} ranks of ep, and padding to whole rows"
    return f"{held} + {rest:,} of padding: FSDP cuts tensors by rows, and {states.ranks:,} ranks do not divide them"


def _key(number: int, unit: str) -> str:
    return f"{number:,} {unit}"


def forward_words(made: Forward) -> dict[str, str]:
    """Of a training or a forward without gradients, by one micro-batch of it."""
    shard, states = made.shard, made.states
    found = {
        _key(states.root, "parameters"): _padded(_root(shard), sum(t.numbers for t in shard.root_tensors), states.root),
        _key(shard.head_parameters, "parameters"): f"{shard.vocab:,} words x {shard.hidden:,} wide",
        **_layers(states),
        **_bytes(made),
    }
    for moe in shard.kinds:
        layer = made.layer(moe)
        words = LayerWords(layer)
        if isinstance(made, Training):
            found |= {_key(size, "B"): text for size, text in words.kept(made.recompute).items()}
            again = layer.made_again(made.recompute) + layer.backward
            found[_key(again, "B")] = words.backward(made.recompute)
        elif isinstance(made, Scoring):
            found[_key(layer.forward, "B")] = words.forward
    return {name: text for name, text in found.items() if text}


def _layers(states: States) -> dict[str, str]:
    """A layer's parameters, once and for two copies of it."""
    found = {}
    for moe in states.shard.kinds:
        facts, count = states.shard.facts, states.layer(moe)
        blocks = facts.layer(moe=moe)
        names = {"attention": blocks.attention, "MLP": blocks.mlp, "experts": blocks.experts}
        parts = {**names, "router": blocks.router, "norms": blocks.norm}
        text = " + ".join(f"{number:,} in the {name}" for name, number in parts.items() if number)
        axes = states.shard.axes
        if axes.tp * axes.ep > 1:
            text = f"of {blocks.total:,} in a layer this rank's part (tp = {axes.tp}, ep = {axes.ep})"
            padded = text
        else:
            padded = _padded(text, blocks.total, count)
        found[_key(count, "parameters")] = padded
        found[_key(2 * count, "parameters")] = f"2 x ({padded})" if padded else ""
    return found


def _padded(text: str, own: int, count: int) -> str:
    """`text` is of `own` of the `count` numbers; the rest is padding."""
    if count < own:
        return ""
    return text if count == own else f"{text} + {count - own:,} of padding to rows that the ranks divide"


def _root(shard: Shard) -> str:
    return " + ".join(f"{t.rows:,} x {t.columns:,}" for t in shard.root_tensors)


def _bytes(made: Forward) -> dict[str, str]:
    """Of what is beside the layers."""
    shard, width, hidden, micro = made.shard, made.width, made.shard.hidden, made.micro
    cp = shard.axes.cp
    places, cells = -(-micro.places // cp), -(-micro.cells // cp)
    layer = LayerWords(made.layer(shard.kinds[0]))
    answers = (-(-micro.states // cp), "places before a response token")
    group = shard.heads // shard.kv_heads
    gathered = Part("gathered", ((layer.gathered, "B"),))
    candidates = (
        (
            made.ends.bytes,
            (
                Part("the last norm", ((layer.spread, "places"), (hidden, "wide"), (FLOAT32 + 2 * width, "B"))),
                gathered,
                Part("states and their gradients", ((2, ""), answers, (hidden, "wide"), (width, "B"))),
            ),
        ),
        (
            made.fields.bytes,
            (
                Part("tokens and positions", ((2, ""), (places, "places"), (INT64, "B"))),
                Part("of responses", ((5, ""), answers, (INT64, "B"))),
                Part("columns of the loss in float32,", ((24, ""), (cells, "cells"), (FLOAT32, "B"))),
            ),
        ),
        (
            layer.layer.stream * 2 + layer.gathered + width * hidden * answers[0],
            (
                Part("in and out of a layer", ((2, ""), (layer.spread, "places"), (hidden, "wide"), (width, "B"))),
                gathered,
                Part("those that logits are made of", (answers, (hidden, "wide"), (width, "B"))),
            ),
        ),
    )
    found = {_key(size, "B"): told(parts, size) for size, parts in candidates}
    mask = made.mask().bytes
    if made.attention is Attention.MASKED:
        each = f"{micro.pairs:,} pairs of places that a pack has x ({width} B x {group} queries a key head + 1)"
        flights = made.in_flight if isinstance(made, Training) else 1
        found[_key(mask * flights, "B")] = each + (f" x {flights} micro-batches" if flights > 1 else "")
    found[f"{micro.pairs:,} pairs of a pack"] = f"{micro.places:,} places x {micro.longest or micro.length:,} of a pack"
    return found


def rollout_words(made: Generating) -> dict[str, str]:
    """Of a wave."""
    shard, facts = made.states.shard, made.states.shard.facts
    width = made.states.width
    each = facts.kv_bytes_per_token(width) // shard.axes.tp
    over = f" / tp = {shard.axes.tp}" if shard.axes.tp > 1 else ""
    heads = f"{facts.layers} layers x 2 (keys, values) x {facts.kv_heads} heads x {facts.head_dim} wide x {width} B"
    columns = made.prompt + made.new_tokens - 1
    prompts = made.prompts * made.prompt
    found = {
        _key(each, "B a token"): f"{heads}{over}",
        _key(made.rows * columns, "tokens"): f"{made.rows:,} rows x {columns:,} (prompt {made.prompt:,}, then sampled)",
        _key(prompts, "tokens"): f"{made.prompts:,} prompts x {made.prompt:,}",
        _key(prompts * (1 + made.samples), "tokens"): f"{prompts:,} of prompts, once and for {made.samples} samples",
        _key(shard.parameters, "parameters"): _of_rollout(shard),
        **_prefill(made),
    }
    return {name: text for name, text in found.items() if text}


def _of_rollout(shard: Shard) -> str:
    axes, whole = shard.axes, shard.facts.parameters
    return (
        ""
        if shard.parameters == whole
        else f"this rank's part of {whole:,} (tp = {axes.tp}, pp = {axes.pp}, ep = {axes.ep})"
    )


def _prefill(made: Generating) -> dict[str, str]:
    shard, found = made.states.shard, {}
    forward = Scoring(states=made.states, micro=made.prefill)
    for moe in shard.kinds:
        layer = forward.layer(moe)
        found[_key(layer.forward, "B")] = LayerWords(layer).forward
    micro = made.prefill
    found[f"{micro.pairs:,} pairs of a pack"] = f"{micro.places:,} places x {micro.longest or micro.length:,} of a pack"
    return found


def all_words(made: Iterable[Forward | Generating]) -> Words:
    """Of all that an op may be: the parts of a fused forward, and the stages of a pipeline."""
    found: dict[str, str] = {}
    for each in made:
        found |= rollout_words(each) if isinstance(each, Generating) else forward_words(each)
    return found
