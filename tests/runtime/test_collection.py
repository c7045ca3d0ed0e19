"""Prompts that a loop keeps: the same rows, in one order, under the same ids, on any number of ranks."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
import torch

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Ragged
from rldsl.backends.data.collection import Collection
from rldsl.backends.data.reshard import dealt
from rldsl.compiler.plan import Group
from rldsl.types import FieldType
from tests.ranks import on_ranks
from tests.runtime.test_reshard import same

BATCH, GROUP, STEP, ROUNDS, WORLD = 12, 3, 7, 3, 4
# A round may read more prompts than are wanted, or fewer.
READS = (12, 24, 4)
SCHEMA = {
    "prompts": (FieldType.parse("text[prompt]"), 1),
    "level": (FieldType.parse("f32[prompt]"), 1),
    "tokens": (FieldType.parse("i64[sample, token]"), GROUP),
    "mask": (FieldType.parse("bool[sample, token]"), GROUP),
    "score": (FieldType.parse("f32[sample]"), GROUP),
    "right": (FieldType.parse("bool[sample]"), GROUP),
    "notes": (FieldType.parse("text[sample]"), GROUP),
}
# How likely a prompt is kept: none, too few, just enough in two rounds, more than that, all in the first.
LIKELY = (0.0, 0.3, 0.6, 0.8, 1.0)


def kept(likely: float, read: int) -> list[list[bool]]:
    """Which prompts of each round pass; the last round has none on the first of several ranks."""
    draws = random.Random(f"{likely}")
    flags = [[draws.random() < likely for _ in range(read)] for _ in range(ROUNDS)]
    flags[-1] = [f and i % 4 != 0 for i, f in enumerate(flags[-1])]
    return flags


def columns(prompts: torch.Tensor, told: torch.Tensor) -> dict[str, Column]:
    """Rows of prompts with the ids `prompts`; every value says what the ids were when the rows were made, `told`."""
    samples = (prompts[:, None] * GROUP + torch.arange(GROUP)).flatten()
    made = (told[:, None] * GROUP + torch.arange(GROUP)).flatten()
    pieces = [torch.arange(int(i) % 4) + 1000 * int(i) for i in made]
    lengths = torch.tensor([len(p) for p in pieces], dtype=torch.int64)
    tokens = torch.cat([torch.empty(0, dtype=torch.int64), *pieces])
    return {
        "prompts": Column(prompts, ["" if i % 3 == 0 else f"päge {i}" for i in told.tolist()]),
        "level": Column(prompts, told.float() / 3),
        "tokens": Column(samples, Ragged(tokens, lengths), GROUP),
        "mask": Column(samples, Ragged(tokens % 2 == 0, lengths), GROUP),
        "score": Column(samples, made.float() / 7, GROUP),
        "right": Column(samples, made % 5 == 0, GROUP),
        "notes": Column(samples, [f"n{i}" for i in made.tolist()], GROUP),
    }


def loaded(number: int, read: int) -> int:
    """The id of the first prompt of round `number`."""
    return (STEP * ROUNDS + number) * read


def expected(likely: float, read: int, rank: int, size: int) -> tuple[dict[str, Column], int, int]:
    """What a plain loop over all prompts keeps, of it what lies on `rank`, how many there were, and the rounds."""
    found: list[int] = []
    rounds = 0
    for number, flags in enumerate(kept(likely, read)):
        if len(found) >= BATCH:
            break
        found += [loaded(number, read) + i for i, flag in enumerate(flags) if flag]
        rounds += 1
    mine = list(enumerate(found[:BATCH]))[rank::size]
    prompts = torch.tensor([STEP * BATCH + i for i, _ in mine], dtype=torch.int64)
    told = torch.tensor([i for _, i in mine], dtype=torch.int64)
    return columns(prompts, told), len(found), rounds


def assert_kept(likely: float, read: int, comm: Comm, copies: int = 1) -> None:
    """`copies` ranks in a row hold the same rows."""
    group = Group(name="all", ranks=((0, comm.world_size),), tp=copies)
    layout = dealt(group, range(comm.world_size), comm.world_size)
    shard, shards = comm.rank // copies, comm.world_size // copies
    collection = Collection(batch=BATCH, step=STEP)
    for number, flags in enumerate(kept(likely, read)):
        if collection.full:
            break
        index = torch.arange(shard, read, shards)
        # Rows need not be in order of their ids.
        order = index.flip(0)
        where = Column(loaded(number, read) + order, torch.tensor(flags)[order])
        made = columns(loaded(number, read) + index, loaded(number, read) + index)
        collection.add(where, made, comm)
    want, count, rounds = expected(likely, read, shard, shards)
    assert (collection.kept, collection.rounds) == (count, rounds)
    got = collection.take(SCHEMA, comm, layout)
    assert collection.full, "whatever waits for it to be full need not run any more"
    assert list(got) == list(SCHEMA)
    for name in SCHEMA:
        assert same(got[name], want[name]), (likely, read, comm.rank, comm.world_size, name)


def work(world: Comm, _folder: Path) -> int:
    """How many cases this rank had a part in."""
    world.make_groups([range(2), range(3)])
    cases = 0
    for size in (2, 3, 4):
        comm = world.group_of(range(size))
        for likely, read in product(LIKELY, READS) if comm is not None else ():
            for copies in (1, 2) if size == 4 else (1,):
                assert_kept(likely, read, comm, copies)
                cases += 1
    return cases


def test_several_ranks_keep_the_same(tmp_path: Path) -> None:
    each = len(LIKELY) * len(READS)
    assert on_ranks(work, tmp_path, WORLD) == [4 * each, 4 * each, 3 * each, 2 * each]


@pytest.mark.parametrize(("likely", "read"), list(product(LIKELY, READS)))
def test_one_rank_keeps_what_a_plain_loop_keeps(likely: float, read: int) -> None:
    assert_kept(likely, read, Comm.alone())


def test_the_cases_are_all_there() -> None:
    counts = [expected(likely, BATCH, 0, 1)[1] for likely in LIKELY]
    assert counts == [0, 6, BATCH, 17, BATCH]
