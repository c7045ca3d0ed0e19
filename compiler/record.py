"""The record of what a Python file, or a notebook, declares; `Builder.graph` makes the IR of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Generic, TypeVar

from rldsl.compiler.annotations import Annotations, check_reads, check_writes
from rldsl.compiler.handles import ParamHandle
from rldsl.compiler.ir import (
    ANY_NAME,
    Block,
    Deploy,
    Graph,
    Input,
    Keyword,
    Model,
    Node,
    Param,
    PhaseLayout,
    Place,
    Use,
)
from rldsl.diagnostics import Diagnostic, DiagnosticError, Diagnostics, Label, Span, fail
from rldsl.types import FieldType

_T = TypeVar("_T")
Make = Callable[[], _T]
"""Makes a part of the IR, once all parameters have names. Raises DiagnosticError."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS = frozenset({"and", "or", "not", "true", "false", "none"})


def check_name(name: object, what: str, span: Span | None) -> str:
    """`name`; RL0105 unless the language could write it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _WORDS:
        expected = "letters without accents, digits and `_`, not a digit first, and no word such as `none`"
        fail("RL0105", f"{what} cannot be called {name!r}", span=span, expected=expected, found=repr(name))
    return name


class Declared(Generic[_T]):
    """Declarations in order. Where names may be declared anew, a later one takes the place of an earlier one."""

    def __init__(self, *, replaces: bool) -> None:
        self._replaces, self._kept, self._place = replaces, dict[int, _T](), dict[object, int]()
        self._next = 0

    def __iter__(self) -> Iterator[_T]:
        return (self._kept[i] for i in sorted(self._kept))

    def add(self, names: Iterable[object], declared: _T) -> None:
        """Record one that declares `names`."""
        names = tuple(names)
        earlier = sorted({self._place[n] for n in names if n in self._place}) if self._replaces else []
        for place in earlier:
            self._kept.pop(place, None)
        place = earlier[0] if earlier else self._next
        self._next += 1
        self._kept[place] = declared
        self._place.update(dict.fromkeys(names, place))


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """A node, metric or output: how to make it, and what is to be checked of the function that declared it.

    `writes` are the types of what its call returns, `file` the user's file that it needs when it runs, and `body`
    the function's code if that itself is what it runs.
    """

    make: Make[Node]
    annotations: Annotations = field(default_factory=Annotations)
    writes: tuple[FieldType | None, ...] = ()
    file: str | None = None
    body: CodeType | None = None
    span: Span


class Scope:
    """Where nodes and inputs go: the algorithm itself, or a block of it."""

    def __init__(self, *, replaces: bool) -> None:
        self.inputs: Declared[Make[Input]] = Declared(replaces=replaces)
        self.nodes: Declared[NodeRecord] = Declared(replaces=replaces)


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """A block: its scope, and how to make it of what stands in it."""

    scope: Scope
    make: Callable[[tuple[Input, ...], tuple[Node, ...]], Block]


class Builder:
    """Collects what one file, or one session, declares.

    While a file is traced, `folder` is its own: all its faults are reported together, and a name that is declared
    twice is one of them. In a session (`folder` None) a fault is raised where it is made, and a declaration replaces
    an earlier one of the same name: a cell may be run again.
    """

    def __init__(self, name: str | None = None, folder: Path | None = None) -> None:
        self.name, self.folder = name, folder
        replaces = folder is None
        self.span: Span | None = None
        self.params: list[ParamHandle] = []
        self.models: Declared[Make[Model]] = Declared(replaces=replaces)
        self.blocks: Declared[BlockRecord] = Declared(replaces=replaces)
        self.layouts: Declared[Make[PhaseLayout]] = Declared(replaces=replaces)
        self.places: Declared[Make[Place]] = Declared(replaces=replaces)
        self.uses: Declared[tuple[str, Span]] = Declared(replaces=True)
        self.cluster: tuple[int, str] | None = None
        self.figures: Make[tuple[Keyword, ...]] = tuple
        self.top = self.scope = Scope(replaces=replaces)
        self.found = Diagnostics()

    def add_param(self, handle: ParamHandle) -> None:
        """Record a parameter. Those before it have their variables by now."""
        for known in self.params:
            known.find_name()
        self.params.append(handle)

    @property
    def tracing(self) -> bool:
        """Whether this is the record of a file that is being compiled."""
        return self.folder is not None

    def graph(self, name: str = "algorithm", folder: Path | None = None, found: Diagnostics | None = None) -> Graph:
        """The IR; files are named relative to `folder`. What is wrong with the declarations goes to `found`.

        Then the graph is of those that are right, and any name may have been declared by another. Without `found` all
        that is wrong is raised.
        """
        maker = _Maker(self, self.folder or folder or Path())
        graph = maker.graph(self.name or name)
        if found is None:
            maker.found.raise_if_errors()
            return graph
        for diagnostic in maker.found:
            found.add(diagnostic)
        return replace(graph, poisoned=ANY_NAME) if maker.found.has_errors else graph


@dataclass(frozen=True)
class _Made:
    """What became of a scope: its inputs and its nodes, each with its record."""

    inputs: tuple[Input, ...]
    pairs: tuple[tuple[NodeRecord, Node], ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for _, node in self.pairs)

    def types(self) -> dict[str, FieldType]:
        """The types of the fields that this scope defines, as far as they are known."""
        made: dict[str, FieldType] = {name: i.type for i in self.inputs for name in i.names}
        for record, node in self.pairs:
            made |= {n: t for n, t in zip(node.outputs, record.writes, strict=False) if t is not None}
        return made


@dataclass
class _Maker:
    """Makes a graph of a record, collecting what cannot be made."""

    builder: Builder
    folder: Path
    found: Diagnostics = field(default_factory=Diagnostics)

    def graph(self, name: str) -> Graph:
        builder = self.builder
        self.report(builder.found)
        params, models = self.params(), self.each(builder.models)
        top = self.scope(builder.top)
        inner = [(record, self.scope(record.scope)) for record in builder.blocks]
        blocks = self.each(partial(r.make, made.inputs, made.nodes) for r, made in inner)
        layouts, places = self.each(builder.layouts), self.each(builder.places)
        scopes = [made for _, made in inner]
        self.check(top, scopes)
        count, kind = builder.cluster or (None, None)
        figures = self.one(builder.figures) or ()
        return Graph(
            name=name,
            params=params,
            models=models,
            inputs=top.inputs,
            nodes=top.nodes,
            blocks=blocks,
            uses=self.uses([top, *scopes]),
            deploy=Deploy(count=count, cluster=kind, figures=figures, layouts=layouts, places=places)
            if builder.cluster or layouts or places
            else None,
            span=builder.span,
        )

    def report(self, diagnostics: Iterable[Diagnostic]) -> None:
        for diagnostic in diagnostics:
            self.found.add(diagnostic)

    def one(self, make: Make[_T]) -> _T | None:
        try:
            return make()
        except DiagnosticError as error:
            self.report(error.diagnostics)
            return None

    def each(self, makes: Iterable[Make[_T]]) -> tuple[_T, ...]:
        return tuple(made for make in makes if (made := self.one(make)) is not None)

    def scope(self, scope: Scope) -> _Made:
        pairs = tuple((r, node) for r in scope.nodes if (node := self.one(r.make)) is not None)
        return _Made(self.each(scope.inputs), pairs)

    def params(self) -> tuple[Param, ...]:
        """In a session the last one of a name stands for all, and one that is gone from every variable for none."""
        if self.builder.tracing:
            return self.each(h.param for h in self.builder.params)
        made = self.each(h.param for h in self.builder.params if h.find_name())
        return tuple({p.name: p for p in made}.values())

    def check(self, top: _Made, blocks: list[_Made]) -> None:
        """What annotations say against what is. A name in a block means what the block defines, else one outside."""
        self.check_bodies([top, *blocks])
        outer = {name: kind for made in blocks for name, kind in made.types().items()} | top.types()
        for made in (top, *blocks):
            types = outer if made is top else outer | made.types()
            for record, node in made.pairs:
                check_reads(record.annotations.reads, types, self.found)
                check_writes(record.annotations, record.writes, node.outputs, self.found)

    def check_bodies(self, scopes: list[_Made]) -> None:
        """RL0205 for two nodes that run functions of one name: a file keeps only the last of them."""
        first: dict[tuple[str, str], tuple[CodeType, Span]] = {}
        for record, _ in (pair for made in scopes for pair in made.pairs):
            body = record.body
            if body is None:
                continue
            known, place = first.setdefault((body.co_filename, body.co_name), (body, record.span))
            if known is not body:
                labels = (Label(span=place, message="first defined here"),)
                what = f"function `{body.co_name}` is defined twice, and both run"
                self.found.error("RL0205", what, span=record.span, labels=labels, fix="rename one, and say `name=`")

    def uses(self, scopes: list[_Made]) -> tuple[Use, ...]:
        """Each of the user's files once: those named by `rl.use`, then those of nodes."""
        records = (r for made in scopes for r, _ in made.pairs)
        files = [*self.builder.uses, *((r.file, r.span) for r in records if r.file is not None)]
        made: dict[str, Use] = {}
        for file, span in files:
            path = Path(os.path.relpath(file, self.folder)).as_posix()
            made.setdefault(path, Use(path=path, span=span))
        return tuple(made.values())


_sessions = [Builder()]
_current: ContextVar[Builder | None] = ContextVar("rldsl_builder", default=None)


def current() -> Builder:
    """The builder that declarations go to: that of the file being traced, or the session's own."""
    return _current.get() or _sessions[-1]


def forget() -> None:
    """Begin the session anew."""
    _sessions[:] = [Builder()]


@contextmanager
def recording(builder: Builder) -> Iterator[Builder]:
    """Declarations inside go to `builder`."""
    token = _current.set(builder)
    try:
        yield builder
    finally:
        _current.reset(token)


@contextmanager
def declaring() -> Iterator[Builder]:
    """The current builder; while a file is traced it keeps what is wrong inside, and tracing goes on."""
    builder = current()
    try:
        yield builder
    except DiagnosticError as error:
        if not builder.tracing:
            raise
        for diagnostic in error.diagnostics:
            builder.found.add(diagnostic)
