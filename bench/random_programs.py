"""Random programs, run by the executor in every way there is and by the reference interpreter: do they differ?

    python bench/random_programs.py [--count 300] [--seed 0] [--ranks 1,2,3,4,8] [--seconds 600] [--out DIR]

Each program is compiled as usual, without each optional pass, and without all of them, and run for two steps on one
rank; then on as many ranks as were asked for, as far as its batches divide, also with rollouts on fewer ranks than
training. Metrics, fields, rows put out and weights must be those of the graph as written, within 1e-5. A program that
differs is written to DIR without the statements that it does not need. Exit 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' generator is no package of rldsl's

from rldsl.backends.data.loader import Loader  # noqa: E402, F401 - its imports are the slow ones
from rldsl.compiler.pipeline import compile_file  # noqa: E402
from rldsl.diagnostics import DiagnosticError  # noqa: E402
from tests.runtime.differential import ON_ONE, Difference, Outcome, Wanted, Way, alone, compare_runs, difference  # noqa: E402
from tests.runtime.pool import Ranks, scratch_folder  # noqa: E402
from tests.runtime.random_programs import Maker, write  # noqa: E402


class RefusedError(Exception):
    """The compiler refuses the program, with errors or because it does not divide."""


@dataclass
class Bench:
    """The processes, and where programs lie."""

    folder: Path
    pools: dict[int, Ranks]
    count: int = 0
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)
    compared: Counter[str] = field(default_factory=Counter)

    def run(self, source: Path, way: Way, base: Outcome | None, want: Wanted) -> tuple[Outcome, Difference]:
        """One run, and how far it is from the reference."""
        try:
            plan = compile_file(source, way.options()).plan
        except DiagnosticError as error:
            raise RefusedError(", ".join(sorted({d.code for d in error.diagnostics}))) from None
        if plan.divides % way.ranks:
            raise RefusedError("does not divide")
        self.count += 1
        run_dir = self.folder / f"run{self.count}"
        run = alone if way.ranks == 1 else self.pools[way.ranks].run
        try:
            got = run(plan, source.parent, run_dir)
            found = difference(got, want, plan)
        finally:
            shutil.rmtree(run_dir, ignore_errors=True)
        if base is not None and not way.disable:
            compare_runs(got, base, found)
        return got, found

    def differs(self, text: str, way: Way) -> str | None:
        """What differs when the program is run so; None if nothing does, or if it is no program."""
        source = write(self.folder / "shrinking", text)
        try:
            want = Wanted.of(source)
            base = None if way == Way() else self.run(source, Way(), None, want)[0]
            found = self.run(source, way, base, want)[1]
        except (RefusedError, DiagnosticError):
            return None
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[-1500:]}"
        return str(found) if found.bad else None


def ways(number: int, sizes: list[int]) -> Iterator[Way]:
    """Those of more than one rank: each number of ranks, and for each a deployment in which rollouts have fewer."""
    draw = random.Random(number)
    for ranks in (r for r in sizes if r > 1):
        yield Way(ranks=ranks)
        few = [draw.choice([n for n in range(1, ranks + 1) if ranks % n == 0]) for _ in range(2)]
        yield Way(ranks=ranks, layouts=(f"actor.generate : hf(dp = {few[0]})", f"rival.generate : hf(dp = {few[1]})"))


def statements(text: str) -> Iterator[tuple[int, int]]:
    """Line ranges that may be left out: single lines, and blocks as a whole, the last first."""
    lines = text.splitlines()
    opened = 0
    for i, line in enumerate(lines):
        if line.startswith("  ") and line.endswith("{"):
            opened = i
        if line == "  }":
            yield opened, i + 1
    for i in reversed(range(len(lines))):
        if lines[i].startswith("  ") and not lines[i].endswith(("{", "}")):
            yield i, i + 1


def shrunk(text: str, still: Callable[[str], bool]) -> str:
    """The program without statements that the difference does not need."""
    again = True
    while again:
        again = False
        for start, end in sorted(statements(text), key=lambda p: (p[0] - p[1], -p[0])):
            lines = text.splitlines(keepends=True)
            if end > len(lines):
                continue
            thinner = "".join(lines[:start] + lines[end:])
            if still(thinner):
                text, again = thinner, True
    return text


def try_program(bench: Bench, number: int, sizes: list[int]) -> list[tuple[Way, str]]:
    """Every way of one program; those that differ, and how."""
    text = Maker(number).program()
    source = write(bench.folder / "program", text)
    try:
        want = Wanted.of(source)
        base, found = bench.run(source, Way(), None, want)
    except (RefusedError, DiagnosticError) as error:
        bench.compared[f"refused: {refusal(error)}"] += 1
        return []
    except Exception:
        return [(Way(), traceback.format_exc()[-2500:])]
    bench.compared["programs"] += 1
    bench.compared["steps left out as noise"] += len(want.steps) - want.certain
    bad = [(Way(), str(found))] if found.bad else []
    note(bench, Way(), found, number)
    for way in (*(ON_ONE[1:] if 1 in sizes else ()), *ways(number, sizes)):
        try:
            found = bench.run(source, way, base, want)[1]
        except RefusedError:
            continue
        except Exception as error:
            bad.append((way, f"{type(error).__name__}: {str(error)[-2500:]}"))
            continue
        note(bench, way, found, number)
        if found.bad:
            bad.append((way, str(found)))
    return bad


def refusal(error: Exception) -> str:
    codes = {d.code for d in error.diagnostics if d.code} if isinstance(error, DiagnosticError) else {str(error)}
    return ", ".join(sorted(codes))


def note(bench: Bench, way: Way, found: Difference, number: int) -> None:
    kind = f"{way.ranks} ranks{', fewer for rollouts' if way.layouts else ''}{', fewer passes' if way.disable else ''}"
    bench.compared[kind] += 1
    if not found.bad and found.worst >= bench.worst.get(kind, (0.0, ""))[0]:
        bench.worst[kind] = (found.worst, f"{found.where} (seed {number})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", default="1,2,3,4,8")
    parser.add_argument("--out", type=Path, default=Path("differing-programs"))
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the statements that it needs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further program after so many")
    args = parser.parse_args()
    sizes = [int(r) for r in args.ranks.split(",")]
    began, failed = time.perf_counter(), 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(scratch_folder()))
        bench = Bench(folder, {r: stack.enter_context(Ranks(r)) for r in sizes if r > 1})
        for number in range(args.seed, args.seed + args.count):
            if time.perf_counter() - began > args.seconds:
                break
            bad = try_program(bench, number, sizes)
            failed += bool(bad)
            for way, what in bad:
                print(f"seed {number}, {way}: {what}", flush=True)
            if bad and not args.no_shrink:
                reproduce(bench, number, *bad[0], args.out)
        report(bench, failed, time.perf_counter() - began)
    return int(failed > 0)


def reproduce(bench: Bench, number: int, way: Way, what: str, out: Path) -> None:
    """Write the smallest program found that differs."""
    text = shrunk(Maker(number).program(), lambda t: bench.differs(t, way) is not None)
    file = write(out / f"seed{number}", f"# {way}\n{text}")
    print(f"written to {file}\n{text}", flush=True)


def report(bench: Bench, failed: int, seconds: float) -> None:
    for kind, count in bench.compared.items():
        worst, where = bench.worst.get(kind, (0.0, ""))
        print(f"{kind:<45}{count:>6}" + (f"  worst {worst:.1e} at {where}" if where else ""))
    print(f"{failed} programs differ; {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
