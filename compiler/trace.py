"""Python to the IR: running a file to record what it declares."""

from __future__ import annotations

import importlib
import io
import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

from rldsl.compiler.ir import Graph
from rldsl.compiler.record import Builder, recording
from rldsl.diagnostics import Diagnostic, DiagnosticError, Diagnostics, Span


def trace_file(path: Path, text: str, found: Diagnostics | None = None) -> Graph:
    """Run a Python file, whose text is `text`, and return what it declared.

    What is wrong with its declarations goes to `found`, or is raised if there is none. RL0102 when it, or a module
    that it imports, does not parse; RL0104 when running it raises.
    """
    name = str(path)
    builder = Builder(algorithm_name(path), path.parent)
    with _source(name, text):
        try:
            # Not under the future imports of this very module, which `compile` would hand on.
            code = compile(text, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            _not_python(error, name, builder.found)
        with _as_module(path) as module, recording(builder):
            _execute(code, vars(module), name, builder.found)
            return builder.graph(found=found)


def algorithm_name(path: Path) -> str:
    """What an algorithm is called that does not say so: like its file, as a name of the language."""
    return re.sub(r"^(?=[0-9])|[^A-Za-z0-9_]", "_", path.stem)


@contextmanager
def _source(name: str, text: str) -> Iterator[None]:
    """Let whoever asks for the lines of `name` see `text`, be it saved or not."""
    linecache.cache[name] = (len(text), None, io.StringIO(text).readlines(), name)
    try:
        yield
    finally:
        linecache.cache.pop(name, None)


@contextmanager
def _as_module(path: Path) -> Iterator[ModuleType]:
    """An empty module to run the file in, with the modules beside it importable, and run anew when imported."""
    module = ModuleType(f"rldsl_traced_{path.stem}")
    module.__file__ = str(path)
    folder = path.parent.resolve()
    earlier = {name: sys.modules.pop(name) for name in _modules_of(folder)}
    write_bytecode = sys.dont_write_bytecode
    # dataclasses and get_type_hints look names up through sys.modules.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # to check a file leaves nothing behind
    importlib.invalidate_caches()
    try:
        yield module
    finally:
        sys.dont_write_bytecode = write_bytecode
        sys.path.remove(str(folder))
        for name in [*_modules_of(folder), module.__name__]:
            sys.modules.pop(name, None)
        sys.modules.update(earlier)


def _modules_of(folder: Path) -> list[str]:
    """Names of the modules in memory that an import in `folder` would take from there, whatever they were taken from.

    Those of Python, of rldsl and of installed packages stay: most of them cannot be imported twice.
    """
    if not folder.is_dir():  # a text that was never saved
        return []
    beside = {p.stem if p.suffix == ".py" else p.name for p in folder.iterdir() if p.suffix == ".py" or p.is_dir()}
    beside -= {*sys.stdlib_module_names, "rldsl", "__main__"}
    paths = sysconfig.get_paths()
    installed = (paths["purelib"], paths["platlib"])
    return [n for n, m in sys.modules.items() if n.partition(".")[0] in beside and not _file(m).startswith(installed)]


def _file(module: ModuleType) -> str:
    # Not getattr on the module: one that loads lazily would.
    return str(getattr(module, "__dict__", {}).get("__file__"))


def _execute(code: CodeType, namespace: dict[str, Any], name: str, found: Diagnostics) -> None:
    try:
        exec(code, namespace)
    except DiagnosticError as error:
        _raise(error.diagnostics, found)
    except SyntaxError as error:
        _not_python(error, name, found)
    except (Exception, SystemExit) as error:
        message = f"running the file raised {type(error).__name__}: {error}"
        _raise((Diagnostic(code="RL0104", message=message, span=_span_of(error, name)),), found)


def _span_of(error: BaseException, name: str) -> Span | None:
    """The last line of the user's that was running: of the file, or of a module beside it."""
    folder = str(Path(name).parent.resolve())
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename == name or str(Path(f.filename).parent) == folder
    ]
    if not frames or frames[-1].lineno is None:
        return None
    at = frames[-1]
    line, end_line = at.lineno or 1, at.end_lineno or at.lineno or 1
    return Span(at.filename, line, (at.colno or 0) + 1, end_line, (at.end_colno or 0) + 1)


def _not_python(error: SyntaxError | ValueError, name: str, found: Diagnostics) -> NoReturn:
    line, column = 1, 1
    if isinstance(error, SyntaxError):
        line, column, name = error.lineno or 1, error.offset or 1, error.filename or name
    span = Span(name, line, column, line, column + 1)
    _raise((Diagnostic(code="RL0102", message=f"`{name}` is not Python: {error.args[0]}", span=span),), found)


def _raise(diagnostics: tuple[Diagnostic, ...], found: Diagnostics) -> NoReturn:
    """Raise these and those found before."""
    for diagnostic in diagnostics:
        found.add(diagnostic)
    raise DiagnosticError(found.sorted()) from None
