"""Ranks as Ray actors: one a rank, spread by a placement group.

Ray starts them and hands out rank, address and plan. Batches and weights go by torch.distributed between
the ranks themselves, and progress by the store, so no row ever passes through Ray's object store.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rldsl.backends.engines import require
from rldsl.backends.environment import prepare_torch
from rldsl.backends.failure import Failure
from rldsl.backends.fits import check_world_size
from rldsl.backends.job import Job, cores_per_rank
from rldsl.backends.observer import Observer, Receiver, Silent
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError, fail

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SURVIVORS_S = 10.0  # what the ranks that live have to say who died, before the driver says what it knows


def run(
    plan: Plan,
    *,
    steps: int,
    world_size: int,
    run_dir: Path,
    observer: Observer | None,
    source_dir: Path,
    timeout_s: float,
) -> None:
    """Run `plan` on `world_size` actors, of the cluster at RAY_ADDRESS or else of this host.

    Raises the `DiagnosticError` that ended the run, `WorkerBugError` for a bug, KeyboardInterrupt on Ctrl-C. The
    caller's handler of SIGTERM stays. Actors are killed and Ray is left, whatever happens.
    """
    require("torch", "transformers", "torchdata")
    require("ray", extra="ray")
    # The raylet's report of a dying worker would stand beside our one message; Ray reads this when imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    import ray  # known to be there only now

    from rldsl.backends.rendezvous import serve

    check_world_size(plan, world_size)
    _connect(world_size)
    try:
        store, address = serve(_node_address(), timeout_s)
        job = Job(
            plan=plan,
            steps=steps,
            run_dir=run_dir.absolute(),
            source_dir=source_dir.absolute(),
            timeout_s=timeout_s,
            relay=True,
        )
        receiver = Receiver(store, plan, steps, observer or Silent())
        try:
            _run_actors(job.encode(), str(address), world_size, store, timeout_s)
        finally:
            receiver.close()
    finally:
        ray.shutdown()


def _connect(world_size: int) -> None:
    """Join the user's cluster, or start one here with a slot for each rank, cores or not."""
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _terminable():
        if "RAY_ADDRESS" in os.environ:
            ray.init(**options)
        else:
            ray.init(num_cpus=world_size, include_dashboard=False, **options)


@contextmanager
def _terminable() -> Iterator[None]:
    """While Ray starts it has a handler of its own for SIGTERM, which exits with 15; the caller's is put back."""
    usual = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt(signal.SIGTERM) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, usual)


def _run_actors(job: bytes, address: str, world_size: int, store: Store, timeout_s: float) -> None:
    import ray
    from ray.util.placement_group import remove_placement_group

    group = _place(world_size, timeout_s)
    actors: list[Any] = []
    try:
        actors += [_actor(group, rank) for rank in range(world_size)]
        nodes = ray.get([actor.node.remote() for actor in actors], timeout=timeout_s)
        # Ranks of one node count themselves, for their share of its cores and their GPU.
        local = [(nodes[:r].count(nodes[r]), nodes.count(nodes[r])) for r in range(world_size)]
        running = {
            actor.run.remote(job, address, rank, world_size, *local[rank]): rank for rank, actor in enumerate(actors)
        }
        _wait(running, store)
    finally:
        for actor in actors:
            ray.kill(actor)
        remove_placement_group(group)


def _place(world_size: int, timeout_s: float) -> Any:
    """A slot for each rank, as few nodes as will do."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([_resources() for _ in range(world_size)], strategy="PACK")
    if not group.wait(timeout_seconds=min(timeout_s, 60.0)):
        remove_placement_group(group)
        fail(
            "RL0708",
            f"the Ray cluster has no room for {world_size} ranks",
            expected=f"{world_size} times {_resources()} free",
            fix="start fewer ranks, or wait until the cluster is free",
        )
    return group


def _node_address() -> str:
    """Where the other nodes of the cluster reach this one."""
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _resources() -> dict[str, float]:
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    return {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}


def _actor(group: Any, rank: int) -> Any:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    wanted = _resources()
    place = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
    return ray.remote(Rank).options(
        num_cpus=wanted["CPU"], num_gpus=wanted.get("GPU", 0), max_restarts=0, scheduling_strategy=place
    ).remote()  # fmt: skip


class Rank:
    """The actor: one rank's process."""

    def node(self) -> str:
        """The id of the node this actor is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def run(self, job: bytes, address: str, rank: int, world_size: int, local_rank: int, local_size: int) -> None:
        """Run the rank; the process ends where the rank does not end well."""
        prepare_torch()
        from rldsl.backends.rendezvous import Address, Place
        from rldsl.backends.worker import run_rank

        # Ray gives each actor its own GPU and hides the others.
        local = (0, 1) if os.environ.get("CUDA_VISIBLE_DEVICES") else (local_rank, local_size)
        os.environ["OMP_NUM_THREADS"] = str(cores_per_rank(local_size))
        place = Place(rank=rank, world_size=world_size, local_rank=local[0], local_world_size=local[1])
        run_rank(Job.decode(job), place, Address.parse(address), owns_signals=False)


def _wait(running: dict[Any, int], store: Store) -> None:
    """Until all ranks have ended well, or one has not."""
    import ray

    while running:
        done, _ = ray.wait(list(running), num_returns=1)
        rank = running.pop(done[0])
        try:
            ray.get(done[0])
        except ray.exceptions.RayActorError as error:
            _throw(store, rank, str(error).strip().splitlines()[0])


def _throw(store: Store, rank: int, how: str) -> NoReturn:
    """What the ranks said; when none could, what the driver knows."""
    from rldsl.backends.watch import peer_died

    deadline = time.monotonic() + SURVIVORS_S
    while time.monotonic() < deadline:
        failure = Failure.posted(store)
        if failure is not None:
            failure.throw()
        time.sleep(0.1)
    raise DiagnosticError([peer_died(store, rank, how)])
