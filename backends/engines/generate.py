"""Sampling with a KV cache: prompts prefilled once, as prefix trees; then one token a step for all unfinished rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rldsl.backends.data.batch import Ragged
from rldsl.backends.engines import sources
from rldsl.backends.engines.cache import DecodeCache, PromptCache
from rldsl.backends.engines.draw import SamplingOp, draw, uniforms
from rldsl.backends.engines.model import Model, published, whole_module
from rldsl.backends.engines.module import Scorer
from rldsl.backends.engines.packing import PACK_TOKENS, Ints, Layout, group, pack
from rldsl.backends.engines.score import budget
from rldsl.compiler.ops import ExtendOp, GenerateOp
from rldsl.diagnostics import fail

# Keys and values of the rows that are decoded together take at most this much; more rows wait.
KV_BYTES = 4 << 30
# Rows are moved together once this part of them has finished: moving costs about what two finished rows cost a step.
COMPACT_BELOW = 0.75
# Of a text that is too long, so many characters are shown.
_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a rollout has sampled: `rows` responses of `tokens` tokens together, `cut` of them without an end token.

    `surprise` is the sum of the tokens' negative log-probs, in nats.
    """

    rows: int = 0
    tokens: int = 0
    cut: int = 0
    surprise: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Sampled rows: whole sequences, the responses' mask and log-probs (0 elsewhere), the last responses' texts.

    `ids` i64 of `generate`: prompt id * n + k, prompt after prompt; of `extend`: those given. `drawn` is about what
    is new: not the rows that were done.
    """

    tokens: Ragged
    response_mask: Ragged
    rollout_logp: Ragged
    completions: list[str]
    ids: Tensor
    drawn: Drawn = Drawn()


@dataclass(frozen=True, slots=True)
class _Sequence:
    """A row or a piece of one: `tokens` i64, `mask` bool, `logp` f32, all [length]."""

    tokens: Tensor
    mask: Tensor
    logp: Tensor

    @classmethod
    def prompt(cls, tokens: Tensor) -> _Sequence:
        """Tokens that were not sampled."""
        return cls(tokens, torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.float32))

    def last_response(self) -> _Sequence:
        """The tokens sampled last, those behind the last one that was not; empty where the sequence ends with one."""
        given = (~self.mask).nonzero()
        start = int(given[-1]) + 1 if len(given) else 0
        return _Sequence(self.tokens[start:], self.mask[start:], self.logp[start:])

    def then(self, other: _Sequence) -> _Sequence:
        """This, and `other` after it."""
        pairs = ((self.tokens, other.tokens), (self.mask, other.mask), (self.logp, other.logp))
        return _Sequence(*(torch.cat(p) for p in pairs))


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

    def responses(self) -> list[_Sequence]:
        """Row by row, without what lies after the end."""
        rows = zip(self.tokens, self.logp, self.lengths.tolist(), strict=True)
        return [_Sequence(t[:n], torch.ones_like(t[:n], dtype=torch.bool), p[:n]) for t, p, n in rows]


class Sampler:
    """The generation engine of one policy model."""

    def __init__(self, model: Model, *, seed: int, staleness: int = 0) -> None:
        self.seed, self.name, self.tokenizer = seed, model.spec.name, model.tokenizer
        # Older weights than the model has must be held apart from it.
        self.own_copy = model.sharded or staleness > 0
        self.device = model.comm.device
        self.literal = model.spec.source == sources.SCRATCH
        self.stops = _stops(model)
        self.scorer = model.scorer
        if self.own_copy:
            self.sync(model)

    def sync(self, model: Model, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Take the weights as trained so far. Collective when the model is sharded.

        Sharded ones are gathered; a sampler of staleness 1 copies them, and any other shares the model's own. A copy is
        written over, one weight after the other. `weights` are those of `model.each_weight` in its own dtype, for
        callers that look at each.
        """
        if not self.own_copy:
            deque(weights or (), maxlen=0)
            self.scorer = model.scorer
            return
        each = model.each_weight(dtype=model.dtype) if weights is None else weights
        if self.scorer is not model.scorer:
            self.renew(each)
            return
        with torch.no_grad():
            found = {name: w if model.sharded else w.clone() for name, w in each}
        module = whole_module(model.scorer.model, found).requires_grad_(False)
        self.scorer = Scorer(module, kind=model.spec.kind, name=self.name)

    @torch.no_grad()
    def renew(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Write `weights`, those of `each_weight` of its model in its own dtype, over its own; it shares no model's."""
        assert self.own_copy, "what shares the model's weights has them already"
        places = self.places()
        for name, weight in weights:
            given, place = next(places)
            assert name == given, "both ends of a transfer name their weights alike"
            place.copy_(weight)
            del weight  # or the next would be gathered beside it
        assert next(places, None) is None, "every weight is renewed"

    def places(self) -> Iterator[tuple[str, Tensor]]:
        """Its own weights, by the names of `each_weight`, to be written over by those of a model on other ranks."""
        return ((published(name), place) for name, place in self.scorer.named_parameters())

    @torch.inference_mode()
    def generate(self, prompts: list[str], prompt_ids: Tensor, op: GenerateOp, *, step: int) -> Samples:
        """Sample `op.n` responses to each prompt; a response ends with an end token, or after `op.max_new_tokens`.

        Prompts of sample rows keep their ids, as `op.n` is 1. Draws depend on the seed, the node of `op`, `step` and
        sample ids alone. RL0605 for a prompt with characters that a scratch model's alphabet lacks, RL0608 for one
        that leaves no room, RL0612 for one above the op's limit.
        """
        ids = (prompt_ids.cpu()[:, None] * op.n + torch.arange(op.n)).flatten()
        encoded = [self._encode(p) for p in prompts]
        for row, (tokens, text) in enumerate(zip(encoded, prompts, strict=True)):
            self._check_limit(tokens, text, op, f"prompt {int(prompt_ids[row])}")
        before = [_Sequence.prompt(torch.from_numpy(e).to(self.device)) for e in encoded for _ in range(op.n)]
        made = self._sample(encoded, ids, op.n, op, step)
        rows = [a.then(b) for a, b in zip(before, made, strict=True)]
        return self._samples(rows, made, ids, self._drawn(made, op))

    @torch.inference_mode()
    def extend(
        self,
        tokens: Ragged,
        response_mask: Ragged,
        rollout_logp: Ragged,
        observations: list[str],
        done: Tensor | None,
        ids: Tensor,
        op: ExtendOp,
        *,
        step: int,
    ) -> Samples:
        """Append each observation's tokens to its sequence and sample a further response.

        Tokens that are there stay, whatever the tokenizer would make of their text. Rows where `done` bool[rows]
        stay as they are; their completion is the response that they end with. Draws depend on the seed, the node of
        `op`, `step` and `ids` i64[rows] alone. Errors as `generate` has them.
        """
        ids = ids.cpu()
        going = torch.ones(len(ids), dtype=torch.bool) if done is None else ~done.cpu()
        chosen = going.nonzero()[:, 0].tolist()
        columns = (c.to(self.device).rows() for c in (tokens, response_mask, rollout_logp))
        before = [_Sequence(*row) for row in zip(*columns, strict=True)]
        for i in chosen:
            added = self._tokenize(observations[i], "an observation")
            self._check_limit(added, observations[i], op, f"the observation of sample {int(ids[i])}")
            before[i] = before[i].then(_Sequence.prompt(torch.from_numpy(added).to(self.device)))
        prefixes = [before[i].tokens.cpu().numpy() for i in chosen]
        made = self._sample(prefixes, ids[going], 1, op, step)
        sampled = dict(zip(chosen, made, strict=True))
        rows = [each.then(sampled[i]) if i in sampled else each for i, each in enumerate(before)]
        responses = [sampled.get(i, each.last_response()) for i, each in enumerate(before)]
        return self._samples(rows, responses, ids, self._drawn(made, op))

    def _check_limit(self, tokens: Ints, text: str, op: SamplingOp, what: str) -> None:
        """RL0612 for more tokens than the plan's memory has been planned for."""
        if op.max_prompt_tokens and len(tokens) > op.max_prompt_tokens:
            fail(
                "RL0612",
                f"`{op.node or op.id}`: {what} has {len(tokens)} tokens, over the limit of {op.max_prompt_tokens}",
                found=repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."),
                fix="raise `max_prompt_tokens`, or leave such rows out",
            )

    def _encode(self, prompt: str) -> Ints:
        tokenizer = self.tokenizer
        if tokenizer.chat_template is not None:
            message = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            assert isinstance(text, str)
            found = self._tokenize(text, "a prompt")
        else:
            begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            found = np.concatenate((np.array(begin, np.int64), self._tokenize(prompt, "a prompt")))
        if not len(found):
            fail(
                "RL0605", f"model `{self.name}`: a prompt has no tokens", found=repr(prompt), fix="leave such rows out"
            )
        return found

    def _tokenize(self, text: str, what: str) -> Ints:
        """The tokens of `text` as it stands."""
        found = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.literal and self.tokenizer.unk_token_id in found:
            unknown = next(c for c in text if c not in self.tokenizer.get_vocab())
            fail(
                "RL0605",
                f"model `{self.name}`: its alphabet has no `{unknown}`, which {what} has",
                found=repr(text),
                fix="list every character of prompts, answers and observations in the `alphabet` of `scratch`",
            )
        return np.array(found, np.int64)

    def _sample(self, prompts: list[Ints], ids: Tensor, n: int, op: SamplingOp, step: int) -> list[_Sequence]:
        """The responses to each prompt, `n` a prompt; `ids` are the samples'."""
        draws = uniforms(self.seed, op.node or op.id, step, ids, op.max_new_tokens).to(self.device)
        columns = max((len(p) for p in prompts), default=0) + op.max_new_tokens
        self.scorer.check_length(columns)
        made: list[_Sequence] = []
        for a, b in self._waves(len(prompts), columns, n):
            made += self._wave(prompts[a:b], draws[a * n : b * n], n, op).responses()
        return made

    def _waves(self, prompts: int, columns: int, n: int) -> Iterator[tuple[int, int]]:
        config = self.scorer.model.config.get_text_config()
        heads = config.num_attention_heads // self.scorer.queries_per_key
        # Heads may be wider than their share of the states, as in Qwen3.
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
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

    def _wave(self, prompts: list[Ints], draws: Tensor, n: int, op: SamplingOp) -> _Rows:
        """Decode the samples of some prompts together."""
        width = max(len(p) for p in prompts)
        # The last token that is sampled is never fed back.
        cache, logits, lengths, padding = self._prefill(prompts, width + op.max_new_tokens - 1, n)
        logits = logits.repeat_interleave(n, 0)
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

    def _drawn(self, made: Sequence[_Sequence], op: SamplingOp) -> Drawn:
        if not made:
            return Drawn()
        full = [r.tokens[-1] for r in made if len(r.tokens) == op.max_new_tokens]
        stops = torch.tensor(sorted(self.stops), device=self.device)
        cut = int((~torch.isin(torch.stack(full), stops)).sum()) if full else 0
        logp = torch.cat([r.logp for r in made])
        return Drawn(rows=len(made), tokens=len(logp), cut=cut, surprise=-float(logp.double().sum()))

    def _samples(self, rows: Sequence[_Sequence], responses: Sequence[_Sequence], ids: Tensor, drawn: Drawn) -> Samples:
        return Samples(
            tokens=_ragged([r.tokens for r in rows], torch.int64, self.device),
            response_mask=_ragged([r.mask for r in rows], torch.bool, self.device),
            rollout_logp=_ragged([r.logp for r in rows], torch.float32, self.device),
            completions=[self._text(r) for r in responses],
            ids=ids,
            drawn=drawn,
        )

    def _text(self, response: _Sequence) -> str:
        # Row by row: of no rows at all transformers makes one text.
        made = self.tokenizer.decode(response.tokens.tolist(), skip_special_tokens=True)
        assert isinstance(made, str)
        return made


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
