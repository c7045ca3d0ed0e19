"""The source in hand, compiled otherwise than it is written: what would come of other values, layouts or ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rldsl.diagnostics import Diagnostic, Diagnostics

if TYPE_CHECKING:
    from rldsl.compiler.ir import Module
    from rldsl.compiler.passes.base import Context, Pass
    from rldsl.compiler.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A checked module of which nothing is lowered, and the number of ranks that the command line asks for."""

    module: Module
    world_size: int | None


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a compilation of a draft comes to."""

    plan: Plan
    warnings: tuple[Diagnostic, ...]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Lowers drafts by the very passes that the source itself goes through: `before` the memory plan, and the `rest`.

    `start` is the source as it is written. Nothing that a trial finds wrong is told, and no trial begins others.
    """

    start: Draft
    context: Context
    before: tuple[Pass, ...]
    rest: tuple[Pass, ...]
    emit: Callable[[Module], Plan]

    def lowered(self, draft: Draft) -> Module | None:
        """With ops, but no plan of their memory; None where this is no program for these ranks and layouts."""
        return _applied(draft.module, self.before, self._context(draft))

    def planned(self, draft: Draft) -> Tried | None:
        """The plan, and what it is warned of; None where there is none."""
        context = self._context(draft)
        module = _applied(draft.module, (*self.before, *self.rest), context)
        return None if module is None else Tried(plan=self.emit(module), warnings=tuple(context.found))

    def _context(self, draft: Draft) -> Context:
        return replace(self.context, found=Diagnostics(), world_size=draft.world_size, trials=None)


def _applied(module: Module, passes: tuple[Pass, ...], context: Context) -> Module | None:
    for one in passes:
        module = one.apply(module, context)
        if context.found.has_errors:
            return None
    return module
