"""What `compiler/volume.py` says of a move's bytes, beside what two processes really send."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Ragged
from rldsl.backends.data.reshard import reshard
from rldsl.compiler.plan import FieldSpec, GenerateOp, Group, LoadOp, Plan, Program, ReshardOp, SourceSpec
from rldsl.compiler.volume import Volumes, size_exchange_bytes, wire_bytes
from rldsl.types import FieldType
from tests.ranks import on_ranks

BATCH, PER_PROMPT, NEW = 7, 3, 5
TYPES = {
    "prompts": "text[prompt]",
    "tokens": "i64[sample, token]",
    "mask": "bool[sample, token]",
    "logp": "f32[sample, token]",
    "score": "f32[sample]",
    "kept": "bool[prompt]",
    "completions": "text[sample]",
}
SCHEMA = {n: (FieldType.parse(t), PER_PROMPT if "sample" in t else 1) for n, t in TYPES.items()}
MOVES = ((1, 2), (2, 1), (2, 2))


def prompt(i: int) -> str:
    return "ä" * (i % 4)


def completion(i: int) -> str:
    return "no" * (i % 3)


def tokens(i: int) -> int:
    """Of sample `i`; a prompt has as many tokens as letters."""
    return i // PER_PROMPT % 4 + 1 + i % NEW


def rows_of(rank: int, size: int) -> dict[str, Column]:
    """What `rank` holds in the layout of `size`."""
    if rank >= size:
        return {}
    prompts = torch.arange(rank, BATCH, size)
    samples = (prompts[:, None] * PER_PROMPT + torch.arange(PER_PROMPT)).flatten()
    lengths = torch.tensor([tokens(int(i)) for i in samples])
    values = torch.arange(int(lengths.sum()))
    return {
        "prompts": Column(prompts, [prompt(int(i)) for i in prompts]),
        "tokens": Column(samples, Ragged(values, lengths), PER_PROMPT),
        "mask": Column(samples, Ragged(values % 2 == 0, lengths), PER_PROMPT),
        "logp": Column(samples, Ragged(values.float(), lengths), PER_PROMPT),
        "score": Column(samples, samples.float(), PER_PROMPT),
        "kept": Column(prompts, prompts > 2),
        "completions": Column(samples, [completion(int(i)) for i in samples], PER_PROMPT),
    }


def sent_bytes(comm: Comm, _folder: Path) -> list[tuple[int, int]]:
    """For each of `MOVES` the bytes that this rank sends: first the sizes, then the rows."""
    found = []
    for source, target in MOVES:
        sent: list[int] = []

        def count(tensor: Tensor, give: Sequence[int], take: Sequence[int], sent: list[int] = sent) -> Tensor:
            sent.append(tensor.numel() * tensor.element_size())
            return Comm.all_to_all(comm, tensor, give, take)

        with mock.patch.object(comm, "all_to_all", count):
            reshard(rows_of(comm.rank, source), SCHEMA, comm, target=target, batch=BATCH)
        found.append((sent[0], sent[1]))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, int]]:
    """What both ranks send together, by move."""
    ranks = on_ranks(sent_bytes, tmp_path_factory.mktemp("ranks"), 2)
    return [tuple(map(sum, zip(*each, strict=True))) for each in zip(*ranks, strict=True)]


def plan_of(source: int, target: int, fields: tuple[str, ...]) -> Plan:
    outputs = {"tokens": "tokens", "response_mask": "mask", "rollout_logp": "logp", "completions": "completions"}
    ops = (
        LoadOp(id="load", source=SourceSpec(kind="jsonl"), columns=("prompts", "kept"), batch=BATCH),
        GenerateOp(
            id="rollout", model="m", prompts="prompts", n=PER_PROMPT, max_new_tokens=NEW, temperature=1.0,
            outputs={**outputs, "score": "score"},
        ),
        ReshardOp(id="move", fields=fields, source=f"first{source}", target=f"first{target}", batch=BATCH),
    )  # fmt: skip
    return Plan(
        algorithm="test", parameters={}, world_size=2, divides=1, models=(), functions=(),
        fields=tuple(FieldSpec(name=n, type=t, producer="", per_prompt=SCHEMA[n][1]) for n, t in TYPES.items()),
        groups=(Group(name="world"), *(Group(name=f"first{n}", size=n) for n in (1, 2))),
        programs=(Program(ops=ops),),
    )  # fmt: skip


def elements(name: str, prompts: Sequence[int]) -> int:
    """Elements of the field's rows of these prompts; of texts, bytes."""
    samples = [p * PER_PROMPT + k for p in prompts for k in range(PER_PROMPT)]
    if name in ("prompts", "completions"):
        texts = map(prompt, prompts) if name == "prompts" else map(completion, samples)
        return sum(len(t.encode()) for t in texts)
    if SCHEMA[name][0].ragged:
        return sum(map(tokens, samples))
    return len(samples if SCHEMA[name][1] > 1 else prompts)


@pytest.mark.parametrize(("number", "move"), list(enumerate(MOVES)))
def test_the_wire_format_is_exact(measured, number, move):
    source, target = move
    expected = 0
    for a, b in ((0, 1), (1, 0)):
        prompts = [i for i in range(BATCH) if (i % source, i % target) == (a, b)]
        if prompts:
            rows = {n: len(prompts) * per for n, (_, per) in SCHEMA.items()}
            expected += sum(wire_bytes(kind, rows[n], elements(n, prompts)) for n, (kind, _) in SCHEMA.items())
    assert measured[number] == (size_exchange_bytes(2), expected)


@pytest.mark.parametrize(("number", "move"), list(enumerate(MOVES)))
def test_a_plan_bounds_what_is_sent(measured, number, move):
    plan = plan_of(*move, tuple(TYPES))
    sent = Volumes(plan).sent(plan.programs[0].ops[2])
    values = {
        "P": 3,
        "text(prompts)": max(len(prompt(i).encode()) for i in range(BATCH)),
        "text(completions)": max(len(completion(i)) for i in range(BATCH * PER_PROMPT)),
    }
    bound = sent.bytes.at(values)
    assert sent.bound and measured[number][1] <= bound
    assert (bound == 0) == (move == (2, 2))
    assert (sent.prompts, sent.messages) == {(1, 2): (3, 1), (2, 1): (3, 1), (2, 2): (0, 0)}[move]


def test_rows_of_one_size_are_exact(tmp_path):
    plan = plan_of(1, 2, ("score", "kept"))
    sent = Volumes(plan).sent(plan.programs[0].ops[2])
    assert not sent.bound
    assert sent.bytes.at({}) == (8 + 9 * 8 + 40) + (8 + 3 * 8 + 8)
