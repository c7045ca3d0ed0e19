"""Random correct programs, as text: they compile without an error, and a small engine could run them.

Rewards, advantages and log-probs are chained and joined at random (diamonds), on one rollout or several, of one policy or
two, inside loops and outside; some of it under a condition, some of it read by nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
ALPHABET = 'alphabet = "01=", hidden = 8, layers = 1'


@dataclass
class Rows:
    """What there is of one rollout: names by kind. `own` are the fields of prompts that its rows go with."""

    n: int
    tokens: str
    mask: str
    logp: str
    text: str
    prompts: tuple[str, str] | None
    scores: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)  # a number a token
    flags: list[str] = field(default_factory=list)  # a truth value a prompt
    old: list[str] = field(default_factory=list)  # log-probs by the policy
    maybe: list[str] = field(default_factory=list)  # log-probs under a condition


class Maker:
    """Draws one program, statement by statement, and knows what each may read."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.body: list[str] = []  # of the algorithm
        self.lines = self.body  # of the block being written
        self.count = 0
        self.nodes: list[str] = []  # ids that `after` may name: no trainings
        self.n, self.batch = self.one(1, 2, 4), self.one(2, 4, 8)
        self.policies = ["actor"]
        self.trained = False

    def one(self, *choices: T) -> T:
        return self.draw(st.sampled_from(choices))

    def often(self, out_of: int = 2) -> bool:
        """True but once in `out_of` times."""
        return self.draw(st.integers(1, out_of)) > 1

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def put(self, call: str, outputs: str = "", tail: str = "") -> None:
        """A node of a name of its own, now and then after another of the same block."""
        name = self.name("n")
        after = f" after {self.one(*self.nodes)}" if self.nodes and not self.often(8) else ""
        self.lines.append(f"node {name} = {call}{f' -> {outputs}' if outputs else ''}{tail}{after}")
        if ".train" not in call:
            self.nodes.append(name)

    def call(self, function: str, *fields: str, settings: str = "", tail: str = "") -> str:
        """A node that computes one field, whose name is returned."""
        made = self.name("f")
        self.put(f"compute {function}({', '.join(fields)}{f'; {settings}' if settings else ''})", made, tail)
        return made

    # Declarations

    def head(self) -> list[str]:
        kl, switch = self.one("0.0", "0.1"), self.one("true", "false")
        second = self.often()
        lines = [
            f"param group : int = {self.n} in [1, 64]",
            f"param batch : int = {self.batch} prompts",
            f"param kl_coef : float = {kl} in [0, )",
            f"param on : bool = {switch}",
            'param how : str = "token_mean" in {"token_mean", "sequence_mean", "sequence_sum"}',
            f"model actor : policy = scratch(; {ALPHABET}){self.one('', ' with lora_rank = 2')}",
            f"model reference : policy = {self.one('frozen actor', f'frozen scratch(; {ALPHABET})')}",
            f"model critic : value = {self.one('copy actor', 'shared actor', f'scratch(; {ALPHABET})')}",
            f"model judge : reward = scratch(; {ALPHABET})",
            'input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch',
        ]
        if second:
            self.policies.append("rival")
            lines.insert(6, f"model rival : policy = {self.one('copy actor', f'scratch(; {ALPHABET})')}")
        return lines

    # Rows

    def rollout(self, prompts: tuple[str, str] = ("prompts", "answers"), *, staleness: bool = True) -> Rows:
        """Samples of prompts."""
        tokens, mask, logp, text = (self.name(s) for s in ("tokens", "mask", "logp", "text"))
        model, temperature = self.one(*self.policies), self.one("1.0", "0.7")
        late = ", staleness = 1" if staleness and not self.often(6) else ""
        n, size = self.one(("group", self.n), (str(self.n), self.n), ("1", 1))
        settings = f"n = {n}, max_new_tokens = {self.one('3', '2 + 2')}, temperature = {temperature}{late}"
        self.put(f"{model}.generate({prompts[0]}; {settings})", f"{tokens}, {mask}, {logp}, {text}")
        return Rows(size, tokens, mask, logp, text, prompts)

    def answered(self, rows: Rows) -> Rows:
        """Further samples, one to each of `rows`: a debate."""
        assert rows.prompts is not None
        said = self.call("rebuttal", rows.prompts[0], f"completions = {rows.text}")
        tokens, mask, logp, text = (self.name(s) for s in ("tokens", "mask", "logp", "text"))
        model = self.one(*self.policies)
        self.put(f"{model}.generate({said}; max_new_tokens = 3)", f"{tokens}, {mask}, {logp}, {text}")
        return Rows(rows.n, tokens, mask, logp, text, rows.prompts, scores=list(rows.scores), flags=list(rows.flags))

    def score(self, rows: Rows) -> str:
        """A number for each sample that is there already, or a new one."""
        if not rows.scores:
            self.reward(rows)
        return self.one(*rows.scores)

    def reward(self, rows: Rows) -> None:
        kinds = ["judge", "length"] + (["match"] * 2 if rows.prompts and rows.text else [])
        match self.one(*kinds):
            case "judge":
                made = self.name("f")
                self.put(f"judge.score({rows.tokens}, {rows.mask})", made)
            case "length":
                made = self.call("overlong_penalty", rows.mask, settings="limit = 4, buffer = 2")
            case _:
                assert rows.prompts is not None
                function = self.one("exact_match", "char_accuracy")
                made = self.call(function, f"completions = {rows.text}", f"answers = {rows.prompts[1]}")
        rows.scores.append(made)

    def grow(self, rows: Rows) -> None:
        """One more node on `rows`."""
        group = self.one("", f"group = {rows.n}")
        match self.one(
            "reward", "join", "advantage", "baseline", "mean", "spread", "old", "ref", "values", "kl", "gae"
        ):
            case "reward":
                self.reward(rows)
            case "join":
                rows.scores.append(self.call("sum_scores", self.score(rows), self.score(rows)))
            case "advantage":
                function = self.one("group_advantage", *(["rloo_advantage"] if rows.n > 1 else []))
                rows.scores.append(self.call(function, self.score(rows), settings=group))
            case "baseline":
                rows.scores.append(self.call("baseline_advantage", self.score(rows), self.score(rows)))
            case "mean":
                mean = self.call("group_mean", self.score(rows), settings=group)
                rows.scores.append(self.call("baseline_advantage", self.score(rows), mean))
            case "spread":
                rows.flags.append(self.call("has_spread", self.score(rows), settings=group))
            case "old":
                rows.old.append(self.infer(self.one(*self.policies), "logprob", rows))
            case "ref":
                rows.maybe.append(self.infer("reference", "logprob", rows, " when kl_coef > 0"))
            case "values":
                rows.values.append(self.infer("critic", "value", rows))
            case "kl":
                self.shaped(rows)
            case _:
                self.returns(rows)

    def infer(self, model: str, method: str, rows: Rows, tail: str = "") -> str:
        made = self.name("f")
        self.put(f"{model}.{method}({rows.tokens}, {rows.mask})", made, tail)
        return made

    def shaped(self, rows: Rows) -> str:
        """Rewards of tokens."""
        ref = [f"{self.one(*rows.maybe)}?"] if rows.maybe and self.often() else []
        made = self.call("kl_penalty", self.score(rows), rows.mask, self.old(rows), *ref, settings="kl_coef")
        rows.values.append(made)
        return made

    def old(self, rows: Rows) -> str:
        """Log-probs of tokens that are always there."""
        return self.one(rows.logp, *rows.old)

    def returns(self, rows: Rows) -> None:
        """Advantages and returns of tokens."""
        rewards = self.shaped(rows)
        if self.often():
            rows.values.append(self.call("discounted_returns", rewards, rows.mask, settings="whiten = false"))
            return
        advantages, returns = self.name("f"), self.name("f")
        fields = f"{rewards}, {self.infer('critic', 'value', rows)}, response_mask = {rows.mask}"
        self.put(f"compute gae({fields})", f"{advantages}, {returns}")
        rows.values += [advantages, returns]

    # Blocks

    def dialogue(self, rows: Rows) -> Rows:
        """Turns that go on from `rows`, or none."""
        name, said = self.name("talk"), self.name("said")
        tokens, mask, logp, text = rows.tokens, rows.mask, rows.logp, rows.text
        outer, nodes, self.lines, self.nodes = self.lines, self.nodes, [], []
        observation, done = self.name("f"), self.name("f")
        self.put(f"compute calculator({text})", f"{observation}, {done}")
        fields = f"{tokens}, {mask}, {logp}, {observation}, {done}"
        model = self.one(*self.policies)
        self.put(f"{model}.extend({fields}; max_new_tokens = 2)", f"{tokens}, {mask}, {logp}, {said}")
        self.put(f"compute last_said({text}, {said}, {done})", text)
        if self.often():
            self.lines.append(f"metric {self.name('m')} = max({done})")
        body, self.lines, self.nodes = self.lines, outer, nodes
        head = f"loop {name} max {self.one('0', '1', '2', '1 + 2')} carry {tokens}, {mask}, {logp}, {text}"
        self.lines += [f"{head} {{", *body, "}"]
        return replace(rows, scores=[], values=[], flags=[], old=[], maybe=[])

    def collected(self) -> Rows:
        """Rows of the prompts of which a filter keeps."""
        name = self.name("keep")
        outer, nodes, self.lines, self.nodes = self.lines, self.nodes, [], []
        rows = self.rollout(staleness=False)
        for _ in range(self.draw(st.integers(0, 2))):
            self.grow(replace(rows, maybe=[]))
        flag = self.call("has_spread", self.score(rows))
        score = self.score(rows)
        body, self.lines, self.nodes = self.lines, outer, nodes
        until = self.one("", f" until {self.one(1, 2) * self.batch // 2} prompts")
        kept = f"{rows.tokens}, {rows.mask}, {rows.logp}, {score}"
        head = f"loop {name} max {self.draw(st.integers(1, 3))} collect {kept} where {flag}{until}"
        self.lines += [f"{head} {{", *body, "}"]
        return Rows(rows.n, rows.tokens, rows.mask, rows.logp, "", None, scores=[score])

    def validation(self) -> None:
        """A block beside the training."""
        name = self.name("test")
        prompts = (self.name("prompts"), self.name("answers"))
        outer, nodes, self.lines, self.nodes = self.lines, self.nodes, [], []
        self.lines.append(f'input {", ".join(prompts)} : text[prompt] = jsonl("rows.jsonl") with batch = 4')
        rows = self.rollout(prompts, staleness=False)
        self.lines.append(f"metric {self.name('m')} = mean({self.score(rows)})")
        self.report(rows)
        body, self.lines, self.nodes = self.lines, outer, nodes
        self.lines += [f"validate {name} every {self.one(1, 3, 10)} {{", *body, "}"]

    def report(self, rows: Rows) -> None:
        """Metrics and outputs."""
        kind = self.one("mean", "std", "min", "max", "sum")
        match self.draw(st.integers(0, 4)):
            case 0:
                self.lines.append(f"metric {self.name('m')} = {kind}({self.score(rows)})")
            case 1:
                fields = f"{self.one(rows.logp, *rows.values)}, {rows.mask}"
                self.lines.append(f"metric {self.name('m')} = {kind}({fields}){self.one('', ' when on')}")
            case 2 if rows.maybe:
                self.lines.append(f"metric {self.name('m')} = {kind}({self.one(*rows.maybe)}, {rows.mask})")
            case 3:
                texts = [f for f in (rows.text, *(rows.prompts or ())) if f]
                fields = ", ".join(dict.fromkeys([*texts, self.score(rows)]))
                self.lines.append(f"output {self.name('o')} = {fields} with every = {self.one(1, 2)}")
            case _:
                pass

    # Training

    def train(self, rows: Rows, tail: str = "") -> None:
        """One training on `rows`: of a policy, or of the critic."""
        size = self.batch if rows.prompts else 0
        minibatch = f", minibatch = {self.one(size, size // 2)}" if size and self.often() else ""
        options = f"with lr = 0.001, epochs = {self.one(1, 2)}, aggregate = how{minibatch}{tail}"
        tokens = f"{rows.tokens}, {rows.mask}"
        if rows.values and not self.often(3):
            values = self.infer("critic", "value", rows)
            call = f"critic.train value_loss({tokens}, {values}, returns = {self.one(*rows.values)})"
        else:
            call = f"{self.one(*self.policies)}.train {self.loss(rows, tokens)}"
        self.put(f"{call} {options}")

    def loss(self, rows: Rows, tokens: str) -> str:
        advantages = f"advantages = {self.one(self.score(rows), *rows.values)}"
        match self.one("policy_loss", "policy_loss", "gspo_loss", "reinforce_loss"):
            case "reinforce_loss":
                return f"reinforce_loss({tokens}, {advantages})"
            case "gspo_loss":
                return f"gspo_loss({tokens}, {self.old(rows)}, advantages = {self.score(rows)})"
            case _:
                ref = f", ref_logp = {self.one(*rows.maybe)}?" if rows.maybe and self.often() else ""
                sampled = self.one("", f", rollout_logp = {rows.logp}")
                return f"policy_loss({tokens}, old_logp = {self.old(rows)}, {advantages}{sampled}{ref}; kl_coef)"

    def program(self) -> str:
        """The text."""
        head = self.head()
        sets = [self.collected() if not self.often(4) else self.rollout() for _ in range(self.one(1, 1, 2))]
        if sets[0].prompts and not self.often(3):
            sets.append(self.answered(sets[0]))
        sets = [self.dialogue(r) if r.text and not self.often(3) else r for r in sets]
        for rows in sets:
            for _ in range(self.draw(st.integers(0, 6))):
                self.grow(rows)
            self.report(rows)
        self.train(self.one(*sets))
        for _ in range(self.draw(st.integers(0, 2))):
            self.train(self.one(*sets), self.one("", " when on"))
        if not self.often(3):
            self.validation()
        indented = "".join(f"  {line}\n" for line in (*head, *self.body))
        return f"algorithm random {{\n{indented}}}\n"


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Correct programs."""
    return Maker(draw).program()
