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
from rldsl.backends.data.reshard import dealt, reshard
from rldsl.compiler.ops import GenerateOp, LoadOp, ReshardOp, SourceSpec
from rldsl.compiler.plan import FieldSpec, Group, Plan, Program
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
GROUPS = {"one": Group(name="one", ranks=((0, 1),)), "two": Group(name="two"), "same": Group(name="same", tp=2)}
"""All rows on rank 0, every other row on each rank, all rows on both."""
MOVES = (("one", "two"), ("two", "one"), ("two", "two"), ("two", "same"), ("same", "two"))


def prompt(i: int) -> str:
    return "ä" * (i % 4)


def completion(i: int) -> str:
    return "no" * (i % 3)


def tokens(i: int) -> int:
    """Of sample `i`; a prompt has as many tokens as letters."""
    return i // PER_PROMPT % 4 + 1 + i % NEW


def rows_of(rank: int, group: str) -> dict[str, Column]:
    """What `rank` holds in the layout of the group."""
    place = GROUPS[group].coordinates(rank, 2)
    if place is None:
        return {}
    prompts = torch.arange(place["dp"], BATCH, GROUPS[group].dp(2))
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
            here, there = (dealt(GROUPS[g], range(2), 2) for g in (source, target))
            reshard(rows_of(comm.rank, source), SCHEMA, comm, source=here, target=there, batch=BATCH)
        found.append((sent[0], sent[1]) if sent else (0, 0))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, int]]:
    """What both ranks send together, by move."""
    ranks = on_ranks(sent_bytes, tmp_path_factory.mktemp("ranks"), 2)
    return [tuple(map(sum, zip(*each, strict=True))) for each in zip(*ranks, strict=True)]


def plan_of(source: str, target: str, fields: tuple[str, ...]) -> Plan:
    outputs = {"tokens": "tokens", "response_mask": "mask", "rollout_logp": "logp", "completions": "completions"}
    ops = (
        LoadOp(id="load", source=SourceSpec(kind="jsonl"), columns=("prompts", "kept"), batch=BATCH),
        GenerateOp(
            id="rollout", model="m", prompts="prompts", n=PER_PROMPT, max_new_tokens=NEW, temperature=1.0,
            outputs={**outputs, "score": "score"},
        ),
        ReshardOp(id="move", fields=fields, source=source, target=target, batch=BATCH),
    )  # fmt: skip
    return Plan(
        algorithm="test", parameters={}, world_size=2, divides=1, models=(), functions=(),
        fields=tuple(FieldSpec(name=n, type=t, producer="", per_prompt=SCHEMA[n][1]) for n, t in TYPES.items()),
        groups=(Group(name="world"), *GROUPS.values()),
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


def sent_prompts(source: str, target: str) -> dict[tuple[int, int], list[int]]:
    """By sender and receiver the prompts that change place, worked out by hand."""
    odd, even = [i for i in range(BATCH) if i % 2], [i for i in range(BATCH) if i % 2 == 0]
    return {
        ("one", "two"): {(0, 1): odd},
        ("two", "one"): {(1, 0): odd},
        ("two", "same"): {(0, 1): even, (1, 0): odd},
    }.get((source, target), {})


@pytest.mark.parametrize(("number", "move"), list(enumerate(MOVES)))
def test_the_wire_format_is_exact(measured, number, move):
    expected = 0
    for prompts in sent_prompts(*move).values():
        rows = {n: len(prompts) * per for n, (_, per) in SCHEMA.items()}
        expected += sum(wire_bytes(kind, rows[n], elements(n, prompts)) for n, (kind, _) in SCHEMA.items())
    assert measured[number] == (size_exchange_bytes(2) if expected else 0, expected)


@pytest.mark.parametrize(("number", "move"), list(enumerate(MOVES)))
def test_a_plan_bounds_what_is_sent(measured, number, move):
    plan = plan_of(*move, tuple(TYPES))
    sent = Volumes(plan).sent(plan.programs[0].ops[2])
    values = {
        "P": 3,
        "text(prompts)": max(len(prompt(i).encode()) for i in range(BATCH)),
        "text(completions)": max(len(completion(i)) for i in range(BATCH * PER_PROMPT)),
    }
    bound, moved = sent.bytes.at(values), sent_prompts(*move)
    assert sent.bound and measured[number][1] <= bound
    assert (bound == 0) == (not moved)
    assert sent.prompts == len({p for prompts in moved.values() for p in prompts})
    assert sent.messages == len(moved)


def test_rows_of_one_size_are_exact():
    plan = plan_of("one", "two", ("score", "kept"))
    sent = Volumes(plan).sent(plan.programs[0].ops[2])
    assert not sent.bound
    assert sent.bytes.at({}) == (8 + 9 * 8 + 40) + (8 + 3 * 8 + 8)
