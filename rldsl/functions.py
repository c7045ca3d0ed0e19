"""Functions that a graph calls: those of `rl.lib`, those of a file (`rl.use`), those marked `@rl.function`."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from rldsl.compiler.annotations import written_types
from rldsl.compiler.handles import CallHandle, FieldHandle, field_args
from rldsl.compiler.pysource import caller_frame, caller_site
from rldsl.compiler.record import current
from rldsl.compiler.signature import (
    Signature,
    functions_in,
    library_names,
    library_signature,
    parse_user_file,
    user_signature,
)
from rldsl.diagnostics import Diagnostics, Span, did_you_mean, fail
from rldsl.types import FieldType, TokenLoss

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")
# What the caller wants it to be: a node's return annotation says what a function gives, and rldsl checks that.
R = TypeVar("R")


class Function(ABC):
    """A function that a graph can call: with fields it records, with anything else it runs.

    `file` is where a user's function stands, None for one of rldsl's.
    """

    def __init__(self, name: str, *, file: str | None, writes: tuple[FieldType | None, ...]) -> None:
        self.name, self.file, self._writes = name, file, writes

    def __call__(self, *args: object, **keywords: object) -> R:  # type: ignore[type-var]
        """Record a call on fields, or call the function itself on values."""
        if any(isinstance(v, FieldHandle) for v in (*args, *keywords.values())):
            return cast(R, self._record(args, keywords))
        return cast(R, self._implementation()(*args, **keywords))

    def _record(self, args: tuple[object, ...], keywords: dict[str, object]) -> CallHandle:
        site = caller_site()
        fields, settings = field_args(args, keywords, self.name)
        if self.file is not None:
            needs_file(self.file, f"function `{self.name}`", site.span)
        return CallHandle(
            function=self.name, args=fields, keywords=settings, file=self.file, writes=self._writes, site=site
        )

    @abstractmethod
    def _implementation(self) -> Callable[..., Any]:
        """The function itself."""


class _Shipped(Function):
    def __init__(self, signature: Signature) -> None:
        super().__init__(signature.name, file=None, writes=signature.outputs)
        self._module = signature.module or ""

    def _implementation(self) -> Callable[..., Any]:
        return cast("Callable[..., Any]", getattr(importlib.import_module(self._module), self.name))


class _Marked(Function):
    def __init__(self, run: Callable[..., Any]) -> None:
        hint = run.__annotations__.get("return")
        writes = () if isinstance(hint, str) else written_types(hint)
        super().__init__(run.__name__, file=run.__code__.co_filename, writes=writes)
        self._run = run
        update_wrapper(self, run)

    def _implementation(self) -> Callable[..., Any]:
        return self._run


class _FromFile(Function):
    def __init__(self, name: str, path: Path, writes: tuple[FieldType | None, ...]) -> None:
        super().__init__(name, file=str(path), writes=writes)

    def _implementation(self) -> Callable[..., Any]:
        spec = importlib.util.spec_from_file_location(Path(str(self.file)).stem, str(self.file))
        assert spec is not None and spec.loader is not None, self.file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return cast("Callable[..., Any]", vars(module)[self.name])


if TYPE_CHECKING:

    class Marked(Protocol[P, T_co]):
        """A function under `@rl.function`: itself on values; on fields, what the node says that it writes."""

        __name__: str

        @overload
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
        @overload
        def __call__(self, *args: object, **kwargs: object) -> R: ...  # type: ignore[type-var]


@overload
def function(run: Callable[P, TokenLoss], /) -> Callable[P, TokenLoss]: ...  # type: ignore[overload-overlap]


@overload
def function(run: Callable[P, V], /) -> Marked[P, V]: ...


def function(run: Callable[..., Any], /) -> Any:
    """Make a plain Python function (reward, advantage, loss) callable from the bodies of nodes."""
    return _Marked(run)


def needs_file(file: str, what: str, span: Span) -> None:
    """RL0105 for what the ranks would have to run, but stands in no file: they import it from one."""
    if not current().tracing and not Path(file).is_file():
        fail(
            "RL0105",
            f"{what} stands in no file, and the ranks of a run import it from one",
            span=span,
            expected="a function of a .py file",
            found=f"one of {file}",
            fix='move it to `mine.py`, write `mine = rl.use("mine.py")`, and call `mine.NAME(...)` in the node',
        )


class Namespace(ABC):
    """Functions as attributes."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The functions there are."""

    @abstractmethod
    def find(self, name: str) -> Function | None:
        """The function of that name."""

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.names()]

    def get(self, name: str) -> Function:
        """The function of that name; AttributeError when there is none."""
        found = None if name.startswith("_") else self.find(name)
        if found is None:
            hint = did_you_mean(name, self.names())
            raise AttributeError(f"{self!r} has no function `{name}`" + (f"; {hint}" if hint else ""))
        return found


class Library(Namespace):
    """The shipped functions: `rl.lib.policy_loss`; `rldsl ls` lists them."""

    if TYPE_CHECKING:
        # Losses are told apart for type checkers: their result is handed to `train`, not returned.
        policy_loss: Callable[..., TokenLoss]
        gspo_loss: Callable[..., TokenLoss]
        reinforce_loss: Callable[..., TokenLoss]
        value_loss: Callable[..., TokenLoss]

    def __repr__(self) -> str:
        return "rl.lib"

    def __getattr__(self, name: str) -> Function:
        return self.get(name)

    def names(self) -> tuple[str, ...]:
        """The names of the shipped functions."""
        return library_names()

    def find(self, name: str) -> Function | None:
        """The shipped function of that name."""
        signature = library_signature(name)
        return None if signature is None else _Shipped(signature)


lib = Library()


class UserFile(Namespace):
    """The functions of one of the user's files, read without running it."""

    def __init__(self, path: Path, shown: str, span: Span) -> None:
        self._path, self._shown, self._span = path, shown, span

    def __repr__(self) -> str:
        return f'rl.use("{self._shown}")'

    def __getattr__(self, name: str) -> Function:
        return self.get(name)

    def names(self) -> tuple[str, ...]:
        """The names of the file's functions."""
        tree, _ = parse_user_file(self._path, self._shown, self._span)
        return tuple(f.name for f in functions_in(tree))

    def find(self, name: str) -> Function | None:
        """The file's function of that name. RL0101, RL0102 when the file cannot be read."""
        tree, _ = parse_user_file(self._path, self._shown, self._span)
        for definition in functions_in(tree):
            if definition.name == name:
                # What is wrong with its signature is said where the graph is checked.
                signature = user_signature(
                    definition, path=self._path, file=self._shown, sha256="", found=Diagnostics()
                )
                return _FromFile(name, self._path, signature.outputs if signature else ())
        return None


def use(path: str) -> UserFile:
    """The functions of a Python file, relative to the file that says so (in a notebook, to the working directory).

    They are called in the bodies of nodes: `mine = rl.use("mine.py")`, then `return mine.brevity(completions)`.
    """
    frame, site = caller_frame(), caller_site()
    if not isinstance(path, str):
        fail("RL0105", "`rl.use` takes a path", span=site.span, expected='"mine.py"', found=repr(path))
    home = Path(frame.f_code.co_filename)
    file = ((home.parent if home.is_file() or current().tracing else Path()) / path).absolute()
    current().uses.add([str(file)], (str(file), site.span))
    return UserFile(file, path, site.span)
