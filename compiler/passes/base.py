"""What a pass is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from rldsl.compiler.ir import Module
from rldsl.compiler.trials import Trials
from rldsl.diagnostics import Diagnostics


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every pass may look at besides the module, and where it says what is wrong.

    `settings` are the raw `--set` values; `world_size` is what the command line asks for,
    `memory` the budget of a rank in bytes that it sets. `relower` makes the ops of a module anew, once it has another
    order of equal depths; None where the order is to stay as it is. `trials` compile the same source with changes, to
    say what would help; None in a trial itself.
    """

    found: Diagnostics
    source_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    world_size: int | None = None
    memory: int | None = None
    relower: Callable[[Module], Module] | None = None
    trials: Trials | None = None


class Pass(Protocol):
    """One named rewrite or analysis: frozen, its fields are its options."""

    name: ClassVar[str]

    def apply(self, module: Module, context: Context) -> Module:
        """The module after this pass. The user's faults go to `context.found`."""
        ...
