"""Python files that a user's file imports from its own folder: found by `ast` and hashed, no code is run.

What runs is what was compiled only if these are as they were too. The standard library and installed packages are
not followed, nor are names that a program puts together as it runs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rldsl.compiler.signature import parse_user_file

_OURS = "rldsl"  # installed, whatever lies beside the user's file


def neighbours(path: Path, shown: str) -> dict[str, str]:
    """The sha256 of each file that `path` imports from its folder, or that those import, and so on.

    By paths like `shown`, which is how the plan names `path`. RL0101 and RL0102 for one that cannot be read.
    """
    root, at = path.parent, Path(shown).parent
    seen, found, open_ = {path}, dict[str, str](), [path]
    while open_:
        here = open_.pop()
        name = (at / here.relative_to(root)).as_posix()
        tree, sha256 = parse_user_file(here, name, None)
        if here != path:
            found[name] = sha256
        new = {p for p in _imported(tree, here, root) if p not in seen}
        seen |= new
        open_ += sorted(new)
    return dict(sorted(found.items()))


def _imported(tree: ast.Module, here: Path, root: Path) -> Iterator[Path]:
    """Files below `root` that the imports in `tree`, the text of `here`, may load."""
    for node in _imports(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(root, alias.name)
        else:
            start = root if node.level == 0 else here.parents[min(node.level, len(here.parents)) - 1]
            if start.is_relative_to(root):
                # What is imported may be a module of the package.
                for alias in node.names:
                    yield from _files(start, f"{node.module or ''}.{alias.name}".strip("."))
                if node.level and (start / "__init__.py").is_file():
                    yield start / "__init__.py"


@lru_cache(maxsize=256)
def _imports(tree: ast.Module) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom))


def _files(folder: Path, dotted: str) -> Iterator[Path]:
    """The files that importing `dotted` from `folder` runs: each package on the way, then the module."""
    for name in dotted.split("."):
        package, module = folder / name / "__init__.py", folder / f"{name}.py"
        if name == _OURS:
            return
        if package.is_file():
            yield package
        elif module.is_file():
            yield module
            return
        elif not (folder / name).is_dir():
            return
        folder /= name
