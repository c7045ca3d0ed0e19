"""Damaged plans through the verifier: each must be refused, or shown to do what the whole one does.

    python bench/mutants.py [--count 10000] [--seed 0] [--only memory]

Plans are compiled from every `examples/*.rl` for several numbers of ranks, layouts and budgets of memory, and damaged
at random in some hundred ways (`bench/damage*.py`, and plan.json itself below), the same for each seed. Prints by kind
how many were made, refused, and equal by execution and rewriting (`bench/equal_plans.py`), which uses nothing of the
verifier's. Exit 1 where one was missed, or a whole plan was refused. `--only`: kinds whose name begins so.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import damage_background, damage_groups, damage_heads, damage_order, damage_rules, damage_values
from bench.damage import KINDS, Damage
from bench.damage_memory import budgeted, tiered
from bench.equal_plans import why_equal
from rldsl.compiler.ops import ComputeOp, ExtendOp, GenerateOp, InferOp, TrainOp, parts
from rldsl.compiler.passes.elide_old_logp import ElideOldLogp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan, plan_hash, to_builtins
from rldsl.compiler.plan_io import loads
from rldsl.compiler.signature import Signature
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import DiagnosticError

assert damage_background and damage_heads and damage_order, "importing them registers their kinds"
assert damage_rules and damage_values and damage_groups
ROOT = Path(__file__).parents[1]
CLUSTERS = (None, "1 x cpu", "2 x cpu", "4 x cpu")
FILES = tuple(sorted((*(ROOT / "examples").glob("*.rl"), *(ROOT / "examples" / "toy").glob("*.rl"))))
PPO = ROOT / "examples" / "ppo.rl"
Body = dict[str, Any]
TEXT_KINDS: dict[str, Callable[[Body, random.Random], str]] = {}


@dataclass(frozen=True)
class Whole:
    """A compiled plan, and the signatures of the functions that it calls."""

    name: str
    plan: Plan
    signatures: Mapping[str, Signature]


def deployments(file: Path) -> Iterator[Options]:
    """Every cluster, every choice of fewer ranks for each model that generates, and phases on ranks of their own."""
    yield from apart(file)
    for cluster in CLUSTERS:
        yield Options(cluster=cluster)
        world = int(cluster.split()[0]) if cluster else 1
        if world == 1:
            continue
        ops = list(compile_file(file, Options()).plan.ops())
        models = sorted({op.model for op in ops if isinstance(op, GenerateOp | ExtendOp)})
        for chosen in product((None, 1, 2), repeat=len(models)):
            layouts = tuple(f"{m}.generate : hf(dp = {n})" for m, n in zip(models, chosen, strict=True) if n)
            if layouts and all(n is None or n < world for n in chosen):
                yield Options(cluster=cluster, layouts=layouts)


# Of what is trained, of what generates, and of what only scores; the last for nodes without a model, where it is given.
APART = (
    ("fsdp() on 0..1", "hf() on 2..3", "fsdp() on 4", ""),
    ("fsdp() on 2..3", "hf() on 0..1", "fsdp() on 1..2", "on 0..1"),
    ("fsdp() on 0..3", "hf() on 2..5", "fsdp() on 6..7", "on 7"),
    ("megatron(tp = 2) on 0..3", "vllm(tp = 2) on 4..5", "fsdp() on 4..5", "on 4..5"),
    ("megatron(tp = 2, pp = 2) on 0..3", "sglang(pp = 2) on 0..3", "megatron(tp = 2) on 4..5", ""),
    ("megatron(cp = 2, ep = 2) on 2..3", "vllm(tp = 4, dp = 1, ep = 4) on 0..3", "fsdp(dp = 1)", "on 2"),
)


def apart(file: Path) -> Iterator[Options]:
    """Deployments on disjoint and on overlapping ranks, with parallel axes."""
    ops = list(parts(compile_file(file, Options()).plan.ops()))
    models = {m.name: m for m in compile_file(file, Options()).plan.models}
    trained = {models[op.model].shares or op.model for op in ops if isinstance(op, TrainOp)}
    samples = sorted({op.model for op in ops if isinstance(op, GenerateOp | ExtendOp)})
    scores = sorted(
        {op.model for op in ops if isinstance(op, InferOp)} - trained - {m for m in models if models[m].shares}
    )
    place = next((op.node for op in ops if isinstance(op, ComputeOp)), None)
    for train, generate, infer, on in APART:
        yield Options(
            layouts=(
                *(f"{m}.train : {train}" for m in sorted(trained)),
                *(f"{m}.generate : {generate}" for m in samples),
                *(f"{m}.infer : {infer}" for m in scores),
                *([f"{re.sub(r'[.][0-9]+[.]', '.', place)} {on}"] if on and place else ()),
            )
        )


@cache
def wholes(files: tuple[Path, ...] = FILES) -> tuple[Whole, ...]:
    """The plans of some algorithms for the deployments that they can have."""
    found = []
    for file in files:
        for options in (each for usual in deployments(file) for each in (usual, *_scoring_again(file, usual))):
            try:
                compiled = compile_file(file, options)
            except DiagnosticError:  # this algorithm's batch does not divide over so many ranks
                continue
            name = " ".join(map(str, (file.relative_to(ROOT), options.cluster, options.layouts, *options.disable)))
            found.append(Whole(name, compiled.plan, compiled.module.signatures))
        for options in (*map(_on, CLUSTERS[1:3]), *(replace(o, cluster="8 x cpu") for o in islice(apart(file), 3))):
            for part, made in budgeted(file, options):
                name = f"{file.relative_to(ROOT)} {options.cluster} {options.layouts} {part}"
                found.append(Whole(name, made.plan, made.module.signatures))
        if file == PPO:
            found += [Whole(f"{file.relative_to(ROOT)} {n}", m.plan, m.module.signatures) for n, m in tiered(file)]
    return tuple(found)


def _on(cluster: str | None) -> Options:
    return Options(cluster=cluster)


def _scoring_again(file: Path, options: Options) -> Iterator[Options]:
    """Where rollouts may be a step old also with the forward that weights may travel beside."""
    if "staleness" in file.read_text():
        yield replace(options, disable=frozenset({ElideOldLogp.name}))


# -- damage to plan.json itself


def text_kind(name: str) -> Callable[[Callable[[Body, random.Random], Any]], None]:
    """Register damage to the JSON of a plan; its hash is made to fit again."""

    def add(change: Callable[[Body, random.Random], Any]) -> None:
        def damaged(body: Body, rng: random.Random) -> str:
            change(body, rng)
            return json.dumps(body | {"hash": plan_hash(body)})

        TEXT_KINDS[f"plan.json: {name}"] = damaged

    return add


def _struct(body: Body, rng: random.Random) -> Body:
    """The plan, or one of the objects in it."""
    ops = [op for program in body["programs"] for op in program["ops"]]
    chosen = rng.choice((body, *body["programs"], *ops, *body["fields"], *body["models"], *body["functions"]))
    assert isinstance(chosen, dict)
    return chosen


_REQUIRED = frozenset(
    ("algorithm", "parameters", "divides", "models", "fields", "functions", "groups", "programs", "op", "id", "ops",
     "name", "type", "producer", "kind", "columns", "batch", "model", "prompts", "tokens", "loss", "outputs",
     "output", "into")
)  # fmt: skip


@text_kind("an unknown op")
def _(body: Body, rng: random.Random) -> None:
    rng.choice(body["programs"][0]["ops"])["op"] = rng.choice(("launch", "", None, 3, "Load"))


@text_kind("something required is missing")
def _(body: Body, rng: random.Random) -> None:
    struct = _struct(body, rng)
    keys = [k for k in struct if k in _REQUIRED and not (k == "name" and "names" in struct)]
    struct.pop(rng.choice([k for k in keys if k != "outputs"] or ["ops"]))


@text_kind("a value of another type")
def _(body: Body, rng: random.Random) -> None:
    struct = _struct(body, rng)
    key = rng.choice([k for k in struct if k in _REQUIRED])
    others: list[Any] = [None, 3.5, [None], {"a": []}]
    struct[key] = rng.choice([v for v in others if type(v) is not type(struct[key])])


@text_kind("something that is no JSON object")
def _(body: Body, rng: random.Random) -> None:
    body["programs"] = rng.choice((None, 3, "ops", [3], [[]], {}, [{"ops": [None]}], [{"ops": {"op": "load"}}]))


@text_kind("another schema")
def _(body: Body, rng: random.Random) -> None:
    body["schema"] = rng.choice(("2.0", "0.9", "", None, "one", 2, "\u00b2.0"))


TEXT_KINDS["plan.json: another hash"] = lambda body, rng: json.dumps({**body, "seed": rng.randrange(1, 1 << 30)})
TEXT_KINDS["plan.json: cut short"] = lambda body, rng: json.dumps(body)[: rng.randrange(1, 400)]
TEXT_KINDS["plan.json: no Unicode"] = lambda body, rng: json.dumps(
    {**body, "algorithm": "\ud800" * rng.randrange(1, 9)}
)
TEXT_KINDS["plan.json: too deep"] = lambda body, rng: "[" * rng.randrange(50_000, 99_999)


# -- the verdict


@dataclass
class Tally:
    """What became of the mutants of one kind."""

    made: int = 0
    refused: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)


def judge(kind: str, whole: Whole, rng: random.Random, tally: Tally) -> bool:
    """One mutant of a kind, or False where the plan has nothing to damage in that way."""
    if kind in TEXT_KINDS:
        text = TEXT_KINDS[kind](to_builtins(whole.plan), rng)
        try:
            mutant = loads(text, "mutant.json")
        except DiagnosticError:
            tally.made, tally.refused = tally.made + 1, tally.refused + 1
            return True
    else:
        made = KINDS[kind](Damage(whole.plan, rng))
        if made is None or made == whole.plan:
            return False
        mutant = made
    tally.made += 1
    if verify_plan(mutant, whole.signatures):
        tally.refused += 1
    elif why := why_equal(whole.plan, mutant):
        tally.equal[why] += 1
    else:
        tally.missed.append(whole.name)
    return True


def mutants(count: int, seed: int, files: tuple[Path, ...] = FILES, only: str = "") -> dict[str, Tally]:
    """About as many mutants of each kind that begins with `only`, `count` in all."""
    rng, plans = random.Random(seed), wholes(files)
    kinds = [name for name in (*KINDS, *TEXT_KINDS) if name.startswith(only)]
    tallies = {kind: Tally() for kind in kinds}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        while not judge(kind, rng.choice(plans), rng, tallies[kind]):
            pass
    return tallies


def main() -> int:
    """Print the table; 1 when a mutant was missed or a whole plan refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    plans = wholes()
    wrong = [w.name for w in plans if verify_plan(w.plan, w.signatures)]
    print(f"{len(plans)} whole plans of {len(FILES)} algorithms: {len(wrong)} refused {wrong or ''}")
    began = time.perf_counter()
    tallies = mutants(args.count, args.seed, only=args.only)
    seconds = time.perf_counter() - began
    print(f"{'kind of damage':<60} {'made':>6} {'refused':>8} {'equal':>6} {'missed':>7}")
    for kind, tally in tallies.items():
        counts = f"{tally.made:>6} {tally.refused:>8} {sum(tally.equal.values()):>6} {len(tally.missed):>7}"
        print(f"{kind:<60} {counts}  {'; '.join(sorted(set(tally.missed))[:2])}")
    total = Tally(*(sum(getattr(t, n) for t in tallies.values()) for n in ("made", "refused")))
    equal = sum((t.equal for t in tallies.values()), Counter[str]())
    missed = sum(len(t.missed) for t in tallies.values())
    print(f"{'all ' + str(len(tallies)):<60} {total.made:>6} {total.refused:>8} {equal.total():>6} {missed:>7}")
    print(f"equal because: {', '.join(f'{why} ({n})' for why, n in equal.most_common())}")
    print(f"{seconds:.1f} s, {seconds / args.count * 1e3:.2f} ms a mutant")
    return 1 if missed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
