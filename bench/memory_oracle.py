"""What memory one rank really needs: our engine and transformers' modules, run on tensors without data.

Everything runs under `FakeTensorMode` with a process group of any size that sends nothing, and the storages that are
alive are counted (`bench/memory_tracker.py`). So parameters, FSDP2's gathered copies, saved activations and temporaries
are those of the modules themselves, of 72B parameters too; nothing here knows the formulas of
`rldsl.compiler.cost.memory`.

One step runs before the counting begins: the first one on DTensors makes whole parameters to learn their shapes, which
no later step does. What the engine asks of values, such as the gradient's norm, is answered. tp, pp and ep are the real
modules of one rank: heads, MLP width, vocabulary, layers and experts cut; with tp its matrices gather and scatter
(`bench/memory_sequence.py`). cp cuts the sequence and gathers keys and values. Memory inside kernels is not seen;
`bench/memory_real.py` sees it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.functional import scaled_dot_product_attention
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bench.memory_cases import Case, Wave, config_of
from bench.memory_sequence import spread
from bench.memory_tracker import Alive
from rldsl.algos.losses import policy_loss
from rldsl.backends.comm import Comm
from rldsl.backends.engines import heads, model
from rldsl.backends.engines.draw import draw
from rldsl.backends.engines.generate import Sampler, _Rows
from rldsl.backends.engines.module import Head, Scorer
from rldsl.backends.engines.optim import Optimizer
from rldsl.backends.engines.packing import Layout, MicroBatch
from rldsl.backends.status import Status
from rldsl.compiler.ops import TrainOp
from rldsl.compiler.plan import ModelSpec

CPU = torch.device("cpu")
GATHERED = "rldsl_gathered_keys"
STEP = TrainOp(
    id="t", model="m", tokens="", response_mask="", loss="", args=(), lr=1e-6, batch=1, minibatch=1, max_grad_norm=0.1
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Bytes at the peak, and what stays between steps; seconds it took to find out."""

    peak: int
    resident: int
    seconds: float


def _gathered(owner: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
    """This rank's queries see the keys and values of all cp ranks."""
    sub = dist.distributed_c10d._world.pg_names  # the groups of this process, the last one made by `_pretended`
    group = next(reversed(sub))
    whole = [collectives.all_gather_tensor_autograd(t.contiguous(), 2, group) for t in (key, value)]
    out = scaled_dot_product_attention(query, whole[0], whole[1], enable_gqa=key.shape[1] != query.shape[1])
    return out.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(GATHERED, _gathered)


def _even_chunks(hidden: Tensor, weight: Tensor, state: Tensor, at_once: int) -> list[tuple[int, int, Tensor]]:
    """`heads._chunks` for pairs that lie evenly: to find out how they lie takes values."""
    size = max(1, (at_once or heads.KEPT_LOGITS) // len(weight))
    ends = [*range(0, len(hidden), size), len(hidden)]
    pairs = [len(state) * e // len(hidden) for e in ends]
    spans = zip(ends, ends[1:], pairs, pairs[1:], strict=False)
    return [(a, b, torch.arange(p, q)) for a, b, p, q in spans]


def _norm(_: Optimizer, gradients: list[Tensor]) -> float:
    torch._foreach_norm(gradients)
    return 1.0


def _whole_logits(scorer: Scorer, micro: MicroBatch, _: Any) -> list[Tensor]:
    """As transformers and a plain loss have them: of every position, with all that autograd keeps."""
    logprobs = scorer.logits(scorer.hidden(micro.layout)).float().log_softmax(-1)
    return [logprobs[..., 0].flatten()[micro.states]]


def _stage(scorer: Scorer, micro: MicroBatch, _: Any) -> list[Tensor]:
    """A pipeline stage that is not the last: hidden states go out."""
    return [scorer.hidden(micro.layout).flatten(0, 1)[micro.states, 0].float()]


@contextmanager
def _pretended(case: Case) -> Iterator[tuple[Comm, DeviceMesh | None, Any]]:
    """A world of the case's ranks without data, those that share experts, those of tp, and answers about values."""
    size = case.axes.shards
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    comm = Comm(rank=0, world_size=size, device=CPU, status=Status(), group=dist.group.WORLD if size > 1 else None)
    mesh = comm.mesh()
    # Nothing is sent, so any ranks will do.
    across = dist.new_group(list(range(case.axes.tp))) if case.axes.tp > 1 else None
    if case.axes.cp > 1:
        dist.new_group(list(range(case.axes.cp)))
    if case.axes.ep > 1:
        mesh = DeviceMesh.from_group(
            dist.new_group(list(range(0, size, case.axes.ep))), "cpu", mesh_dim_names=("expert_dp",)
        )
    patches: list[Any] = [
        mock.patch.object(heads, "_chunks", _even_chunks),
        mock.patch.object(heads, "KEPT_LOGITS", case.kept_logits),
        mock.patch.object(Optimizer, "_norm", _norm),
        FakeTensorMode(allow_non_fake_inputs=True),
    ]
    if case.logits == "whole":
        patches.append(mock.patch.object(Scorer, "forward", _whole_logits))
    if case.stage < case.axes.pp - 1:
        patches.append(mock.patch.object(Scorer, "forward", _stage))
    try:
        with ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            yield comm, mesh, across
    finally:
        dist.destroy_process_group()


def _part(case: Case) -> Any:
    """transformers' configuration of what one rank holds."""
    made = config_of(case.model)
    made["head_dim"] = made.get("head_dim") or made["hidden_size"] // made["num_attention_heads"]
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        made[name] //= case.axes.tp
    for name in ("num_experts", "num_local_experts"):
        if name in made:
            made[name] //= case.axes.ep
    if "moe_intermediate_size" in made:
        made["moe_intermediate_size"] //= case.axes.tp
    made["num_hidden_layers"] //= case.axes.pp
    made["max_position_embeddings"] = 1 << 20
    return AutoConfig.for_model(made.pop("model_type"), **made)


def _spec(case: Case) -> ModelSpec:
    return ModelSpec(
        name="m",
        kind="policy",
        source="",
        precision=case.precision,
        trainable=case.phase in ("train", "sync"),
        lora_rank=case.lora_rank,
    )


def build(case: Case, comm: Comm, mesh: DeviceMesh | None, across: Any) -> tuple[Scorer, Optimizer | None]:
    """Scorer and optimiser as `Model.load` makes them."""
    spec = _spec(case)
    module = AutoModelForCausalLM.from_config(_part(case))
    # Adapters of fake tensors cannot be moved to a device, and are there already.
    with mock.patch.object(torch.nn.Module, "to", lambda module, *_, **__: module):
        scorer = model._scorer(module, spec, (), seed=0)
    if case.axes.cp > 1:
        module.config._attn_implementation = GATHERED
    _cut_ends(module, case)
    if across is not None:
        spread(module, across, first=case.stage == 0, last=case.stage == case.axes.pp - 1)
    _recompute(scorer, case)
    if case.axes.ep > 1:
        _spread_experts(module, mesh, case)
    optimizer = model._placed(scorer, comm, model._dtype(spec))
    for each in scorer.modules() if case.zero == 2 else ():
        if isinstance(each, FSDPModule):
            each.set_reshard_after_forward(False, recurse=False)
    return scorer, optimizer


class _Received(torch.nn.Module):
    """In place of the embedding: hidden states that the stage before has sent, of this rank's places."""

    def __init__(self, hidden: int, dtype: torch.dtype, tp: int) -> None:
        super().__init__()
        self.hidden, self.dtype, self.tp = hidden, dtype, tp

    def forward(self, tokens: Tensor) -> Tensor:
        packs, places = tokens.shape
        return torch.zeros(packs, places // self.tp, self.hidden, dtype=self.dtype, requires_grad=True)


def _cut_ends(module: Any, case: Case) -> None:
    """The first stage alone has an embedding, the last one alone a norm and a head. (A tied head would be copied.)"""
    if case.stage < case.axes.pp - 1:
        module.lm_head = module.model.norm = torch.nn.Identity()
    if case.stage > 0:
        module.model.embed_tokens = _Received(module.config.hidden_size, _dtype(case), case.axes.tp)


def _dtype(case: Case) -> torch.dtype:
    return torch.bfloat16 if case.precision == "bf16" else torch.float32


def _spread_experts(module: Any, mesh: DeviceMesh | None, case: Case) -> None:
    """This rank's experts are those of every ep-th rank, over which FSDP shards them."""
    policy = MixedPrecisionPolicy(param_dtype=_dtype(case), reduce_dtype=torch.float32)
    for layer in module.model.layers:
        fully_shard(layer.mlp.experts, mesh=mesh, mp_policy=policy)


def _recompute(scorer: Scorer, case: Case) -> None:
    if case.recompute == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if case.recompute == "selective":
        options["context_fn"] = lambda: create_selective_checkpoint_contexts(_kept)
    scorer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    # transformers recomputes in training mode only; these models have no dropout.
    scorer.model.train()


def _kept(_: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    """Products and attention are kept, what costs little is made again."""
    aten = torch.ops.aten
    dear = {aten.mm, aten.addmm, aten._grouped_mm, aten._scaled_dot_product_flash_attention_for_cpu}
    return CheckpointPolicy.MUST_SAVE if op.overloadpacket in dear else CheckpointPolicy.PREFER_RECOMPUTE


def micro_batch(case: Case) -> MicroBatch:
    """As many places, states and rows as the case says, without values."""
    shape = (case.packs, case.length // case.axes.cp)
    states = torch.zeros(case.states // case.axes.cp, dtype=torch.int64)
    rows = case.packs * case.rows_per_pack
    return MicroBatch(
        rows=torch.arange(rows),
        layout=Layout(
            tokens=torch.zeros(shape, dtype=torch.int64),
            positions=torch.zeros(shape, dtype=torch.int64),
            visible=torch.zeros((*shape, shape[1]), dtype=torch.bool) if case.masked else None,
        ),
        states=states,
        pair_state=states.clone(),
        pair_token=states.clone(),
        response=states.clone(),
        mask=torch.ones(rows, shape[1] // case.rows_per_pack, dtype=torch.bool),
    )


def _loss(scorer: Scorer, case: Case) -> Tensor:
    micro = micro_batch(case)
    current = micro.dense(scorer(micro, [Head()])[0])
    made = policy_loss(current, micro.mask, current.detach(), torch.zeros(len(micro.rows)))
    return torch.where(micro.mask, made.loss, 0.0).sum()


def _one_step(scorer: Scorer, optimizer: Optimizer, case: Case, micros: int) -> None:
    """So many micro-batches under 1F1B, then the optimiser."""
    in_flight = case.axes.pp - case.stage
    held: deque[Tensor] = deque()
    for _ in range(micros):
        held.append(_loss(scorer, case))
        if len(held) == in_flight:
            torch.autograd.backward(held.popleft())
    while held:
        torch.autograd.backward(held.popleft())
    optimizer.step(STEP)


def measure(case: Case) -> Measured:
    """Peak of a steady training step (optimiser state is there), of scoring, of a wave, or of handing weights over."""
    began = time.perf_counter()
    tracker = Alive()
    with _pretended(case) as (comm, mesh, across):
        scorer, optimizer = build(case, comm, mesh, across)
        if optimizer is not None:
            _one_step(scorer, optimizer, case, 1)
        work, engine = _work(case, scorer, optimizer, comm)
        tracker.add((*held_between_steps(scorer, optimizer), *engine))
        with tracker:
            work()
        resident = tracker.now
    return Measured(peak=tracker.peak, resident=resident, seconds=time.perf_counter() - began)


def _work(
    case: Case, scorer: Scorer, optimizer: Optimizer | None, comm: Comm
) -> tuple[Callable[[], None], list[Tensor]]:
    """What is measured, and the weights that its sampler has beside the trainer's."""
    if case.phase == "sync":
        spec = _spec(case)
        nothing: Any = None
        held = model.Model(spec, scorer, nothing, comm, optimizer, trunk=spec)
        sampler = _sampler(scorer)
        sampler.own_copy, sampler.name = True, spec.name
        sampler.sync(held)
        return partial(sampler.sync, held), list(sampler.scorer.parameters())

    @torch.no_grad()
    def work() -> None:
        if case.wave is not None:
            _generate(scorer, case.wave)
        else:
            _score(scorer, case)

    if case.phase == "train":
        assert optimizer is not None
        # One more than are in flight at once: gradients are there already when the last one comes.
        return partial(_one_step, scorer, optimizer, case, case.axes.pp - case.stage + 1), []
    return work, []


def _sampler(scorer: Scorer) -> Sampler:
    """Without the tokenizer."""
    made = Sampler.__new__(Sampler)
    made.scorer, made.device = scorer, CPU
    return made


def held_between_steps(scorer: Scorer, optimizer: Optimizer | None) -> Iterator[Tensor]:
    """Weights, masters, the optimiser's state, the buffers of the masters' gradients."""
    yield from scorer.parameters()
    yield from scorer.buffers()
    if optimizer is not None:
        for name, parameter in optimizer.parameters.items():
            yield optimizer.masters[name]
            for hook in (parameter._post_accumulate_grad_hooks or {}).values():
                yield from (c.cell_contents for c in hook.__closure__ or () if isinstance(c.cell_contents, Tensor))
        for state in optimizer._prepared(STEP).state.values():
            yield from state.values()


def _score(scorer: Scorer, case: Case) -> None:
    for _ in range(2):
        micro = micro_batch(case)
        micro.dense(scorer(micro, [Head()])[0])


def _generate(scorer: Scorer, wave: Wave) -> None:
    """The ops of `Sampler._wave`, whose loop asks for values: prefill, the first columns, a compaction, the last."""
    sampler = _sampler(scorer)
    op = wave.op
    prompts = [np.full(wave.prompt, i, np.int64) for i in range(wave.prompts)]
    columns = wave.prompt + wave.new_tokens - 1
    cache, logits, lengths, padding = sampler._prefill(prompts, columns, wave.samples)
    logits = logits.repeat_interleave(wave.samples, 0)
    mask = torch.zeros(padding.shape, dtype=logits.dtype).masked_fill_(padding, -torch.inf)
    rows = _Rows.empty(torch.zeros(len(lengths), wave.new_tokens, dtype=torch.float64))
    active = torch.arange(len(lengths))
    token = active
    for column in (0, 1, wave.new_tokens - 1):
        cache.length = wave.prompt + column - 1 if column else cache.length
        if column:
            position = (lengths[active] + column)[:, None]
            seen = mask[active, None, None, : cache.length + 1]
            logits = scorer.logits(scorer.body(token[:, None], position, seen, cache)[:, 0])
        token, logp = draw(logits, rows.uniforms[active, column], op)
        rows.write(active, token, logp, column)
    cache.keep(active[: len(active) * 3 // 4])
