"""Onloads that begin early: where, how much of them is hidden, and that there is room for it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from rldsl.compiler.cost.hoisting import Coming, Hoisting
from rldsl.compiler.cost.lanes import Lane
from rldsl.compiler.cost.moves import waited
from rldsl.compiler.cost.plan_time import PlanTime, plan_time
from rldsl.compiler.ops import (
    AnyOp,
    FreeOp,
    LoadOp,
    OffloadOp,
    OnloadOp,
    State,
    SyncKind,
    SyncWeightsOp,
    TrainOp,
    WaitOp,
)
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import MemoryPlan, Plan
from rldsl.compiler.verify import verify_plan

EXAMPLES = Path(__file__).parents[2] / "examples"
GIB = 1 << 30


def coming(before: int, seconds: float, *, earliest: int = 0, size: int = 1, programs: Sequence[int] = (0,)) -> Coming:
    return Coming(before=before, earliest=earliest, programs=tuple(programs), bytes=size, seconds=seconds)


def plenty(*work: Sequence[float]) -> dict[tuple[int, int], int]:
    return {(p, i): 100 for p, each in enumerate(work) for i in range(len(each))}


@pytest.mark.parametrize(
    ("seconds", "place"),
    [
        (1.0, 2),  # the last op is long enough
        (2.5, 1),
        (5.0, 1),  # what ops 0 and before hide is nothing
    ],
)
def test_the_latest_place_that_hides_it(seconds: float, place: int) -> None:
    work = (0.0, 2.0, 2.0, 9.0)
    assert Hoisting([work], plenty(work), [()]).places([coming(3, seconds)]) == {0: place}


def test_what_nothing_hides_stays() -> None:
    work = (0.0, 0.0, 5.0)
    assert Hoisting([work], plenty(work), [()]).places([coming(2, 1.0)]) == {}


def test_it_passes_no_op_that_would_not_fit_nor_its_own_offload() -> None:
    work = (3.0, 1.0, 1.0, 0.0)
    tight = plenty(work) | {(0, 1): 4}
    assert Hoisting([work], tight, [()]).places([coming(3, 3.0, size=5)]) == {0: 2}
    assert Hoisting([work], tight, [()]).places([coming(3, 3.0, size=4)]) == {0: 0}
    assert Hoisting([work], tight, [()]).places([coming(3, 3.0, size=4, earliest=1)]) == {0: 1}


def test_two_on_one_link_follow_each_other() -> None:
    work = (2.0, 2.0, 2.0, 0.0)
    hoisting = Hoisting([work], plenty(work), [()])
    assert hoisting.places([coming(3, 2.0, size=7), coming(3, 2.0, size=5)]) == {0: 2, 1: 1}
    # The second holds its bytes longer.
    assert [hoisting.room[0, i] for i in range(4)] == [100, 95, 88, 100]


def test_of_room_for_one_only_one_is_taken() -> None:
    work = (2.0, 2.0, 2.0, 0.0)
    tight = dict.fromkeys(plenty(work), 8)
    assert Hoisting([work], tight, [()]).places([coming(3, 2.0, size=7), coming(3, 2.0, size=5)]) == {0: 2}


def test_a_write_in_between_is_waited_for() -> None:
    work = (5.0, 1.0, 0.0)
    # Before the write there is more to hide it than behind.
    assert Hoisting([work], plenty(work), [{1}]).places([coming(2, 3.0)]) == {0: 0}
    assert Hoisting([work], plenty(work), [{1}]).places([coming(2, 1.0)]) == {0: 1}


def test_ranks_that_do_less_decide() -> None:
    work = ((2.0, 2.0, 0.0), (2.0, 0.0, 0.0))
    both = coming(2, 2.0, programs=(0, 1))
    assert Hoisting(work, plenty(*work), [(), ()]).places([both]) == {0: 0}
    assert Hoisting(work, plenty(*work), [(), ()]).places([coming(2, 2.0)]) == {0: 1}


def onload(name: str, *, background: bool = False) -> OnloadOp:
    return OnloadOp(id=name, model="m", state=State.WEIGHTS, bytes=1, background=background)


def wait(name: str) -> WaitOp:
    return WaitOp(id=f"wait:{name}", begun=name, holds=())


def test_the_clock_of_a_lane() -> None:
    lane, work = Lane(), LoadOp(id="work", source=None, columns=(), batch=1)  # type: ignore[arg-type]
    away = OffloadOp(id="away", model="m", state=State.ENGINE, bytes=1)
    assert lane.run(onload("a", background=True), 3.0) == (0.0, 3.0)
    assert lane.run(onload("b", background=True), 2.0) == (3.0, 5.0)
    assert lane.run(work, 4.0) == (0.0, 4.0)
    assert lane.run(wait("a"), 0.0) == (4.0, 4.0)
    assert lane.run(away, 1.0) == (5.0, 6.0)
    assert lane.run(wait("b"), 0.0) == (6.0, 6.0)
    # What is dropped does not cross the link.
    lane.run(onload("c", background=True), 5.0)
    assert lane.run(away, 0.0) == (6.0, 6.0) and lane.run(wait("c"), 0.0) == (6.0, 11.0)


def test_transfers_on_a_lane_follow_one_another() -> None:
    lane, work = Lane(), LoadOp(id="work", source=None, columns=(), batch=1)  # type: ignore[arg-type]
    first, second = (SyncWeightsOp(id=name, model="m", sync=SyncKind.BROADCAST, background=True) for name in "ab")
    lane.begin(first)
    lane.run(work, 2.0)
    lane.begin(second)
    assert lane.begun == {"a": 0.0, "b": 2.0} and lane.thread == 0.0 and lane.now == 2.0
    lane.carry(first, 7.0)
    assert lane.begun == {"b": 2.0} and lane.thread == 7.0 and lane.now == 2.0
    assert lane.run(wait("a"), 0.0) == (2.0, 7.0)
    lane.carry(second, 8.0)
    assert lane.run(work, 3.0) == (7.0, 10.0) and lane.run(wait("b"), 0.0) == (10.0, 10.0)


class Case:
    """A step of random work, onloads and writes on one class of ranks."""

    def __init__(self, rng: random.Random) -> None:
        count = rng.randint(2, 7)
        self.work = [rng.choice((0.0, rng.uniform(0, 4))) for _ in range(count)]
        self.room = {(0, i): rng.randint(0, 20) for i in range(count)}
        self.writes = {i: rng.uniform(0.5, 2) for i in range(count) if rng.random() < 0.2}
        self.onloads = [
            coming(before, rng.uniform(0.1, 4), earliest=rng.randint(0, before), size=rng.randint(1, 8))
            for before in (rng.randrange(count) for _ in range(rng.randint(1, 3)))
        ]

    def seconds(self, places: Mapping[int, int]) -> float:
        """Of the step with onloads begun at these places, by the clock of a lane."""
        ops: list[AnyOp] = []
        lasting = {f"on{i}": c.seconds for i, c in enumerate(self.onloads)}
        order = sorted(range(len(self.onloads)), key=lambda i: self.onloads[i].before)
        for number, work in enumerate(self.work):
            needed = [i for i in order if self.onloads[i].before == number]
            ops += [onload(f"on{i}") for i in needed if i not in places]
            ops += [wait(f"on{i}") for i in needed if i in places]
            ops += [onload(f"on{i}", background=True) for i in order if places.get(i) == number]
            ops.append(FreeOp(id=f"work{number}", fields=()))
            lasting[f"work{number}"] = work
            if number in self.writes:
                ops.append(OffloadOp(id=f"off{number}", model="m", state=State.ENGINE, bytes=1))
                lasting[f"off{number}"] = self.writes[number]
        return sum(self.work) + sum(s for _, s in waited(ops, lasting))

    def fits(self, places: Mapping[int, int]) -> bool:
        held = [0] * len(self.work)
        for index, place in places.items():
            for number in range(place, self.onloads[index].before):
                held[number] += self.onloads[index].bytes
        return all(held[i] <= self.room[0, i] for i in range(len(held)) if held[i])

    def places(self) -> dict[int, int]:
        hoisting = Hoisting([self.work], self.room, [{i + 1 for i in self.writes}])
        return hoisting.places(self.onloads)


def test_random_steps_are_never_slower_and_always_fit() -> None:
    rng = random.Random(0)
    for _ in range(500):
        case = Case(rng)
        places = case.places()
        assert case.fits(places)
        assert all(case.onloads[i].earliest <= p < case.onloads[i].before for i, p in places.items())
        assert case.seconds(places) <= case.seconds({}) + 1e-9


def test_one_onload_is_hidden_as_well_as_can_be() -> None:
    rng = random.Random(1)
    for _ in range(500):
        case = Case(rng)
        case.onloads = case.onloads[:1]
        (only,) = case.onloads
        all_of = [{}, *({0: p} for p in range(only.earliest, only.before) if case.fits({0: p}))]
        best = min(map(case.seconds, all_of))
        places = case.places()
        assert case.seconds(places) == pytest.approx(best, abs=2e-6)
        later = [p for p in all_of if p and places and p[0] > places[0]]
        assert all(case.seconds(p) > best + 1e-9 for p in later)


# Whole plans.


def small(budget: float) -> Plan:
    return compile_file(EXAMPLES / "ppo.rl", Options(cluster="1 x cpu", memory=int(budget * GIB))).plan


def planned(plan: Plan) -> MemoryPlan:
    assert plan.memory is not None
    return plan.memory


@pytest.mark.parametrize("budget", [6, 5, 4, 3, 2.65])
def test_what_is_predicted_agrees(budget: float) -> None:
    plan = small(budget)
    memory, time = planned(plan), plan_time(plan)
    assert isinstance(time, PlanTime)
    assert memory.hidden and verify_plan(plan) == []
    assert sum(memory.seconds.values()) == pytest.approx(time.step_seconds, abs=1e-4)
    crossing = sum(
        seconds.total
        for op in plan.ops()
        if isinstance(op, OnloadOp | OffloadOp) and (seconds := time.seconds(op)) is not None
    )
    assert memory.moved_seconds + sum(memory.hidden.values()) == pytest.approx(crossing, abs=1e-4)
    assert memory.hidden.keys() == {o.id for o in plan.ops() if isinstance(o, OnloadOp) and o.background}
    assert memory.hidden.keys() == {o.begun for o in plan.ops() if isinstance(o, WaitOp) and o.node is None}


def test_a_transfer_in_the_background_hides_no_moves(tmp_path: Path) -> None:
    """It runs beside the same ops as they do: the seconds of these are there once."""
    text = (EXAMPLES / "ppo.rl").read_text()
    assert text.count("max_new_tokens = 24") == 1
    path = tmp_path / "ppo.rl"
    path.write_text(text.replace("max_new_tokens = 24", "max_new_tokens = 24, max_prompt_tokens = 64, staleness = 1"))
    cluster = "1 x cpu(bandwidth = 50, fp32 = 50, bf16 = 50, host_link = 0.2)"
    plan = compile_file(path, Options(cluster=cluster, memory=3 * GIB, settings=("precision=fp32",))).plan
    (sync,) = (op for op in plan.ops() if isinstance(op, SyncWeightsOp))
    memory, time = planned(plan), plan_time(plan)
    assert sync.background and memory.hidden and memory.seconds[sync.id] > 0.01 and isinstance(time, PlanTime)
    assert sum(memory.seconds.values()) - memory.seconds[sync.id] == pytest.approx(time.step_seconds, abs=1e-4)


@pytest.mark.parametrize("budget", [6, 4, 2.65])
def test_orders_are_compared_by_the_peak_that_comes_out(budget: float) -> None:
    options = Options(cluster="1 x cpu", memory=int(budget * GIB))
    planned = compile_file(EXAMPLES / "ppo.rl", options).module.planned
    assert planned is not None and planned.peak == planned.memory.peak


def test_a_step_takes_less_than_with_all_moves_in_the_foreground() -> None:
    plan = small(3)
    hidden = sum(planned(plan).hidden.values())
    at_once = replace(plan, programs=(replace(plan.programs[0], ops=tuple(in_the_foreground(plan))),))
    one, other = (plan_time(p) for p in (plan, at_once))
    assert isinstance(one, PlanTime) and isinstance(other, PlanTime) and hidden > 1
    assert other.step_seconds - one.step_seconds == pytest.approx(hidden, abs=1e-4)


def in_the_foreground(plan: Plan) -> list[AnyOp]:
    """Each onload where it is waited for."""
    ops = plan.programs[0].ops
    begun = {op.id: replace(op, background=False) for op in ops if isinstance(op, OnloadOp) and op.background}
    found: list[AnyOp] = []
    for op in ops:
        if isinstance(op, WaitOp) and op.begun in begun:
            found.append(begun[op.begun])
        elif op.id not in begun:
            found.append(op)
    return found


# The verifier.


def damaged(plan: Plan, ops: Sequence[AnyOp]) -> str:
    (program,) = plan.programs
    return "\n".join(d.message for d in verify_plan(replace(plan, programs=(replace(program, ops=tuple(ops)),))))


def test_what_is_on_its_way_is_not_touched() -> None:
    plan = small(3)
    ops = list(plan.programs[0].ops)
    begun = next(op for op in ops if isinstance(op, OnloadOp) and op.background and op.state is State.OPTIMIZER)
    waiting = next(op for op in ops if isinstance(op, WaitOp) and op.begun == begun.id)
    rest = [op for op in ops if op is not waiting]
    user = next(op for op in rest[rest.index(begun) :] if isinstance(op, TrainOp))
    at = rest.index(user)
    assert "nothing waits for" in damaged(plan, rest)
    assert "is on its way to the device" in damaged(plan, [*rest[: at + 1], waiting, *rest[at + 1 :]])
    away = next(op for op in rest if isinstance(op, OffloadOp) and (op.model, op.state) == (begun.model, begun.state))
    gone = [op for op in ops if op is not away]
    early = gone.index(waiting)
    assert "takes away" in damaged(plan, [*gone[:early], away, *gone[early:]])
    assert "waits for" in damaged(plan, [*ops, replace(waiting, id="again")])
