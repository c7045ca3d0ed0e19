"""What a script or a notebook does with its declarations: `rl.check`, `rl.compile`, `rl.graph`, `rl.reset`."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from rldsl.compiler.expr import format_scalar
from rldsl.compiler.ops import Scalar
from rldsl.compiler.plan import Plan, Source
from rldsl.compiler.pysource import caller_frame, caller_span
from rldsl.compiler.record import current, forget
from rldsl.compiler.trace import algorithm_name
from rldsl.diagnostics import Diagnostic, DiagnosticError, fail

if TYPE_CHECKING:
    from rldsl.compiler.ir import Graph
    from rldsl.compiler.pipeline import Options


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A verified plan and what was worth a warning. `source` is the script it came from, None for a notebook."""

    plan: Plan
    warnings: tuple[Diagnostic, ...]
    source: Path | None
    folder: Path

    def write(self, path: str | Path) -> Path:
        """Write the plan, which names its source relative to `path`. RL0101 when it cannot be written there."""
        path = Path(path)
        if self.source is None and path.parent.resolve() != self.folder.resolve():
            fail(
                "RL0101",
                f"cannot write the plan to `{path}`: its files are relative to the notebook's folder",
                expected=f"a file in {self.folder.resolve()}",
                fix=f'write it as "{path.name}"',
            )
        import_module("rldsl.compiler.plan_io").write_plan(self._named_from(path.parent), path)
        return path

    def _named_from(self, folder: Path) -> Plan:
        if self.source is None:
            return self.plan
        path = Path(os.path.relpath(self.source, folder)).as_posix()
        return msgspec.structs.replace(self.plan, source=msgspec.structs.replace(self.plan.source, path=path))


_GONE = "a cell that was changed or deleted leaves what it declared behind: `rl.reset()` forgets it all"


def check(
    *, settings: Mapping[str, Scalar] | None = None, world_size: int | None = None, deploy: str | Path | None = None
) -> bool:
    """Check everything declared so far, print what is wrong or worth a warning; whether there is no error."""
    _not_while_tracing()
    try:
        compiled = _compiled(settings, world_size, deploy)
    except DiagnosticError as error:
        _show(error.diagnostics, stderr=False)
        return False
    _show(compiled.warnings, stderr=False)
    print(f"{compiled.plan.algorithm}: no errors")
    return True


def compile(  # noqa: A001 - as the command is called
    *, settings: Mapping[str, Scalar] | None = None, world_size: int | None = None, deploy: str | Path | None = None
) -> Compiled:
    """Compile everything declared so far; `settings` are values of parameters, `deploy` a deployment file.

    Warnings are printed on stderr. Raises DiagnosticError with everything that is wrong.
    """
    _not_while_tracing()
    compiled = _compiled(settings, world_size, deploy)
    _show(compiled.warnings, stderr=True)
    return compiled


def graph() -> Graph:
    """The graph of everything declared so far in this script or notebook, before any pass."""
    source, folder = _home()
    return current().graph(algorithm_name(source) if source else "algorithm", folder)


def reset() -> None:
    """Forget what was declared so far (in a notebook)."""
    forget()


def _home() -> tuple[Path | None, Path]:
    """The script that is running, None in a notebook, and the folder that its files are relative to."""
    file = Path(caller_frame().f_code.co_filename)
    return (file, file.parent) if file.is_file() else (None, Path())


def _not_while_tracing() -> None:
    """RL0105 in a file that `rldsl` is compiling: it is not all declared yet."""
    if current().tracing:
        fail(
            "RL0105",
            "this file is being compiled already",
            span=caller_span(),
            fix='put it under `if __name__ == "__main__":`',
        )


def _compiled(settings: Mapping[str, Scalar] | None, world_size: int | None, deploy: str | Path | None) -> Compiled:
    source, folder = _home()
    made = graph()
    pipeline = import_module("rldsl.compiler.pipeline")
    options = _options(pipeline, settings, world_size, deploy)
    try:
        result = pipeline.compile_graph(made, options, source_dir=folder)
    except DiagnosticError as error:
        raise DiagnosticError(d if source else _in_notebook(d) for d in error.diagnostics) from None
    spans = {n.id: (n.span.line, n.span.column) for n in made.nodes if n.span}
    origin = Source()
    if source is not None:
        sha256 = hashlib.sha256(source.read_text(encoding="utf-8").encode()).hexdigest()
        origin = Source(path=Path(os.path.relpath(source)).as_posix(), sha256=sha256, spans=spans)
    plan = msgspec.structs.replace(result.plan, source=origin)
    return Compiled(plan=plan, warnings=result.warnings, source=source, folder=folder)


def _in_notebook(diagnostic: Diagnostic) -> Diagnostic:
    """The same, saying of a name defined twice where the other may come from."""
    return replace(diagnostic, notes=(*diagnostic.notes, _GONE)) if diagnostic.code == "RL0205" else diagnostic


def _options(
    pipeline: Any, settings: Mapping[str, Scalar] | None, world_size: int | None, deploy: str | Path | None
) -> Options:
    texts = {k: v if isinstance(v, str) else format_scalar(v) for k, v in (settings or {}).items()}
    options: Options = pipeline.Options(
        settings=tuple(f"{k}={v}" for k, v in texts.items()),
        world_size=world_size,
        deploy=None if deploy is None else Path(deploy),
    )
    return options


def _show(diagnostics: tuple[Diagnostic, ...], *, stderr: bool) -> None:
    """Print them as the command line does."""
    if diagnostics:
        console = import_module("rldsl.render.style").terminal(stderr=stderr)
        console.print(import_module("rldsl.render.diagnostics").DiagnosticList(diagnostics))


def _rendered(error: DiagnosticError, *, color: bool) -> str:
    text = io.StringIO()
    # Not as a picture of its own, which is what rich makes of it in a notebook.
    console = import_module("rldsl.render.style").Terminal(
        file=text, force_terminal=color, force_jupyter=False, highlight=False, markup=False, emoji=False
    )
    console.print(import_module("rldsl.render.diagnostics").DiagnosticList(error.diagnostics))
    return text.getvalue().rstrip()


_raised_hook = sys.excepthook


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A user's mistake ends a script with the diagnostic, not with a traceback through rldsl."""
    if isinstance(error, DiagnosticError):
        print(_rendered(error, color=sys.stderr.isatty() and not os.environ.get("NO_COLOR")), file=sys.stderr)
    else:
        _raised_hook(kind, error, trace)


sys.excepthook = _excepthook
# What IPython asks an exception for, in place of a traceback.
DiagnosticError._render_traceback_ = lambda self: _rendered(self, color=True).splitlines()  # type: ignore[attr-defined]
