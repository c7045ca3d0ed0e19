"""What RL0810 promises, read from its words and written into a source, a deployment and options, as a user would."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from rldsl.compiler.pipeline import Compiled, Options, compile_file
from rldsl.diagnostics import Diagnostic, DiagnosticError

_PROMISE = re.compile(r"(.*): fits, (\S+ s) a step")


@dataclass(frozen=True)
class Program:
    """A source and what the command line says of its deployment and its parameters."""

    text: str
    cluster: str
    layouts: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    world_size: int | None = None
    memory: int | None = None

    def compiled(self, folder: Path) -> Compiled:
        """The plan. Raises DiagnosticError as `compile_file` does."""
        path = folder / "program.rl"
        path.write_text(self.text, encoding="utf-8")
        options = Options(
            settings=self.settings,
            cluster=self.cluster,
            layouts=self.layouts,
            world_size=self.world_size,
            memory=self.memory,
        )
        return compile_file(path, options)

    def fault(self, folder: Path) -> Diagnostic | None:
        """RL0810, if that is what is wrong with it; other errors are raised."""
        try:
            self.compiled(folder)
        except DiagnosticError as error:
            (found,) = (d for d in error.diagnostics if d.severity == "error")
            assert found.code == "RL0810", found
            return found
        return None

    def written(self, change: str) -> Program:
        """With one change, as its words have it."""
        code = re.findall(r"`([^`]*)`", change)
        if change.startswith("leave "):
            *options, node = code
            lines = (_without(line, options) if f"node {node} " in line else line for line in self.text.splitlines())
            return replace(self, text="\n".join(lines))
        if code[0].startswith("cluster "):
            return replace(self, cluster=code[0].removeprefix("cluster "))
        if code[0].startswith("--world-size "):
            return replace(self, world_size=int(code[0].split()[1]))
        if code[0].startswith("precision = "):
            return replace(self, text=re.sub(r'precision = "?\w+"?', code[0], self.text))
        if code[0].startswith("max_new_tokens = "):
            return replace(self, text=re.sub(r"max_new_tokens = \w+", code[0], self.text))
        key = re.split(r" : | on ", code[0])[0]
        others = (line for line in self.layouts if re.split(r" : | on ", line)[0] != key)
        return replace(self, layouts=(*others, code[0]))


def _without(line: str, options: list[str]) -> str:
    for option in options:
        line = re.sub(rf", {option} = [^,]+", "", line)
    return line


def promises(found: Diagnostic) -> dict[tuple[str, ...], str]:
    """The changes that it names, and what a step would take with them."""
    lines = (match for note in found.notes if (match := _PROMISE.fullmatch(note)))
    return {_changes(line[1]): line[2] for line in lines}


def _changes(words: str) -> tuple[str, ...]:
    """`leave` and `precision` name several things by themselves."""
    return tuple(re.split(r" and (?=leave |`[a-z_.]+ [:=o]|`cluster |`--)", words))
