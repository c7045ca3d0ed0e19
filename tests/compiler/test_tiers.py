"""The tiers below a device: what they hold, which states go to which, and that the verifier adds them up."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from itertools import combinations, product
from math import isclose
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.residency import Case, drawn, problem_of, walked
from rldsl.compiler.cost.footprints import Key
from rldsl.compiler.cost.hardware import GB, GIB, HARDWARE, Hardware, hardware_of
from rldsl.compiler.cost.residency import Choice, Problem, choose, solve
from rldsl.compiler.cost.residency_gaps import gaps_of
from rldsl.compiler.cost.tiers import Returning, Tiers, choose_below
from rldsl.compiler.cost.time_model import move_seconds
from rldsl.compiler.ops import AnyOp, OffloadOp, OnloadOp, State, Tier
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan, StateSpec
from rldsl.compiler.verify import verify_plan
from rldsl.diagnostics import Diagnostic, DiagnosticError

PPO = Path(__file__).parents[2] / "examples" / "ppo.rl"
H100 = HARDWARE["h100"]
MIB = 1 << 20


def test_what_lies_below_a_device() -> None:
    assert [t.tier for t in HARDWARE["cpu"].tiers] == [Tier.DISK]
    assert [t.tier for t in H100.tiers] == [Tier.HOST, Tier.DISK]
    assert H100.tiers[1].bytes == 3840 * GB and HARDWARE["a100_40"].tiers[1].bytes == 1920 * GB
    # Of other cards nobody knows whether there is a disk, until somebody says so.
    assert [t.tier for t in HARDWARE["l40s"].tiers] == [Tier.HOST]
    own = hardware_of("l40s", {"disk_memory": 512})
    assert own.tiers[1].bytes == 512 * GIB and own.tiers[1].rate > 0


def test_what_goes_to_a_gpus_disk_crosses_the_hosts_memory() -> None:
    near, far = (move_seconds(H100, 51.2e9, tier) for tier in (Tier.HOST, Tier.DISK))
    assert isclose(near, 1.0) and isclose(far, near + 51.2e9 / (4 * GB * 0.8))
    assert isclose(move_seconds(HARDWARE["cpu"], 0.8e9, Tier.DISK), 1.0)


# The choice, against all choices.


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A step, and hardware on which its states are slow to move."""

    case: Case
    problem: Problem
    tiers: Tiers

    @property
    def hardware(self) -> Hardware:
        return self.tiers.hardware

    @property
    def free(self) -> Choice:
        found = choose(self.problem)
        assert found is not None, "only such are drawn"
        return found

    def chosen(self) -> tuple[frozenset[Key], Choice] | None:
        return self.tiers.choose(self.problem, self.free)

    def pose(self, below: frozenset[Key]) -> Problem:
        return self.tiers.posed(self.problem, below)


def key(state: int) -> Key:
    return (str(state), State.WEIGHTS, 0)


def some(seed: int, *, most_states: int = 4, most_gaps: int = 7) -> Drawn:
    """Random states, uses, ways and budgets; the host has less room than the best moves would need."""
    rng = random.Random(seed)
    while True:
        case, _ = drawn(rng)
        hardware = dataclasses.replace(H100, host_link=60 * MIB, disk_link=20 * MIB)
        made = with_seconds(case, hardware, frozenset())
        problem, states = problem_of(made), tuple(returning(made))
        free = choose(problem)
        if free is None or len(case.sizes) > most_states or len(problem.gaps) > most_gaps:
            continue
        need = sum(s.bytes for s in states if s.gaps & free.swapped)
        if need:
            room = {"host_memory": rng.randrange(need), "disk_memory": rng.randint(need // 3, 2 * need)}
            tight = dataclasses.replace(hardware, **room)
            return Drawn(made, problem, Tiers(hardware=tight, states=states, programs=1))


def with_seconds(case: Case, hardware: Hardware, below: frozenset[int]) -> Case:
    """The case with seconds of moves by the tier of each state."""
    each = (
        move_seconds(hardware, size, Tier.DISK if state in below else Tier.HOST)
        for state, size in enumerate(case.sizes)
    )
    return dataclasses.replace(case, seconds=tuple((seconds, seconds) for seconds in each))


def returning(case: Case) -> Iterator[Returning]:
    index = write = 0
    for state, (size, uses) in enumerate(zip(case.sizes, case.uses, strict=True)):
        found = gaps_of(uses, len(case.ways))
        gaps = frozenset(index + i for i, gap in enumerate(found) if not gap.renewed)
        writes = tuple(range(write, write + len(uses)))
        index, write = index + len(found), write + len(uses)
        if gaps:
            yield Returning(key=key(state), bytes=size, programs=(0,), gaps=gaps, writes=writes)


def best_of_all(drawn: Drawn) -> float | None:
    """The least seconds of all sets on the disk and all ways to send states away, each walked op by op."""
    case, found = drawn.case, []
    for chosen in product(*(range(1 << len(uses)) for uses in case.uses)):
        away = [frozenset(k for k in range(len(u)) if c >> k & 1) for u, c in zip(case.uses, chosen, strict=True)]
        kept = [s for s, gone in enumerate(away) if any(not after(case, s, k) for k in gone)]
        if walked(case, away) is None:
            continue
        for count in range(len(kept) + 1):
            for below in map(frozenset, combinations(kept, count)):
                disk = sum(case.sizes[s] for s in below)
                host = sum(case.sizes[s] for s in kept) - disk
                if host <= drawn.hardware.host_memory and disk <= drawn.hardware.disk_memory:
                    seconds = walked(with_seconds(case, drawn.hardware, below), away)
                    assert seconds is not None, "what fits does so however slow its moves are"
                    found.append(seconds)
    return min(found, default=None)


def after(case: Case, state: int, use: int) -> bool:
    """Whether the use behind this one makes the state anew."""
    return case.uses[state][(use + 1) % len(case.uses[state])].renews


def fits(drawn: Drawn, below: frozenset[Key], choice: Choice) -> bool:
    """Whether a choice keeps to the bytes of both tiers and of the device, and takes the seconds that it says."""
    room = {tier.tier: tier.bytes for tier in drawn.hardware.tiers}
    for state in drawn.tiers.states:
        if state.gaps & choice.swapped:
            room[Tier.DISK if state.key in below else Tier.HOST] -= state.bytes
    numbers = frozenset(int(name) for name, _, _ in below)
    away, index = [], 0
    for uses in drawn.case.uses:
        found = gaps_of(uses, len(drawn.case.ways))
        away.append(frozenset(g.begin for i, g in enumerate(found) if index + i in choice.swapped))
        index += len(found)
    real = walked(with_seconds(drawn.case, drawn.hardware, numbers), away)
    return min(room.values()) >= 0 and real is not None and isclose(real, choice.seconds, abs_tol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_no_other_set_and_choice_is_shorter(seed: int) -> None:
    drawn = some(seed)
    found, best = drawn.chosen(), best_of_all(drawn)
    assert (found is None) == (best is None)
    if found is None or best is None:
        return
    below, choice = found
    assert fits(drawn, below, choice)
    assert isclose(choice.seconds, best, abs_tol=1e-6) and choice.gap < 1e-9
    for state in below:  # a state is on the disk for a reason
        higher = drawn.pose(below - {state})
        assert higher.seconds(choice.swapped) is None


@pytest.mark.parametrize("seed", range(20))
def test_highs_keeps_to_the_shelves(seed: int) -> None:
    pytest.importorskip("highspy")
    drawn = some(seed)
    for state in (None, *(s.key for s in drawn.tiers.states)):
        problem = drawn.pose(frozenset() if state is None else frozenset({state}))
        (searched, bound), (found, _) = solve(problem), solve(problem, nodes=0)
        assert (searched is None) == (found is None) and (searched is not None or bound == float("inf"))
        if searched is not None and found is not None:
            assert isclose(searched.seconds, found.seconds, abs_tol=1e-6) and not problem.lacking(found.swapped)


def test_the_random_problems_are_of_all_kinds() -> None:
    """Some fit no tiers, of some states go to the disk, to one tier or both, and of some others move than would."""
    none = disk = both = others = 0
    for seed in range(40):
        drawn = some(seed)
        found, free = drawn.chosen(), drawn.free
        none += found is None
        if found is not None:
            below, choice = found
            kept = {s.key for s in drawn.tiers.states if s.gaps & choice.swapped}
            disk += bool(below)
            both += bool(below) and below < kept
            others += free.swapped != choice.swapped
    assert none >= 3 and disk >= 10 and both >= 5 and others >= 5


@pytest.mark.parametrize("seed", range(40))
def test_one_by_one_fits_and_says_how_far_it_may_be_off(seed: int) -> None:
    drawn = some(seed)
    keys = [s.key for s in drawn.tiers.states]
    found, exact = choose_below(keys, drawn.pose, drawn.free, most=0), choose_below(keys, drawn.pose, drawn.free)
    if found is None or exact is None:
        assert found is None or exact is not None
        return
    below, choice = found
    assert fits(drawn, below, choice)
    assert choice.bound <= exact[1].seconds + 1e-9 and choice.seconds >= exact[1].seconds - 1e-9
    assert choice.seconds <= 1.25 * exact[1].seconds + 1e-9


# Plans.


def compiled(
    figures: str = "", *, ranks: int = 32, layouts: tuple[str, ...] = ("actor.generate : vllm(tp = 8)",)
) -> Plan:
    """PPO of Qwen2.5-72B, in which weights leave an H100: the critic's (8.3 GiB a rank), the reference's (4.2), the actor's
    (8.5), which may as well stay for longer steps.
    """
    settings = ("model=Qwen/Qwen2.5-72B", "batch=256", "minibatch=64")
    options = Options(settings=settings, cluster=f"{ranks} x h100{figures}", layouts=layouts)
    return compile_file(PPO, options).plan


def refused(figures: str) -> Diagnostic:
    with pytest.raises(DiagnosticError) as caught:
        compiled(figures)
    (found,) = caught.value.diagnostics
    return found


def below(plan: Plan) -> dict[str, Tier]:
    """The tiers of the states that come back."""
    back = {(op.model, op.state) for op in plan.ops() if isinstance(op, OnloadOp)}
    assert plan.memory is not None
    return {s.model: s.tier for s in plan.memory.states if (s.model, s.state) in back}


def seconds_of(plan: Plan) -> float:
    assert plan.memory is not None
    return sum(plan.memory.seconds.values()) + sum(plan.memory.hidden.values())


def test_states_go_to_the_disk_where_the_host_is_full() -> None:
    free, tight = compiled(), compiled("(host_memory = 8)")
    assert below(free) == {"actor": Tier.HOST, "critic": Tier.HOST, "reference": Tier.HOST}
    assert below(compiled("(host_memory = 13)")) == {"critic": Tier.HOST, "reference": Tier.HOST}
    # The host has room for one of them, and the larger one needs more than that.
    assert below(tight) == {"critic": Tier.DISK, "reference": Tier.HOST}
    either = compiled("(host_memory = 9)")
    # Weights of the critic are written and read, those of the reference only read.
    assert below(either) == {"critic": Tier.HOST, "reference": Tier.DISK}
    assert seconds_of(free) < seconds_of(either) < seconds_of(tight)
    assert below(compiled("(host_memory = 1)")) == {"critic": Tier.DISK, "reference": Tier.DISK}
    for plan in (free, tight, either):
        assert not verify_plan(plan)


def test_moves_take_the_seconds_of_their_tier() -> None:
    plan = compiled("(host_memory = 8, disk_link = 2)")
    assert plan.memory is not None
    hardware = hardware_of("h100", plan.figures)
    lasting = {
        name: plan.memory.seconds.get(name, plan.memory.seconds.get(f"wait:{name}", 0.0))
        + plan.memory.hidden.get(name, 0.0)
        for name in {op.id for op in plan.ops() if isinstance(op, OnloadOp | OffloadOp)}
    }
    for op in plan.ops():
        if isinstance(op, OnloadOp) or (isinstance(op, OffloadOp) and op.keep):
            assert isclose(lasting[op.id], move_seconds(hardware, op.bytes, op.tier), rel_tol=1e-3)


def test_nothing_changes_while_the_host_has_room() -> None:
    plain, other = compiled(), compiled("(disk_memory = 1, disk_link = 0.001)")
    assert (plain.memory, plain.programs) == (other.memory, other.programs)


def test_what_fits_neither() -> None:
    found = refused("(host_memory = 5, disk_memory = 5)")
    assert found.code == "RL0815" and found.message == "what leaves the device does not fit below it"
    assert found.expected == "at most 5.0 GiB of the host's memory and at most 5.0 GiB of disk a rank"
    assert found.found == "21.0 GiB" and "weights of critic: 8.3 GiB" in found.notes
    assert found.fix is not None and "`disk_memory`" in found.fix
    # The total fits; but a state lies on one tier, whole.
    assert refused("(host_memory = 7, disk_memory = 7)").code == "RL0815"
    # What the fix names helps.
    for remedy in ("(host_memory = 5, disk_memory = 9)", "(host_memory = 9, disk_memory = 5)", "(host_memory = 13)"):
        assert not verify_plan(compiled(remedy))


def test_a_processor_has_one_tier(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError) as caught:
        compile_file(PPO, Options(cluster="1 x cpu(disk_memory = 9)"))
    (found,) = caught.value.diagnostics
    assert found.code == "RL0207" and found.fix is not None and "`host_memory`" in found.fix
    plan = compile_file(PPO, Options(cluster="1 x cpu", memory=int(2.7 * GIB))).plan
    assert plan.memory is not None and {s.tier for s in plan.memory.states} == {Tier.DISK}
    assert {op.tier for op in plan.ops() if isinstance(op, OnloadOp | OffloadOp)} == {Tier.DISK}


def test_less_below_may_mean_other_moves() -> None:
    """Where the copies of the fastest moves do not fit, slower moves of other states are made rather than refused."""
    free = compile_file(PPO, Options(cluster="1 x cpu", memory=4 * GIB)).plan
    kept = {(op.model, op.state): op.bytes for op in free.ops() if isinstance(op, OnloadOp)}
    least = sum(kept.values()) - 1
    cluster = f"1 x cpu(host_memory = {least / GIB!r})"
    other = compile_file(PPO, Options(cluster=cluster, memory=4 * GIB)).plan
    now = {(op.model, op.state): op.bytes for op in other.ops() if isinstance(op, OnloadOp)}
    assert now != kept and sum(now.values()) <= least
    assert not verify_plan(other) and seconds_of(other) > seconds_of(free)


# The verifier.


def changed(plan: Plan, state: Callable[[StateSpec], StateSpec], op: Callable[[AnyOp], AnyOp]) -> list[str]:
    assert plan.memory is not None
    programs = tuple(replace(p, ops=tuple(map(op, p.ops))) for p in plan.programs)
    memory = replace(plan.memory, states=tuple(map(state, plan.memory.states)))
    return [d.message for d in verify_plan(replace(plan, programs=programs, memory=memory))]


def other(tier: Tier) -> Tier:
    return Tier.HOST if tier is Tier.DISK else Tier.DISK


def flipped(of: StateSpec | AnyOp, model: str) -> StateSpec | AnyOp:
    moves = isinstance(of, StateSpec | OnloadOp | OffloadOp) and of.model == model and of.state is State.WEIGHTS
    return replace(of, tier=other(of.tier)) if moves else of  # type: ignore[union-attr]


def test_the_verifier_compares_tiers() -> None:
    plan = compiled("(host_memory = 8)")
    # Only the state says so, or only its moves.
    for problems in (
        changed(plan, lambda s: flipped(s, "critic"), lambda o: o),  # type: ignore[arg-type,return-value]
        changed(plan, lambda s: s, lambda o: flipped(o, "critic")),  # type: ignore[arg-type,return-value]
    ):
        assert any("and it is kept on" in p for p in problems)
    # All agree, and the host has no room for it.
    problems = changed(plan, lambda s: flipped(s, "critic"), lambda o: flipped(o, "critic"))  # type: ignore[arg-type,return-value]
    (problem,) = problems
    assert problem.startswith("what comes back from `host` takes 13,") and "of 8,589,934,592 there" in problem


@pytest.mark.parametrize("figure", ["host_memory", "disk_memory"])
def test_the_verifier_adds_up_each_tier(figure: str) -> None:
    plan = compiled("(host_memory = 8)")
    tier = Tier.HOST if figure == "host_memory" else Tier.DISK
    need = sum({op.model: op.bytes for op in plan.ops() if isinstance(op, OnloadOp) and op.tier is tier}.values())
    enough, less = ({**plan.figures, figure: (need - lack) / GIB} for lack in (0, 1))
    assert not verify_plan(replace(plan, figures=enough))
    (problem,) = verify_plan(replace(plan, figures=less))
    assert f"what comes back from `{tier}` takes {need:,} bytes of {need - 1:,}" in problem.message


def test_a_tier_that_there_is_not() -> None:
    plan = compiled("(host_memory = 8)")
    for cluster, figures in (("l40s", plan.figures), ("cpu", {})):
        problems = [d.message for d in verify_plan(replace(plan, cluster=cluster, figures=figures))]
        assert any(f"which `{cluster}` has not" in p for p in problems)
    for damaged in (
        replace(plan, cluster="ghost"),
        replace(plan, figures={"ghost": 1.0}),
        replace(plan, figures={"memory": -1.0}),
    ):
        assert any("hardware or figures of it that there are not" in d.message for d in verify_plan(damaged))
