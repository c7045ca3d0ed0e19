"""`rldsl diff A B`: what B does otherwise than A. Exit code 0: nothing, 2: something, 1: one of them is wrong."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from rldsl.cli.options import add_compile_options, given, is_plan
from rldsl.cli.output import console
from rldsl.cli.revisions import checked_out, is_revision
from rldsl.cli.sources import load
from rldsl.compiler.plan import FunctionSpec
from rldsl.render.changes import Side, changes
from rldsl.render.diff import DiffView

SAME, CHANGED = 0, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two sides."""
    for name in ("before", "after"):
        parser.add_argument(name, help="a plan.json, an algorithm, or REV:PATH, a file of a git revision")
    add_compile_options(parser)


def execute(args: argparse.Namespace) -> int:
    """Print what changed in meaning; options of compilation hold for both sides that are compiled."""
    with tempfile.TemporaryDirectory(prefix="rldsl-diff-") as folder:
        before, after = (
            _side(text, args, Path(folder) / side) for text, side in ((args.before, "a"), (args.after, "b"))
        )
        found = changes(before, after)
    if args.json:
        print(json.dumps({"same": not found, "changes": [asdict(c) for c in found]}, indent=2, ensure_ascii=False))
    else:
        console(no_color=args.no_color).print(DiffView(args.before, args.after, found))
    return CHANGED if found else SAME


def _side(text: str, args: argparse.Namespace, folder: Path) -> Side:
    path = checked_out(text, folder) if is_revision(text) else Path(text)
    plan, source_dir = load(path, _without_options(args) if is_plan(path) and _compiles_other(args, text) else args)
    # Functions are read now: files of another revision are gone afterwards.
    digests = {f.name: _digest(f, source_dir) for f in plan.functions}
    return Side(plan, lambda spec: digests[spec.name])


def _compiles_other(args: argparse.Namespace, text: str) -> bool:
    """Whether the other side is compiled, which is what the options are for then."""
    other = args.after if text == args.before else args.before
    return not is_plan(Path(other))


def _without_options(args: argparse.Namespace) -> argparse.Namespace:
    plain = argparse.ArgumentParser()
    add_compile_options(plain)
    return argparse.Namespace(**{**vars(args), **vars(plain.parse_args([]))}) if given(args) else args


def _digest(spec: FunctionSpec, folder: Path) -> str | None:
    """Of the syntax tree of the function's file, if that is still the one compiled; else of the file's bytes."""
    path = folder / (spec.file or "")
    if spec.file is None or not path.is_file():
        return spec.sha256
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        return spec.sha256
    return hashlib.sha256(ast.dump(ast.parse(data)).encode()).hexdigest()
