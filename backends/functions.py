"""Functions that a plan names: found, called on a batch, and what they return checked."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from rldsl.backends.data.batch import TORCH_DTYPE, Column, Data, Ragged, no_rows
from rldsl.backends.status import Status
from rldsl.compiler.neighbours import neighbours
from rldsl.compiler.ops import Scalar
from rldsl.compiler.plan import FunctionSpec
from rldsl.diagnostics import DiagnosticError, Span, fail
from rldsl.types import PROMPT, DType, FieldType, Reduce

SHOWN = 200  # characters of a value in a message
# What a list of numbers may hold: nothing that the field's dtype would change silently.
NUMBERS: dict[DType, tuple[type, ...]] = {DType.F32: (int, float), DType.I64: (int,), DType.BOOL: (bool,)}


class Functions:
    """The plan's functions, imported when first asked for and kept."""

    def __init__(self, source_dir: Path) -> None:
        self._source_dir = source_dir
        self._files: dict[Path, ModuleType] = {}
        self._fresh = set[Path]()

    def find(self, spec: FunctionSpec) -> Callable[..., Any]:
        """The function; RL0704 when its file is not the one the plan was compiled from."""
        if spec.file is None:
            assert spec.module is not None, f"function `{spec.name}` has neither module nor file"
            module = importlib.import_module(spec.module)
        else:
            module = self._load(self._source_dir / spec.file, spec)
        found = vars(module).get(spec.name)
        if found is None:
            fail(
                "RL0704",
                f"`{spec.file or spec.module}` has no function `{spec.name}`",
                fix="compile the plan again",
            )
        function: Callable[..., Any] = inspect.unwrap(found)
        return function

    def _load(self, path: Path, spec: FunctionSpec) -> ModuleType:
        if path in self._files:
            return self._files[path]
        text = _unchanged(path, spec.sha256, f"the file of function `{spec.name}`")
        self._check_neighbours(path, spec)
        self._files[path] = _execute(path, text)
        return self._files[path]

    def _check_neighbours(self, path: Path, spec: FunctionSpec) -> None:
        """RL0704 unless the modules of its folder that the file imports are those the plan was compiled from."""
        for name, sha256 in spec.modules.items():
            _unchanged(self._source_dir / name, sha256, f"`{name}`, imported by `{spec.file}`,")
        assert spec.file is not None, "only users' files have neighbours"
        for name in neighbours(path, spec.file).keys() - spec.modules.keys():
            fail(
                "RL0704",
                f"`{spec.file}` imports `{name}`, which was not there when the plan was compiled",
                fix="compile the plan again",
            )
        for name in spec.modules:
            self._forget(self._source_dir / name, path.parent)

    def _forget(self, path: Path, folder: Path) -> None:
        """Have the module in `path` imported anew: an earlier run of this process may have had another text or file."""
        if path not in self._fresh:
            self._fresh.add(path)
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            old = getattr(sys.modules.get(name), "__file__", None)
            if old is not None and Path(old) in _neighbours:
                del sys.modules[name]
            _neighbours.add(path.absolute())


_neighbours = set[Path]()  # files that runs of this process have imported from a user's folder


def _unchanged(path: Path, sha256: str | None, what: str) -> bytes:
    """The bytes of `path`; RL0704 when they are not those the plan was compiled from."""
    if not path.is_file():
        fail("RL0704", f"{what} is gone: {path}", fix="compile the plan again")
    text = path.read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if sha256 is not None and found != sha256:
        fail(
            "RL0704",
            f"{path} changed since the plan was compiled; the plan no longer says what would run",
            expected=f"sha256 {sha256[:16]}...",
            found=f"sha256 {found[:16]}...",
            fix="compile the plan again",
        )
    return text


def _execute(path: Path, text: bytes) -> ModuleType:
    """Run the very bytes that were checked, as a module of a name of its own."""
    module = ModuleType(f"rldsl_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
    module.__file__ = str(path)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[module.__name__] = module
    with _importing_from(path.parent):
        try:
            exec(compile(text, str(path), "exec"), vars(module))
        except (Exception, SystemExit) as error:
            raised(f"{path} cannot be imported", error, path)
    return module


@contextmanager
def _importing_from(folder: Path) -> Any:
    """As `python file.py` would: the file's own folder comes first, while the file runs.

    No bytecode is written: Python would take that of a text of the same second and size for the present text's.
    """
    sys.path.insert(0, str(folder))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(folder))


def raised(message: str, error: BaseException, file: Path | None, notes: tuple[str, ...] = ()) -> NoReturn:
    """RL0705: the user's code raised `error`; points at the last line of `file`, else at the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if file is not None and Path(f.filename) == file] or frames
    line = own[-1].lineno or 1
    fail(
        "RL0705",
        message,
        span=Span.whole_line(own[-1].filename, line),
        found=f"{type(error).__name__}: {shorten(str(error))}",
        notes=(*notes, f"raised at {own[-1].filename}:{line}"),
    )


def shorten(text: str) -> str:
    """At most `SHOWN` characters, from both ends."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a function on this rank's rows of a step.

    `columns` are the arguments that are fields, over the same rows; `absent` the parameters that are None; `batch` is
    how many prompts the rows of all ranks are of.
    An output of None is one that nothing reads; one of prompts, made from samples, has a row for each group of
    `per_prompt`. Texts go in as list[str], f32[rows] as is, ragged fields as [rows, longest], padded with zeros on
    the right. A function is not called for no rows at all, unless it sums over ranks and others wait for it.
    """

    spec: FunctionSpec
    function: Callable[..., Any]
    file: Path | None
    columns: Mapping[str, Column]
    absent: Sequence[str]
    params: Mapping[str, Scalar]
    outputs: Sequence[tuple[str, FieldType] | None]
    per_prompt: int
    batch: int
    reduce: Reduce | None
    status: Status

    def run(self) -> dict[str, Column]:
        """The outputs as columns. Raises RL0705 (it raised) or RL0706 (it returned something else)."""
        return self.checked(self.called(self.prepared()))

    def prepared(self) -> list[dict[str, Any]]:
        """The arguments of each time that the function is called: once a row, once, or never."""
        if not len(self.ids) and (self.spec.per_row or self.reduce is None):
            return []
        if not self.spec.per_row:
            return [{p: dense(c.data) for p, c in self.columns.items()}]
        values = {p: elements(c.data) for p, c in self.columns.items()}
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def called(self, arguments: list[dict[str, Any]]) -> Any:
        """What the function returns for `prepared` arguments: all that may run on another thread. Raises RL0705."""
        if not arguments:
            return ()
        if not self.spec.per_row:
            return self._at_once(arguments[0])
        rows = [self._row(i, each) for i, each in enumerate(arguments)]
        return tuple(map(list, zip(*rows, strict=True))) if len(self.outputs) > 1 else rows

    def checked(self, results: Any) -> dict[str, Column]:
        """The outputs as columns, of what `called` returned. Raises RL0706."""
        if not len(self.ids) and (self.spec.per_row or self.reduce is None):
            return {name: self._nothing(kind) for name, kind in filter(None, self.outputs)}
        if len(self.outputs) == 1:
            results = (results,)
        elif not isinstance(results, tuple) or len(results) != len(self.outputs):
            self._wrong(f"{len(self.outputs)} results, a tuple", f"{type(results).__name__}")
        wanted = [(o, r) for o, r in zip(self.outputs, results, strict=True) if o is not None]
        return {n: self._column(n, kind, r) for (n, kind), r in wanted}

    def _column(self, name: str, kind: FieldType, result: Any) -> Column:
        ids, per_prompt = self._rows_of(kind)
        return Column(ids, self._checked(name, kind, result), per_prompt)

    def _nothing(self, kind: FieldType) -> Column:
        ids, per_prompt = self._rows_of(kind)
        return Column(ids, no_rows(kind, self._device or torch.device("cpu")), per_prompt)

    def _rows_of(self, kind: FieldType) -> tuple[Tensor, int]:
        """Ids of an output's rows, and how many a prompt has: the arguments' rows, or one for each group of them."""
        if kind.unit == PROMPT and self.per_prompt > 1:
            # The rows of a prompt are neighbours: that is how rollouts and reshards leave them.
            return self.ids[:: self.per_prompt] // self.per_prompt, 1
        return self.ids, self.per_prompt

    @cached_property
    def _device(self) -> torch.device | None:
        tensors = [c.data for c in self.columns.values() if isinstance(c.data, Tensor)]
        return tensors[0].device if tensors else None

    @cached_property
    def ids(self) -> Tensor:
        """i64[rows], those of the arguments that are fields."""
        assert self.columns, f"`{self.spec.name}` is called without a field, so no rows: the compiler refuses that"
        return next(iter(self.columns.values())).ids

    @cached_property
    def _lengths(self) -> Tensor | None:
        ragged = [c.data for c in self.columns.values() if isinstance(c.data, Ragged)]
        return ragged[0].lengths if ragged else None

    def _fixed(self) -> dict[str, Any]:
        extra: dict[str, Any] = {} if self.reduce is None else {"reduce": self.reduce}
        return {**dict.fromkeys(self.absent), **self.params, **extra}

    def _at_once(self, arguments: dict[str, Any]) -> Any:
        try:
            return self.function(**arguments, **self._fixed())
        except DiagnosticError:  # `reduce` lost a peer: not the function's doing
            raise
        except (Exception, SystemExit) as error:
            row, own = self._find_row(error)
            self._raised(own, row)

    def _find_row(self, error: BaseException) -> tuple[int | None, BaseException]:
        """The first row that fails alone, and how; a function that sums over ranks cannot be tried alone."""
        for row in range(0 if self.reduce is None else len(self.ids), len(self.ids)):
            index = torch.tensor([row])
            try:
                self.function(**{p: dense(c.select(index).data) for p, c in self.columns.items()}, **self._fixed())
            except (Exception, SystemExit) as own:
                # A function of groups may fail on one row for a reason of its own: that is not what is looked for.
                if type(own) is type(error):
                    return row, own
        return None, error

    def _row(self, row: int, arguments: dict[str, Any]) -> Any:
        try:
            return self.function(**arguments, **self._fixed())
        except (Exception, SystemExit) as error:
            self._raised(error, row)

    def _raised(self, error: BaseException, row: int | None) -> NoReturn:
        step = self.status.step_words
        where = f"in {step}" if row is None else f"on {self._name(row)}, in {step}"
        shown = () if row is None else tuple(self._show(p, c, row) for p, c in self.columns.items())
        if "thread" in str(error) and threading.current_thread() is not threading.main_thread():
            # Signals, above all: Python has them on the main thread only.
            shown += ("it ran in the background, on another thread: `--disable-pass overlap_computes` leaves it here",)
        raised(f"the function `{self.spec.name}` raised {type(error).__name__} {where}", error, self.file, shown)

    def _name(self, row: int, kind: FieldType | None = None) -> str:
        """Such as `sample 2 of prompt 7 (id 25)`, of an argument, or an output's.

        What is counted is counted from 1, within the step; the id is unique over ranks and steps, as in outputs.
        """
        ids, per_prompt = (self.ids, self.per_prompt) if kind is None else self._rows_of(kind)
        prompt, sample = divmod(int(ids[row]), per_prompt)
        of_prompt = f"prompt {prompt % self.batch + 1} (id {int(ids[row])})"
        return of_prompt if per_prompt == 1 else f"sample {sample + 1} of {of_prompt}"

    def _show(self, param: str, column: Column, row: int) -> str:
        value = elements(column.data)[row]
        text = str(value.tolist()) if isinstance(value, Tensor) else repr(value)
        return f"{param} = {shorten(text)}"

    def _wrong(self, expected: str, found: str) -> NoReturn:
        fail(
            "RL0706",
            f"the function `{self.spec.name}` returned something that does not fit, in {self.status.step_words}",
            span=definition(self.function),
            expected=expected,
            found=found,
        )

    def _checked(self, name: str, kind: FieldType, result: Any) -> Data:
        if kind.dtype is DType.TEXT:
            rows = len(self._rows_of(kind)[0])
            if not isinstance(result, list) or not all(isinstance(t, str) for t in result) or len(result) != rows:
                self._wrong(f"{name}: a list of {rows} strings", _describe(result))
            return result
        tensor = self._tensor(name, kind, result)
        if not kind.ragged:
            self._check_finite(name, kind, tensor, torch.ones(len(tensor), dtype=torch.int64))
            return tensor
        assert self._lengths is not None
        data = Ragged.from_padded(tensor, self._lengths)
        self._check_finite(name, kind, data.values, data.lengths.cpu())
        return data

    def _tensor(self, name: str, kind: FieldType, result: Any) -> Tensor:
        """The result in the field's dtype and shape; numbers in a list become it."""
        dtype, shape = TORCH_DTYPE[kind.dtype], self._shape(name, kind)
        expected = f"{name}: {kind}, here {list(shape)} of {dtype}"
        if isinstance(result, list):
            result = self._from_list(result, kind, shape, expected)
        if not isinstance(result, Tensor) or tuple(result.shape) != shape:
            self._wrong(expected, _describe(result))
        if result.dtype != dtype and not (result.is_floating_point() and dtype.is_floating_point):
            self._wrong(expected, _describe(result))
        return result.detach().to(dtype)

    def _from_list(self, result: list[Any], kind: FieldType, shape: tuple[int, ...], expected: str) -> Tensor:
        if len(result) != shape[0]:
            self._wrong(expected, f"a list of {len(result)}")
        if all(isinstance(r, Tensor) for r in result) and result:
            width = shape[1] if len(shape) > 1 else 0
            parts = [torch.nn.functional.pad(r, (0, width - len(r))) if width and r.dim() else r for r in result]
            return torch.stack(parts)
        bad = next((i for i, r in enumerate(result) if not isinstance(r, NUMBERS[kind.dtype])), None)
        if bad is not None:
            self._wrong(expected, f"{_describe(result[bad])} for {self._name(bad, kind)}")
        return torch.tensor(result, dtype=TORCH_DTYPE[kind.dtype], device=self._device)

    def _shape(self, name: str, kind: FieldType) -> tuple[int, ...]:
        rows = len(self._rows_of(kind)[0])
        if not kind.ragged:
            return (rows,)
        assert rows == len(self.ids), "one row a group has no tokens: the compiler refuses that"
        if self._lengths is None:
            self._wrong(f"{name}: {kind}", "no argument with a token axis, so the lengths are unknown")
        return (rows, int(self._lengths.max()) if len(self._lengths) else 0)

    def _check_finite(self, name: str, kind: FieldType, values: Tensor, lengths: Tensor) -> None:
        if values.is_floating_point() and not bool(values.isfinite().all()):
            bad = (~values.isfinite()).nonzero()[:, 0].cpu()
            row = int(torch.searchsorted(lengths.cumsum(0), bad[0], right=True))
            found = f"{len(bad)} of {values.numel()} are NaN or infinite, the first for {self._name(row, kind)}"
            self._wrong(f"{name}: finite numbers", found)


def definition(function: Callable[..., Any]) -> Span | None:
    """Where a user's function begins; None for a shipped one."""
    plain = inspect.unwrap(function)
    shipped = plain.__module__.partition(".")[0] == "rldsl"
    return None if shipped else Span.whole_line(plain.__code__.co_filename, plain.__code__.co_firstlineno)


def dense(data: Data) -> Any:
    """What a batch function sees of a column."""
    return data.padded() if isinstance(data, Ragged) else data


def elements(data: Data) -> Sequence[Any]:
    """What a per-row function sees of each row: a string, a number, or a 1-D tensor."""
    if isinstance(data, Ragged):
        return data.rows()
    return data if isinstance(data, list) else data.tolist()


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} of {value.dtype}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{type(value).__name__} {shorten(repr(value))}"
