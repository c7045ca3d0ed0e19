"""What to do when rldsl itself fails: keep everything needed to repeat it, say one line."""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("rldsl", "lark", "msgspec", "networkx", "rich", "torch", "transformers", "ray")
_SOURCES = (".rl", ".py", ".json", ".toml")
_LIMIT = 100_000


def report(error: BaseException, arguments: Sequence[str]) -> Path:
    """Write the reproducer into the temporary folder and tell the user where it is."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="rldsl-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write("\n".join(_parts(error, arguments)) + "\n")
    path = Path(file.name)
    print(
        f"rldsl: internal error, {type(error).__name__}: this is a bug in rldsl, not in your file; "
        f"please open an issue with {path}",
        file=sys.stderr,
    )
    return path


def _parts(error: BaseException, arguments: Sequence[str]) -> Iterator[str]:
    yield f"command: rldsl {shlex.join(arguments)}"
    yield f"python: {platform.python_version()} on {platform.platform()}"
    yield f"packages: {', '.join(_versions())}"
    yield ""
    yield "".join(traceback.format_exception(error)).rstrip()
    for argument in arguments:
        path = Path(argument)
        if path.suffix in _SOURCES and path.is_file():
            yield f"\n==== {argument}"
            yield path.read_text(encoding="utf-8", errors="replace")[:_LIMIT]


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
