"""How a run that fails says so once: the first rank to post its failure is the one that is heard."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import msgspec

from rldsl.diagnostics import Diagnostic, DiagnosticError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

FAILURE_KEY = "rldsl/failure"
USER_ERROR, BUG, INTERRUPTED, TERMINATED = 1, 70, 130, 143


class WorkerBugError(RuntimeError):
    """A rank ended with an exception that is ours to answer for; the message is its traceback."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run ended: what to tell the user, or our traceback, or an interrupt; `code` is the exit code."""

    rank: int
    code: int
    diagnostics: tuple[Diagnostic, ...] = ()
    traceback: str = ""

    def post(self, store: Store) -> bool:
        """Offer this as the run's failure; False when another came first, which then is the one to tell."""
        mine = msgspec.json.encode(self).decode()
        kept = store.compare_set(FAILURE_KEY, "", mine)
        return bool(kept.decode() == mine)

    @staticmethod
    def posted(store: Store) -> Failure | None:
        """The run's failure, if one has been posted. Does not wait."""
        if not store.check([FAILURE_KEY]):
            return None
        return msgspec.json.decode(store.get(FAILURE_KEY), type=Failure)

    def throw(self) -> NoReturn:
        """Raise it in the process that started the ranks."""
        if self.code == INTERRUPTED:
            raise KeyboardInterrupt
        if self.diagnostics:
            raise DiagnosticError(self.diagnostics)
        if self.traceback:
            raise WorkerBugError(f"rank {self.rank} failed:\n{self.traceback}")
        raise SystemExit(self.code)

    def tell(self) -> None:
        """Write it to stderr: for ranks whose launcher is not ours."""
        text = "\n".join(plain(d) for d in self.diagnostics) or self.traceback
        if text:
            sys.stderr.write(f"{text.rstrip()}\n")
            sys.stderr.flush()


def plain(diagnostic: Diagnostic) -> str:
    """A diagnostic as plain text, for where no terminal view is at hand."""
    lines = [f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"]
    if diagnostic.span is not None:
        lines.append(f"  --> {diagnostic.span.file}:{diagnostic.span.line}:{diagnostic.span.column}")
    rows = [("expected", diagnostic.expected), ("found", diagnostic.found)]
    rows += [("note", note) for note in diagnostic.notes] + [("fix", diagnostic.fix)]
    lines += [f"  {name}: {text}" for name, text in rows if text]
    return "\n".join(lines)
