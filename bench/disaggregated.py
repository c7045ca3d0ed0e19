"""Seconds a step with training and rollouts on the same ranks and on ranks of their own, with and without staleness.

    python bench/disaggregated.py [--steps 8] [--batch 8] [--hidden 128] [--layers 4] [--new-tokens 48]

GRPO on a scratch model, two processes of one thread each, with gloo. Colocated, each rank does half of the rollout and
half of the training, one after the other. Apart, rank 0 trains and rank 1 samples: without staleness the two take
turns, with it the next rollout runs beside this training. Beside it, from the same run, how long the slower of the two
takes and how long both: what a step takes that overlaps perfectly, and one that does not at all. Medians of all steps
but the first two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # processes are begun and ended as the tests do it

import torch  # noqa: E402

from rldsl.backends.comm import Comm  # noqa: E402
from rldsl.backends.executor import Executor  # noqa: E402
from rldsl.compiler.pipeline import Options, compile_file  # noqa: E402
from rldsl.compiler.plan import Plan  # noqa: E402
from tests.ranks import on_ranks  # noqa: E402

APART = ("actor.train : fsdp() on 0..0", "actor.generate : hf() on 1..1")
PROGRAM = """algorithm bench {{
  model actor : policy = scratch(; alphabet = "0123456789=", hidden = {hidden}, layers = {layers}, heads = 4)
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = {batch}
  node rollout   = actor.generate(prompts; n = 8, max_new_tokens = {new}, staleness = {staleness})
                 -> tokens, response_mask, rollout_logp, completions
  node reward    = compute char_accuracy(completions, answers) -> score
  node advantage = compute group_advantage(score; group = 8) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp)
                 with lr = 1e-5, epochs = {epochs}
}}
"""


@dataclass(frozen=True)
class Case:
    """A deployment to be measured."""

    name: str
    staleness: int
    layouts: tuple[str, ...]


CASES = (
    Case("colocated", 0, ()),
    Case("colocated, staleness 1", 1, ()),
    Case("apart", 0, APART),
    Case("apart, staleness 1", 1, APART),
)


def compiled(case: Case, folder: Path, args: argparse.Namespace) -> Plan:
    """The plan of a case; its file and its rows lie in `folder`."""
    rows = ({"prompts": f"{i}+{i}=".replace("+", "="), "answers": str(2 * i)} for i in range(64))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = folder / f"bench{case.staleness}.rl"
    source.write_text(
        PROGRAM.format(
            hidden=args.hidden,
            layers=args.layers,
            batch=args.batch,
            new=args.new_tokens,
            staleness=case.staleness,
            epochs=args.epochs,
        )
    )
    return compile_file(source, Options(layouts=case.layouts, world_size=2)).plan


def work(comm: Comm, folder: Path) -> None:
    """All cases, one after the other, on this rank."""
    torch.set_num_threads(1)
    args = argparse.Namespace(**json.loads((folder / "args.json").read_text()))
    for i, case in enumerate(CASES):
        plan = compiled(case, folder / str(comm.rank), args)
        Executor(plan, comm, steps=args.steps, source_dir=folder / str(comm.rank), run_dir=folder / f"run{i}").run()
        comm.barrier()


def measured(folder: Path, case: int) -> Iterator[tuple[float, float, float]]:
    """Of each step its seconds, the slowest rank's, those of the rollout and those of the training."""
    lines = [json.loads(line) for line in (folder / f"run{case}" / "metrics.jsonl").read_text().splitlines()]
    for line in lines[2:]:
        yield line["seconds"], line["seconds/rollout"], line["seconds/update"]


def main() -> None:
    """Run, and print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rldsl-bench-") as name:
        folder = Path(name)
        (folder / "args.json").write_text(json.dumps(vars(args)))
        for rank in range(2):
            (folder / str(rank)).mkdir()
        for case in CASES:
            compiled(case, folder / "0", args)
        on_ranks(work, folder)
        print(f"{'':<24}{'step':>8}{'rollout':>9}{'training':>10}{'slower':>8}{'both':>8}   seconds")
        for i, case in enumerate(CASES):
            step, rollout, training = map(statistics.median, zip(*measured(folder, i), strict=True))
            slower, both = max(rollout, training), rollout + training
            print(f"{case.name:<24}{step:>8.3f}{rollout:>9.3f}{training:>10.3f}{slower:>8.3f}{both:>8.3f}")


if __name__ == "__main__":
    main()
