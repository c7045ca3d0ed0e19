"""What fits where: PPO and GRPO of Qwen2.5 7B, 32B and 72B on 8 to 1,024 H100s, contexts of 8K to 64K tokens.

    python bench/paper_table.py [--quick]

Each line is a plan as `rldsl compile` makes it, all models on all ranks. Rollouts are vLLM's with the tp of `TP`;
training and scoring have the first layout of `LAYOUTS` that fits: `fsdp` over all ranks, else Megatron's axes. A
context is a prompt of at most 1,024 tokens and a response that fills the rest, each of `GROUP` samples; a step takes
one prompt a rank, at least `BATCH`, in one minibatch. `no moves` is the best plan in which no state ever leaves the
device, `as engines run` has besides no planned micro-batches and no recomputation. Prints Markdown. --quick: one
context, two sizes of cluster. Exit 1 where at 72B no plan fits that does not fit without moves.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from msgspec.structs import replace

from rldsl.compiler.cost.find_facts import facts_of
from rldsl.compiler.cost.hardware import hardware_of
from rldsl.compiler.cost.memory_plan import MemoryPlanner, Shortage
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp, TrainOp, WaitOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError

GIB = 1 << 30
TP = {"7B": 4, "32B": 8, "72B": 8}
LAYOUTS = {
    "7B": ("fsdp", "megatron(tp = 4, cp = 2)", "megatron(tp = 4, cp = 4)"),
    "32B": ("fsdp", "megatron(tp = 8)", "megatron(tp = 8, cp = 2)", "megatron(tp = 8, cp = 4)"),
    "72B": ("fsdp", "megatron(tp = 8, pp = 4, cp = 2)", "megatron(tp = 8, pp = 4, cp = 4)"),
}
ALGORITHMS = ("ppo", "grpo")
RANKS = (8, 64, 256, 1024)
CONTEXTS = (8, 16, 32, 64)
PROMPT, GROUP, BATCH = 1024, 8, 64
COLUMNS = (
    "",
    "Qwen2.5",
    "H100s",
    "context",
    "layout",
    "fits",
    "peak, GiB",
    "no moves, GiB",
    "as engines run, GiB",
    "tokens a micro-batch",
    "leaves the device",
    "moves, s a step",
)

PAGE = """# What fits where

PPO and GRPO of Qwen2.5 7B, 32B and 72B on 8 to 1,024 H100s, as `rldsl compile` plans them; the figures are predictions
of the memory and the time model, not measured on such clusters. Made by

    python bench/paper_table.py --page > docs/paper-table.md

All models lie on all ranks, in bfloat16 with float32 masters and moments. Rollouts are vLLM's, with tp = 4 for 7B and
8 for the others. Training and scoring have the first layout that fits, else that which lacks least: `fsdp` over all
ranks, then Megatron's axes, up to tp = 4, cp = 4 for 7B, tp = 8, cp = 4 for 32B, and tp = 8, pp = 4, cp = 4 for 72B.
The engines vllm and megatron are planned for; `rldsl run` does not have them yet. A context is a prompt of at most
1,024 tokens and a response that fills the rest, 8 of them a prompt; a step takes one prompt a rank, at least 64, in one
minibatch. A plan may fill 75.1 GiB of an H100's 79.1; `without margin` it needs more than that.

`peak` is that of the fullest op; a rollout's pool of keys and values has room for all rows of a replica, or half of
them, a quarter and so on: of these, that with which the whole step is fastest. `no moves` is the best plan in which no
state leaves the device, its micro-batches and recomputation chosen, too: where it says `no`, so many GiB are lacking.
`as engines run` has all states on the device and the engines' own micro-batches, without recomputation. `tokens a
micro-batch` are the actor's, with what is made again in the backward pass. What `leaves the device` is away while it is
not used, in the host's memory, or dropped and made anew; `moves` are the seconds that this adds to a step, without what
runs beside other work.

"""
_INPUT = """  param batch : int = {batch} prompts

  model actor     : policy = hf("Qwen/Qwen2.5-{size}"; precision = "bf16")
  model reference : policy = frozen actor
{critic}
  input prompts, answers : text[prompt] = jsonl("prompts.jsonl") with batch

  node rollout = actor.generate(prompts; n = {group}, max_new_tokens = {new}, max_prompt_tokens = {prompt})
    -> tokens, response_mask, rollout_logp, completions
  node reward  = compute last_number(completions, answers) -> score
  node old     = actor.logprob(tokens, response_mask) -> old_logp
  node ref     = reference.logprob(tokens, response_mask) -> ref_logp
"""
_PPO = """  node baseline      = critic.value(tokens, response_mask) -> values
  node shaping       = compute kl_penalty(score, response_mask, old_logp, ref_logp; kl_coef = 0.01) -> rewards
  node advantage     = compute gae(rewards, values, response_mask; gamma = 1.0, lam = 0.95) -> advantages, returns
  node critic_update = critic.train value_loss(tokens, response_mask, values, returns) with lr = 2e-6
  node actor_update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages; clip = 0.2) with lr = 1e-6
"""
_GRPO = """  node advantage    = compute group_advantage(score; group = {group}) -> advantages
  node actor_update =
    actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp; clip = 0.2, kl_coef = 0.001)
    with lr = 1e-6
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line: `context` is in units of 1,024 tokens."""

    algorithm: str
    size: str
    ranks: int
    context: int

    @property
    def source(self) -> str:
        """The algorithm as a `.rl` file has it."""
        critic = "  model critic    : value  = copy actor\n" if self.algorithm == "ppo" else ""
        body = _INPUT + (_PPO if self.algorithm == "ppo" else _GRPO)
        text = body.format(
            size=self.size,
            critic=critic,
            batch=max(BATCH, self.ranks),
            group=GROUP,
            new=self.context * 1024 - PROMPT,
            prompt=PROMPT,
        )
        return f"algorithm {self.algorithm} {{\n{text}}}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What came of a case in a layout: its plan, or why there is none; `margin`: it leaves some to fragmentation.

    `unmoved` is the same without moves: its peak in bytes, or what that lacks where.
    """

    case: Case
    layout: str
    plan: Plan | None = None
    fault: str = ""
    margin: bool = True
    unmoved: int | Shortage = 0


def cases(*, quick: bool) -> Iterator[Case]:
    """In the order of the table."""
    for algorithm in ALGORITHMS:
        for size in TP:
            for ranks in RANKS[:2] if quick else RANKS:
                for context in CONTEXTS[:1] if quick else CONTEXTS:
                    yield Case(algorithm=algorithm, size=size, ranks=ranks, context=context)


def solved(case: Case, folder: Path) -> Line:
    """In the first layout that fits, else in that which lacks least."""
    tried = []
    for layout in LAYOUTS[case.size]:
        if layout == "fsdp" or case.ranks % prod(map(int, re.findall(r"= (\d+)", layout))) == 0:
            tried.append(compiled(case, layout, folder))
            if tried[-1].plan and tried[-1].margin:
                return tried[-1]
    return next((line for line in tried if line.plan), min(tried, key=_lacking))


def _lacking(line: Line) -> float:
    """GiB."""
    found = re.search(r"needs ([\d,.]+) GiB", line.fault)
    return float(found[1].replace(",", "")) if found else 0.0


def compiled(case: Case, layout: str, folder: Path) -> Line:
    """The case in one layout. Errors other than a memory too small are raised."""
    path = folder / f"{case.algorithm}.rl"
    path.write_text(case.source, encoding="utf-8")
    phases = [f"actor.train : {layout}", f"reference.infer : {layout}"]
    phases += [f"critic.train : {layout}"] if case.algorithm == "ppo" else []
    layouts = (f"actor.generate : vllm(tp = {TP[case.size]})", *(phases if layout != "fsdp" else ()))
    try:
        found = compile_file(path, Options(cluster=f"{case.ranks} x h100", layouts=layouts))
    except DiagnosticError as error:
        faults = [d for d in error.diagnostics if d.code == "RL0810"]
        if not faults:
            raise
        return Line(case=case, layout=layout, fault=faults[0].message)
    margin = all(d.code != "RL0811" for d in found.warnings)
    return Line(case=case, layout=layout, plan=found.plan, margin=margin, unmoved=unmoved(found.plan))


def unmoved(plan: Plan) -> int | Shortage:
    """The peak of the best plan without moves within the same budget, or what it lacks."""
    assert plan.memory and plan.cluster
    facts = {m.name: f for m in plan.models if isinstance(f := facts_of(m), ModelFacts)}
    programs = tuple(replace(p, ops=tuple(_still(p.ops))) for p in plan.programs)
    still = replace(plan, programs=programs)
    planner = MemoryPlanner(still, tuple(_still(tuple(plan.ops()))), facts, hardware_of(plan.cluster, plan.figures))
    found = planner.fit(plan.memory.budget, moves=False)
    return found if isinstance(found, Shortage) else found.memory.peak


def _still(ops: Collection[AnyOp]) -> Iterator[AnyOp]:
    """Without moves, and waits for them."""
    moves = {op.id for op in ops if isinstance(op, OnloadOp | OffloadOp)}
    return (op for op in ops if op.id not in moves and not (isinstance(op, WaitOp) and op.begun in moves))


def row(line: Line) -> str:
    """The Markdown of a line."""
    case = line.case
    head = f"| {case.algorithm} | {case.size} | {case.ranks:,} | {case.context}K | {line.layout} |"
    if line.plan is None or line.plan.memory is None:
        lacking = line.fault.removeprefix("does not fit: ").partition(", on ")[0]
        return f"{head} no: {lacking} | | | | | | |"
    memory = line.plan.memory
    fits = "yes" if line.margin else "without margin"
    peak = f"{memory.peak / GIB:.1f}, {memory.peak_op}"
    own = f"{memory.unplanned / GIB:,.1f}" + (", no" if memory.unplanned > memory.budget else "")
    moved = f"{memory.moved_seconds:.2f}" if memory.moved_seconds else ""
    return f"{head} {fits} | {peak} | {_unmoved(line)} | {own} | {_micro(line.plan)} | {_away(line.plan)} | {moved} |"


def _unmoved(line: Line) -> str:
    lack = line.unmoved
    return f"no, {lack.bytes / GIB:.1f} short" if isinstance(lack, Shortage) else f"{lack / GIB:.1f}"


def _micro(plan: Plan) -> str:
    """Tokens of the actor's micro-batch, and what is made again."""
    op = next(op for op in plan.ops() if isinstance(op, TrainOp) and op.model == "actor")
    again = "" if op.recompute == "none" else f", {op.recompute}"
    return f"{op.micro_batch_tokens:,}{again}"


def _away(plan: Plan) -> str:
    """The states that leave the device, by model."""
    found: dict[str, list[str]] = {}
    for op in plan.ops():
        if isinstance(op, OffloadOp):
            found.setdefault(op.model, []).append(op.state)
    return "; ".join(f"{model}: {', '.join(dict.fromkeys(states))}" for model, states in found.items())


def shows_residency(lines: list[Line]) -> bool:
    """Whether some plan of 72B fits that does not fit without moves."""
    return any(line.case.size == "72B" and isinstance(line.unmoved, Shortage) for line in lines)


def table(lines: Iterable[Line]) -> str:
    """Markdown."""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS) + "\n"
    return head + "".join(f"{row(line)}\n" for line in lines)


def main() -> int:
    """Print the table, or the page with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", action="store_true", help="the whole of docs/paper-table.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = [solved(case, Path(folder)) for case in cases(quick=args.quick)]
    print((PAGE if args.page else "") + table(lines), end="")
    return 0 if shows_residency(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
