"""Walks one rank's program. It knows no algorithm: what to do, and in which order, is in the plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import torch

from rldsl.backends.comm import Comm
from rldsl.backends.engines.engine import TRANSFORMERS, Engine
from rldsl.backends.fits import check_engines, check_hardware
from rldsl.backends.folder import RunFolder
from rldsl.backends.handlers import HANDLERS
from rldsl.backends.keys import reward_key
from rldsl.backends.ledger import Deliver, Ledger
from rldsl.backends.metrics import StepMetrics
from rldsl.backends.observer import Metrics, Observer, Silent
from rldsl.backends.outputs import clear_outputs
from rldsl.backends.overrun import Overrun
from rldsl.backends.runtime import Runtime
from rldsl.backends.weights import groups_of
from rldsl.compiler.ops import AnyOp
from rldsl.compiler.plan import Plan, plan_hash, to_builtins
from rldsl.diagnostics import fail


class Executor:
    """The program of rank `comm.rank`, ready to run: ranks have agreed on the plan, models are loaded.

    Raises RL0703 when ranks hold different plans, steps or sizes, and whatever models, data and functions
    raise when they are made. Collective over the world, as is `run`.
    """

    def __init__(
        self,
        plan: Plan,
        comm: Comm,
        *,
        steps: int,
        source_dir: Path,
        run_dir: Path,
        observer: Observer | None = None,
        engine: Engine = TRANSFORMERS,
    ) -> None:
        self._plan, self._comm, self._steps = plan, comm, steps
        self._run_dir, self._source_dir = run_dir, source_dir
        self._observer = observer if comm.rank == 0 and observer is not None else Silent()
        self._ops = plan.program(comm.rank).ops
        comm.status.steps = steps
        comm.status.enter(step=-1, op="agree", node=None)
        check_engines(plan)
        check_hardware(plan, hardware(comm.device))
        agree(plan, comm, steps)
        comm.make_groups(groups_of(plan, comm.world_size))
        self._metrics = StepMetrics(plan, comm)
        # Ranks that all run one program end a step together; others go on, and their numbers find together later.
        self._ledger = Ledger(self._metrics, comm) if len(plan.programs) > 1 else None
        self._deliver: Deliver = _nowhere
        comm.status.enter(step=-1, op="load models", node=None)
        self.runtime = Runtime(
            plan,
            comm,
            steps=steps,
            source_dir=source_dir,
            run_dir=run_dir,
            metrics=self._metrics,
            ops=self._ops,
            engine=engine,
        )
        self.warnings = self.runtime.warnings
        if len(plan.programs) > 1:
            found = [w for each in comm.all_gather_object(self.warnings) for w in each]
            self.warnings = list({w.message: w for w in found}.values())

    def run(self) -> None:
        """All steps. Rank 0 fills the run folder and tells the observer of ops and steps."""
        with closing(self.runtime):
            if self._comm.rank == 0:
                self._run_and_tell()
            else:
                self._run_steps(_nowhere)

    def _run_and_tell(self) -> None:
        for warning in self.warnings:
            self._observer.on_warning(warning)
        clear_outputs(self._run_dir, self._plan, self._comm.world_size)
        with closing(RunFolder(self._run_dir, self._plan, self._source_dir)) as folder:
            reward, overrun = reward_key(self._plan), Overrun(self._plan)

            def told(line: Metrics) -> None:
                folder.add(line, reward)
                self._observer.on_step(line)
                for warning in overrun.seen(line):
                    self._observer.on_warning(warning)

            self._run_steps(told)
            folder.draw(f"{self._plan.algorithm}: reward", reward)

    def _run_steps(self, deliver: Deliver) -> None:
        with self.delivering(deliver):
            for step in range(self._steps):
                self.run_step(step)

    @contextmanager
    def delivering(self, deliver: Deliver) -> Iterator[None]:
        """The line of each step that is run inside goes to `deliver` on rank 0, in order, and maybe in a thread."""
        self._deliver = deliver if self._comm.rank == 0 else _nowhere
        with self._ledger.delivering(deliver) if self._ledger is not None else nullcontext():
            yield

    def run_step(self, step: int) -> Metrics:
        """One step; returns its line, or nothing where ranks do not wait for each other's: see `delivering`."""
        self._metrics.begin()
        self.runtime.begin(step)
        for op in self._ops:
            self._run_op(op, step)
        self._comm.status.enter(step=step, op="metrics", node=None)
        if self._ledger is not None:
            self._ledger.post(self._metrics.part())
            return {}
        line = self._metrics.close(step)
        self._deliver(line)
        return line

    def _run_op(self, op: AnyOp, step: int) -> None:
        if not self.runtime.due(op):
            return
        self._comm.status.enter(step=step, op=op.id, node=op.node)
        self._observer.on_op(op)
        self.runtime.buffer.layout = self.runtime.layouts[op.group]
        with self._metrics.timing(op):
            HANDLERS[type(op)](self.runtime, op)


def _nowhere(_line: Metrics) -> None:
    """For ranks that tell nobody."""


def hardware(device: torch.device) -> str:
    """What the vendor calls `device`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def agree(plan: Plan, comm: Comm, steps: int) -> None:
    """RL0703 unless every rank holds the same plan and runs as many steps. Collective over the world."""
    mine = (plan_hash(to_builtins(plan)), steps)
    everyone = comm.all_gather_object(mine)
    other = [rank for rank, theirs in enumerate(everyone) if theirs != everyone[0]]
    if not other:
        return
    rank = other[0]
    fail(
        "RL0703",
        f"ranks do not run the same thing: rank {rank} differs from rank 0",
        expected=f"plan {everyone[0][0][:16]} for {everyone[0][1]} steps, as on rank 0",
        found=f"plan {everyone[rank][0][:16]} for {everyone[rank][1]} steps on rank {rank}",
        fix="give every rank the same plan.json and the same --steps",
    )
