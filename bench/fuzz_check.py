"""Mutated programs through what `rldsl check` does: none may crash it, take over 2 s, or over 500 MB.

    python bench/fuzz_check.py [--count 100000] [--seed 0] [--out DIR]

Bytes, tokens and syntax trees of correct programs are changed at random (`bench/mutations.py`), the same for each
seed. One child process checks them all; the parent ends it where it hangs, and goes on behind that program. Prints
programs a second, the worst processor time (a check never waits, and other processes do not count), the peak of
resident memory, and how many programs had which codes. For each crash the program, without the words that it does not
need, is written to DIR. Exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this script's neighbours are no package of Python's

from bench.mutations import FUNCTIONS, Program, program  # noqa: E402
from rldsl.cli import check  # noqa: E402
from rldsl.cli.entry import add_output_options  # noqa: E402
from rldsl.cli.output import show_diagnostics  # noqa: E402
from rldsl.diagnostics import DiagnosticError  # noqa: E402

SECONDS, MEGABYTES = 2.0, 500.0
_HANGS = 20.0  # seconds after which the parent ends the child
_ADDRESS_SPACE = 4 << 30  # beyond it the child gets a MemoryError, and the machine lives on
_TRIALS = 400  # of the minimiser
_CODE = re.compile(r'^(?:error|warning)\[(RL\d{4})\]|"code": "(RL\d{4})"', re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """One program checked: processor time, the process's peak so far, its codes, and the crash if there was one."""

    number: int
    seconds: float
    megabytes: float = 0.0
    codes: tuple[str, ...] = ()
    failed: bool = False
    crash: str = ""
    text: str = ""


class Checker:
    """`rldsl check` in process, on files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "program.rl"
        for example in (ROOT / "examples").rglob("*.*"):
            (folder / example.name).write_bytes(example.read_bytes())
        self._options = argparse.ArgumentParser()
        check.add_arguments(self._options)
        add_output_options(self._options)

    def check(self, one: Program, *, as_json: bool) -> tuple[int, tuple[str, ...]]:
        """The exit code and the codes said. Raises what `rldsl check` would have to report as a bug."""
        self.file.write_bytes(one.text.encode("utf-8", "surrogateescape"))
        (self.folder / "mine.py").write_bytes(one.functions.encode("utf-8", "surrogateescape"))
        args = self._options.parse_args([str(self.file), "--json" if as_json else "--no-color"])
        said = io.StringIO()
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                status = check.execute(args)
            except DiagnosticError as error:
                status = 1
                show_diagnostics(error.diagnostics, as_json=as_json, no_color=True, stderr=False)
        return status, tuple(a or b for a, b in _CODE.findall(said.getvalue()))

    def crash(self, one: Program, *, as_json: bool) -> str:
        """What is raised, and where; empty if nothing is."""
        try:
            self.check(one, as_json=as_json)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} in {Path(last.filename).name}:{last.name}"
        return ""

    def outcome(self, number: int, one: Program) -> Outcome:
        """Check program `number`; if that crashes, with the shortest program found that does so, too."""
        begin = time.process_time()
        try:
            status, codes = self.check(one, as_json=number % 2 == 0)
        except Exception:
            crash = traceback.format_exc(limit=-8)
            short = self.minimised(one, as_json=number % 2 == 0)
            return Outcome(number, time.process_time() - begin, _peak(), crash=crash, text=short)
        seconds = time.process_time() - begin
        slow = one.text if seconds > SECONDS else ""
        return Outcome(number, seconds, _peak(), codes, failed=status != 0, text=slow)

    def minimised(self, one: Program, *, as_json: bool) -> str:
        """`one` without the lines, then the words, that its crash does not need."""
        wanted = self.crash(one, as_json=as_json)
        if not wanted:
            return one.text
        trials = iter(range(_TRIALS))

        def crashes(text: str) -> bool:
            tried = Program(text, one.functions, one.made)
            return next(trials, None) is not None and self.crash(tried, as_json=as_json) == wanted

        lines = _without(one.text.splitlines(keepends=True), crashes)
        return "".join(_without(re.findall(r"\S+\s*|\s+", "".join(lines)), crashes))


def _without(parts: list[str], crashes: Callable[[str], bool]) -> list[str]:
    """`parts` less those, first many then few at a time, without which the whole still crashes."""
    size = len(parts) // 2
    while size:
        at = 0
        while at < len(parts):
            rest = parts[:at] + parts[at + size :]
            if crashes("".join(rest)):
                parts = rest
            else:
                at += size
        size //= 2
    return parts


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(seed: int, first: int, last: int) -> None:
    """Check programs `first` to below `last`; on stdout one line of JSON before and one after each."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    out = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(Path(folder))
        for number in range(first, last):
            print(json.dumps({"begin": number}), file=out, flush=True)
            print(json.dumps(asdict(checker.outcome(number, program(seed, number)))), file=out, flush=True)


@dataclass
class Summary:
    """What came of all programs."""

    count: int = 0
    clean: int = 0
    warned: int = 0
    worst: Outcome = field(default_factory=lambda: Outcome(-1, 0.0))
    megabytes: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    crashes: list[Outcome] = field(default_factory=list)
    slow: list[Outcome] = field(default_factory=list)

    def add(self, one: Outcome) -> None:
        """Count it in."""
        self.count += 1
        self.codes.update(set(one.codes))
        self.clean += not one.failed and not one.codes and not one.crash
        self.warned += not one.failed and bool(one.codes)
        self.megabytes = max(self.megabytes, one.megabytes)
        if one.crash:
            self.crashes.append(one)
        elif one.seconds > self.worst.seconds:
            self.worst = one
        if one.seconds > SECONDS and not one.crash:
            self.slow.append(one)

    @property
    def good(self) -> bool:
        """Whether all limits hold."""
        return not self.crashes and not self.slow and self.megabytes < MEGABYTES

    def show(self, seed: int, seconds: float) -> None:
        """Print it."""
        wrong = self.count - self.clean - self.warned - len(self.crashes)
        print(
            f"fuzz_check count={self.count} seed={seed} programs_per_s={self.count / seconds:.1f} "
            f"worst_s={self.worst.seconds:.3f} (program {self.worst.number}) peak_rss_mb={self.megabytes:.0f} "
            f"clean={self.clean} warned={self.warned} errors={wrong} crashes={len(self.crashes)} slow={len(self.slow)}"
        )
        print("programs by code:", ", ".join(f"{code} {n}" for code, n in sorted(self.codes.items())))


def outcomes(seed: int, count: int) -> Iterator[Outcome]:
    """Every program's, from a child that is started anew where it hangs or dies."""
    first = 0
    while first < count:
        with _start(seed, first, count) as running:
            current = first
            for line in _lines(running):
                said = json.loads(line)
                if "begin" in said:
                    current = said["begin"]
                    continue
                yield Outcome(**{**said, "codes": tuple(said["codes"])})
                current += 1
            hung = running.poll() is None
            running.kill()
        if current < count:
            why = f"hangs for {_HANGS:.0f} s" if hung else f"ends the process with {running.returncode}"
            yield Outcome(current, _HANGS if hung else 0.0, crash=why, text=program(seed, current).text)
        first = current + 1


def _start(seed: int, first: int, last: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__)), "--seed", str(seed), "--child", str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _lines(running: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What the child says, until it ends or is silent for too long."""
    assert running.stdout is not None
    # Unbuffered: `select` sees only what Python has not read yet.
    rest = b""
    while select.select([running.stdout], [], [], _HANGS)[0]:
        data = os.read(running.stdout.fileno(), 1 << 16)
        if not data:
            running.wait()
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def write_reproducer(one: Outcome, seed: int, folder: Path) -> Path:
    """The program of a crash, with the crash as comments above it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed}-{one.number}.rl"
    made = program(seed, one.number)
    head = [f"program {one.number} of seed {seed}, made by {made.made}", *one.crash.splitlines()]
    path.write_text("".join(f"# {line}\n" for line in head) + one.text, encoding="utf-8", errors="surrogateescape")
    if made.functions != FUNCTIONS:
        path.with_suffix(".py").write_text(made.functions, encoding="utf-8", errors="surrogateescape")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_check")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.seed, *args.child)
        return 0
    summary, begin = Summary(), time.perf_counter()
    for one in outcomes(args.seed, args.count):
        summary.add(one)
        if one.crash or one.seconds > SECONDS:
            last = one.crash.strip().splitlines()[-1] if one.crash else f"took {one.seconds:.1f} s"
            print(f"program {one.number}: {last}; see {write_reproducer(one, args.seed, args.out)}", flush=True)
    summary.show(args.seed, time.perf_counter() - begin)
    return 0 if summary.good else 1


if __name__ == "__main__":
    sys.exit(main())
