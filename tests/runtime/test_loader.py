"""Shards, columns, wrapping, and what is said of bad data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
import pytest
import torch

from rldsl.backends.data.batch import Column
from rldsl.backends.data.loader import Loader
from rldsl.compiler.ops import LoadOp, Scalar, SourceSpec
from rldsl.diagnostics import Diagnostic, DiagnosticError
from rldsl.types import FieldType

TYPES = {
    "prompts": FieldType.parse("text[prompt]"),
    "answers": FieldType.parse("text[prompt]"),
    "level": FieldType.parse("f32[prompt]"),
}
GYM = SourceSpec(kind="reasoning_gym", args={"dataset": "basic_arithmetic", "size": 10, "max_terms": 2})


def make(
    source: SourceSpec, folder: Path, *, rank: int = 0, size: int = 1, columns: tuple[str, ...] = ("prompts", "answers")
) -> Loader:
    return Loader([op_for(source, columns)], TYPES, rank=rank, size=size, seed=3, source_dir=folder)


def op_for(source: SourceSpec, columns: tuple[str, ...] = ("prompts", "answers")) -> LoadOp:
    return LoadOp(id="load", source=source, columns=columns, batch=8)


def first(source: SourceSpec, folder: Path, columns: tuple[str, ...] = ("prompts", "answers")) -> dict[str, Column]:
    return make(source, folder, columns=columns).next(op_for(source, columns), 0)


def jsonl(folder: Path, rows: list[dict[str, object]], **args: Scalar) -> SourceSpec:
    text = "\n\n".join(json.dumps(r) for r in rows)
    (folder / "data.jsonl").write_text(text)
    return SourceSpec(kind="jsonl", args={"path": "data.jsonl", **args})


def rows(count: int) -> list[dict[str, object]]:
    return [{"prompts": f"é {i}", "answers": i, "level": i / 2} for i in range(count)]


def read(source: SourceSpec, folder: Path, size: int, steps: int = 3) -> list[dict[int, tuple[str, str]]]:
    """Each step's rows by id, from all ranks."""
    loaders = [make(source, folder, rank=r, size=size) for r in range(size)]
    batches = []
    for step in range(steps):
        found = {}
        for rank, loader in enumerate(loaders):
            columns = loader.next(op_for(source), step)
            ids = columns["prompts"].ids.tolist()
            assert all((i % 8) % size == rank for i in ids)
            found |= dict(zip(ids, zip(columns["prompts"].data, columns["answers"].data, strict=True), strict=True))
        batches.append(found)
    return batches


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["reasoning_gym", "jsonl", "parquet"])
def test_shards_are_the_same_batch_whatever_the_number_of_ranks(tmp_path: Path, kind: str, shuffle: bool) -> None:
    source = jsonl(tmp_path, rows(10), shuffle=shuffle)
    if kind == "parquet":
        table = pyarrow.Table.from_pylist(rows(10))
        pyarrow.parquet.write_table(table, tmp_path / "data.parquet", row_group_size=3)
        source = SourceSpec(kind=kind, args={"path": "data.parquet", "shuffle": shuffle})
    if kind == "reasoning_gym":
        source = SourceSpec(kind=kind, args={**GYM.args, "shuffle": shuffle})
    alone = read(source, tmp_path, 1)
    assert [sorted(b) for b in alone] == [list(range(8 * s, 8 * s + 8)) for s in range(3)]
    assert read(source, tmp_path, 2) == alone
    assert read(source, tmp_path, 4) == alone


def test_every_epoch_reads_every_row_once(tmp_path: Path) -> None:
    batches = read(jsonl(tmp_path, rows(12), shuffle=True), tmp_path, 2)
    seen = [row for batch in batches for _, row in sorted(batch.items())]
    assert sorted(seen[:12]) == sorted(seen[12:]) == sorted((f"é {i}", str(i)) for i in range(12))
    assert seen[:12] != seen[12:]


def test_columns_types_and_template(tmp_path: Path) -> None:
    data = [{"question": "2+2", "solution": "4", "level": 3}]
    source = jsonl(tmp_path, data, template="What is {question}?", answers_column="solution")
    columns = first(source, tmp_path, ("prompts", "answers", "level"))
    assert columns["prompts"].data == ["What is 2+2?"] * 8
    assert columns["answers"].data == ["4"] * 8
    level = columns["level"].data
    assert isinstance(level, torch.Tensor) and level.dtype == torch.float32 and level.tolist() == [3.0] * 8


def test_gym_template(tmp_path: Path) -> None:
    plain = first(GYM, tmp_path)["prompts"].data
    source = SourceSpec(kind="reasoning_gym", args={**GYM.args, "template": "Q: {question}"})
    assert first(source, tmp_path)["prompts"].data == [f"Q: {p}" for p in plain]


def test_a_template_fills_the_first_text_field(tmp_path: Path) -> None:
    types = {"level": "f32[prompt]", "questions": "text[prompt]", "answers": "text[prompt]"}
    source = jsonl(tmp_path, [{"a": 2, "answers": "4", "level": 1}], template="What is {a}+{a}?")
    op = LoadOp(id="load", source=source, columns=tuple(types), batch=2)
    kinds = {name: FieldType.parse(kind) for name, kind in types.items()}
    columns = Loader([op], kinds, rank=0, size=1, seed=3, source_dir=tmp_path).next(op, 0)
    assert columns["questions"].data == ["What is 2+2?"] * 2 and columns["answers"].data == ["4"] * 2


def test_prompts_are_filled_wherever_they_stand(tmp_path: Path) -> None:
    source = jsonl(tmp_path, [{"a": 2, "answers": "4"}], template="What is {a}+{a}?")
    columns = first(source, tmp_path, ("answers", "prompts"))
    assert columns["prompts"].data == ["What is 2+2?"] * 8 and columns["answers"].data == ["4"] * 8


def test_a_template_without_a_text_field(tmp_path: Path) -> None:
    source = jsonl(tmp_path, rows(4), template="What is {prompts}?")
    with pytest.raises(DiagnosticError) as caught:
        make(source, tmp_path, columns=("level",))
    found = caught.value.diagnostics[0]
    assert found.code == "RL0606" and found.found == "level : f32"


@pytest.mark.parametrize("seed", [2**62, 10**30, -7])
def test_any_seed_shuffles(tmp_path: Path, seed: int) -> None:
    op = LoadOp(id="load", source=jsonl(tmp_path, rows(8)), columns=("prompts",), batch=8)
    data = Loader([op], TYPES, rank=0, size=1, seed=seed, source_dir=tmp_path).next(op, 0)["prompts"].data
    assert isinstance(data, list) and sorted(data) == [f"é {i}" for i in range(8)]


def told(source: SourceSpec, folder: Path) -> Diagnostic:
    with pytest.raises(DiagnosticError) as caught:
        first(source, folder)
    return caught.value.diagnostics[0]


def test_missing_file(tmp_path: Path) -> None:
    found = told(SourceSpec(kind="jsonl", args={"path": "no.jsonl"}), tmp_path)
    assert found.code == "RL0603" and "no.jsonl" in found.message


def test_empty_file(tmp_path: Path) -> None:
    assert told(jsonl(tmp_path, []), tmp_path).code == "RL0603"


def test_missing_column_names_those_present(tmp_path: Path) -> None:
    found = told(jsonl(tmp_path, [{"prompt": "a", "answers": "b"}]), tmp_path)
    assert found.code == "RL0604" and found.found == "columns prompt, answers"
    assert found.fix == "did you mean `prompt`?"


@pytest.mark.parametrize(
    ("line", "words"),
    [("{oops", "not valid JSON"), ("[1]", "not a JSON object"), ('{"answers": "1"}', "no column"), ('{"prompts": null, "answers": "1"}', "bad `prompts`")],
)  # fmt: skip
def test_bad_row_is_named_by_line(tmp_path: Path, line: str, words: str) -> None:
    good = '{"prompts": "a", "answers": "1"}'
    (tmp_path / "data.jsonl").write_text(f"{good}\n\n{line}\n")
    found = told(SourceSpec(kind="jsonl", args={"path": "data.jsonl"}), tmp_path)
    assert found.code == "RL0605" and words in found.message and "line 3" in found.message
    assert found.span is not None and found.span.line == 3


def test_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_text("hello, this is no such file")
    assert told(SourceSpec(kind="parquet", args={"path": "data.parquet"}), tmp_path).code == "RL0605"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"dataset": "basic_arithmetik"}, "no data set"),
        ({"dataset": "basic_arithmetic", "max_term": 2}, "no argument"),
        ({"dataset": "basic_arithmetic", "max_terms": 1}, "refuses"),
        ({"dataset": "basic_arithmetic", "template": "{}"}, "without a name"),
        ({"dataset": "basic_arithmetic", "template": "{question"}, "format string"),
    ],
)
def test_bad_gym_arguments(tmp_path: Path, args: dict[str, Scalar], words: str) -> None:
    found = told(SourceSpec(kind="reasoning_gym", args=args), tmp_path)
    assert found.code == "RL0606" and words in found.message


def stream(source: SourceSpec, batch: int = 4, **more: Any) -> list[LoadOp]:
    """Two rounds of a loop, which read fields of their own from one stream."""
    return [
        LoadOp(
            id=f"load:{k}", source=source, columns=(f"loop.{k}.prompts", f"loop.{k}.level"), stream="s",
            names=("prompts", "level"), batch=batch, round=k - 1, rounds=2, **more,
        )
        for k in (1, 2)
    ]  # fmt: skip


def opened(ops: list[LoadOp], folder: Path, *, rank: int = 0, size: int = 1) -> Loader:
    kinds = {column: TYPES[column.rpartition(".")[2]] for op in ops for column in op.columns}
    return Loader(ops, kinds, rank=rank, size=size, seed=3, source_dir=folder)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ops_of_one_stream_take_turns(tmp_path: Path, size: int) -> None:
    ops = stream(jsonl(tmp_path, rows(20), shuffle=False))
    for rank in range(size):
        loader = opened(ops, tmp_path, rank=rank, size=size)
        # Step 0 ran both rounds, step 1 one: the next prompts of the stream follow whatever ran.
        seen = [(loader.next(op, step), op) for step, op in ((0, ops[0]), (0, ops[1]), (1, ops[0]), (2, ops[0]))]
        for number, (columns, op) in enumerate(seen):
            assert tuple(columns) == op.columns
            prompts, level = columns.values()
            assert prompts.data == [f"é {i}" for i in range(4 * number + rank, 4 * number + 4, size)]
            assert isinstance(level.data, torch.Tensor) and level.data.dtype == torch.float32
        starts = [0, 4, 8, 16]  # (step * 2 + round) * 4
        assert [c[op.columns[0]].ids.tolist() for c, op in seen] == [list(range(s + rank, s + 4, size)) for s in starts]


def test_rounds_may_want_different_columns(tmp_path: Path) -> None:
    source = jsonl(tmp_path, [{"a": i, "level": i} for i in range(8)], shuffle=False)
    ops = stream(SourceSpec(kind="jsonl", args={**source.args, "template": "<{a}>"}))
    # Nothing reads the prompts of the second round.
    ops[1] = msgspec.structs.replace(ops[1], source=source, columns=ops[1].columns[1:], names=("level",))
    loader = opened(ops, tmp_path)
    assert loader.next(ops[0], 0)["loop.1.prompts"].data == ["<0>", "<1>", "<2>", "<3>"]
    second = loader.next(ops[1], 0)
    assert list(second) == ["loop.2.level"] and second["loop.2.level"].data.tolist() == [4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_a_validation_reads_the_first_rows_each_time(tmp_path: Path, shuffle: bool, size: int) -> None:
    ops = stream(jsonl(tmp_path, rows(10), shuffle=shuffle), first=True)
    for rank in range(size):
        loader = opened(ops, tmp_path, rank=rank, size=size)
        for step in (0, 5):
            columns = loader.next(ops[0], step)
            assert columns["loop.1.prompts"].data == [f"é {i}" for i in range(rank, 4, size)]
            assert columns["loop.1.prompts"].ids.tolist() == list(range(step * 8 + rank, step * 8 + 4, size))


def test_a_validation_counts_no_row_twice(tmp_path: Path) -> None:
    ops = stream(jsonl(tmp_path, rows(3)), first=True)
    with pytest.raises(DiagnosticError) as caught:
        opened(ops, tmp_path)
    found = caught.value.diagnostics[0]
    assert found.code == "RL0606" and found.found == "3 rows" and found.fix == "`batch = 3`, or fewer"


def test_a_batch_greater_than_its_data_is_told(tmp_path: Path) -> None:
    ops = stream(jsonl(tmp_path, rows(3)))
    (warning,) = opened(ops, tmp_path).warnings
    assert warning.code == "RL0611" and warning.severity == "warning"
    assert warning.message.endswith(
        "has 3 rows, fewer than the batch of 4 prompts: each step reads rows more than once"
    )
    assert opened(stream(jsonl(tmp_path, rows(4))), tmp_path).warnings == ()
