"""Random programs, run by the executor in many ways and by the reference interpreter: do they differ?

    python bench/random_programs.py [--count 2000] [--seed 0] [--ranks 1,2,3,4,8] [--seconds 600] [--log FILE]
                                    [--engine tiny] [--every-way] [--out DIR]

Each program is compiled as usual and without optional passes, run for two steps on one rank, and then on as many ranks
as were asked for; also with phases of models on groups of ranks of their own. Metrics, fields, rows put out and weights
must be those of the graph as written, within 1e-5. A program that differs is written to DIR without the statements that
it does not need. What each seed gave goes to the log, a line each; seeds that are there already are not run again. Exit
1 if there was a difference.

The engine `tiny` is deterministic and small (tests/runtime/tiny_engine.py); its ranks are threads. `transformers` is
the usual one, sharded by FSDP2 over processes, and much slower. A program runs without one optional pass, another each
time, and without all of them, and in two deployments; `--every-way` leaves out each pass, and has a deployment for each
number of ranks.
"""

from __future__ import annotations

import argparse
import json
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
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' generator is no package of rldsl's

from rldsl.backends.engines.engine import TRANSFORMERS, Engine  # noqa: E402
from rldsl.compiler.ir import BlockKind, Graph, Method  # noqa: E402
from rldsl.compiler.pipeline import Options, compile_file  # noqa: E402
from rldsl.compiler.plan import Plan  # noqa: E402
from rldsl.diagnostics import DiagnosticError, Severity  # noqa: E402
from tests.runtime.differential import (  # noqa: E402
    ON_ONE,
    Difference,
    Outcome,
    Wanted,
    Way,
    alone,
    compare_runs,
    difference,
)
from tests.runtime.pool import Ranks, scratch_folder  # noqa: E402
from tests.runtime.random_programs import Maker, write  # noqa: E402
from tests.runtime.threads import ThreadRanks  # noqa: E402
from tests.runtime.tiny_engine import TINY  # noqa: E402

FITS = 24  # batches are multiples of this, so that they divide among 1, 2, 3, 4 and 8 ranks


PHASES = ("actor.train", "actor.generate", "rival.train", "rival.generate", "critic.train", "reference.train")


class RefusedError(Exception):
    """The compiler refuses the program, with errors or because it does not divide."""


@dataclass
class Tried:
    """What one program gave: how often it ran in which kind of way, how far off, and which ways differ."""

    compared: Counter[str] = field(default_factory=Counter)
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)
    holds: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[Way, str]] = field(default_factory=list)

    def note(self, way: Way, found: Difference, number: int) -> None:
        """One more way."""
        kind = f"{way.ranks} ranks{', in groups' if way.layouts else ''}{', fewer passes' if way.disable else ''}"
        self.compared[kind] += 1
        if found.bad:
            self.bad.append((way, str(found)))
        elif found.worst >= self.worst.get(kind, (0.0, ""))[0]:
            self.worst[kind] = (found.worst, f"{found.where} (seed {number})")

    def line(self, number: int) -> str:
        """One line of the log."""
        body = {
            "seed": number,
            "compared": self.compared,
            "worst": self.worst,
            "holds": self.holds,
            "bad": [f"{way}: {what}" for way, what in self.bad],
        }
        return json.dumps(body)


@dataclass
class Bench:
    """The ranks, and where programs lie."""

    folder: Path
    pools: dict[int, Ranks | ThreadRanks]
    engine: Engine
    every_way: bool
    count: int = 0
    plans: dict[Options, Plan] = field(default_factory=dict)

    def start(self, source: Path) -> Wanted:
        """What the graph as written gives; plans are then of this program."""
        self.plans.clear()
        return Wanted.of(source, self.engine)

    def run(self, source: Path, way: Way, base: Outcome | None, want: Wanted) -> tuple[Outcome, Difference]:
        """One run, and how far it is from the reference."""
        options = way.options()
        try:
            # One plan is for any number of ranks, unless it has a deployment.
            if options not in self.plans:
                self.plans[options] = compile_file(source, options).plan
            plan = self.plans[options]
        except DiagnosticError as error:
            raise RefusedError(refusal(error)) from None
        if plan.divides % way.ranks:
            raise RefusedError("does not divide")
        self.count += 1
        run_dir = self.folder / f"run{self.count}"
        try:
            if way.ranks == 1:
                got = alone(plan, source.parent, run_dir, self.engine)
            else:
                got = self.pools[way.ranks].run(plan, source.parent, run_dir)
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
            want = self.start(source)
            base = None if way == Way() else self.run(source, Way(), None, want)[0]
            found = self.run(source, way, base, want)[1]
        except (RefusedError, DiagnosticError):
            return None
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[-1500:]}"
        return str(found) if found.bad else None

    def ways(self, number: int, sizes: list[int]) -> Iterator[Way]:
        """How else than as usual on one rank."""
        draw = random.Random(number)
        many = [r for r in sizes if r > 1]
        if 1 in sizes:
            yield from ON_ONE[1:] if self.every_way else (ON_ONE[1 + number % (len(ON_ONE) - 2)], ON_ONE[-1])
        yield from (Way(ranks=ranks) for ranks in many)
        for ranks in many if self.every_way or not many else draw.sample(many, min(2, len(many))):
            yield Way(ranks=ranks, layouts=deployment(draw, ranks))


def deployment(draw: random.Random, ranks: int) -> tuple[str, ...]:
    """Layouts of some phases, each on ranks of its own: all, some, those of others, or partly those of others."""
    made = []
    for phase in PHASES:
        if draw.random() < 0.5:
            continue
        size = draw.choice([n for n in range(1, ranks + 1) if FITS % n == 0])
        first = draw.randrange(ranks - size + 1)
        engine = "hf" if phase.endswith("generate") else "fsdp"
        made.append(f"{phase} : {engine}(dp = {size}) on {first}..{first + size - 1}")
    return tuple(made)


def try_program(bench: Bench, number: int, sizes: list[int]) -> Tried:
    """Every way of one program."""
    tried = Tried()
    source = write(bench.folder / "program", Maker(number, fits=FITS).program())
    try:
        want = bench.start(source)
        tried.holds = features(want.module.graph)
        base, found = bench.run(source, Way(), None, want)
    except (RefusedError, DiagnosticError) as error:
        tried.compared[f"refused: {refusal(error)}"] += 1
        return tried
    except Exception:
        tried.bad.append((Way(), traceback.format_exc()[-2500:]))
        return tried
    tried.compared["programs"] += 1
    tried.compared["steps left out as noise"] += len(want.steps) - want.certain
    tried.note(Way(), found, number)
    for way in bench.ways(number, sizes):
        try:
            tried.note(way, bench.run(source, way, base, want)[1], number)
        except RefusedError as error:
            tried.compared[f"refused in groups: {error}" if way.layouts else f"refused: {error}"] += 1
        except Exception as error:
            tried.bad.append((way, f"{type(error).__name__}: {str(error)[-2500:]}"))
    return tried


def refusal(error: Exception) -> str:
    """The codes of its errors, without warnings."""
    if not isinstance(error, DiagnosticError):
        return str(error)
    return ", ".join(sorted({d.code for d in error.diagnostics if d.code and d.severity is Severity.ERROR}))


def features(graph: Graph) -> Counter[str]:
    """What a program holds: nodes by what they do, blocks, conditions, models, diamonds."""
    found = Counter(str(n.call.method or "compute") for n in graph.nodes if n.call.method is not Method.COLLECT)
    for block in graph.blocks:
        kind = "filter" if block.where is not None else "dialogue"
        found["validation" if block.kind is BlockKind.VALIDATE else kind] += 1
    found["condition"] = sum(n.when is not None for n in graph.nodes)
    found["rollout of older weights"] = sum(any(k.name == "staleness" for k in n.call.keywords) for n in graph.nodes)
    found["adapters"] = sum(any(k.name == "lora_rank" for k in m.options) for m in graph.models)
    found["head on another trunk"] = sum(m.shares is not None for m in graph.models)
    used = {n.call.model for n in graph.nodes if n.call.model}
    found["several models"] = int(len(used) > 1)
    found["diamond"] = diamonds(graph)
    return +found


def diamonds(graph: Graph) -> int:
    """Nodes that read two others which have a node in common that both come from, or are."""
    above: dict[str, set[str]] = {}
    count = 0
    for name in graph.in_order:
        sources = {graph.producer_of[f].id for f in graph.node_of[name].reads if f in graph.producer_of}
        count += any(above[a] & above[b] for a, b in combinations(sorted(sources), 2))
        above[name] = {name}.union(*(above[s] for s in sources))
    return count


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


def reproduce(bench: Bench, number: int, way: Way, out: Path) -> None:
    """Write the smallest program found that differs."""
    text = shrunk(Maker(number, fits=FITS).program(), lambda t: bench.differs(t, way) is not None)
    file = write(out / f"seed{number}", f"# {way}\n{text}")
    print(f"written to {file}\n{text}", flush=True)


class Log:
    """Lines of the seeds tried, in a file that a later run goes on with."""

    def __init__(self, path: Path | None) -> None:
        lines = path.read_text().splitlines() if path is not None and path.is_file() else []
        self._path, self.lines = path, {int(json.loads(line)["seed"]): json.loads(line) for line in lines}

    def add(self, number: int, tried: Tried) -> None:
        """One more seed."""
        line = tried.line(number)
        self.lines[number] = json.loads(line)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(f"{line}\n")

    def report(self, seeds: range, seconds: float) -> int:
        """Print what the seeds gave together; how many programs differ."""
        compared, holds = Counter[str](), Counter[str]()
        programs, worst = Counter[str](), dict[str, tuple[float, str]]()
        mine = [line for seed, line in self.lines.items() if seed in seeds]
        for line in mine:
            compared.update(line["compared"])
            holds.update(line["holds"])
            programs.update(line["holds"].keys())
            for kind, (size, where) in line["worst"].items():
                worst[kind] = max(worst.get(kind, (0.0, "")), (size, where))
        for kind, count in compared.items():
            print(
                f"{kind:<45}{count:>6}" + (f"  worst {worst[kind][0]:.1e} at {worst[kind][1]}" if kind in worst else "")
            )
        print("in them: " + ", ".join(f"{name} {n} ({programs[name]} programs)" for name, n in holds.most_common()))
        failed = sum(bool(line["bad"]) for line in mine)
        print(f"{len(mine)} seeds, {failed} programs differ; {seconds:.0f} s")
        return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", default="1,2,3,4,8")
    parser.add_argument("--engine", choices=("tiny", "transformers"), default="tiny")
    parser.add_argument("--every-way", action="store_true", help="leave out each optional pass, and so on")
    parser.add_argument("--log", type=Path, help="where what each seed gave is kept")
    parser.add_argument("--out", type=Path, default=Path("differing-programs"))
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the statements that it needs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further program after so many")
    args = parser.parse_args()
    sizes = [int(r) for r in args.ranks.split(",")]
    seeds, log, began = range(args.seed, args.seed + args.count), Log(args.log), time.perf_counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(scratch_folder()))
        tiny = args.engine == "tiny"
        many = [r for r in sizes if r > 1]
        pools = {r: ThreadRanks(r, TINY) if tiny else stack.enter_context(Ranks(r)) for r in many}
        bench = Bench(folder, pools, TINY if tiny else TRANSFORMERS, args.every_way)
        for number in (n for n in seeds if n not in log.lines):
            if time.perf_counter() - began > args.seconds:
                break
            tried = try_program(bench, number, sizes)
            log.add(number, tried)
            for way, what in tried.bad:
                print(f"seed {number}, {way}: {what}", flush=True)
            if tried.bad and not args.no_shrink:
                reproduce(bench, number, tried.bad[0][0], args.out)
    return int(log.report(seeds, time.perf_counter() - began) > 0)


if __name__ == "__main__":
    sys.exit(main())
