"""Rows between layouts, on four real processes over gloo."""

from __future__ import annotations

from pathlib import Path

import torch

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Ragged
from rldsl.backends.data.reshard import Dealt, dealt, reshard
from rldsl.compiler.plan import Group
from rldsl.types import FieldType
from tests.ranks import on_ranks

BATCH, STEP, GROUP, WORLD = 8, 5, 3, 4
SCHEMA = {
    "prompts": (FieldType.parse("text[prompt]"), 1),
    "tokens": (FieldType.parse("i64[sample, token]"), GROUP),
    "mask": (FieldType.parse("bool[sample, token]"), GROUP),
    "score": (FieldType.parse("f32[sample]"), GROUP),
    "notes": (FieldType.parse("text[sample]"), GROUP),
}
FIRST, LAST = ((0, 2),), ((2, 4),)
BETWEEN = (
    (Group(name="", ranks=FIRST), Group(name="", ranks=LAST)),
    (Group(name="", ranks=((0, 3),)), Group(name="", ranks=((1, 4),))),
    (Group(name="", ranks=LAST), Group(name="", ranks=((0, 1), (3, 4)))),
    (Group(name="", ranks=((3, 4),)), Group(name="", ranks=FIRST)),
    (Group(name="", ranks=FIRST), Group(name="", ranks=((3, 4),))),
    # Ranks that hold the same rows, on either side, on both, and of a group to itself.
    (Group(name="", ranks=FIRST), Group(name="", ranks=LAST, tp=2)),
    (Group(name="", ranks=FIRST, tp=2), Group(name="", ranks=LAST)),
    (Group(name="", tp=2), Group(name="", pp=2)),
    (Group(name="", tp=2), Group(name="", ranks=((1, 3),), cp=2)),
    (Group(name="", ranks=((0, 1),)), Group(name="")),
)
MOVES = ((1, 2), (4, 2), (2, 4), (2, 1), (1, 4), (4, 1), (2, 2))


def rows_of(rank: int, size: int) -> dict[str, Column]:
    """What `rank` holds in the layout of `size`: every value says which row it belongs to; some rows are empty."""
    return rows_in(Group(name="", ranks=((0, size),)), rank)


def rows_in(group: Group, rank: int) -> dict[str, Column]:
    at = group.coordinates(rank, WORLD)
    if at is None:
        return {}
    prompts = STEP * BATCH + torch.arange(at["dp"], BATCH, group.dp(WORLD))
    samples = (prompts[:, None] * GROUP + torch.arange(GROUP)).flatten()
    pieces = [torch.arange(int(i) % 4) + 1000 * int(i) for i in samples]
    lengths = torch.tensor([len(p) for p in pieces])
    tokens = torch.cat(pieces)
    return {
        "prompts": Column(prompts, ["" if i % 3 == 0 else f"päge {i}" for i in prompts.tolist()]),
        "tokens": Column(samples, Ragged(tokens, lengths), GROUP),
        "mask": Column(samples, Ragged(tokens % 2 == 0, lengths), GROUP),
        "score": Column(samples, samples.float() / 7, GROUP),
        "notes": Column(samples, [f"n{i}" for i in samples.tolist()], GROUP),
    }


def ends(comm: Comm, source: int, target: int) -> dict[str, Dealt]:
    """The layouts of the first so many ranks."""
    members = range(comm.world_size)
    made = (dealt(Group(name="", ranks=((0, n),)), members, comm.world_size) for n in (source, target))
    return dict(zip(("source", "target"), made, strict=True))


def same(got: Column, want: Column) -> bool:
    if not torch.equal(got.ids, want.ids) or got.per_prompt != want.per_prompt:
        return False
    if isinstance(want.data, Ragged):
        assert isinstance(got.data, Ragged)
        return torch.equal(got.data.values, want.data.values) and torch.equal(got.data.lengths, want.data.lengths)
    if isinstance(want.data, torch.Tensor):
        assert isinstance(got.data, torch.Tensor)
        return torch.equal(got.data, want.data) and got.data.dtype == want.data.dtype
    return got.data == want.data


def assert_between_the_first(world: Comm) -> None:
    """Moves between layouts of the first so many ranks."""
    rank = world.rank
    world.make_groups([range(2)])
    for source, target in MOVES:
        comm = world.group_of(range(max(source, target, 2)))
        if comm is None:
            continue
        got = reshard(rows_of(rank, source), SCHEMA, comm, **ends(comm, source, target), batch=BATCH)
        want = rows_of(rank, target)
        for name in SCHEMA:
            assert same(got[name], want[name]) if want else len(got[name]) == 0, (source, target, name)
    # A rank that holds only some of the rows of its layout, and one with none at all.
    part = {n: c.select(torch.arange(len(c))[: 1 if n == "prompts" else GROUP]) for n, c in rows_of(rank, 2).items()}
    got = reshard(part, SCHEMA, world, **ends(world, 2, 4), batch=BATCH)
    assert len(got["prompts"]) == (1 if rank < 2 else 0) and len(got["score"]) == (GROUP if rank < 2 else 0)
    # Who holds nothing is told the types by the schema, and can give it on.
    again = reshard(got, SCHEMA, world, **ends(world, 4, 1), batch=BATCH)
    assert len(again["tokens"]) == (2 * GROUP if rank == 0 else 0)


def ranks_of(*groups: Group) -> list[int]:
    return sorted({r for g in groups for first, last in g.spans(WORLD) for r in range(first, last)})


def assert_between_groups(world: Comm) -> None:
    """Moves between groups with ranks and axes of their own."""
    world.make_groups(ranks_of(*pair) for pair in BETWEEN)
    for number, (source, target) in enumerate(BETWEEN):
        comm = world.group_of(ranks_of(source, target))
        if comm is None:
            continue
        ends = {"source": dealt(source, comm.members, WORLD), "target": dealt(target, comm.members, WORLD)}
        want = rows_in(target, world.rank)
        for empty in (False, True):
            # In the second round no rank has a row of odd prompts, and some none at all.
            here, there = (kept(rows, empty) for rows in (rows_in(source, world.rank), want))
            got = reshard(here, SCHEMA, comm, **ends, batch=BATCH)
            for name in SCHEMA:
                assert same(got[name], there[name]) if there else len(got[name]) == 0, (number, empty, name)


def kept(rows: dict[str, Column], even: bool) -> dict[str, Column]:
    return {n: c.select((c.prompt_ids % 2 == 0).nonzero()[:, 0]) if even else c for n, c in rows.items()}


def work(world: Comm, _folder: Path) -> int:
    """The rank, once all has been found as it should be."""
    assert_between_the_first(world)
    assert_between_groups(world)
    return world.rank


def test_reshard_between_layouts(tmp_path: Path) -> None:
    assert on_ranks(work, tmp_path, WORLD) == list(range(WORLD))


def test_alone_nothing_moves() -> None:
    columns = rows_of(0, 1)
    got = reshard(columns, SCHEMA, Comm.alone(), **ends(Comm.alone(), 1, 1), batch=BATCH)
    assert all(same(got[name], columns[name]) for name in SCHEMA)
