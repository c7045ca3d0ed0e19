"""The compiler's diagnostics as an editor shows them: in the document at hand, with what would mend them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rldsl.diagnostics import Diagnostic, Severity, Span
from rldsl.lsp.scan import Token
from rldsl.lsp.text import Place, Text
from rldsl.lsp.view import Source

_MEANT = re.compile(r"did you mean `([^`]+)`\?")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Replace a stretch of the document."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A diagnostic at a place of the document. `related` are places, also of other files, and what each says."""

    code: str
    message: str
    severity: Severity
    place: Place
    related: tuple[tuple[Place, str], ...] = ()
    edit: Edit | None = None


def problems(source: Source, diagnostics: Iterable[Diagnostic]) -> list[Problem]:
    """Every diagnostic; one about another file stands where the document names that file."""
    return [_problem(source, d) for d in diagnostics]


def _problem(source: Source, diagnostic: Diagnostic) -> Problem:
    own = str(source.text.path)
    span = diagnostic.span
    related = tuple((_elsewhere(source, label.span), label.message) for label in diagnostic.labels)
    if span is None:
        place = _anywhere(source)
    elif span.file == own:
        place = Place(source.text, *source.text.stretch(span))
    else:
        place = _naming(source, Path(span.file))
        related = ((_elsewhere(source, span), diagnostic.message), *related)
    return Problem(
        code=diagnostic.code,
        message=_message(diagnostic),
        severity=diagnostic.severity,
        place=place,
        related=related,
        edit=_edit(source, diagnostic, place) if span is not None and span.file == own else None,
    )


def _message(diagnostic: Diagnostic) -> str:
    lines = [diagnostic.message]
    if diagnostic.expected:
        lines.append(f"expected: {diagnostic.expected}")
    if diagnostic.found:
        lines.append(f"found: {diagnostic.found}")
    lines += diagnostic.notes
    if diagnostic.fix:
        lines.append(f"fix: {diagnostic.fix}")
    return "\n".join(lines)


def _anywhere(source: Source) -> Place:
    """Where a message about the whole document is least in the way: at the algorithm's name, or at the beginning."""
    name = next((o for o in source.scan.occurrences if o.kind == "algorithm"), None)
    return source.place(name) if name else Place(source.text, 0, 0)


def _naming(source: Source, path: Path) -> Place:
    """Where the document names a file, or the first file that it names, through which that one came."""
    files = [o for o in source.scan.occurrences if o.kind == "file"]
    folder = source.text.path.parent
    meant = [o for o in files if (folder / o.name.strip('"')).absolute() == path.absolute()]
    return source.place((meant or files)[0]) if files else _anywhere(source)


def _elsewhere(source: Source, span: Span) -> Place:
    text = source.text
    if span.file != str(text.path):
        path = Path(span.file)
        try:
            text = Text(path, path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Place(Text(path, ""), 0, 0)
    return Place(text, *text.stretch(span))


def _edit(source: Source, diagnostic: Diagnostic, place: Place) -> Edit | None:
    """Put the name that was meant in the place of the one found, at the diagnostic's place or else in its statement."""
    meant = _MEANT.search(diagnostic.fix or "")
    found = (diagnostic.found or "").strip("`")
    if meant is None or not found:
        return None
    statement = source.scan.statement_at(place.start)
    near = [t for t in source.scan.tokens if t.text == found]
    inside = [t for t in near if place.start <= t.start and t.end <= place.end]
    around = [t for t in near if statement and statement.start <= t.start and t.end <= statement.end]
    token: Token | None = next(iter(inside or around), None)
    return Edit(start=token.start, end=token.end, text=meant[1]) if token else None
