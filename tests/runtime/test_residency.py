"""States that leave the device and come back: the same numbers to the bit, and memory that is really given back."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from rldsl.backends.comm import Comm
from rldsl.backends.engines.memory import keep_freed_memory
from rldsl.backends.engines.tiers import Contents, DiskShelf, Movable
from rldsl.backends.executor import Executor
from rldsl.compiler.plan import AnyOp, OffloadOp, OnloadOp, Plan, State
from rldsl.diagnostics import DiagnosticError
from tests.runtime.plans import grpo, swapping
from tests.runtime.test_executor import lines, run

CLOCK = ("seconds", "tokens_per_s", "memory/")


def numbers(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK) and "seconds" not in k} for line in lines(folder)]


@pytest.mark.parametrize(("backend", "ranks"), [("local", 1), ("torchrun", 2)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_changes_to_the_bit(tmp_path: Path, backend: str, ranks: int, precision: str) -> None:
    plan = with_precision(grpo(tmp_path), precision)
    run(backend, ranks, plan, tmp_path, "plain")
    seen = run(backend, ranks, swapping(plan, ranks=ranks), tmp_path, "swapped")
    assert numbers(tmp_path / "swapped") == numbers(tmp_path / "plain")
    mine, theirs = (load_file(tmp_path / n / "checkpoint" / "model.safetensors") for n in ("swapped", "plain"))
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)
    assert sum(op.startswith("onload:") for op in seen.ops) == 5 * 3
    assert not (tmp_path / "swapped" / "offload").exists()


def with_precision(plan: Plan, precision: str) -> Plan:
    models = tuple(msgspec.structs.replace(m, precision=precision) for m in plan.models)
    return msgspec.structs.replace(plan, models=models)


def test_what_is_away_takes_no_memory(tmp_path: Path) -> None:
    plan = swapping(grpo(tmp_path, save=False), ranks=1)
    job = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=tmp_path / "run")
    model = job.runtime.models["actor"]
    assert model.optimizer is not None
    held = lambda: sum(p.untyped_storage().nbytes() for p in model.scorer.parameters())  # noqa: E731
    assert held() == 0
    job.runtime.residency.onload(moves(plan, OnloadOp, State.WEIGHTS))
    whole = held()
    assert whole == 4 * sum(p.numel() for p in model.scorer.parameters())
    file = tmp_path / "run" / "offload" / "actor.weights-0.bin"
    assert file.stat().st_size == whole
    job.runtime.close()
    assert not file.parent.exists()


def moves(plan: Plan, kind: type[OnloadOp] | type[OffloadOp], state: State) -> AnyOp:
    return next(op for op in plan.ops() if isinstance(op, kind) and op.state is state)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize("size", [1 << 20, 64 << 20])
def test_memory_goes_back_to_the_system(tmp_path: Path, size: int) -> None:
    # As the engine has it: without being told to, the C library would give back nothing of small tensors.
    keep_freed_memory()
    tensors = [torch.randn(size // 4) for _ in range((256 << 20) // size)]
    sums = [t.sum() for t in tensors]
    state, before = Movable(lambda: Contents(tensors), DiskShelf(tmp_path / "s" / "state.bin")), resident()
    state.offload(store=True)
    assert before - resident() > 240 << 20
    state.onload()
    assert [t.sum() for t in tensors] == sums and resident() > before - (16 << 20)


def test_room_alone_is_not_written(tmp_path: Path) -> None:
    value, room = torch.arange(10.0), torch.ones(1000)
    state = Movable(lambda: Contents([value], [room]), DiskShelf(tmp_path / "state.bin"))
    state.offload(store=True)
    assert (tmp_path / "state.bin").stat().st_size == 40
    state.onload()
    assert room.fill_(2.0).sum() == 2000 and value.sum() == 45


def test_tensors_over_one_storage_leave_once(tmp_path: Path) -> None:
    value = torch.arange(10.0)
    state = Movable(lambda: Contents([value, value[2:], value.view(5, 2)]), DiskShelf(tmp_path / "state.bin"))
    state.offload(store=True)
    assert (tmp_path / "state.bin").stat().st_size == 40
    state.onload()
    assert value.sum() == 45


def test_weights_that_lie_in_a_file_leave_too(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    torch.arange(10.0).numpy().tofile(path)
    value = torch.from_file(str(path), size=10)
    state = Movable(lambda: Contents([value]), DiskShelf(tmp_path / "state.bin"))
    state.offload(store=True)
    assert value.untyped_storage().nbytes() == 0
    state.onload()
    assert value.sum() == 45


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    state = Movable(lambda: Contents([torch.ones(3)]), DiskShelf(tmp_path / "file" / "state.bin"))
    with pytest.raises(DiagnosticError) as caught:
        state.offload(store=True)
    assert caught.value.diagnostics[0].code == "RL0101"


def test_a_copy_that_is_cut_short(tmp_path: Path) -> None:
    value = torch.ones(3)
    state = Movable(lambda: Contents([value]), DiskShelf(tmp_path / "state.bin"))
    state.offload(store=True)
    (tmp_path / "state.bin").write_bytes(b"1234")
    with pytest.raises(DiagnosticError, match="shorter"):
        state.onload()
