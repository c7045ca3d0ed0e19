"""Colours and the console: one place that decides how rldsl looks."""

from __future__ import annotations

import os
import re
from typing import IO, NoReturn

from rich.console import Console
from rich.text import Text

from rldsl.types import NodeType, Role

ROLE_STYLES = {
    Role.ACTOR.value: "cyan",
    Role.CRITIC.value: "magenta",
    Role.REWARD.value: "yellow",
    Role.REFERENCE.value: "blue",
    Role.ADVANTAGE.value: "green",
    "INPUT": "bright_black",
    "LOOP": "bright_black",
    "METRIC": "green",
    "OUTPUT": "green",
}

_TYPE_STYLES = {
    NodeType.MODEL_INFERENCE.value: "bright_cyan",
    NodeType.MODEL_TRAIN.value: "bright_red",
    NodeType.COMPUTE.value: "bright_green",
}

_QUOTED = re.compile(r"`[^`]+`")


class Terminal(Console):
    """A rich console that leaves a broken pipe to the caller: `rldsl show | head` must end quietly."""

    def on_broken_pipe(self) -> NoReturn:
        """Go on with the error rich is handling; its own answer is to exit with 1."""
        raise BrokenPipeError


def terminal(*, file: IO[str] | None = None, stderr: bool = False, no_color: bool = False) -> Terminal:
    """The console to print on, without colour if `no_color` or the variable NO_COLOR says so."""
    plain = no_color or bool(os.environ.get("NO_COLOR"))
    return Terminal(file=file, stderr=stderr, no_color=plain, highlight=False, markup=False, emoji=False)


def role_style(role: str) -> str:
    """The colour of a role; a user's own roles share one."""
    return ROLE_STYLES.get(role, "white")


def type_style(kind: str) -> str:
    """The colour of a node's type."""
    return _TYPE_STYLES.get(kind, "dim")


def quoted(text: str, style: str = "") -> Text:
    """`text` with everything between backticks in bold."""
    made = Text(text, style=style)
    made.highlight_regex(_QUOTED, "bold")
    return made
