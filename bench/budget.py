"""PPO with actor, critic and reference on SmolLM2-135M within budgets of memory, against the same without a budget.

    python bench/budget.py [--steps 2] [--batch 2] [--budgets 8GiB 4GiB 2550MiB] [--ranks 1]

Each plan runs in processes of its own, one for each of its ranks, by `rldsl compile` and `rldsl run`, once with states
that come back beside other work and once without (`--disable-pass overlap_moves`). Of each: moves between memory and
disk a step, and how many of them begin in the background; the peak that was measured (the most of any op on any rank,
above what the process held before models were loaded) and the one that was predicted; seconds of the last step, of its
moves and waits for them, beside those predicted; and by how much losses, rewards and norms of gradients differ,
relatively, from those without a budget: 0 where they are the same to the bit. Micro-batches of another size add float32
numbers in another order, and so differ in the last digits; moves in the background change nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rldsl.compiler.ops import OffloadOp, OnloadOp, WaitOp
from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import read_plan

EXAMPLE = Path(__file__).parents[1] / "examples" / "ppo.rl"
JUDGE = """
def brevity(completions: str) -> float:
    return 1 / (1 + len(completions))
"""
MIB = 1 << 20
# The policy's loss is the mean of advantages that cancel out while the policy is that of the rollout: rounding alone.
LEAST = 1e-3
COMPARED = ("score", "critic_update/loss", "actor_update/loss", "critic_update/grad_norm", "actor_update/grad_norm")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A plan and the lines of its run."""

    plan: Plan
    lines: list[dict[str, float]]

    @property
    def measured(self) -> float:
        """MiB at the peak of the run."""
        return max((v for line in self.lines for n, v in line.items() if n.startswith("memory/")), default=0.0) / MIB

    def differs(self, other: Result) -> float:
        """The greatest difference of a compared number of any step, over the number or `LEAST`."""
        pairs = ((a[n], b[n]) for a, b in zip(self.lines, other.lines, strict=True) for n in COMPARED)
        return max(abs(a - b) / max(abs(b), LEAST) for a, b in pairs)


def run(folder: Path, budget: str | None, steps: int, batch: int, *, ranks: int = 1, beside: bool = True) -> Result:
    """Compile for the budget and run, by torchrun on several ranks; `beside`: moves may be in the background."""
    name = f"{budget or 'none'}{'' if beside else ' at once'}"
    path, run_dir = folder / f"{name}.json", folder / name
    settings = [f"--set={s}" for s in (f"batch={batch}", f"minibatch={batch}", "epochs=1", "precision=fp32")]
    memory = [] if budget is None else [f"--memory={budget}"]
    memory += [] if beside else ["--disable-pass=overlap_moves"]
    _rldsl("compile", program(folder), "--emit", path, f"--world-size={ranks}", *settings, *memory)
    backend = "torchrun" if ranks > 1 else "local"
    _rldsl("run", path, f"--backend={backend}", f"--ranks={ranks}", f"--steps={steps}", "--run-dir", run_dir)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return Result(plan=read_plan(path), lines=lines)


def program(folder: Path) -> Path:
    """The shipped PPO with the limit of its prompts, much less than a plan takes for granted, and another reward.

    So small a model solves no task at once, and where all rewards are 0 there is nothing to compare.
    """
    text, path = EXAMPLE.read_text(), folder / "ppo.rl"
    text = text.replace("max_new_tokens = 24", "max_new_tokens = 24, max_prompt_tokens = 64")
    text = text.replace("compute last_number(completions, answers)", "compute brevity(completions)")
    (folder / "judge.py").write_text(JUDGE)
    path.write_text(f'use "judge.py"\n{text}')
    return path


def _rldsl(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "rldsl", *map(str, arguments)], check=True)


def row(name: str, found: Result, plain: Result) -> str:
    """One line of the table."""
    memory = found.plan.memory
    assert memory is not None, "a plan for a budget says what it needs"
    moves = [op for op in found.plan.ops() if isinstance(op, (OnloadOp, OffloadOp))]
    begun = sum(isinstance(op, OnloadOp) and op.background for op in moves)
    predicted, seconds = memory.peak / MIB, sum(memory.seconds.values())
    last = found.lines[-1]
    held_up = sum(last.get(f"seconds/{op}", 0.0) for op in _holding_up(found.plan))
    within = "yes" if found.measured * MIB <= memory.budget else "NO"
    return (
        f"{name:>16}  {f'{begun} of {len(moves)}':>8}  {found.measured:>8,.0f}  {predicted:>9,.0f}  {within:>6}"
        f"  {last['seconds']:>7.1f}  {seconds:>9.1f}  {held_up:>5.1f}  {memory.moved_seconds:>9.1f}"
        f"  {found.differs(plain):>10.1e}"
    )


def _holding_up(plan: Plan) -> list[str]:
    """Moves that the program stands still for, and waits for the others, whose own seconds are beside it."""
    begun = {op.id for op in plan.ops() if isinstance(op, OnloadOp) and op.background}
    at_once = [op.id for op in plan.ops() if isinstance(op, (OnloadOp, OffloadOp)) and op.id not in begun]
    return [*at_once, *(op.id for op in plan.ops() if isinstance(op, WaitOp) and op.begun in begun)]


def main() -> None:
    """Print the table; 1 where a run left its budget, or came to other losses: with moves beside, to the bit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--budgets", nargs="+", default=["8GiB", "4GiB", "2550MiB"])
    parser.add_argument("--ranks", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rldsl-budget-") as name:
        plain = run(Path(name), None, args.steps, args.batch, ranks=args.ranks)
        found = {
            f"{budget}{'' if beside else ' at once'}": run(
                Path(name), budget, args.steps, args.batch, ranks=args.ranks, beside=beside
            )
            for budget in args.budgets
            for beside in (False, True)
        }
    print("          budget    beside       MiB  predicted  within  seconds  predicted  moved  predicted  difference")
    for name, result in found.items():
        print(row(name, result, plain))
    memories = {name: result.plan.memory for name, result in found.items()}
    over = any(m is not None and found[b].measured * MIB > m.budget for b, m in memories.items())
    changed = any(found[budget].differs(found[f"{budget} at once"]) for budget in args.budgets)
    sys.exit(over or changed or any(result.differs(plain) > 1e-3 for result in found.values()))


if __name__ == "__main__":
    main()
