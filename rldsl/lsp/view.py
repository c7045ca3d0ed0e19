"""What is known of a document at one moment: its names, those of the files it brings in, and what the compiler says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

from rldsl.compiler.frontend import load_graph
from rldsl.compiler.ir import Module
from rldsl.compiler.passes.check_counts import CheckCounts
from rldsl.compiler.passes.check_types import CheckTypes
from rldsl.compiler.pipeline import Options, compile_graph
from rldsl.diagnostics import Diagnostic, DiagnosticError
from rldsl.lsp.functions import Function, in_file, library
from rldsl.lsp.scan import Kind, Occurrence, Scan, Statement, scan
from rldsl.lsp.text import Place, Text

_LIKE_NODES = (Kind.NODE, Kind.METRIC, Kind.OUTPUT)
_SCOPED = (Kind.FIELD, Kind.NODE)


@dataclass(frozen=True)
class Symbol:
    """What a name means. `scope` is the block that keeps it to itself; metrics and outputs are nodes here."""

    kind: Kind
    name: str
    scope: str = ""


@dataclass(frozen=True)
class Source:
    """A `.rl` file's text and names."""

    text: Text
    scan: Scan

    @classmethod
    def of(cls, path: Path, text: str) -> Source:
        """Scan `text`, whatever it holds."""
        return cls(Text(path, text), scan(text))

    @cached_property
    def blocks(self) -> Mapping[str, Statement]:
        """Loops and validations by name."""
        return {s.names[0]: s for s in self.scan.statements if s.keyword in ("loop", "validate") and s.names}

    @cached_property
    def _own(self) -> frozenset[tuple[str, Kind, str]]:
        """(block, kind, name) of everything that a block keeps to itself."""
        return frozenset(
            (o.statement.block, _plain(o.kind), o.name)
            for o in self.scan.occurrences
            if o.defines and o.statement.block and not self._shares(o.statement.block, o.name)
        )

    def keeps(self, block: str, symbol: Symbol) -> bool:
        """Whether `block` has something of its own by that name."""
        return (block, symbol.kind, symbol.name) in self._own

    def _shares(self, block: str, name: str) -> bool:
        return block in self.blocks and name in self.blocks[block].shared

    def symbol(self, occurrence: Occurrence) -> Symbol:
        """What the name at its place means: what its block defines, else what is outside."""
        kind = _plain(occurrence.kind)
        statement = occurrence.statement
        inside = occurrence.block or statement.block
        if statement.keyword == "loop" and statement.names and not occurrence.defines:
            inside = statement.names[0]
        scoped = kind in _SCOPED and (inside, kind, occurrence.name) in self._own
        return Symbol(kind, occurrence.name, inside if scoped else "")

    def occurrences(self, symbol: Symbol) -> Iterator[Occurrence]:
        """Every place where `symbol` is meant, in order."""
        return (o for o in self.scan.occurrences if o.name == symbol.name and self.symbol(o) == symbol)

    def place(self, occurrence: Occurrence) -> Place:
        """Where a name stands."""
        return Place(self.text, occurrence.start, occurrence.end)

    def files(self, keyword: str) -> Iterator[str]:
        """The files that `use` or `import` names."""
        return (s.names[0] for s in self.scan.statements if s.keyword == keyword and s.names)


def _plain(kind: Kind) -> Kind:
    return Kind.NODE if kind in _LIKE_NODES else kind


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What the compiler made of a text: all that `rldsl check` says, and the module with types, else as written."""

    diagnostics: tuple[Diagnostic, ...] = ()
    module: Module | None = None


def analyse(path: Path, text: str) -> Analysis:
    """Compile `text` as if it stood at `path`; nothing is written and nothing of the user's runs."""
    seen: dict[str, Module] = {}

    def keep(name: str, module: Module, seconds: float) -> None:
        del seconds
        seen[name] = module

    try:
        graph = load_graph(path, text)
        found = compile_graph(graph, Options(observe=keep), source_dir=path.parent).warnings
    except DiagnosticError as error:
        found = error.diagnostics
    module, counted = seen.get(CheckTypes.name), seen.get(CheckCounts.name)
    if module and counted:
        # How many rows a prompt has is only known of what is left once conditions are decided.
        module = replace(module, fields={**module.fields, **counted.fields})
    return Analysis(diagnostics=found, module=module)


@dataclass(frozen=True, kw_only=True)
class View:
    """A document as it stands, with the module of the last text of it that could be analysed, if any."""

    source: Source
    module: Module | None = None
    imported: tuple[Source, ...] = ()
    functions: Mapping[str, Function] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, text: str, module: Module | None = None) -> View:
        """Scan `text` and read what it brings in; files that cannot be read are left out."""
        source = Source.of(path, text)
        imported = tuple(_imports(source, {path.absolute()}))
        functions = {**library()}
        for one in (source, *imported):
            for file in one.files("use"):
                functions.update(in_file(one.text.path.parent / file, file))
        return cls(source=source, module=module, imported=imported, functions=functions)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The document itself, then what it imports."""
        return (self.source, *self.imported)

    def definitions(self, occurrence: Occurrence) -> list[Place]:
        """Where the name is given its meaning; several where a loop writes anew what it carries."""
        if occurrence.kind is Kind.FILE:
            path = self.source.text.path.parent / occurrence.name.strip('"')
            return [Place(Text(path, ""), 0, 0)] if path.is_file() else []
        if occurrence.kind is Kind.FUNCTION:
            function = self.functions.get(occurrence.name)
            return [function.place] if function else []
        symbol = self.source.symbol(occurrence)
        return [s.place(o) for s in self.sources for o in s.occurrences(symbol) if o.defines]

    def references(self, occurrence: Occurrence, *, declaration: bool = True) -> list[Place]:
        """Every place of the document and of what it imports that means the same."""
        symbol = self.source.symbol(occurrence)
        return [s.place(o) for s in self.sources for o in s.occurrences(symbol) if declaration or not o.defines]

    def names(self, kind: Kind, block: str = "") -> list[str]:
        """Names of a kind that can be seen from `block`, in order."""
        found = [
            o.name
            for source in self.sources
            for o in source.scan.occurrences
            if o.defines and _plain(o.kind) is kind and source.symbol(o).scope in ("", block)
        ]
        return list(dict.fromkeys(found))


def _imports(source: Source, seen: set[Path]) -> Iterator[Source]:
    """What `source` imports, and what that imports; each file once."""
    for name in source.files("import"):
        path = source.text.path.parent / name
        if path.absolute() in seen:
            continue
        seen.add(path.absolute())
        read = _read(path)
        if read:
            yield read
            yield from _imports(read, seen)


def _read(path: Path) -> Source | None:
    try:
        return _read_at(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def _read_at(path: Path, modified: int) -> Source:
    del modified  # part of the key
    return Source.of(path, path.read_text(encoding="utf-8"))
