"""The algorithms that come with rldsl: the folder `examples` of the repository, `rldsl/examples` where installed."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from rldsl.diagnostics import did_you_mean, fail

_HEAD = re.compile(r"^algorithm\s+(\w+)", re.MULTILINE)
_PYTHON_HEAD = re.compile(r'^(rl\.algorithm\()"\w+"', re.MULTILINE)
_ABOUT = re.compile(r"(?:#.*\n)+")
_NAMED_FILE = re.compile(r'"([\w-]+\.\w+)"')


def folder() -> Path:
    """Where they are."""
    return Path(str(files("rldsl").joinpath("examples")))


@cache
def algorithms() -> dict[str, str]:
    """What each is about, by name; `toy/grpo` is in the folder `toy`."""
    found = {}
    for path in sorted(folder().rglob("*.rl"), key=lambda p: (len(p.parts), p)):
        text = path.read_text(encoding="utf-8")
        if _HEAD.search(text):
            found[path.relative_to(folder()).with_suffix("").as_posix()] = _about(text)
    return found


def _about(text: str) -> str:
    """The first sentence of the comment that a file begins with."""
    comment = _ABOUT.match(text)
    words = " ".join(line.strip("# ") for line in comment.group().splitlines()) if comment else ""
    return words.split(". ")[0].rstrip(".")


def source(name: str, suffix: str) -> Path:
    """The file of an algorithm, `suffix` .rl or .py. RL0101 where there is none."""
    if name not in algorithms():
        known = ", ".join(algorithms())
        fail("RL0101", f"no algorithm `{name}` is shipped", expected=known, fix=did_you_mean(name, algorithms()))
    path = folder() / f"{name}{suffix}"
    if not path.is_file():
        fail("RL0101", f"`{name}` is not shipped in Python", fix="leave out --python: its .rl form can be had")
    return path


def renamed(text: str, suffix: str, name: str) -> str:
    """The text of an algorithm under another name."""
    if suffix == ".py":
        return _PYTHON_HEAD.sub(rf'\1"{name}"', text, count=1)
    return _HEAD.sub(f"algorithm {name}", text, count=1)


def companions(path: Path) -> list[Path]:
    """The files that an example names and needs beside it (data, functions, imports), and those that these name."""
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        text = waiting.pop().read_text(encoding="utf-8")
        for beside in (path.parent / name for name in _NAMED_FILE.findall(text)):
            if beside.is_file() and beside != path and beside not in found:
                found[beside] = None
                waiting.append(beside)
    return list(found)
