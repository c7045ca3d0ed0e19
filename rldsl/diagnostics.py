"""One type for everything rldsl tells a user: a stable code, a place, what was expected and found, a fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, NoReturn


class Severity(StrEnum):
    """How bad it is: an error stops, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


class Span(NamedTuple):
    """A place in a source file; lines and columns count from 1, `end_column` is one past the last."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    @classmethod
    def whole_line(cls, file: str, line: int) -> Span:
        """The line without a column: for sources of which we know no more."""
        return cls(file, line, 1, line, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A second place that helps to understand the first."""

    span: Span
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One message to the user. `code` is stable: `rldsl explain CODE` prints its page."""

    code: str
    message: str
    span: Span | None = None
    severity: Severity = Severity.ERROR
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    expected: str | None = None
    found: str | None = None
    fix: str | None = None


class DiagnosticError(Exception):
    """Carries every diagnostic of a failed step to whoever shows them."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(f"{d.code}: {d.message}" for d in self.diagnostics))

    def __reduce__(self) -> tuple[type[DiagnosticError], tuple[tuple[Diagnostic, ...]]]:
        # The default would rebuild from the message text; Ray and multiprocessing pickle us.
        return (DiagnosticError, (self.diagnostics,))


def fail(
    code: str,
    message: str,
    *,
    span: Span | None = None,
    expected: str | None = None,
    found: str | None = None,
    fix: str | None = None,
    notes: tuple[str, ...] = (),
) -> NoReturn:
    """Raise the one diagnostic that makes going on pointless."""
    raise DiagnosticError(
        [Diagnostic(code=code, message=message, span=span, expected=expected, found=found, fix=fix, notes=notes)]
    )


class Diagnostics:
    """Collects what is wrong, so that one run shows it all."""

    def __init__(self) -> None:
        self._found: dict[Diagnostic, None] = {}  # in the order found

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self.sorted())

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep one, unless the very same has been said already."""
        self._found[diagnostic] = None

    def error(
        self,
        code: str,
        message: str,
        *,
        span: Span | None = None,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
        labels: tuple[Label, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        """Add an error."""
        self.add(
            Diagnostic(
                code=code,
                message=message,
                span=span,
                expected=expected,
                found=found,
                fix=fix,
                labels=labels,
                notes=notes,
            )
        )

    def warning(
        self,
        code: str,
        message: str,
        *,
        span: Span | None = None,
        fix: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Add a warning."""
        self.add(Diagnostic(code=code, message=message, span=span, fix=fix, notes=notes, severity=Severity.WARNING))

    @property
    def has_errors(self) -> bool:
        """Whether anything found is an error."""
        return any(d.severity is Severity.ERROR for d in self._found)

    def sorted(self) -> list[Diagnostic]:
        """In source order: file, line, column; then code and message, so that runs agree."""
        nowhere = Span("", 0, 0, 0, 0)
        return sorted(self._found, key=lambda d: (d.span or nowhere, d.code, d.message))

    def raise_if_errors(self) -> None:
        """Stop here if there is an error, with everything found so far."""
        if self.has_errors:
            raise DiagnosticError(self.sorted())


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """`did you mean X?` for the nearest known name, or None when nothing is near."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None
