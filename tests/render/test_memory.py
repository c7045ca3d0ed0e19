"""What is said of a plan's memory: in a terminal, on the page, by explain and diff. The plan is made by hand."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from rldsl.cli import main
from rldsl.compiler.cost.op_terms import plan_terms
from rldsl.compiler.ops import OffloadOp, OnloadOp, State, Tier
from rldsl.compiler.plan import Dropped, MemoryPlan, OpMemory, Plan, Program, StateSpec
from rldsl.compiler.plan_io import read_plan
from rldsl.render.changes import Side, changes
from rldsl.render.explain import Explainer
from rldsl.render.html import page_of
from rldsl.render.measured import measured_lines
from rldsl.render.memory import fit_words, label_of, moved_words, presence
from rldsl.render.memory_view import MemoryView
from rldsl.render.origin import Origin
from rldsl.render.pages import PageView
from rldsl.render.program import PlanHeader, ProgramView
from rldsl.render.words import describe, memory_words

GIB = 1 << 30
WIDTHS = (60, 80, 120)


def moved(op, state, gib, tier=Tier.HOST, **more):
    name = "onload" if op is OnloadOp else "offload"
    return op(id=f"{name}:actor.{state.value}", model="actor", state=state, bytes=gib * GIB, tier=tier, **more)


@pytest.fixture
def fitted(plan) -> Plan:
    """On two ranks: the actor's moments leave the device after training, and come back before it."""
    back, away = (moved(op, State.OPTIMIZER, 20) for op in (OnloadOp, OffloadOp))
    ops = []
    for op in plan.programs[0].ops:
        ops += [back, op, away] if op.id == "update_actor" else [op]
    states = (
        StateSpec(model="actor", state=State.WEIGHTS, group="world", bytes=10 * GIB, dirty=True, tier=Tier.HOST),
        StateSpec(
            model="actor",
            state=State.OPTIMIZER,
            group="world",
            bytes=20 * GIB,
            dirty=True,
            resident=False,
            tier=Tier.HOST,
        ),
    )
    said = [
        ("rollout", 40, 10, "drawing", {"weights": 10, "kv_cache": 36, "logits": 4}),
        (back.id, 0, 30, "while it moves", {"weights": 10, "optimizer": 20}),
        ("update_actor", 25, 30, "the logits", {"weights": 10, "optimizer": 20, "gradients": 5, "activations": 20}),
        (away.id, 0, 30, "while it moves", {"weights": 10, "optimizer": 20}),
    ]
    memory = MemoryPlan(
        budget=60 * GIB,
        reserve=GIB,
        states=states,
        ops=tuple(
            OpMemory(
                op=op,
                rank=0,
                workspace=own * GIB,
                resident=held * GIB,
                at=at,
                categories={c: b * GIB for c, b in parts.items()},
            )
            for op, own, held, at, parts in said
        ),
        peak=56 * GIB,
        peak_op="update_actor",
        unplanned=90 * GIB,
        unplanned_op="rollout",
        seconds={"update_actor": 12.5, back.id: 0.5, away.id: 0.5},
        moved_seconds=1.0,
        solver="search",
        assumed=("`rollout`: prompts of at most 1,024 tokens",),
    )
    return msgspec.structs.replace(plan, world_size=2, programs=(Program(ops=tuple(ops), last=2),), memory=memory)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_drawing(fitted, drawn, golden, width):
    text = drawn(MemoryView(fitted, fitted.memory), width)
    assert max(map(len, text.splitlines())) <= width
    assert text == golden(f"memory-{width}.txt", text)


def test_a_bar_is_as_long_as_its_share(fitted, drawn):
    text = drawn(MemoryView(fitted, fitted.memory), 100)
    bars = {line.split("  ")[0]: line[line.index("GiB ") + 4 : -1] for line in text.splitlines() if line.endswith("|")}
    bar = bars["update_actor"]
    assert bar.rstrip("·") == bar[: round(len(bar) * 56 / 60)]
    assert bar.count("W") == round(len(bar) * 10 / 60)
    assert list(dict.fromkeys(bar)) == ["W", "O", "G", "A", "R", "·"]


def test_one_line(fitted, drawn):
    assert fit_words(fitted) == "fits, peak 56.0 of 60.0 GiB on every rank at update_actor"
    assert "memory      fits, peak 56.0 of 60.0 GiB" in drawn(PlanHeader(fitted), 120)
    bare = msgspec.structs.replace(fitted, memory=None)
    assert fit_words(bare) == ""
    why = Dropped(what="memory plan", by="plan_memory", why="`x` is no directory here")
    assert fit_words(msgspec.structs.replace(bare, dropped=(why,))) == "memory not planned: `x` is no directory here"


def test_moves_in_words(fitted, drawn):
    back = fitted.programs[0].ops[-5]
    assert label_of(back) == "<- optimizer state of actor"
    assert describe(back) == "optimizer state of actor, 20.0 GiB a rank, back onto the device from host memory"
    early = moved(OnloadOp, State.WEIGHTS, 1, tier=Tier.DISK, background=True)
    assert describe(early).endswith("back onto the device from disk, begun in the background")
    written = moved(OffloadOp, State.WEIGHTS, 1, tier=Tier.DISK)
    assert describe(written).endswith("off the device, written to disk")
    away = moved(OffloadOp, State.ENGINE, 3, keep=False, staleness=1)
    assert (
        describe(away)
        == "weights of actor's sampler, a step old, 3.0 GiB a rank, off the device, dropped: nothing is lost"
    )
    text = drawn(ProgramView(fitted, fitted.programs[0]), 200)
    assert "optimizer state of actor, 20.0 GiB a rank, off the device, written to host memory" in text


def test_when_a_state_is_on_the_device(fitted):
    weights, moments = fitted.memory.states
    program = fitted.programs[0]
    assert presence(program, weights) == "always"
    assert presence(program, moments) == "in update_actor; else in host memory"
    lower = tuple(msgspec.structs.replace(o, tier=Tier.DISK) if isinstance(o, OnloadOp) else o for o in program.ops)
    assert presence(msgspec.structs.replace(program, ops=lower), moments) == "in update_actor; else on disk"
    away = msgspec.structs.replace(program, ops=tuple(o for o in program.ops if not isinstance(o, OnloadOp)))
    resident = msgspec.structs.replace(moments, resident=True)
    assert presence(away, resident) == "from the step's begin to update_actor"
    engine = StateSpec(model="actor", state=State.ENGINE, group="world", bytes=1, resident=False)
    assert presence(program, engine) == "from actor to its sampler"


def test_what_moves_cost(fitted):
    assert moved_words(fitted, fitted.memory) == "1 s a step between tiers, no other choice takes less (search)"
    low = moved(OnloadOp, State.WEIGHTS, 7, tier=Tier.DISK)
    ops = (*fitted.programs[0].ops, low)
    both = msgspec.structs.replace(fitted, programs=(msgspec.structs.replace(fitted.programs[0], ops=ops),))
    assert moved_words(both, fitted.memory).endswith("; 20.0 GiB a rank in host memory, 7.0 GiB on disk")
    near = msgspec.structs.replace(fitted.memory, gap=0.034)
    assert "at most 3.4% more than the best" in moved_words(fitted, near)
    free = msgspec.structs.replace(fitted.memory, moved_seconds=0.0)
    assert "dropped and made anew" in moved_words(fitted, free)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1,023 B"), (2048, "2 KiB"), (3 << 30, "3.0 GiB"), (1 << 41, "2.0 TiB")]
)
def test_sizes(count, text):
    assert memory_words(count) == text


def test_explained_without_the_models(fitted, drawn):
    (page,) = Explainer(fitted).pages("update_actor")
    text = drawn(PageView(page), 120)
    assert "30.0 GiB of states + 25.0 GiB beside them + 1.0 GiB set aside = 56.0 GiB a rank" in text
    assert "activations: 20.0 GiB" in text and "the models' sizes are not at hand" in text
    assert "12.5 s" in text
    (page,) = Explainer(fitted).pages("offload:actor.optimizer")
    assert "`update_actor` has used it last" in str(page)


def test_the_page_draws_it(fitted):
    page = page_of(fitted)
    assert page.count('<section id="memory">') == 1
    assert "update_actor: 56.0 GiB, the logits; weights 10.0 GiB, optimizer 20.0 GiB" in page
    column = page[page.index("<title>update_actor: 56.0 GiB") :]
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', column[: column.index("</g>")])]
    assert len(heights) == 5 and sum(heights) == pytest.approx(180 * 56 / 60)
    assert '<section id="memory">' not in page_of(msgspec.structs.replace(fitted, memory=None))


def test_diff_knows_memory(fitted):
    assert changes(Side(fitted), Side(fitted)) == ()
    states = tuple(msgspec.structs.replace(s, bytes=s.bytes // 2) for s in fitted.memory.states)
    memory = msgspec.structs.replace(fitted.memory, states=states, peak=41 * GIB)
    found = {
        (c.name, c.what): (c.before, c.after)
        for c in changes(Side(fitted), Side(msgspec.structs.replace(fitted, memory=memory)))
    }
    assert found["optimizer state of actor", "a rank"] == ("20.0 GiB", "10.0 GiB")
    assert found["plan", ""] == tuple(f"fits, peak {p}.0 of 60.0 GiB on every rank at update_actor" for p in (56, 41))


PPO = ("compile", "ppo.rl", "--set", "model=Qwen/Qwen2.5-7B", "--cluster", "8 x h100")


@pytest.mark.parametrize("layout", ["hf(dp = 8)", "vllm(tp = 4)", "vllm(tp = 4) on 4..7"])
def test_terms_add_up_to_what_the_plan_says(tmp_path, monkeypatch, layout, capsys):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "examples" / "ppo.rl").read_text(encoding="utf-8")
    Path("ppo.rl").write_text(text.replace("max_new_tokens = 24", "max_new_tokens = 7168, max_prompt_tokens = 1024"))
    arguments = (
        "--set",
        "batch=64",
        "--layout",
        f"actor.generate : {layout}",
        "--layout",
        "actor.train : fsdp(dp = 8)",
    )
    assert main([*PPO, *arguments, "--emit", "plan.json"]) == 0
    assert re.search(r"^fits, peak [\d.]+ of 75\.1 GiB on .+ at \w+$", capsys.readouterr().out, re.MULTILINE)
    plan = read_plan(Path("plan.json"))
    terms = plan_terms(plan)
    assert terms is not None and plan.memory is not None
    told = [each for op in plan.ops() for each in terms.of(op.id)]
    assert len(told) == len(plan.memory.ops) and all(each.agrees for each in told)
    assert any(isinstance(op, OnloadOp) for op in plan.ops())
    (page,) = Explainer(plan, Origin(plan, terms=terms)).pages("actor_update")
    assert "Adam's moments: 8 B x 7,615,616,512 parameters / 8 ranks" in str(page)
    # Other models than those that the plan was made for: no arithmetic that does not add up.
    other = msgspec.structs.replace(
        plan, models=tuple(msgspec.structs.replace(m, precision="fp32") for m in plan.models)
    )
    wrong = plan_terms(other)
    assert wrong is not None and not wrong.of("actor_update")[0].agrees


def test_show_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("ppo.rl").write_text((Path(__file__).parents[2] / "examples" / "ppo.rl").read_text(encoding="utf-8"))
    arguments = ["show", "ppo.rl", "--cluster", "2 x cpu", "--no-color"]
    assert main([*arguments, "--memory", "5GiB"]) == 0
    assert re.search(r"^ppo: fits, peak [\d.]+ (GiB )?of 5\.0 GiB on every rank", capsys.readouterr().out)
    assert main([*arguments, "--memory"]) == 1
    assert "no budget is known" in capsys.readouterr().err
    assert main(["show", "--memory", "ppo.rl"]) == 1
    assert "a file stands before --memory" in capsys.readouterr().err
    assert main([*arguments, "actor_update", "--memory", "5GiB"]) == 1
    assert "leave out a selector" in capsys.readouterr().err


def test_what_is_set_aside_is_part_of_what_was_predicted(fitted):
    """Beside what was measured, which has it too. The most of both steps counts."""
    found = {"memory/rollout": 45 * GIB, "memory/update_actor": 50 * GIB}
    head, _, *rows = measured_lines(fitted, [found, found | {"memory/update_actor": 52 * GIB}])
    assert head == "memory: 53,248 of 61,440 MiB at update_actor; 57,344 predicted, at update_actor"
    assert [row.split() for row in rows] == [
        ["rollout", "46,080", "52,224"],
        ["onload:actor.optimizer", "0", "31,744"],
        ["update_actor", "53,248", "57,344"],
        ["offload:actor.optimizer", "0", "31,744"],
    ]
