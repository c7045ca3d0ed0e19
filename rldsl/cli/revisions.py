"""Files of git revisions: `HEAD~1:examples/grpo.rl`."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

from rldsl.cli.entry import UsageError
from rldsl.diagnostics import did_you_mean

_SOURCES = (".rl", ".py")


def is_revision(text: str) -> bool:
    """Whether `text` names a file of a revision and none that is here."""
    return ":" in text and not Path(text).exists()


def checked_out(text: str, folder: Path) -> Path:
    """The file in `folder`, with every source of that revision around it, as it may import them.

    As in git, the path is relative to the repository, or with `./` to here. UsageError when there is no such thing.
    """
    revision, _, path = text.partition(":")
    if path.startswith("./"):
        path = _git("rev-parse", "--show-prefix").strip() + path.removeprefix("./")
    path = str(PurePosixPath(path))
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", of=text).strip()
    names = [n for n in _git("ls-tree", "-r", "-z", "--full-tree", "--name-only", commit).split("\0") if n]
    if path not in names:
        near = did_you_mean(path, names)
        raise UsageError(f"rldsl diff: revision {revision} has no file `{path}`" + (f"; {near}" if near else ""))
    wanted = [n for n in names if n == path or PurePosixPath(n).suffix in _SOURCES]
    for name, data in zip(wanted, _contents(commit, wanted), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / path


def _contents(commit: str, names: list[str]) -> list[bytes]:
    """The bytes of each file, read by one process."""
    asked = "".join(f"{commit}:{name}\n" for name in names).encode()
    answer = subprocess.run(["git", "cat-file", "--batch"], input=asked, capture_output=True, check=True).stdout
    found = []
    for _ in names:
        head, _, answer = answer.partition(b"\n")
        size = int(head.rsplit(b" ", 1)[1])
        found.append(answer[:size])
        answer = answer[size + 1 :]
    return found


def _git(*arguments: str, of: str = "") -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("rldsl diff: revisions need git, which is not installed") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        what = (
            f"`{of}` names no file, nor a revision that git knows" if of and not said else (said or ["git failed"])[-1]
        )
        raise UsageError(f"rldsl diff: {what}")
    return done.stdout
