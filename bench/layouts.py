"""Every layout of training and rollouts: each compiles, or is refused by a diagnostic.

    python bench/layouts.py [--count N] [--seed S]

Sizes of `SIZES` along tp, pp, cp and ep, engines, models (dense, with experts, with a vision tower) and ranks: all
combinations, or N of them drawn with a seed. Prints how many compile and how many have which code, and each crash;
exit 1 if there is one. All of them take six minutes.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rldsl.compiler.methods import ENGINE_AXES
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.diagnostics import DiagnosticError

GRPO = Path(__file__).parents[1] / "examples" / "grpo.rl"
SIZES, RANKS = (1, 2, 4, 8), (8, 16, 32, 64)
MODELS = ("Qwen/Qwen2.5-7B", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen2.5-VL-7B-Instruct")
ENGINES = (("megatron", "vllm"), ("megatron", "hf"), ("fsdp", "vllm"), ("fsdp", "sglang"))


class Layout(NamedTuple):
    """One of them."""

    model: str
    ranks: int
    train: str
    generate: str
    tp: int
    pp: int
    cp: int
    ep: int

    def layouts(self) -> tuple[str, ...]:
        """As a deployment has them, of each engine those axes that it has."""
        phases = ("actor.train", self.train), ("reference.infer", self.train), ("actor.generate", self.generate)
        return tuple(f"{phase} : {engine}({self._axes(engine)})" for phase, engine in phases)

    def _axes(self, engine: str) -> str:
        return ", ".join(f"{a} = {getattr(self, a)}" for a in ENGINE_AXES[engine] if a != "dp" and getattr(self, a) > 1)


def all_layouts() -> Iterator[Layout]:
    """Without those that differ in axes which neither engine has."""
    for model, ranks, engines in itertools.product(MODELS, RANKS, ENGINES):
        axes = {axis for engine in engines for axis in ENGINE_AXES[engine]}
        sizes = (SIZES if axis in axes else (1,) for axis in ("tp", "pp", "cp", "ep"))
        yield from (Layout(model, ranks, *engines, *each) for each in itertools.product(*sizes))


def outcome(layout: Layout) -> str:
    """`compiles`, or the code of the first error; anything else that is raised is a bug of ours."""
    settings = (f"model={layout.model}", f"batch={layout.ranks}", "kl_coef=0.1")
    options = Options(settings=settings, cluster=f"{layout.ranks} x h100", layouts=layout.layouts())
    try:
        plan = compile_file(GRPO, options).plan
    except DiagnosticError as error:
        return error.diagnostics[0].code
    assert plan.memory is not None, "it was planned"
    return "compiles"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="so many, drawn; by default all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    layouts = list(all_layouts())
    drawn = random.Random(options.seed).sample(layouts, options.count) if options.count else layouts
    found: Counter[str] = Counter()
    for layout in drawn:
        try:
            found[outcome(layout)] += 1
        except Exception:
            found["crashes"] += 1
            print(layout, traceback.format_exc(), sep="\n", flush=True)
    print(f"{len(drawn)} of {len(layouts)} layouts:", ", ".join(f"{n} {what}" for what, n in found.most_common()))
    return 1 if found["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
