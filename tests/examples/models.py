"""Directories in Hugging Face format that are small, and yet answer the questions of the examples now and then."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rldsl.backends.engines.sources import Loaded, load, seeded
from rldsl.compiler.plan import ModelSpec

SHAPE = {"alphabet": string.printable, "hidden": 32, "layers": 2, "heads": 2}
IGNORED = -100  # of targets, as torch's cross-entropy has it


@dataclass(frozen=True, kw_only=True)
class Models:
    """A policy, one that knows more, and a sequence classifier, all with one tokenizer."""

    policy: Path
    teacher: Path
    judge: Path

    @classmethod
    def within(cls, folder: Path) -> Models:
        """Those that `make` wrote there."""
        return cls(policy=folder / "policy", teacher=folder / "teacher", judge=folder / "judge")


def make(folder: Path) -> Models:
    """Some seconds: the policies are fitted to a few hundred dialogues."""
    made = Models.within(folder)
    policy = load(ModelSpec(name="policy", kind="policy", source="scratch", source_args=SHAPE), seed=3)
    fit(policy, steps=200)
    save(policy, made.policy)
    fit(policy, steps=60)
    save(policy, made.teacher)
    save(load(ModelSpec(name="judge", kind="reward", source="scratch", source_args=SHAPE), seed=5), made.judge)
    return made


def save(model: Loaded, folder: Path) -> None:
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def fit(model: Loaded, steps: int) -> None:
    """Next characters of a question's answers, of requests for a tool, and of what follows these."""
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=3e-3)
    with seeded(0):
        for _, (tokens, targets) in zip(range(steps), batches(model), strict=False):
            logits = model.module(input_ids=tokens).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def batches(model: Loaded) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded on the right, with targets only after the question."""
    draw = random.Random(1)
    while True:
        rows = [dialogue(draw) for _ in range(16)]
        begin, end = model.tokenizer.bos_token, model.tokenizer.eos_token
        tokens = [ids(model, f"{begin}{asked}{said}{end}") for asked, said in rows]
        asked = [len(ids(model, begin + question)) for question, _ in rows]
        targets = [torch.where(torch.arange(len(t)) < n, IGNORED, t) for t, n in zip(tokens, asked, strict=True)]
        yield padded(tokens, 0), padded(targets, IGNORED)


def padded(rows: list[Tensor], fill: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def ids(model: Loaded, text: str) -> Tensor:
    return torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def dialogue(draw: random.Random) -> tuple[str, str]:
    """A question and what may be said: an answer, or, where the question offers it, a request, or what follows that."""
    a, b = draw.randrange(10), draw.randrange(10)
    question, answer = f"What is {a} + {b}?", str(a + b)
    if draw.random() < 0.5:
        return question, answer
    question += f" Ask the calculator by writing only calc({a} + {b}), or answer with a number."
    request = f"calc({a}+{b})"
    told = f"{question}{request}<eos>\n<|im_start|>user\n{answer}<|im_end|>\n<|im_start|>assistant\n"
    return draw.choice([(question, answer), (question, request), (told, answer)])
