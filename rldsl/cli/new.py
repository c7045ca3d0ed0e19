"""`rldsl new NAME`: a copy of a shipped algorithm to begin from."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from textwrap import fill

from rldsl.cli import shipped
from rldsl.cli.entry import UsageError
from rldsl.compiler.plan_io import write_text
from rldsl.diagnostics import fail

_SUFFIXES = (".rl", ".py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The name, what to begin from, the language."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the algorithm and, with .rl or .py, of its file")
    parser.add_argument(
        "--from", dest="origin", default="grpo", metavar="ALGORITHM", help="what to copy (default: grpo)"
    )
    parser.add_argument("--python", action="store_true", help="write NAME.py rather than NAME.rl")
    parser.add_argument("--list", action="store_true", help="list what can be copied; write nothing")


def execute(args: argparse.Namespace) -> int:
    """Write the file, and those that it needs beside it."""
    if args.list:
        _list(as_json=args.json)
        return 0
    if args.name is None:
        raise UsageError("rldsl new: give the new algorithm a name, or --list")
    target = _target(args.name, python=args.python)
    source = shipped.source(args.origin, target.suffix)
    text = shipped.renamed(source.read_text(encoding="utf-8"), target.suffix, _identifier(target))
    beside = {target.parent / p.name: p.read_text(encoding="utf-8") for p in shipped.companions(source)}
    _refuse_to_replace(target, beside)
    for path, content in {target: text, **beside}.items():
        if not path.exists():
            write_text(path, content)
            print(f"wrote {path}")
    print(f"now: rldsl check {target}")
    return 0


def _list(*, as_json: bool) -> None:
    found = shipped.algorithms()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    columns = max(min(shutil.get_terminal_size().columns, 120), width + 20)
    for name, about in found.items():
        print(fill(f"{name:<{width}}  {about}", columns, subsequent_indent=" " * (width + 2)))


def _target(name: str, *, python: bool) -> Path:
    path = Path(name)
    if path.suffix not in _SUFFIXES:
        path = path.with_name(f"{path.name}.{'py' if python else 'rl'}")
    elif python and path.suffix == ".rl":
        raise UsageError(f"rldsl new: {name} is no Python file; leave out .rl, or --python")
    return path


def _identifier(path: Path) -> str:
    """The algorithm's name in a file so called."""
    name = path.stem.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise UsageError(f"rldsl new: `{path.stem}` is no name: letters, digits and `_`, beginning with a letter")
    return name


def _refuse_to_replace(target: Path, beside: dict[Path, str]) -> None:
    """RL0101 if a file stands where another would be written."""
    if target.exists():
        fail("RL0101", f"`{target}` exists already", fix="choose another name, or remove it first")
    for path, content in beside.items():
        if path.exists() and path.read_bytes() != content.encode():
            fail(
                "RL0101",
                f"`{path}`, which the algorithm needs, exists already and differs",
                fix="choose another folder",
            )
