"""Writes docs/views.md and the pictures in docs/images: every view of a plan, as the command line really shows it.

    python docs/make_views.py            (a test does the same, and compares)

The pictures are what a terminal shows, in colour. With Chromium installed, `--page` takes one of the HTML page, too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from unittest import mock

from rich.console import Console

from rldsl.cli import main

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WIDTH = 100
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PAGE = "![rldsl show examples/ppo.rl --deploy apart.rl --format html](images/page.png)"
_HASH = re.compile(r"(plan )[0-9a-f]{12}\b")

DEPLOY = """deploy {
  cluster 6 x cpu
  actor.train    : fsdp(dp = 4) on 0..3
  critic.train   : fsdp(dp = 4) on 0..3
  actor.generate : hf(dp = 2) on 4..5
}
"""
GROUPS = """deploy {
  cluster 8 x h100
  actor.train     : fsdp(dp = 4) on 0..3
  critic.train    : fsdp(dp = 4) on 0..3
  reference.infer : fsdp(dp = 4) on 4..7
  actor.generate  : hf(dp = 2) on 6..7
}
"""
APART = ("--deploy", "apart.rl")
LARGE = ("--deploy", "groups.rl", "--set", "model=Qwen/Qwen2.5-7B")
SMALL = ("--set", "model=Qwen/Qwen2.5-7B", "--cluster", "8 x h100", "--memory", "24GiB")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a command prints, from the line that `begin` matches to before the one that `end` matches; as a picture."""

    command: tuple[str, ...]
    begin: str = ""
    end: str = ""
    picture: str = ""
    fence: str = "text"
    code: int = 0


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, what is to be said, and what is shown below it."""

    title: str
    text: str
    shown: tuple[Shown, ...]


SECTIONS = (
    Section(
        title="The graph",
        text=(
            "Boxes side by side wait for nothing from each other. A box tells role (also by its colour), what is "
            "called, type, and the fields read and written; loops and validations have a frame."
        ),
        shown=(Shown(command=("show", "examples/ppo.rl", *APART), begin="╭", end="What moves", picture="graph"),),
    ),
    Section(
        title="A part of it",
        text=(
            "`x` is a node, `+x` it and all upstream of it, `x+` all downstream, `2+x` two steps up; a block's "
            "name is all in it."
        ),
        shown=(Shown(command=("show", "examples/ppo.rl", "1+shaping"), end="What moves"),),
    ),
    Section(
        title="What moves",
        text=(
            "Every edge with its kind (`field`, `rows` that a loop kept, `weights`, or `after`, which carries "
            "nothing), how it gets to its target, and how much it is on all ranks together. What only a run knows "
            "stands as a symbol. `--format json` has the same under `flows`, each number of bytes as a `constant` "
            "and how often each symbol is to be added."
        ),
        shown=(
            Shown(command=("show", "examples/ppo.rl", *APART), begin="What moves", end="Schedule"),
            Shown(
                command=("show", "examples/ppo.rl", *APART, "reward", "--format", "json"),
                begin=r'  "flows"',
                end=r"    \{",
                fence="json",
            ),
        ),
    ),
    Section(
        title="The schedule",
        text=(
            "A lane for each class of ranks, then its nodes, one a row. Every op begins as early as its ranks can; "
            "what runs in the background stands beside what it runs with. Where a plan predicts seconds, which it "
            "does for a cluster and models that are known, columns are to scale, but none is narrower than is "
            "said; else a column is an op. Below stands who waits for whom where ranks meet, and how long."
        ),
        shown=(
            Shown(command=("show", "examples/ppo.rl", *LARGE), begin="Schedule", end="Each step", picture="seconds"),
            Shown(command=("show", "examples/ppo.rl", *APART), begin="Schedule", end="Each step", picture="schedule"),
        ),
    ),
    Section(
        title="One rank",
        text="`--rank R` shows where the rank stands in its groups, which prompts it holds, and its program.",
        shown=(Shown(command=("show", "examples/ppo.rl", *APART, "--rank", "5"), begin="phases", end="  0    load"),),
    ),
    Section(
        title="Why a node is as it is",
        text=(
            "Its place in the source, what it reads and writes and how that gets there, the arithmetic of rows, "
            "bytes and steps, what is upstream and downstream, to which ops it was lowered on each class of "
            "ranks, and what passes did to it. Fields, models, parameters, blocks, and nodes that are gone have a "
            "page, too."
        ),
        shown=(
            Shown(command=("explain", "examples/ppo.rl", "actor_update", *APART), picture="explain"),
            Shown(command=("explain", "examples/grpo.rl", "ref")),
        ),
    ),
    Section(
        title="Why an op is there",
        text=(
            "Ops that belong to no node are asked for by their id, which `explain NODE` tells. A move may leave copies "
            "where the rows were, for what reads them there; how much that is, and which ranks then hold rows in both "
            "layouts, stands beside what is sent."
        ),
        shown=(
            Shown(command=("explain", "examples/ppo.rl", "sync_weights:actor", *APART)),
            Shown(command=("explain", "examples/ppo.rl", "reshard:reward:ranks6-7", *LARGE), end="memory"),
        ),
    ),
    Section(
        title="Memory",
        text=(
            "How full a rank is in each op, up to the budget, and of what; `<-` comes back onto the device, `->` "
            "leaves it. A budget is that of the cluster, or the size after `--memory`. `explain` shows the "
            "arithmetic of an op: each term with its formula, largest first; the page of a model has its states."
        ),
        shown=(
            Shown(command=("show", "examples/ppo.rl", *SMALL), begin="ppo: "),
            Shown(
                command=("explain", "examples/ppo.rl", "actor_update", *SMALL[:-2]), begin="memory", end="lowered to"
            ),
        ),
    ),
    Section(
        title="What changed",
        text=(
            "Of two plans or sources, in terms of meaning: the order of independent statements, comments and "
            "formatting make no difference. `REV:PATH` is a file of a git revision, as in `rldsl diff "
            "HEAD~1:examples/ppo.rl examples/ppo.rl`. The exit code is 0 if nothing changed, 2 if something did, "
            "1 if one of them is wrong."
        ),
        shown=(
            Shown(command=("diff", "examples/ppo.rl", "other.rl"), code=2),
            Shown(command=("diff", "plain.json", "apart.json"), code=2, picture="diff"),
        ),
    ),
    Section(
        title="After a pass",
        text=(
            "`--print-after PASS` prints what a pass made of the program, and `--time-passes` how long each took, "
            "in order and the slowest first."
        ),
        shown=(
            Shown(
                command=("compile", "examples/ppo.rl", *APART, "--print-after", "lower_reshards"),
                begin="# group",
                end="ppo: ",
            ),
        ),
    ),
    Section(
        title="Elsewhere",
        text=(
            "`--format mermaid` is for a README, `--format dot` for Graphviz. `--format html` is one page that "
            "needs nothing else: graph, schedule, what moves, programs and fields, and at a click on any name "
            "what `explain` says of it."
        ),
        shown=(Shown(command=("show", "examples/grpo.rl", "--format", "mermaid"), fence="mermaid"),),
    ),
)


def written() -> dict[str, str]:
    """By file name what docs/views.md and the pictures should hold."""
    with tempfile.TemporaryDirectory() as name, _inside(Path(name)):
        _files()
        made: dict[str, str] = {}
        lines = ["# Views", "", "Made by `python docs/make_views.py`; a test sees to it that it stays true.", ""]
        for section in SECTIONS:
            lines += [f"## {section.title}", "", *wrap(section.text, 120), ""]
            for shown in section.shown:
                lines += _shown(shown, made)
        lines += ["The page, in a browser (`python docs/make_views.py --page` takes the picture):", "", _PAGE]
        return {"views.md": "\n".join(lines).rstrip() + "\n", **made}


def _files() -> None:
    """The files that the commands name."""
    Path("examples").symlink_to(ROOT / "examples")
    Path("apart.rl").write_text(DEPLOY)
    Path("groups.rl").write_text(GROUPS)
    other = (ROOT / "examples/ppo.rl").read_text().replace("node shaping ", "node penalty ")
    Path("other.rl").write_text(other.replace("epochs    : int   = 2", "epochs    : int   = 1"))
    _run("compile", "examples/ppo.rl", "--emit", "plain.json")
    _run("compile", "examples/ppo.rl", "--emit", "apart.json", *APART)


def _shown(shown: Shown, made: dict[str, str]) -> Iterator[str]:
    command = " ".join(f'"{a}"' if " " in a else a for a in ("rldsl", *shown.command))
    if shown.picture:
        made[f"images/{shown.picture}.svg"] = _picture(shown, command)
        yield from ("```sh", command, "```", "", f"![{command}](images/{shown.picture}.svg)", "")
        return
    text = _part(_run(*shown.command, code=shown.code), shown)
    if shown.fence != "text":
        yield from ("```sh", command, "```", "")
    yield from (f"```{shown.fence}", *([f"$ {command}"] if shown.fence == "text" else []), text, "```", "")


def _run(*command: str, code: int = 0) -> str:
    """What the command prints, on both streams."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        found = main(list(command))
    assert found == code, f"{command} exits with {found}: {out.getvalue()}"
    return _HASH.sub(r"\g<1>0123456789ab", out.getvalue())


def _part(text: str, shown: Shown) -> str:
    lines = [line.rstrip() for line in text.splitlines()]
    first = next(i for i, line in enumerate(lines) if re.search(shown.begin, line))
    rest = range(first + 1, len(lines))
    last = next((i for i in rest if shown.end and re.match(shown.end, lines[i])), len(lines))
    return "\n".join(lines[first:last]).strip("\n")


def _picture(shown: Shown, title: str) -> str:
    """The same part, in colour."""
    recorded = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with mock.patch("rldsl.render.style.terminal", _same(recorded)):
        _run(*shown.command, code=shown.code)
    lines = recorded.export_text(styles=True, clear=True).splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    first = next(i for i, line in enumerate(plain) if re.search(shown.begin, line))
    last = next((i for i in range(first + 1, len(plain)) if shown.end and re.match(shown.end, plain[i])), len(plain))
    drawn = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    drawn.print(_text("\n".join(lines[first:last]).rstrip()))
    svg = drawn.export_svg(title=title, unique_id=f"rldsl-{shown.picture}")
    # The font that it would fetch is left out: any monospaced one does.
    return _HASH.sub(r"\g<1>0123456789ab", re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def _text(ansi: str) -> object:
    from rich.text import Text

    return Text.from_ansi(ansi, no_wrap=True)


def _same(console: Console) -> Callable[..., Console]:
    return lambda **_: console


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In the folder, on a terminal of `WIDTH` columns without colour."""
    before = Path.cwd()
    environment = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    os.chdir(folder)
    try:
        with mock.patch.dict(os.environ, environment):
            yield
    finally:
        os.chdir(before)


def page_picture(target: Path) -> None:
    """A picture of the HTML page, taken by Chromium."""
    assert CHROMIUM, "there is no Chromium on this machine"
    with tempfile.TemporaryDirectory() as name, _inside(Path(name)):
        _files()
        Path("page.html").write_text(_run("show", "examples/ppo.rl", *APART, "--format", "html"))
        quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,1180")
        page = Path("page.html").resolve().as_uri()
        subprocess.run([CHROMIUM, *quiet, f"--screenshot={target}", page], check=True, capture_output=True)


def write() -> None:
    """Write all files anew."""
    (DOCS / "images").mkdir(exist_ok=True)
    for name, text in written().items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="also take a picture of the HTML page")
    args = parser.parse_args()
    write()
    if args.page:
        page_picture(DOCS / "images" / "page.png")
