"""What an op's predicted seconds are made of, in words: parts, FLOPs and bytes, rates and what is kept of these.

docs/time.md says how seconds follow from these.
"""

from __future__ import annotations

from collections.abc import Iterator

from rldsl.compiler.cost.footprints import Footprints
from rldsl.compiler.cost.hardware import Hardware
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.plan_time import PlanTime
from rldsl.compiler.cost.time_model import REACHED, STEP_BYTES
from rldsl.compiler.ops import (
    AnyOp,
    ExtendOp,
    GenerateOp,
    InferOp,
    OffloadOp,
    OnloadOp,
    Recompute,
    ReshardOp,
    SyncWeightsOp,
    TrainOp,
)
from rldsl.compiler.plan import ModelSpec

# Predictions that differ by less are one.
_SAME = 1e-6
_AGAIN = {
    Recompute.NONE: "",
    Recompute.SELECTIVE: ", and what the backward pass makes again beside products and attention",
    Recompute.FULL: ", and once more what the backward pass makes again",
}


def second_words(footprints: Footprints, op: AnyOp, predicted: float) -> tuple[str, ...]:
    """What `predicted` seconds of an op are made of; nothing where the time model has others."""
    times = PlanTime(footprints.plan, footprints.facts, footprints.hardware, footprints.world)
    known = times.seconds(op)
    if known is None or not known.total:
        return ()
    parts = " + ".join(f"{name.replace('_', ' ')} {seconds:,.4g} s" for name, seconds in known.parts)
    agrees = abs(known.total - predicted) <= _SAME * predicted
    return (*([parts] if agrees and len(known.parts) > 1 else []), *_work(footprints, op), *_rates(footprints, op))


def _work(footprints: Footprints, op: AnyOp) -> Iterator[str]:
    """FLOPs of a token, rows of a rank; bytes that move."""
    match op:
        case TrainOp() | InferOp():
            rows = footprints.length(op.tokens, op.group)
            of = f"{rows.tokens:,} tokens, {rows.response:,} of them responses"
            yield f"{rows.rows:,} rows on each replica, of at most {of}"
            yield _flops(footprints.facts[op.model])
            if isinstance(op, TrainOp):
                yield f"a forward, twice its work for gradients{_AGAIN[op.recompute]}; {op.epochs:,} x"
                yield f"a step of the optimizer: {STEP_BYTES} B read and written for each parameter that a rank holds"
        case GenerateOp() | ExtendOp():
            yield _flops(footprints.facts[op.model])
            yield "prompts as one forward; then for each token weights and keys are read, or products take longer"
        case OnloadOp() | OffloadOp():
            yield f"{op.bytes:,} B"


def _flops(facts: ModelFacts) -> str:
    layers, head = facts.trunk_flops / 1e9, facts.head_flops / 1e9
    pair = f"{4 * facts.layers * facts.heads * facts.head_dim:,} FLOPs for each pair of tokens in attention"
    return f"a token: {layers:,.4g} GFLOP forward in the layers, {head:,.4g} in the head; {pair}"


def _rates(footprints: Footprints, op: AnyOp) -> Iterator[str]:
    """What the hardware promises, and what part of it is counted with."""
    hardware = footprints.hardware
    reached = REACHED[hardware.name]
    if isinstance(op, OnloadOp | OffloadOp):
        yield f"{hardware.host_link / 1e9:,.4g} GB/s x {reached.host:g} to the tier below"
        return
    links = f"links {hardware.link / 1e9:,.4g} GB/s in a node, {hardware.network / 1e9:,.4g} beyond, x {reached.link:g}"
    if isinstance(op, ReshardOp | SyncWeightsOp):
        yield links
        return
    model = getattr(op, "model", None)
    if model is not None:
        yield f"{_products(hardware, footprints.plan.model(model))}; {links} (docs/time.md)"


def _products(hardware: Hardware, spec: ModelSpec) -> str:
    reached, rate = REACHED[hardware.name], hardware.flops(spec.precision) / 1e12
    return (
        f"{hardware.name}: {rate:,.4g} TFLOP/s in {spec.precision} x {reached.matrix:g} in products, x "
        f"{reached.attention:g} in attention; memory {hardware.bandwidth / 1e9:,.4g} GB/s x {reached.memory:g}"
    )
