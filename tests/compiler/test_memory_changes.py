"""What RL0810 says would help does help, costs what it says, and no less is enough."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rldsl.compiler.cost.find_facts import facts_of
from rldsl.compiler.cost.hardware import hardware_of
from rldsl.compiler.cost.model_facts import ModelFacts
from rldsl.compiler.cost.ways import Runs
from rldsl.compiler.ops import ExtendOp, GenerateOp, InferOp, TrainOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostic, DiagnosticError
from tests.compiler.promises import Program, promises

EXAMPLES = Path(__file__).parents[2] / "examples"
WIDE = ("batch=1024", "minibatch=1024")


def plan_of(model: str, cluster: str, *layouts: str, settings: tuple[str, ...] = WIDE) -> Plan:
    options = Options(settings=(f"model=Qwen/Qwen2.5-{model}", *settings), cluster=cluster, layouts=layouts)
    return compile_file(EXAMPLES / "ppo.rl", options).plan


def fault(model: str, cluster: str, *layouts: str, settings: tuple[str, ...] = WIDE) -> Diagnostic:
    with pytest.raises(DiagnosticError) as caught:
        plan_of(model, cluster, *layouts, settings=settings)
    (found,) = caught.value.diagnostics
    assert found.code == "RL0810"
    return found


def program(model: str, cluster: str, *layouts: str, settings: tuple[str, ...] = WIDE) -> Program:
    text = (EXAMPLES / "ppo.rl").read_text()
    return Program(text, cluster, layouts, (f"model=Qwen/Qwen2.5-{model}", *settings))


CASES = [
    ("72B", "16 x h100", ("actor.generate : vllm(tp = 8)",), WIDE, 1),
    ("72B", "1024 x h100", (), WIDE, 1),
    ("72B", "16 x h100", (), WIDE, 2),
    ("32B", "2 x h100", (), ("batch=24", "minibatch=24"), 2),
    ("32B", "2 x h100", (), (*WIDE, "precision=fp32"), 2),
]


@pytest.mark.parametrize(("model", "cluster", "layouts", "settings", "together"), CASES)
def test_no_less_is_enough(
    model: str, cluster: str, layouts: tuple[str, ...], settings: tuple[str, ...], together: int, tmp_path: Path
) -> None:
    before = program(model, cluster, *layouts, settings=settings)
    found = before.fault(tmp_path)
    assert found is not None
    named = promises(found)
    assert named and min(map(len, named)) == together
    took = [float(words.removesuffix(" s").replace(",", "")) for words in named.values()]
    assert took == sorted(took)
    for changes in named:
        for less in range(len(changes)):
            fewer = before
            for change in changes[:less] + changes[less + 1 :]:
                fewer = fewer.written(change)
            assert not fits(fewer, tmp_path), changes
    words = {2: "two"}
    told = [note for note in found.notes if note.startswith("no change of one kind is enough")]
    assert told == ([f"no change of one kind is enough, {words[together]} together are:"] if together > 1 else [])
    (first,) = (n for n in found.notes if found.fix and n.startswith(found.fix.removesuffix(" together")))
    assert f": fits, {next(iter(named.values()))}" in first


def fits(changed: Program, folder: Path) -> bool:
    try:
        return all(w.code != "RL0811" for w in changed.compiled(folder).warnings)
    except DiagnosticError:
        return False


def test_that_nothing_helps_is_said() -> None:
    found = fault("72B", "8 x h100", settings=("batch=24", "minibatch=24"))
    assert not promises(found)
    # 24 prompts are not for 16 ranks.
    assert "not enough, even together: `max_new_tokens` down to 3, other layouts" in found.notes
    # Each rank holds what the engine generates with whole, however many there are.
    (never,) = (note for note in found.notes if note.startswith("more ranks alone"))
    assert never.startswith("more ranks alone, with batches that divide over them, are not enough, up to 8,192: ")
    assert "`sync_weights:actor`" in never and "engine of actor 135.4 GiB" in never


def test_the_obstacle_that_is_named_is_there_where_least_is_lacking() -> None:
    """FSDP pads the experts' rows for thousands of ranks; what more ranks never help with is the sampler's copy."""
    options = Options(settings=("model=Qwen/Qwen3-30B-A3B", *WIDE), cluster="8 x l40s")
    with pytest.raises(DiagnosticError) as caught:
        compile_file(EXAMPLES / "ppo.rl", options)
    (never,) = (n for n in caught.value.diagnostics[0].notes if n.startswith("more ranks alone"))
    ranks, op, lack = re.findall(r"least is lacking on ([\d,]+), where `([^`]*)` needs ([\d.]+) GiB more", never)[0]
    assert op == "sync_weights:actor" and never.endswith("engine of actor 56.9 GiB")
    for times in (1, 4):
        there = f"{int(ranks.replace(',', '')) * times} x l40s"
        at = replace(options, settings=("model=Qwen/Qwen3-30B-A3B", "batch=8192", "minibatch=8192"), cluster=there)
        with pytest.raises(DiagnosticError) as caught:
            compile_file(EXAMPLES / "ppo.rl", at)
        least = float(re.findall(r"needs ([\d,.]+) GiB more", caught.value.diagnostics[0].message)[0].replace(",", ""))
        assert least == pytest.approx(float(lack), abs=0.3) if times == 1 else least >= float(lack) - 0.3


def test_how_many_ranks_are_needed() -> None:
    settings = ("batch=24", "minibatch=24")
    found = fault("32B", "2 x h100", settings=settings)
    (note,) = (note for note in found.notes if "ranks of this kind are needed" in note)
    needed = int(note.split("at least ")[1].split()[0])
    assert note.endswith("each minibatch has a multiple of that") and 24 % needed
    enough, fewer = ((f"batch={n}", f"minibatch={n}") for n in (12 * needed, 12 * (needed - 2)))
    memory = plan_of("32B", f"{needed} x h100", settings=enough).memory
    assert memory is not None and memory.peak <= memory.budget < hardware_of("h100").memory
    less = plan_of("32B", f"{needed - 2} x h100", settings=fewer).memory
    assert less is not None and less.budget == hardware_of("h100").memory  # without the margin


@pytest.mark.parametrize(
    ("model", "cluster", "layouts"),
    [
        ("7B", "2 x h200", ()),
        ("7B", "8 x h100", ()),
        ("7B", "8 x cpu(memory = 400)", ()),
        ("72B", "32 x h100", ("actor.generate : vllm(tp = 8)",)),
    ],
)
def test_the_smallest_ways_are_the_smallest(model: str, cluster: str, layouts: tuple[str, ...]) -> None:
    plan = plan_of(model, cluster, *layouts)
    facts = {m.name: f for m in plan.models if isinstance(f := facts_of(m, Path()), ModelFacts)}
    hardware = hardware_of(plan.cluster or "", plan.figures)
    every, smallest = (Runs(plan, facts, hardware, {}, smallest=only) for only in (False, True))
    looked = [op for op in plan.ops() if isinstance(op, TrainOp | InferOp | GenerateOp | ExtendOp)]
    assert len(looked) >= 5
    for op in looked:
        assert smallest.of(op)[0].workspace == every.of(op)[0].workspace


# Numbers of the messages, worked out by hand.


def test_what_is_lacking() -> None:
    """Qwen2.5-72B has 72,706,203,648 parameters; float32 masters and Adam's moments of 16 ranks, a bfloat16 engine."""
    found = fault("72B", "16 x h100")
    each, gib = 72_706_203_648, 1 << 30
    (largest,) = (note for note in found.notes if note.startswith("the most is taken by"))
    assert f"engine of actor {2 * each / gib:.1f} GiB, weights of actor {4 * each / 16 / gib:.1f} GiB" in largest
    # The largest tensor: 152,064 words of 8,192 numbers, gathered in float32, and in bfloat16 for the engine. The one
    # before it, of a layer's 29,568 inner numbers, may still be there.
    passing, before = (4 + 2) * 152_064 * 8_192, 4 * 29_568 * 8_192
    assert f"one weight, whole {passing / gib:.1f} GiB" in largest
    assert f"the one before {before / (1 << 20):,.0f} MiB" in largest
    budget = int(int(79.1 * gib) * 0.95)
    assert found.expected == f"at most {budget / gib:.1f} GiB a rank"
    need, lacking = (float(re.findall(r"([\d.]+) GiB", text or "")[0]) for text in (found.found, found.message))
    assert need - budget / gib == pytest.approx(lacking, abs=0.06)
    assert need == pytest.approx((2 * each + 4 * each / 16 + passing + before) / gib + 1.5, abs=0.2)


def with_options(folder: Path, actor: str, critic: str = "") -> list[Diagnostic]:
    text = (EXAMPLES / "ppo.rl").read_text()
    text = text.replace("lr = actor_lr", f"lr = actor_lr{actor}").replace("lr = critic_lr", f"lr = critic_lr{critic}")
    (folder / "ppo.rl").write_text(text)
    options = Options(settings=("model=Qwen/Qwen2.5-7B", *WIDE), cluster="32 x h100")
    return list(compile_file(folder / "ppo.rl", options).warnings)


def test_what_a_pin_costs(tmp_path: Path) -> None:
    """Layers made again are one forward more in each epoch, of which there are two."""
    (found,) = with_options(tmp_path, ', recompute = "full"')
    assert found.code == "RL0812" and "`actor_update`: `recompute`" in found.message
    told = [float(each) for each in re.findall(r"([\d.]+) s", f"{found.message} {found.notes[0]}")]
    cost, pinned, free = told
    assert cost == pytest.approx(pinned - free, abs=0.11)
    memory = plan_of("7B", "32 x h100").memory
    assert memory is not None and free == pytest.approx(sum(memory.seconds.values()), rel=0.02)
    # The head is not made again: 152,064 words of 3,584 numbers, of 7.6 billion, for the response's tokens alone.
    assert 0.85 * 2 * memory.seconds["old"] <= cost <= 1.05 * 2 * memory.seconds["old"]


def test_each_pin_is_told_its_own_cost(tmp_path: Path) -> None:
    (alone,) = with_options(tmp_path, ', recompute = "full"')
    both = with_options(tmp_path, ', recompute = "full"', ', recompute = "full"')
    costs = [re.findall(r"costs ([\d.]+) s", found.message) for found in both]
    assert len(both) == 2 and costs == [re.findall(r"costs ([\d.]+) s", alone.message)] * 2
    # One that costs nothing is not blamed for another's.
    (found,) = with_options(tmp_path, ', recompute = "full"', ', recompute = "none"')
    assert "`actor_update`" in found.message


def test_what_fits_without_a_margin(tmp_path: Path) -> None:
    settings = ("batch=144", "minibatch=144")
    options = Options(settings=("model=Qwen/Qwen2.5-32B", *settings), cluster="12 x h100")
    compiled = compile_file(EXAMPLES / "ppo.rl", options)
    (found,) = compiled.warnings
    assert found.code == "RL0811" and compiled.plan.memory is not None
    memory, gib = compiled.plan.memory, 1 << 30
    most = max(op.workspace + op.resident for op in memory.ops) + memory.reserve
    assert f"takes {most / gib:.1f} GiB of 79.1 GiB" in found.message
    assert int(79.1 * gib * 0.95) < most <= int(79.1 * gib)
    ((lacking, unit),) = re.findall(r"5% of a device .* would lack ([\d.,]+) ([GM]iB)", found.notes[0])
    assert float(lacking) * (1 if unit == "GiB" else 1 / 1024) < 79.1 * 0.05
