"""What every verb prints: diagnostics and texts. rich is imported only when something is to be drawn."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import IO, TYPE_CHECKING, cast

from rldsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False, no_color: bool = False) -> Console:
    """The terminal to draw on."""
    style = import_module("rldsl.render.style")
    return cast("Console", style.terminal(stderr=stderr, no_color=no_color))


def show_diagnostics(diagnostics: Sequence[Diagnostic], *, as_json: bool, no_color: bool, stderr: bool = True) -> None:
    """Print them: on stderr, except for `check`, whose product they are."""
    if not diagnostics:
        return
    render = import_module("rldsl.render.diagnostics")
    if as_json:
        stream: IO[str] = sys.stderr if stderr else sys.stdout
        for diagnostic in diagnostics:
            print(json.dumps(render.as_json(diagnostic)), file=stream)
        return
    console(stderr=stderr, no_color=no_color).print(render.DiagnosticList(diagnostics))
