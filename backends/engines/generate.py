"""Sampling with a KV cache: prompts prefilled once, as prefix trees; then one token a step for all unfinished rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import sources
from rldsl.backends.engines.cache import DecodeCache, PromptCache
from rldsl.backends.engines.model import Model, whole_module
from rldsl.backends.engines.module import Scorer
from rldsl.backends.engines.packing import PACK_TOKENS, Ints, Layout, group, pack
from rldsl.backends.engines.score import budget
from rldsl.compiler.plan import GenerateOp
from rldsl.diagnostics import fail

# Keys and values of the rows that are decoded together take at most this much; more rows wait.
KV_BYTES = 4 << 30
# Rows are moved together once this part of them has finished: moving costs about what two finished rows cost a step.
COMPACT_BELOW = 0.75


_BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """`n` rows a prompt, prompt after prompt: whole sequences, prompt first. `ids` i64: prompt id * n + k."""

    tokens: Ragged
    response_mask: Ragged
    rollout_logp: Ragged
    completions: list[str]
    ids: Tensor


@dataclass(slots=True)
class _Rows:
    """The responses of a wave as they grow: `tokens`, `logp` [rows, max_new_tokens], `lengths` [rows]."""

    tokens: Tensor
    logp: Tensor
    lengths: Tensor
    uniforms: Tensor

    @classmethod
    def empty(cls, uniforms: Tensor) -> _Rows:
        """Nothing sampled yet; `uniforms` f64[rows, max_new_tokens] are the draws to come."""
        shape, device = uniforms.shape, uniforms.device
        return cls(
            torch.zeros(shape, dtype=torch.int64, device=device),
            torch.zeros(shape, device=device),
            torch.zeros(shape[0], dtype=torch.int64, device=device),
            uniforms,
        )

    def write(self, rows: Tensor, tokens: Tensor, logp: Tensor, column: int) -> None:
        """Set one column of some rows."""
        self.tokens[rows, column] = tokens
        self.logp[rows, column] = logp
        self.lengths[rows] = column + 1


def uniforms(seed: int, rollout: str, step: int, ids: Tensor, count: int) -> Tensor:
    """f64[rows, count] in [0, 1): each row's draws depend on (seed, rollout, step, its id) alone.

    So on no number of ranks, and on no other row of the batch; and two rollouts of a step, each with a name of its
    own, draw independently. Any `seed` will do.
    """
    rows = []
    for each in ids.tolist():
        digest = hashlib.sha256(f"{seed}/{rollout}/{step}/{each}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        rows.append(torch.rand(count, dtype=torch.float64, generator=generator))
    return torch.stack(rows)


def draw(logits: Tensor, uniform: Tensor, op: GenerateOp) -> tuple[Tensor, Tensor]:
    """Token ids i64[rows] and their log-probs f32[rows]: `logits` [rows, V], drawn by the inverse of the CDF.

    Temperature 0 takes the likeliest token. Log-probs are of the distribution at `op.temperature` (1 if 0) before
    `top_k` and `top_p` cut it, as a later `logprob` computes them.
    """
    logits = logits.float() / (op.temperature or 1.0)
    logprobs = logits.log_softmax(-1)
    greedy = op.temperature == 0.0
    token = logits.argmax(-1) if greedy else _inverse(_cut(logprobs.exp(), op), uniform)
    return token, logprobs.gather(-1, token[:, None])[:, 0]


def _inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """i64[rows]: the first place where the running sum of `weights` [rows, V] passes `uniform` f64[rows] of the whole.

    First among blocks, then within one: a running sum over a large vocabulary is slow. In float64, or the rare
    tokens at its end would be lost.
    """
    rows, vocabulary = weights.shape
    blocks = pad(weights, (0, -vocabulary % _BLOCK)).view(rows, -1, _BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64)
    below = sums.cumsum(-1)
    target = uniform[:, None] * below[:, -1:]
    block = torch.searchsorted(below, target, right=True).clamp_(max=below.shape[1] - 1)
    within = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(within, target - (below - sums).gather(1, block), right=True)
    # Two sums of the same weights may differ in their last bit; the place after them is then no token.
    return (block * _BLOCK + place.clamp_(max=_BLOCK - 1)).clamp_(max=vocabulary - 1)[:, 0]


def _cut(weights: Tensor, op: GenerateOp) -> Tensor:
    """0 for tokens outside the `top_k` likeliest, and outside the fewest likeliest that together have `top_p`."""
    if op.top_k > 0 and op.top_k < weights.shape[-1]:
        least = weights.topk(op.top_k, -1).values[:, -1:]
        weights = weights.where(weights >= least, 0.0)
    if op.top_p < 1.0:
        ordered, index = weights.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        total = ordered.sum(-1, keepdim=True)
        weights = torch.zeros_like(weights).scatter(-1, index, ordered.where(before < op.top_p * total, 0.0))
    return weights


class Sampler:
    """The generation engine of one policy model."""

    def __init__(self, model: Model, *, seed: int) -> None:
        self.seed, self.name, self.tokenizer = seed, model.spec.name, model.tokenizer
        self.device = model.comm.device
        self.literal = model.spec.source == sources.SCRATCH
        self.stops = _stops(model)
        self.scorer = model.scorer
        if model.sharded:
            self.sync(model)

    def sync(self, model: Model) -> None:
        """Take the weights as trained so far: all-gathered when the model is sharded, else its storage is shared."""
        if not model.sharded:
            self.scorer = model.scorer
            return
        with torch.no_grad():
            weights = {name: w.to(model.dtype) for name, w in model.weights().items()}
        module = whole_module(model.scorer.model, weights).requires_grad_(False)
        self.scorer = Scorer(module, kind=model.spec.kind, name=self.name)

    @torch.inference_mode()
    def generate(self, prompts: list[str], prompt_ids: Tensor, op: GenerateOp, *, step: int) -> Samples:
        """Sample `op.n` responses to each prompt; a response ends with an end token, or after `op.max_new_tokens`.

        Draws depend on the seed, the node of `op`, `step` and sample ids alone. RL0605 for a prompt with characters
        that a scratch model's alphabet lacks, RL0608 for one that leaves no room.
        """
        encoded = [self._encode(p) for p in prompts]
        ids = (prompt_ids.cpu()[:, None] * op.n + torch.arange(op.n)).flatten()
        count = op.max_new_tokens
        draws = uniforms(self.seed, op.node or op.id, step, ids, count) if prompts else torch.empty(0, count)
        longest = max((len(e) for e in encoded), default=0)
        self.scorer.check_length(longest + op.max_new_tokens)
        waves = [
            (encoded[a:b], self._wave(encoded[a:b], draws[a * op.n : b * op.n].to(self.device), op))
            for a, b in self._waves(len(encoded), longest + op.max_new_tokens, op.n)
        ]
        return self._samples(waves, ids, op.n)

    def _encode(self, prompt: str) -> Ints:
        tokenizer = self.tokenizer
        if tokenizer.chat_template is not None:
            message = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            found = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            found = begin + tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if not found:
            fail(
                "RL0605", f"model `{self.name}`: a prompt has no tokens", found=repr(prompt), fix="leave such rows out"
            )
        if self.literal and tokenizer.unk_token_id in found:
            unknown = next(c for c in prompt if c not in tokenizer.get_vocab())
            fail(
                "RL0605",
                f"model `{self.name}`: its alphabet has no `{unknown}`, which a prompt has",
                found=repr(prompt),
                fix="list every character of prompts and answers in the `alphabet` of `scratch`",
            )
        return np.array(found, np.int64)

    def _waves(self, prompts: int, columns: int, n: int) -> Iterator[tuple[int, int]]:
        config = self.scorer.model.config.get_text_config()
        heads = config.num_attention_heads // self.scorer.queries_per_key
        width = config.hidden_size // config.num_attention_heads
        size = self.scorer.model.get_input_embeddings().weight.element_size()
        row = 2 * config.num_hidden_layers * heads * width * size * columns
        at_once = max(1, KV_BYTES // (row * n))
        for start in range(0, prompts, at_once):
            yield start, min(start + at_once, prompts)

    def _prefill(self, prompts: list[Ints], columns: int, n: int) -> tuple[DecodeCache, Tensor, Tensor, Tensor]:
        """Cache of n rows a prompt, last logits [prompts, V], prompt lengths [rows], padding bool[rows, columns]."""
        device = self.device
        places: list[Ints] = [np.empty(0, np.int64)] * len(prompts)
        caches, hidden, before = [], [], 0
        for packs in group(pack(prompts, PACK_TOKENS), 4 * budget(device, 0)):
            cache = PromptCache()
            hidden.append(self.scorer.hidden(Layout.of(packs, device), cache).flatten(0, 1))
            caches.append(cache)
            for i, each in enumerate(packs):
                for row, path in zip(each.rows, each.paths, strict=True):
                    places[row] = path + before + i * packs[0].size
            before += len(hidden[-1])
        last = torch.from_numpy(np.array([p[-1] for p in places])).to(device)
        width = max(len(p) for p in prompts)
        at = np.zeros((len(prompts), width), np.int64)
        for i, path in enumerate(places):
            at[i, width - len(path) :] = path
        made = DecodeCache(columns)
        made.fill(caches, torch.from_numpy(at).to(device).repeat_interleave(n, 0))
        lengths = torch.tensor([len(p) for p in prompts], device=device).repeat_interleave(n)
        padding = torch.arange(columns, device=device)[None] < (width - lengths)[:, None]
        return made, self.scorer.logits(torch.cat(hidden)[last]), lengths, padding

    def _wave(self, prompts: list[Ints], draws: Tensor, op: GenerateOp) -> _Rows:
        """Decode the samples of some prompts together."""
        width = max(len(p) for p in prompts)
        # The last token that is sampled is never fed back.
        cache, logits, lengths, padding = self._prefill(prompts, width + op.max_new_tokens - 1, op.n)
        logits = logits.repeat_interleave(op.n, 0)
        mask = torch.zeros(padding.shape, dtype=logits.dtype, device=self.device).masked_fill_(padding, -torch.inf)
        rows = _Rows.empty(draws)
        # Rows of the wave that are in the batch; `live` marks those not yet finished.
        active = torch.arange(len(lengths), device=self.device)
        live = torch.ones_like(active, dtype=torch.bool)
        stops = torch.tensor(sorted(self.stops), device=self.device)
        for column in range(op.max_new_tokens):
            token, logp = draw(logits, draws[active, column], op)
            rows.write(active[live], token[live], logp[live], column)
            live &= ~torch.isin(token, stops)
            if column + 1 == op.max_new_tokens or not live.any():
                break
            if live.sum() <= COMPACT_BELOW * len(live):
                stay = live.nonzero()[:, 0]
                cache.keep(stay)
                active, token, live = active[stay], token[stay], live[stay]
            position = (lengths[active] + column)[:, None]
            seen = mask[active, None, None, : cache.length + 1]
            logits = self.scorer.logits(self.scorer.body(token[:, None], position, seen, cache)[:, 0])
            cache.advance()
        return rows

    def _samples(self, waves: list[tuple[list[Ints], _Rows]], ids: Tensor, n: int) -> Samples:
        tokens, masks, logps, texts = [], [], [], []
        for prompts, rows in waves:
            for i, length in enumerate(rows.lengths.tolist()):
                prompt = torch.from_numpy(prompts[i // n]).to(self.device)
                response = rows.tokens[i, :length]
                tokens.append(torch.cat((prompt, response)))
                masks.append(torch.arange(len(prompt) + length, device=self.device) >= len(prompt))
                logps.append(torch.cat((torch.zeros(len(prompt), device=self.device), rows.logp[i, :length])))
                texts.append(response.tolist())
        return Samples(
            tokens=_ragged(tokens, torch.int64, self.device),
            response_mask=_ragged(masks, torch.bool, self.device),
            rollout_logp=_ragged(logps, torch.float32, self.device),
            completions=self.tokenizer.batch_decode(texts, skip_special_tokens=True),
            ids=ids,
        )


def _ragged(rows: list[Tensor], dtype: torch.dtype, device: torch.device) -> Ragged:
    if rows:
        return Ragged.of(rows)
    return Ragged(torch.empty(0, dtype=dtype, device=device), torch.empty(0, dtype=torch.int64, device=device))


def _stops(model: Model) -> set[int]:
    """Tokens that end a response: the tokenizer's, and what the model's generation settings add."""
    configured = model.scorer.model.generation_config
    found = [] if configured is None or configured.eos_token_id is None else configured.eos_token_id
    listed = found if isinstance(found, list) else [found]
    own = model.tokenizer.eos_token_id
    return {*listed} | (set() if own is None else {own})
