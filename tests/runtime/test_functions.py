"""Functions on a batch: what they get, what is said when they raise or return something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Ragged
from rldsl.backends.functions import Call, Functions
from rldsl.backends.handlers import _reduce
from rldsl.backends.status import Status
from rldsl.compiler.neighbours import neighbours
from rldsl.compiler.plan import FunctionSpec
from rldsl.diagnostics import Diagnostic, DiagnosticError
from rldsl.types import FieldType
from tests.runtime.plans import user_function

IDS = torch.tensor([40, 41, 42])
COLUMNS = {
    "texts": Column(IDS, ["a", "bb", "x" * 500], 4),
    "score": Column(IDS, torch.tensor([1.0, 2.0, 3.0]), 4),
    "tokens": Column(IDS, Ragged(torch.arange(6), torch.tensor([1, 3, 2])), 4),
}
PER_SAMPLE, PER_TOKEN, TEXT = (FieldType.parse(f"{t}]") for t in ("f32[sample", "f32[sample, token", "text[sample"))


def call(
    function: Callable[..., Any], *args: str, per_row: bool = False, out: FieldType | None = PER_SAMPLE, **more: Any
) -> Column:
    made = Call(
        spec=FunctionSpec(name="mine", module="x", per_row=per_row),
        function=function,
        file=None,
        columns={a: COLUMNS[a] for a in args},
        absent=more.pop("absent", ()),
        params=more,
        outputs=[None if out is None else ("out", out)],
        per_prompt=4,
        batch=8,
        reduce=None,
        status=Status(step=7, steps=30),
    )
    return made.run()["out"]


def told(*args: Any, **more: Any) -> Diagnostic:
    with pytest.raises(DiagnosticError) as caught:
        call(*args, **more)
    return caught.value.diagnostics[0]


def test_a_batch_function_sees_padded_rows() -> None:
    seen = {}

    def mine(texts: Any, tokens: Any, missing: Any, *, factor: float) -> Any:
        seen.update(texts=texts, tokens=tokens, missing=missing)
        return tokens * factor

    got = call(mine, "texts", "tokens", out=PER_TOKEN, absent=["missing"], factor=0.5)
    assert seen["tokens"].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 0]] and seen["missing"] is None
    assert isinstance(got.data, Ragged) and got.data.values.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert got.ids.tolist() == [40, 41, 42] and got.per_prompt == 4


def test_a_row_function_sees_one_row() -> None:
    def mine(texts: str, score: float, tokens: Any) -> float:
        assert isinstance(texts, str) and isinstance(score, float)
        return len(texts) + score + len(tokens)

    assert call(mine, "texts", "score", "tokens", per_row=True).data.tolist() == [3.0, 7.0, 505.0]


def test_text_out() -> None:
    assert call(lambda texts: [t[:1] for t in texts], "texts", out=TEXT).data == ["a", "b", "x"]


@pytest.mark.parametrize("per_row", [True, False])
def test_the_failing_row_is_named(per_row: bool) -> None:
    def mine(texts: Any, score: Any) -> Any:
        if texts == "bb" or "bb" in texts:
            raise ValueError("no " + "b" * 400)
        return score

    found = told(mine, "texts", "score", per_row=per_row)
    assert found.code == "RL0705"
    assert found.message == "the function `mine` raised ValueError on sample 2 of prompt 3 (id 41), in step 8 of 30"
    assert "texts = " in found.notes[0] and "bb" in found.notes[0] and len(found.notes[0]) < 230
    assert found.notes[-1].startswith(f"raised at {__file__}:")
    assert found.found is not None and found.found.startswith("ValueError: no bbb") and len(found.found) < 230
    assert found.span is not None and found.span.file == __file__


def test_a_function_that_fails_only_on_the_whole_batch() -> None:
    def mine(score: Any) -> Any:
        if len(score) > 1:
            raise ValueError
        return score

    assert told(mine, "score").message == "the function `mine` raised ValueError in step 8 of 30"


@pytest.mark.parametrize(
    ("result", "out", "found"),
    [
        ([1.0, 2.0], PER_SAMPLE, "a list of 2"),
        (torch.zeros(2), PER_SAMPLE, "[2] of torch.float32"),
        (torch.zeros(3, 3), PER_SAMPLE, "[3, 3] of torch.float32"),
        (torch.zeros(3, dtype=torch.int64), PER_SAMPLE, "[3] of torch.int64"),
        (torch.zeros(3), PER_TOKEN, "[3] of torch.float32"),
        (None, PER_SAMPLE, "NoneType None"),
        ([1.0, None, 2.0], PER_SAMPLE, "NoneType None for sample 2 of prompt 3 (id 41)"),
        (
            torch.tensor([1.0, 2.0, float("nan")]),
            PER_SAMPLE,
            "1 of 3 are NaN or infinite, the first for sample 3 of prompt 3 (id 42)",
        ),
        ([[0.0], 1.0, "x"], TEXT, "a list of 3"),
    ],
)
def test_what_it_returns_is_checked(result: Any, out: FieldType, found: str) -> None:
    problem = told(lambda tokens: result, "tokens", out=out)
    assert problem.code == "RL0706" and problem.found == found


def test_nan_beyond_a_rows_end_does_not_matter_but_within_it_does() -> None:
    values = torch.full((3, 3), float("nan"))
    values[COLUMNS["tokens"].data.valid()] = 1.0
    assert call(lambda tokens: values, "tokens", out=PER_TOKEN).data.values.tolist() == [1.0] * 6
    values[1, 2] = float("inf")
    assert "the first for sample 2 of prompt 3 (id 41)" in str(
        told(lambda tokens: values, "tokens", out=PER_TOKEN).found
    )


def with_neighbours(folder: Path, helper: str) -> FunctionSpec:
    (folder / "helper_of_mine.py").write_text(helper)
    spec = user_function(folder, "from helper_of_mine import FACTOR\ndef user(a):\n    return a * FACTOR\n")
    return msgspec.structs.replace(spec, modules=neighbours(folder / "mine.py", "mine.py"))


def test_a_users_file_may_import_its_neighbours(tmp_path: Path) -> None:
    assert Functions(tmp_path).find(with_neighbours(tmp_path, "FACTOR = 3"))(2) == 6
    # A later run of this process, of another text of the same second and size; a file of the same name elsewhere.
    assert Functions(tmp_path).find(with_neighbours(tmp_path, "FACTOR = 4"))(2) == 8
    (tmp_path / "other").mkdir()
    assert Functions(tmp_path / "other").find(with_neighbours(tmp_path / "other", "FACTOR = 5"))(2) == 10


def test_a_neighbour_that_changed_since_the_plan_was_compiled(tmp_path: Path) -> None:
    spec = with_neighbours(tmp_path, "FACTOR = 3")
    helper = tmp_path / "helper_of_mine.py"
    helper.write_text("def broken(")
    with pytest.raises(DiagnosticError, match=r"RL0704.*helper_of_mine.py changed since the plan was compiled"):
        Functions(tmp_path).find(spec)
    helper.unlink()
    with pytest.raises(DiagnosticError, match=r"RL0704: `helper_of_mine.py`, imported by `mine.py`, is gone"):
        Functions(tmp_path).find(spec)


def test_a_neighbour_that_was_not_there_when_the_plan_was_compiled(tmp_path: Path) -> None:
    spec = user_function(tmp_path, "import random, statistics\ndef user(a):\n    return statistics.mean([a])\n")
    (tmp_path / "statistics.py").write_text("mean = max")
    with pytest.raises(DiagnosticError, match=r"RL0704: `mine.py` imports `statistics.py`, which was not there"):
        Functions(tmp_path).find(spec)


def test_a_file_that_changed_since_the_plan_was_compiled(tmp_path: Path) -> None:
    spec = user_function(tmp_path, "def user(a):\n    return a\n")
    (tmp_path / "mine.py").write_text("def user(a):\n    return -a\n")
    with pytest.raises(DiagnosticError, match=r"RL0704.*changed since the plan was compiled"):
        Functions(tmp_path).find(spec)


def test_a_file_that_cannot_be_imported(tmp_path: Path) -> None:
    spec = user_function(tmp_path, "import nothing_of_this_name\n")
    with pytest.raises(DiagnosticError) as caught:
        Functions(tmp_path).find(spec)
    found = caught.value.diagnostics[0]
    assert found.code == "RL0705" and found.span is not None and found.span.line == 1


def test_a_function_without_a_field_is_the_compilers_fault() -> None:
    with pytest.raises(AssertionError, match="`mine` is called without a field"):
        call(lambda: [1.0])


@pytest.mark.parametrize("per_row", [True, False])
def test_sys_exit_is_an_error_of_the_function(per_row: bool) -> None:
    def mine(texts: Any) -> Any:
        raise SystemExit(3)

    said = told(mine, "texts", per_row=per_row)
    assert said.code == "RL0705" and "SystemExit" in said.message


def test_a_group_functions_own_error_is_told() -> None:
    def mine(score: Any) -> Any:
        if len(score) % 3:
            raise ValueError("not whole groups")
        raise KeyError("the real one")

    said = told(mine, "score")
    assert said.found is not None and "the real one" in said.found and "sample" not in said.message


def test_reduce_is_as_strict_on_one_rank() -> None:
    with pytest.raises(TypeError, match="takes a tensor"):
        _reduce(Comm.alone())(1.0)
    assert float(_reduce(Comm.alone())(torch.tensor(2.0))) == 2.0


FLAG, PROMPT_FLAG, PER_PROMPT, COUNT = (
    FieldType.parse(t) for t in ("bool[sample]", "bool[prompt]", "f32[prompt]", "i64[sample]")
)


def test_a_row_function_may_answer_yes_or_no() -> None:
    got = call(lambda score: score > 1.5, "score", per_row=True, out=FLAG).data
    assert isinstance(got, torch.Tensor) and got.dtype == torch.bool and got.tolist() == [False, True, True]
    assert call(lambda score: score > 1.5, "score", out=FLAG).data.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("result", "out", "found"),
    [
        (0.5, FLAG, "float 0.5 for sample 1 of prompt 3 (id 40)"),
        (1, FLAG, "int 1 for sample 1 of prompt 3 (id 40)"),
        (0.5, COUNT, "float 0.5 for sample 1 of prompt 3 (id 40)"),
    ],
)
def test_numbers_do_not_change_silently(result: Any, out: FieldType, found: str) -> None:
    problem = told(lambda score: result, "score", per_row=True, out=out)
    assert problem.code == "RL0706" and problem.found == found


def groups(function: Callable[..., Any], kind: FieldType, rows: int = 6, **more: Any) -> Column:
    """One call on samples 4 to 9, three a prompt."""
    columns = {"score": Column(torch.arange(6, 6 + rows), torch.arange(rows).float(), 3)}
    made = Call(
        spec=FunctionSpec(name="mine", module="x"), function=function, file=None, columns=columns, absent=(),
        params={"group": 3}, outputs=[("out", kind)], per_prompt=3, batch=8, reduce=None, status=Status(step=7, steps=30), **more,
    )  # fmt: skip
    return made.run()["out"]


def test_a_group_function_writes_a_row_for_each_prompt() -> None:
    def useful(score: Any, *, group: int) -> Any:
        return score.view(-1, group).sum(1) > 5

    got = groups(useful, PROMPT_FLAG)
    assert got.ids.tolist() == [2, 3] and got.per_prompt == 1 and got.data.tolist() == [False, True]
    mean = groups(lambda score, group: score.view(-1, group).mean(1), PER_PROMPT)
    assert mean.ids.tolist() == [2, 3] and mean.data.tolist() == [1.0, 4.0]


def test_a_group_functions_rows_are_counted_and_named_as_prompts() -> None:
    with pytest.raises(DiagnosticError) as caught:
        groups(lambda score, group: score, PER_PROMPT)
    found = caught.value.diagnostics[0]
    assert found.expected == "out: f32[prompt], here [2] of torch.float32" and found.found == "[6] of torch.float32"
    with pytest.raises(DiagnosticError) as caught:
        groups(lambda score, group: torch.tensor([1.0, float("nan")]), PER_PROMPT)
    assert str(caught.value.diagnostics[0].found).endswith("the first for prompt 4 (id 3)")


@pytest.mark.parametrize("kind", [PROMPT_FLAG, PER_PROMPT, PER_SAMPLE, TEXT])
def test_a_function_is_not_called_for_no_rows(kind: FieldType) -> None:
    def never(score: Any, *, group: int) -> Any:
        raise AssertionError

    got = groups(never, kind, rows=0)
    assert len(got.ids) == len(got.data) == 0 and got.per_prompt == (1 if kind.unit == "prompt" else 3)


def test_a_function_that_sums_over_ranks_is_called_for_no_rows_too() -> None:
    """The others wait for it."""
    columns = {"score": Column(torch.empty(0, dtype=torch.int64), torch.empty(0), 3)}
    called = []

    def mine(score: Any, *, reduce: Any) -> Any:
        called.append(float(reduce(score.sum())))
        return score

    made = Call(
        spec=FunctionSpec(name="mine", module="x", reduces=True), function=mine, file=None, columns=columns,
        absent=(), params={}, outputs=[("out", PER_SAMPLE)], per_prompt=3, batch=8, reduce=_reduce(Comm.alone()),
        status=Status(step=7, steps=30),
    )  # fmt: skip
    assert len(made.run()["out"]) == 0 and called == [0.0]
