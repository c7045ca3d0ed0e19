"""States that leave the device and come back: the same numbers to the bit, and memory that is really given back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from rldsl.backends import executor, residency, runtime
from rldsl.backends.background import Background
from rldsl.backends.comm import Comm
from rldsl.backends.engines import memory, tiers
from rldsl.backends.engines.memory import give_back, keep_freed_memory
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.tiers import Contents, DiskShelf, Movable, PinnedShelf
from rldsl.backends.executor import Executor
from rldsl.backends.metrics import StepMetrics
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp, State
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import DiagnosticError
from rldsl.render.measured import measured_lines
from tests.runtime.plans import early, grpo, least, measured, swapping
from tests.runtime.test_executor import lines, run

CLOCK = ("seconds", "tokens_per_s", "memory/")


def numbers(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK) and "seconds" not in k} for line in lines(folder)]


@pytest.mark.parametrize(("backend", "ranks"), [("local", 1), ("torchrun", 2)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_changes_to_the_bit(tmp_path: Path, backend: str, ranks: int, precision: str) -> None:
    plan = with_precision(grpo(tmp_path), precision)
    swapped = swapping(plan, ranks=ranks)
    run(backend, ranks, plan, tmp_path, "plain")
    for name, each in (("swapped", swapped), ("beside", early(swapped))):
        seen = run(backend, ranks, each, tmp_path, name)
        assert numbers(tmp_path / name) == numbers(tmp_path / "plain")
        mine, theirs = (load_file(tmp_path / n / "checkpoint" / "model.safetensors") for n in (name, "plain"))
        assert all(torch.equal(mine[n], theirs[n]) for n in theirs)
        assert sum(op.startswith("onload:") for op in seen.ops) == 5 * 3
        assert sum(op.startswith("wait:") for op in seen.ops) == (5 * 3 if name == "beside" else 0)
        assert not list((tmp_path / name).glob("offload*"))


ROOT = Path(__file__).parents[2]
TOY = ROOT / "examples" / "toy"


@pytest.mark.parametrize(("backend", "ranks"), [("local", 1), ("torchrun", 2)])
def test_a_compiled_plan_gives_the_same_with_moves_beside(tmp_path: Path, backend: str, ranks: int) -> None:
    shutil.copytree(TOY, tmp_path, dirs_exist_ok=True)
    budget = least(tmp_path / "ppo.rl", ranks)
    for name, disable in (("beside", frozenset[str]()), ("at once", frozenset({"overlap_moves"}))):
        options = Options(cluster=f"{ranks} x cpu", memory=budget, disable=disable)
        plan = compile_file(tmp_path / "ppo.rl", options).plan
        begun = [op for op in plan.ops() if isinstance(op, OnloadOp) and op.background]
        assert len(begun) == (3 if name == "beside" else 0)
        run(backend, ranks, plan, tmp_path, name, steps=2)
    assert numbers(tmp_path / "beside") == numbers(tmp_path / "at once")
    assert [line["seconds/onload:critic.weights:baseline"] > 0 for line in lines(tmp_path / "beside")] == [True, True]


def with_precision(plan: Plan, precision: str) -> Plan:
    models = tuple(msgspec.structs.replace(m, precision=precision) for m in plan.models)
    return msgspec.structs.replace(plan, models=models)


def test_what_is_away_takes_no_memory(tmp_path: Path) -> None:
    plan = swapping(grpo(tmp_path, save=False), ranks=1)
    job = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=tmp_path / "run")
    model = job.runtime.models["actor"]
    assert model.optimizer is not None
    assert held(model) == 0
    job.runtime.residency.onload(moves(plan, OnloadOp, State.WEIGHTS))
    whole = held(model)
    assert whole == 4 * sum(p.numel() for p in model.scorer.parameters())
    file = tmp_path / "run" / "offload-0" / "actor.weights.bin"
    assert file.stat().st_size == whole
    job.runtime.close()
    assert not file.parent.exists()


def held(model: Model) -> int:
    return sum(p.untyped_storage().nbytes() for p in model.scorer.parameters())


def test_a_run_that_cannot_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when models are loaded, and off the device, nor when the run folder cannot be begun."""
    folder, plan = tmp_path / "run", swapping(grpo(tmp_path, save=False), ranks=1)
    seen: list[list[Path]] = []

    def refused(*_: object) -> None:
        seen.append(list(folder.glob("offload-0/*")))
        raise OSError

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(runtime, "check_vocabularies", refused)
        Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=folder)
    job = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=folder)
    monkeypatch.setattr(executor, "clear_outputs", refused)
    with pytest.raises(OSError):
        job.run()
    assert all(seen) and len(seen) == 2 and not list(folder.glob("offload*"))


def moves(plan: Plan, kind: type[OnloadOp] | type[OffloadOp], state: State) -> AnyOp:
    return next(op for op in plan.ops() if isinstance(op, kind) and op.state is state)


ROLLUP = Path("/proc/self/smaps_rollup")


def resident() -> int:
    """Bytes, counted page by page: the sums that /proc/self/statm has are brought up to date late."""
    line = next(line for line in ROLLUP.read_text().splitlines() if line.startswith("Rss:"))
    return int(line.split()[1]) << 10


@pytest.mark.skipif(not ROLLUP.exists(), reason="needs Linux")
@pytest.mark.parametrize("size", [1 << 20, 64 << 20])
def test_memory_goes_back_to_the_system(tmp_path: Path, size: int) -> None:
    # As the engine has it: without being told to, the C library would give back nothing of small tensors.
    keep_freed_memory()
    tensors = [torch.randn(size // 4) for _ in range((256 << 20) // size)]
    sums = [t.sum() for t in tensors]
    state = Movable(lambda: Contents(tensors), DiskShelf(tmp_path / "s" / "state.bin"))
    give_back()  # what was free before is none of it
    before = resident()
    state.offload(store=True)
    low = resident()
    # But for what the interpreter and the C library take or give back meanwhile.
    assert before - low > 248 << 20
    state.onload()
    assert [t.sum() for t in tensors] == sums and resident() - low > 248 << 20


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


SIZES = (10, 1, 7, 4096, 33)


@pytest.mark.parametrize("chunk", [1, 13, 40, 1 << 20])
def test_pieces_through_a_buffer_are_the_same_to_the_bit(tmp_path: Path, chunk: int) -> None:
    """As storages go whose device the processor cannot read: here they are its own, so that both ways can be compared."""
    tensors = [torch.randn(n) for n in SIZES]
    stored, thread = [t.clone() for t in tensors], Background("pieces", torch.device("cpu"))
    state = Movable(lambda: Contents(tensors), DiskShelf(tmp_path / "pieces.bin", chunk=chunk))
    for back in (state.onload, lambda: state.begin(thread).result()):
        state.offload(store=True)
        assert not any(t.untyped_storage().nbytes() for t in tensors)
        assert (tmp_path / "pieces.bin").read_bytes() == b"".join(t.numpy().tobytes() for t in stored)
        back()
        assert all(torch.equal(t, s) for t, s in zip(tensors, stored, strict=True))
    state.offload(store=True)
    (tmp_path / "pieces.bin").write_bytes(b"1234")
    with pytest.raises(DiagnosticError, match="shorter"):
        state.onload()
    thread.close()


def test_the_buffer_is_no_larger_than_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = torch.empty
    monkeypatch.setattr(tiers, "_buffer", lambda size, device: made.append(size) or real(size, dtype=torch.uint8))
    tensors = [torch.randn(n) for n in SIZES]
    for chunk in (64, 1 << 20):
        state = Movable(lambda: Contents(tensors), DiskShelf(tmp_path / "pieces.bin", chunk=chunk))
        state.offload(store=True)
        state.onload()
    assert made == [64, 64, 4 * max(SIZES), 4 * max(SIZES)]


def test_a_run_through_a_buffer_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = grpo(tmp_path)
    run("local", 1, plan, tmp_path, "plain")
    monkeypatch.setattr(residency, "DiskShelf", partial(DiskShelf, chunk=10_000))
    run("local", 1, early(swapping(plan, ranks=1)), tmp_path, "pieces")
    assert numbers(tmp_path / "pieces") == numbers(tmp_path / "plain")
    mine, theirs = (load_file(tmp_path / n / "checkpoint" / "model.safetensors") for n in ("pieces", "plain"))
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 65 << 20, 3_000_000_007, 1 << 40])
def test_blocks_of_pinned_memory_are_powers_of_two(size: int) -> None:
    blocks = tiers.blocks_of(size)
    assert 0 <= sum(blocks) - size < 1 << 20 and all(b & (b - 1) == 0 for b in blocks)
    assert blocks == sorted(set(blocks), reverse=True)


def test_parts_lie_one_after_the_other_over_blocks() -> None:
    parts = [torch.randint(256, (n,), dtype=torch.uint8) for n in (5, 0, 1, 17, 8, 3)]
    blocks = [torch.zeros(n, dtype=torch.uint8) for n in (16, 8, 8, 4)]
    pieces = list(tiers.aligned(blocks, parts))
    for host, part in pieces:
        host.copy_(part)
    assert torch.equal(torch.cat(blocks)[:34], torch.cat(parts)) and len(pieces) == 8
    back = [torch.zeros_like(p) for p in parts]
    for host, part in tiers.aligned(blocks, back):
        part.copy_(host)
    assert all(torch.equal(b, p) for b, p in zip(back, parts, strict=True))


def test_what_comes_in_the_background_is_there_after_the_wait(tmp_path: Path) -> None:
    plan = early(swapping(grpo(tmp_path, save=False), ranks=1))
    job = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=tmp_path / "run")
    model = job.runtime.models["actor"]
    back = moves(plan, OnloadOp, State.WEIGHTS)
    assert isinstance(back, OnloadOp) and back.background
    file = tmp_path / "run" / "offload-0" / "actor.weights.bin"
    coming = job.runtime.residency.onload(back)
    assert coming is not None
    # Its memory is taken at once, its values come later.
    assert sum(p.untyped_storage().nbytes() for p in model.scorer.parameters()) == file.stat().st_size
    coming.result()
    assert coming.seconds > 0
    stored = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float32)
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.scorer.parameters()]), stored)
    job.runtime.close()


def test_weights_at_hand_leave_again_whatever_happens(tmp_path: Path) -> None:
    plan = swapping(grpo(tmp_path, save=False), ranks=1)
    job = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=tmp_path / "run")
    model = job.runtime.models["actor"]
    with pytest.raises(ZeroDivisionError), job.runtime.residency.at_hand("actor"):
        assert held(model) > 0
        raise ZeroDivisionError
    assert held(model) == 0
    job.runtime.close()


def test_what_a_thread_raises_comes_out_at_the_wait(tmp_path: Path) -> None:
    plan = early(swapping(grpo(tmp_path, save=False), ranks=1))
    job = Executor(plan, Comm.alone(), steps=1, source_dir=tmp_path, run_dir=tmp_path / "run")
    (tmp_path / "run" / "offload-0" / "actor.weights.bin").write_bytes(b"1234")
    with pytest.raises(DiagnosticError) as caught:
        job.run_step(0)
    (found,) = caught.value.diagnostics
    assert found.code == "RL0101" and "actor.weights.bin" in found.message and "shorter" in found.message
    assert any("`onload:weights:sync` was to bring it back in the background, step 1" in note for note in found.notes)
    assert job.runtime.comm.status.op == "wait:onload:weights:sync"
    job.runtime.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_copies_beside_its_other_work() -> None:
    device = torch.device("cuda", 0)
    tensors = [torch.randn(8 << 20, device=device) for _ in range(8)]
    sums, work = [float(t.sum()) for t in tensors], torch.randn(8192, 8192, device=device)
    state = Movable(lambda: Contents(tensors), PinnedShelf(device))
    for _ in range(3):
        state.offload(store=True)
        # What is given out next must not be what is still being copied.
        other = [torch.full((8 << 20,), 7.0, device=device) for _ in range(8)]
        del other
        coming = state.begin(Background("unused", torch.device("cpu")))
        for _ in range(4):
            work = (work @ work).tanh()
        coming.result()
        assert coming.seconds > 0 and [float(t.sum()) for t in tensors] == sums


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_states_go_to_the_disk_and_back(tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    tensors = [torch.randn(n << 10, device=device) for n in SIZES]
    sums, thread = [float(t.sum()) for t in tensors], Background("pieces", device)
    state = Movable(lambda: Contents(tensors), DiskShelf(tmp_path / "pieces.bin", chunk=1 << 20))
    for back in (state.onload, lambda: state.begin(thread).result()):
        state.offload(store=True)
        other = [torch.full_like(t, 7.0) for t in tensors]
        back()
        assert [float(t.sum()) for t in tensors] == sums
        del other


def test_several_ranks_take_no_more_than_was_predicted(tmp_path: Path) -> None:
    """Layers that are gathered and freed again and again leave nothing behind that nobody uses."""
    shutil.copytree(TOY, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "grpo.rl").read_text().replace("hidden = 64, layers = 2", "hidden = 512, layers = 4")
    (tmp_path / "grpo.rl").write_text(text.replace("max_new_tokens = 4", "max_new_tokens = 4, max_prompt_tokens = 8"))
    options = Options(settings=("batch=8",), cluster="2 x cpu", memory=4 << 30)
    plan = compile_file(tmp_path / "grpo.rl", options).plan
    run("torchrun", 2, plan, tmp_path, "run", steps=2)
    assert plan.memory is not None
    predicted = {f"memory/{m.op}": m.workspace + m.resident + plan.memory.reserve for m in plan.memory.ops}
    for line in lines(tmp_path / "run"):
        assert {k: v for k, v in line.items() if k.startswith("memory/") and v > predicted[k]} == {}


_GONE_AT_ONCE = """
import torch
from rldsl.backends.engines.memory import Meter, keep_freed_memory
from tests.runtime.test_residency import resident

keep_freed_memory()
{budget}
tensors = [torch.ones(1 << 18) for _ in range(128)]
before = resident()
del tensors[::2]
print((before - resident()) >> 20)
"""


@pytest.mark.skipif(not ROLLUP.exists(), reason="needs Linux")
@pytest.mark.parametrize(("budget", "least", "most"), [("", 0, 8), ("Meter(torch.device('cpu'))", 60, 68)])
def test_within_a_budget_what_is_freed_is_gone_at_once(budget: str, least: int, most: int) -> None:
    program = _GONE_AT_ONCE.format(budget=budget)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert least <= int(done.stdout) <= most


def test_memory_is_measured_where_there_is_a_budget(tmp_path: Path) -> None:
    seen = run("torchrun", 2, measured(grpo(tmp_path, save=False), budget=1 << 20), tmp_path, "run", steps=2)
    first, second = lines(tmp_path / "run")
    assert first["memory/update"] >= first["memory/old"] > 1 << 20 and "memory/rollout" not in first
    assert second.keys() >= {"memory/old", "memory/update"}
    # Once, whatever comes later; the op that took most.
    assert [w.code for w in seen.warnings] == ["RL0814"]
    assert "`update`" in seen.warnings[0].message or "`old`" in seen.warnings[0].message


def test_within_the_budget_nothing_is_said(tmp_path: Path) -> None:
    plan = measured(grpo(tmp_path, save=False))
    seen = run("local", 1, plan, tmp_path, "run", steps=1)
    assert seen.warnings == []
    said = list(measured_lines(plan, [{"memory/old": 3 << 20, "memory/update": 1 << 20}]))
    assert said[0] == f"memory: 3 of {1 << 20:,} MiB at old; 1 predicted, at update"
    assert [line.split() for line in said[2:]] == [["old", "3", "1"], ["update", "1", "1"]]
    assert list(measured_lines(grpo(tmp_path), [{}])) == []


def test_an_op_that_fails_leaves_no_thread_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_FORGET", Path("/proc/self/no such file"))
    plan = measured(grpo(tmp_path, save=False))
    metrics = StepMetrics(plan, Comm.alone())
    op = next(op for op in plan.ops() if op.id == "update")
    with pytest.raises(ZeroDivisionError), metrics.timing(op):
        assert "rldsl-memory" in {t.name for t in threading.enumerate()}
        raise ZeroDivisionError
    assert "rldsl-memory" not in {t.name for t in threading.enumerate()}


@pytest.mark.parametrize("kernel", [True, False])
def test_the_meter_finds_what_came_and_went(monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    if not kernel:
        monkeypatch.setattr(memory, "_FORGET", Path("/proc/self/no such file"))
    meter = memory.Meter(torch.device("cpu"))
    meter.begin()
    held = torch.ones(64 << 18)
    time.sleep(0.05)
    del held
    most = meter.end()
    assert most is not None and 60 << 20 < most < 128 << 20
    meter.begin()
    again = meter.end()
    assert again is not None and again < 40 << 20
