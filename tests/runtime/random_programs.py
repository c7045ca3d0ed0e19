"""Random programs to be run: small models, rows made on the fly, every kind of node, drawn from a seed.

What is drawn is well conditioned: spreads within groups and filters are taken of exact numbers (of texts and lengths),
so that a rounding decides nothing.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
SHAPE = 'alphabet = "0123=", hidden = 16, layers = 1, heads = 2'
MINE = '''"""Functions of every kind: of a row, of a batch, of groups, of prompts, summing over ranks; and a loss."""

import torch

import rldsl as rl


def overlap(completions: str, answers: str) -> float:
    return sum(c in answers for c in completions) / (1 + len(completions))


def ask(completions: str, answers: str) -> tuple[str, bool]:
    right = answers[0] in completions
    return ("" if right else "=0", right)


def follow(prompts: str, completions: str) -> str:
    return prompts + completions[:3]


def reversed_text(answers: str) -> str:
    return answers[::-1]


def size(answers: str) -> float:
    return len(answers) + 0.5


def count(completions: rl.Text) -> rl.PerSample:
    return torch.tensor([len(t) / 4 for t in completions])


def best(score: rl.PerSample, *, group: int) -> rl.PerPrompt:
    return score.view(-1, group).amax(1)


def differ(score: rl.PerSample, *, group: int) -> rl.PromptFlag:
    rows = score.view(-1, group)
    return rows.amax(1) > rows.amin(1)


def above(score: rl.PerSample, *, least: float = 0.3) -> rl.SampleFlag:
    return score > least


def centred(score: rl.PerSample, *, reduce: rl.Reduce) -> rl.PerSample:
    total = reduce(torch.stack((score.double().sum(), torch.tensor(float(len(score)), dtype=torch.float64))))
    return (score - total[0] / total[1].clamp(min=1)).float()


def spread_out(score: rl.PerSample, response_mask: rl.Mask, values: rl.PerToken | None = None) -> rl.PerToken:
    whole = score[:, None] * response_mask
    return whole if values is None else whole + 0.5 * values * response_mask


def same(tokens: rl.TokenIds) -> rl.TokenIds:
    return tokens.clone()


def averaged(values: rl.PerToken, response_mask: rl.Mask) -> rl.PerSample:
    return (values * response_mask).sum(1) / response_mask.sum(1).clamp(min=1)


def cubed_loss(logp: rl.PerToken, response_mask: rl.Mask, advantages: rl.PerSample, *, power: float = 0.1) -> rl.TokenLoss:
    return rl.TokenLoss(-advantages[:, None] * logp + power * logp**2, {"likely": logp.detach().exp()})
'''


@dataclass
class Rows:
    """What there is of one rollout, names by kind; `prompts` are the fields of prompts that its rows go with."""

    n: int
    batch: int
    tokens: str
    mask: str
    logp: str
    text: str
    prompts: tuple[str, str] | None
    exact: list[str] = field(default_factory=list)  # f32[sample] of texts and lengths
    scores: list[str] = field(default_factory=list)  # f32[sample], also of models
    means: list[str] = field(default_factory=list)  # f32[prompt]
    values: list[str] = field(default_factory=list)  # f32[sample, token]
    old: list[str] = field(default_factory=list)  # log-probs by policies
    maybe: list[str] = field(default_factory=list)  # log-probs under a condition


class Maker:
    """Writes one program, statement by statement, and knows what each may read.

    With `fits` every batch and minibatch is a multiple of it, so that the program runs on any number of ranks that
    divides it.
    """

    def __init__(self, seed: int, *, fits: int = 1) -> None:
        self.draw, self.fits = random.Random(seed), fits
        self.lines: list[str] = []
        self.number = 0
        self.n, self.batch = self.one(1, 2, 2, 4), self.one(*self.fitting(8, 8, 16, 24))
        self.policies = ["actor"]

    def one(self, *choices: T) -> T:
        return self.draw.choice(choices)

    def now_and_then(self, out_of: int = 3) -> bool:
        return self.draw.randrange(out_of) == 0

    def fitting(self, *batches: int) -> list[int]:
        """As they are, or the least batch that fits and twice that."""
        return list(batches) if self.fits == 1 else [self.fits, self.fits, 2 * self.fits]

    def name(self, stem: str) -> str:
        self.number += 1
        return f"{stem}{self.number}"

    def put(self, call: str, *outputs: str, tail: str = "") -> None:
        """A node, now and then after another of the same block that it does not read."""
        name, arrow = self.name("n"), f" -> {', '.join(outputs)}" if outputs else ""
        before = [line.split()[1] for line in self.lines if line.startswith("node ") and ".train" not in line]
        after = f" after {self.one(*before)}" if before and self.now_and_then(10) else ""
        self.lines.append(f"node {name} = {call}{arrow}{tail}{after}")

    def made(self, call: str, tail: str = "") -> str:
        """The field that a call makes; now and then it is called twice."""
        result = self.name("f")
        if self.now_and_then(6) and not tail:
            self.put(call, self.name("f"))
        self.put(call, result, tail=tail)
        return result

    def compute(self, function: str, *fields: str, settings: str = "", tail: str = "") -> str:
        return self.made(f"compute {function}({', '.join(fields)}{f'; {settings}' if settings else ''})", tail)

    # Declarations

    def head(self) -> None:
        second = self.one("copy actor", f"scratch(; {SHAPE}, seed = 1)")
        self.lines += [
            f"param group : int = {self.n}",
            f"param kl_coef : float = {self.one('0.0', '0.1')}",
            f"param on : bool = {self.one('true', 'false')}",
            f"param seed : int = {self.draw.randrange(100)}",
            f"model actor : policy = scratch(; {SHAPE}){self.one('', '', '', ' with lora_rank = 2')}",
            f"model rival : policy = {second}",
            f"model reference : policy = frozen {self.one('actor', f'scratch(; {SHAPE}, seed = 2)')}",
            f"model critic : value = {self.one('copy actor', 'shared actor', f'scratch(; {SHAPE}, seed = 3)')}",
            f"model judge : reward = scratch(; {SHAPE}, seed = 4)",
            self.inputs("prompts", "answers", self.batch, self.one("true", "false")),
        ]
        if self.now_and_then(2):
            self.policies.append("rival")

    def inputs(self, prompts: str, answers: str, batch: int, shuffle: str) -> str:
        columns = f'{prompts}_column = "prompts", {answers}_column = "answers", shuffle = {shuffle}'
        return f'input {prompts}, {answers} : text[prompt] = jsonl("rows.jsonl"; {columns}) with batch = {batch}'

    # Rows

    def sampled(self, call: str, rows: Rows) -> Rows:
        made = [self.name(s) for s in ("tokens", "mask", "logp", "text")]
        self.put(call, *made)
        tokens, mask, logp, text = made
        return replace(rows, tokens=tokens, mask=mask, logp=logp, text=text)

    def rollout(self, prompts: tuple[str, str] = ("prompts", "answers"), batch: int = 0, *, late: bool = True) -> Rows:
        stale = ", staleness = 1" if late and self.now_and_then(4) else ""
        count, n = self.one(("group", self.n), (str(self.n), self.n), ("1", 1))
        how = self.one("", "", ", temperature = 0.7", ", top_k = 3", ", top_p = 0.8")
        call = f"{self.one(*self.policies)}.generate({prompts[0]}; n = {count}, max_new_tokens = {self.one(3, 5)}{how}{stale})"
        return self.sampled(call, Rows(n, batch or self.batch, "", "", "", "", prompts))

    def greedy(self) -> str:
        """A number a prompt: what the greedy answer is worth; now and then taken twice."""
        call = f"{self.one(*self.policies)}.generate(prompts; temperature = 0.0, max_new_tokens = 4)"
        for _ in range(self.one(1, 1, 2)):
            rows = self.sampled(call, Rows(1, self.batch, "", "", "", "", ("prompts", "answers")))
            mean = self.compute("group_mean", self.compute("overlap", rows.text, "answers"))
        return mean

    def answered(self, rows: Rows) -> Rows:
        """Further samples, one to each of `rows`."""
        assert rows.prompts is not None
        said = self.compute("follow", rows.prompts[0], f"completions = {rows.text}")
        call = f"{self.one(*self.policies)}.generate({said}; max_new_tokens = 3)"
        return self.sampled(call, Rows(rows.n, rows.batch, "", "", "", "", rows.prompts, list(rows.exact)))

    # Numbers

    def exact(self, rows: Rows) -> str:
        if not rows.exact:
            self.reward(rows)
        return self.one(*rows.exact)

    def score(self, rows: Rows) -> str:
        return self.one(self.exact(rows), *rows.exact, *rows.scores)

    def reward(self, rows: Rows) -> None:
        kinds = ["overlong"] + (["char", "overlap"] if rows.prompts and rows.text else []) + ["count"] * bool(rows.text)
        answers = rows.prompts[1] if rows.prompts else ""
        match self.one(*kinds):
            case "overlong":
                made = self.compute("overlong_penalty", rows.mask, settings="limit = 4, buffer = 3")
            case "count":
                made = self.compute("count", rows.text)
            case "char":
                made = self.compute("char_accuracy", f"completions = {rows.text}", f"answers = {answers}")
            case _:
                made = self.compute("overlap", rows.text, answers)
        rows.exact.append(made)

    def grow(self, rows: Rows) -> None:
        """One more node, or two, on `rows`."""
        makers = (self.reward, self.joined, self.grouped, self.judged, self.by_prompt, self.passed, self.per_token)
        self.one(*makers)(rows)

    def joined(self, rows: Rows) -> None:
        rows.exact.append(self.compute("sum_scores", self.exact(rows), self.exact(rows)))
        rows.scores.append(self.compute("centred", self.score(rows)))

    def grouped(self, rows: Rows) -> None:
        setting = self.one("", f"group = {rows.n}", "scale = false")
        rows.scores.append(self.compute("group_advantage", self.exact(rows), settings=setting))
        if rows.n > 1:
            rows.scores.append(self.compute("rloo_advantage", self.score(rows)))

    def judged(self, rows: Rows) -> None:
        rows.scores.append(self.made(f"judge.score({rows.tokens}, {rows.mask})"))

    def by_prompt(self, rows: Rows) -> None:
        function = self.one("group_mean", "best")
        rows.means.append(self.compute(function, self.score(rows)))
        if rows.prompts and rows.prompts[0] == "prompts" and self.now_and_then():
            rows.means.append(self.greedy())
        if rows.prompts and self.now_and_then():
            rows.means.append(self.compute("size", self.compute("reversed_text", rows.prompts[1])))
        rows.scores.append(self.compute("baseline_advantage", self.score(rows), self.one(*rows.means)))

    def passed(self, rows: Rows) -> None:
        """Forward passes."""
        tail = self.one("", "", " when kl_coef > 0", " when on")
        model, settings = self.one(*self.policies, "reference"), self.one("", "", "; temperature = 0.7")
        made = self.made(f"{model}.logprob({rows.tokens}, {rows.mask}{settings})", tail)
        (rows.maybe if tail else rows.old).append(made)
        if self.now_and_then(2):
            rows.values.append(self.made(f"critic.value({rows.tokens}, {rows.mask})"))

    def per_token(self, rows: Rows) -> None:
        ref = [f"{self.one(*rows.maybe)}?"] if rows.maybe and self.now_and_then(2) else []
        match self.one("shaped", "gae", "returns", "spread", "averaged"):
            case "spread":
                optional = [f"values = {f}" for f in ref]
                rows.values.append(self.compute("spread_out", self.score(rows), rows.mask, *optional))
            case "averaged":
                rows.scores.append(self.compute("averaged", self.one(rows.logp, *rows.values), rows.mask))
            case kind:
                old = self.one(rows.logp, *rows.old)
                rewards = self.compute("kl_penalty", self.score(rows), rows.mask, old, *ref, settings="kl_coef")
                rows.values += [rewards, *self.returns(kind, rewards, rows)]

    def returns(self, kind: str, rewards: str, rows: Rows) -> list[str]:
        if kind == "returns":
            settings = self.one("whiten = false", "gamma = 0.9")
            return [self.compute("discounted_returns", rewards, rows.mask, settings=settings)]
        if kind == "shaped":
            return []
        made, values = [self.name("f"), self.name("f")], self.made(f"critic.value({rows.tokens}, {rows.mask})")
        self.put(
            f"compute gae({rewards}, {values}, response_mask = {rows.mask}; lam = {self.one('0.9', '1.0')})", *made
        )
        return made

    # Blocks

    def block(self, head: str, body: list[str]) -> None:
        self.lines += [f"{head} {{", *(f"  {line}" for line in body), "}"]

    def dialogue(self, rows: Rows) -> Rows:
        """Turns that go on from `rows`, or none."""
        said, outer = self.name("said"), self.lines
        self.lines = []
        observation, done = self.name("f"), self.name("f")
        self.put(f"compute ask({rows.text}, answers)", observation, done)
        sequence = [rows.tokens, rows.mask, rows.logp]
        late = self.one("", "", ", staleness = 1")
        call = (
            f"{self.one(*self.policies)}.extend({', '.join(sequence)}, {observation}, {done}; max_new_tokens = 2{late})"
        )
        self.put(call, *sequence, said)
        self.put(f"compute last_said({rows.text}, {said}, {done})", rows.text)
        if self.now_and_then(2):
            self.lines.append(f"metric {self.name('m')} = sum({done})")
        body, self.lines = self.lines, outer
        carried = ", ".join([*sequence, rows.text])
        self.block(f"loop {self.name('talk')} max {self.one('0', '1', '2', '3')} carry {carried}", body)
        return replace(rows, exact=[], scores=[], means=[], values=[], old=[], maybe=[])

    def collected(self) -> Rows:
        """Rows of the prompts that a filter keeps."""
        outer, self.lines = self.lines, []
        rows = self.rollout(late=False)
        for _ in range(self.draw.randrange(3)):
            self.grow(replace(rows, maybe=[]))
        flag, score = self.compute(self.one("has_spread", "differ"), self.exact(rows)), self.exact(rows)
        kept_answers = self.compute("reversed_text", "answers")
        self.report(rows)
        body, self.lines = self.lines, outer
        until = self.one(self.batch, self.batch, self.fitting(8)[0])
        kept = ", ".join([rows.tokens, rows.mask, rows.logp, rows.text, score, kept_answers])
        head = f"loop {self.name('keep')} max {self.draw.randint(1, 3)} collect {kept} where {flag} until {until}"
        self.block(head, body)
        prompts = (kept_answers, kept_answers)
        return Rows(rows.n, until, rows.tokens, rows.mask, rows.logp, rows.text, prompts, exact=[score])

    def validation(self) -> None:
        prompts, batch = (self.name("prompts"), self.name("answers")), self.one(*self.fitting(8, 24))
        outer, self.lines = self.lines, []
        self.lines.append(self.inputs(*prompts, batch, "true"))
        rows = self.rollout(prompts, batch, late=self.now_and_then(2))
        self.lines.append(f"metric {self.name('m')} = mean({self.score(rows)})")
        self.report(rows)
        body, self.lines = self.lines, outer
        self.block(f"validate {self.name('test')} every {self.one(1, 2, 10)}", body)

    def report(self, rows: Rows) -> None:
        kind = self.one("mean", "std", "min", "max", "sum")
        match self.draw.randrange(5):
            case 0:
                self.lines.append(f"metric {self.name('m')} = {kind}({self.one(self.score(rows), *rows.means)})")
            case 1:
                fields = f"{self.one(rows.logp, *rows.values)}, {rows.mask}"
                self.lines.append(f"metric {self.name('m')} = {kind}({fields}){self.one('', ' when on')}")
            case 2 if rows.maybe:
                self.lines.append(f"metric {self.name('m')} = {kind}({self.one(*rows.maybe)})")
            case 3:
                shown = dict.fromkeys([rows.text, self.score(rows), *rows.means[:1], *rows.values[:1], rows.tokens])
                self.lines.append(f"output {self.name('o')} = {', '.join(f for f in shown if f)}")
            case _:
                pass

    # Training

    def train(self, rows: Rows) -> None:
        """One training on `rows`: of a policy, or of the critic."""
        sizes = [m for m in (rows.batch // 2, rows.batch // 3, 8) if m and rows.batch % m == m % self.fits == 0]
        minibatch = f", minibatch = {self.one(*sizes)}" if sizes and self.now_and_then(2) else ""
        more = self.one(
            "", "", ", weight_decay = 0.1", ", micro_batch_tokens = 40", ", max_grad_norm = 0.1", ", epochs = 2"
        )
        aggregate = self.one("token_mean", "token_mean", "sequence_mean", "sequence_sum")
        tail = self.one("", "", "", "", " when on")
        if self.now_and_then(8):
            rows = replace(rows, tokens=self.compute("same", rows.tokens))
        tokens = f"{rows.tokens}, {rows.mask}"
        if rows.values and self.now_and_then():
            values = self.made(f"critic.value({tokens})")
            call = f"critic.train value_loss({tokens}, {values}, returns = {self.one(*rows.values)})"
        else:
            call = f"{self.one(*self.policies)}.train {self.loss(rows, tokens)}"
        self.put(f'{call} with lr = 0.002, aggregate = "{aggregate}"{minibatch}{more}{tail}')

    def loss(self, rows: Rows, tokens: str) -> str:
        score = self.score(rows)
        match self.one("policy_loss", "policy_loss", "policy_loss", "gspo_loss", "reinforce_loss", "cubed_loss"):
            case "reinforce_loss":
                return f"reinforce_loss({tokens}, advantages = {self.one(score, *rows.values)})"
            case "gspo_loss":
                return f"gspo_loss({tokens}, {self.old(rows)}, advantages = {score}; clip = 0.1, clip_high = 0.1)"
            case "cubed_loss":
                return f"cubed_loss({tokens}, advantages = {score}; power = 0.2)"
            case _:
                ref = f", ref_logp = {self.one(*rows.maybe)}?" if rows.maybe and self.now_and_then(2) else ""
                sampled = self.one("", f", rollout_logp = {rows.logp}")
                advantages = f"advantages = {self.one(score, score, *rows.values)}"
                return f"policy_loss({tokens}, old_logp = {self.old(rows)}, {advantages}{sampled}{ref}; kl_coef)"

    def old(self, rows: Rows) -> str:
        """Log-probs to compare with: those of the sampler, or of a policy that comes afresh."""
        if self.now_and_then(2):
            rows.old.append(self.made(f"{self.one(*self.policies)}.logprob({rows.tokens}, {rows.mask})"))
        return self.one(rows.logp, *rows.old[-1:])

    def program(self) -> str:
        """The text."""
        self.head()
        sets = [self.collected() if self.now_and_then(4) else self.rollout() for _ in range(self.one(1, 1, 2))]
        if self.now_and_then(4):
            sets.append(self.answered(sets[0]))
        sets = [self.dialogue(r) if r.batch == self.batch and self.now_and_then(4) and own(r) else r for r in sets]
        for rows in sets:
            for _ in range(self.draw.randrange(1, 6)):
                self.grow(rows)
            self.report(rows)
        for _ in range(self.one(1, 1, 2, 3)):
            self.train(self.one(*sets))
        if self.now_and_then(4):
            self.validation()
        indented = "".join(f"  {line}\n" for line in self.lines)
        return f'use "mine.py"\nalgorithm random {{\n{indented}}}\n'


def own(rows: Rows) -> bool:
    """Whether they are samples of the step's own prompts."""
    return rows.prompts == ("prompts", "answers")


def write(folder: Path, text: str) -> Path:
    """The program in a folder of its own, with the functions and rows that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text(MINE)
    rows = [
        {"prompts": f"{i % 4}{i // 4 % 4}=", "answers": f"{i % 4}{i % 3}{i // 4 % 4}"[: 1 + i % 3]} for i in range(50)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (folder / "program.rl").write_text(text)
    return folder / "program.rl"
