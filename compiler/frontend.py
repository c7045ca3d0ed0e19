"""Which front end reads a file."""

from __future__ import annotations

from pathlib import Path

from rldsl.compiler.imports import with_imports
from rldsl.compiler.ir import Graph
from rldsl.compiler.parse import parse
from rldsl.diagnostics import Diagnostics, did_you_mean, fail


def read_source(path: Path) -> str:
    """The text of a source file. RL0101 when it cannot be read, RL0103 when it is neither .rl nor .py."""
    if path.suffix not in (".rl", ".py"):
        fail(
            "RL0103",
            f"`{path}` is neither an .rl nor a .py file",
            expected=".rl or .py",
            found=path.suffix or "no suffix",
        )
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        near = [p.name for p in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
        fail("RL0101", f"cannot read `{path}`: {error.strerror}", fix=did_you_mean(path.name, near))
    except UnicodeDecodeError as error:
        fail("RL0101", f"cannot read `{path}`: it is not UTF-8 text ({error.reason} at byte {error.start})")


def load_graph(path: Path, text: str, found: Diagnostics | None = None) -> Graph:
    """The graph in `text`, read from `path`. What is wrong in it goes to `found`, or is raised without one."""
    if path.suffix == ".rl":
        return with_imports(parse(text, str(path), found), path, found)
    from rldsl.compiler.trace import trace_file  # a tenth of what `check` of an .rl file takes, which needs none of it

    return trace_file(path, text, found)
