"""A random right algorithm of any size, as text, drawn from a seed: what a compiler's speed is measured with.

Forward passes, scores, advantages and returns are joined at random, most of them near by and some across the whole
graph, some under a condition; whatever nothing reads is put into the log, so that no node is dead.
"""

from __future__ import annotations

import random
from collections import Counter

HEAD = """\
algorithm random_graph {
  param kl_coef : float = 0.1
  param on : bool = false
  model actor : policy = scratch(; alphabet = "01")
  model rival : policy = scratch(; alphabet = "01", seed = 1)
  model reference : policy = frozen actor
  model critic : value = copy actor
  model judge : reward = scratch(; alphabet = "01", seed = 2)
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
"""
NEAR = 12  # how many of the last fields of a kind are read as a rule
ROLLOUT_EVERY = 50


class RandomGraph:
    """Writes about `count` nodes; `text` is the algorithm, `kinds` how many nodes of each kind it has."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.lines: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.unread: dict[str, None] = {}
        self._rollout()
        while len(self.lines) + len(self.unread) < count - 2:
            self._grow()
        self._finish()
        self.text = HEAD + "".join(f"  {line}\n" for line in self.lines) + "}\n"

    def _rollout(self) -> None:
        """Samples of one policy, and all that is made of them."""
        self.rows = k = len(self.lines)
        self.scores, self.values, self.maybe = [f"score{k}"], [f"logp{k}"], [""]
        model = self.draw.choice(("actor", "rival"))
        self._node(
            f"{model}.generate(prompts; n = 4, max_new_tokens = 4)",
            f"tokens{k}, mask{k}, logp{k}, text{k}",
        )
        self._node(f"compute exact_match(text{k}, answers)", f"score{k}")

    def _node(self, call: str, outputs: str = "", tail: str = "") -> None:
        self.kinds[call.partition("(")[0].removeprefix("compute ")] += 1
        self.lines.append(f"node n{len(self.lines)} = {call}{f' -> {outputs}' if outputs else ''}{tail}")

    def _made(self, call: str, tail: str = "") -> str:
        field = f"f{len(self.lines)}"
        self._node(call, field, tail)
        self.unread[field] = None
        return field

    def _one(self, fields: list[str]) -> str:
        """One of them, which is then read."""
        near = fields[-NEAR:] if self.draw.random() < 0.9 else fields
        field = self.draw.choice([f for f in near if f in self.unread] or near)
        self.unread.pop(field, None)
        return field

    def _grow(self) -> None:
        """One node more, or two."""
        if len(self.lines) - self.rows > ROLLOUT_EVERY and self.draw.random() < 0.1:
            self._train()
            self._rollout()
        makers = (self._join, self._join, self._advantage, self._baseline, self._forward, self._shape, self._returns)
        self.draw.choice(makers)()

    def _join(self) -> None:
        self.scores.append(self._made(f"compute sum_scores({self._one(self.scores)}, {self._one(self.scores)})"))

    def _advantage(self) -> None:
        function = self.draw.choice(("group_advantage", "rloo_advantage"))
        self.scores.append(self._made(f"compute {function}({self._one(self.scores)})"))

    def _baseline(self) -> None:
        mean = self._made(f"compute group_mean({self._one(self.scores)})")
        self.unread.pop(mean)
        self.scores.append(self._made(f"compute baseline_advantage({self._one(self.scores)}, {mean})"))

    def _forward(self) -> None:
        rows = f"(tokens{self.rows}, mask{self.rows}"
        match self.draw.randrange(4):
            case 0:
                self.scores.append(self._made(f"judge.score{rows})"))
            case 1:
                tail = self.draw.choice((" when kl_coef > 0", " when on"))
                heat = self.draw.choice((0.5, 1.0, 2.0))
                self.maybe.append(self._made(f"reference.logprob{rows}; temperature = {heat})", tail))
            case 2:
                self.values.append(self._made(f"actor.logprob{rows}; temperature = {self.draw.uniform(0.5, 2):.3f})"))
            case _:
                self.values.append(self._made(f"critic.value{rows})"))

    def _shape(self) -> None:
        ref = self._one(self.maybe)
        fields = f"{self._one(self.scores)}, mask{self.rows}, {self._one(self.values)}{f', {ref}?' if ref else ''}"
        self.values.append(self._made(f"compute kl_penalty({fields}; kl_coef)"))

    def _returns(self) -> None:
        fields = f"{self._one(self.values)}, mask{self.rows}; gamma = {self.draw.uniform(0.5, 1):.3f}"
        self.values.append(self._made(f"compute discounted_returns({fields})"))

    def _train(self) -> None:
        k = self.rows
        fields = f"tokens{k}, mask{k}, old_logp = logp{k}, advantages = {self._one(self.scores)}"
        self._node(f"actor.train policy_loss({fields})", tail=" with lr = 0.001")

    def _finish(self) -> None:
        self._train()
        for field in self.unread:
            self.kinds["metric"] += 1
            self.lines.append(f"metric m{len(self.lines)} = mean({field})")
