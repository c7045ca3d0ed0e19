"""What a move leaves at its source is said wherever the move is: in words, and in bytes."""

from pathlib import Path

import pytest

from rldsl.compiler.ops import ReshardOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Plan
from rldsl.compiler.volume import Volumes, total
from rldsl.render.changes import Side, changes
from rldsl.render.explain import Explainer
from rldsl.render.flows import flows_of
from rldsl.render.html import page_of
from rldsl.render.moves import flows_json, size_of, totals
from rldsl.render.sizes import amount_bytes
from rldsl.render.words import describe

PPO = Path(__file__).parents[2] / "examples" / "ppo.rl"
TRAINED = ("actor.train : fsdp(dp = 4) on 0..3", "critic.train : fsdp(dp = 2) on 0..1")
APART = ("actor.generate : hf(dp = 2) on 4..5", "reward on 2..3")


def compiled(*layouts: str) -> Plan:
    return compile_file(PPO, Options(cluster="6 x h100", layouts=(*TRAINED, *APART, *layouts))).plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The reference runs on some of the ranks that train and all that sample."""
    return compiled("reference.infer : fsdp(dp = 4) on 2..5")


@pytest.fixture(scope="module")
def move(plan: Plan) -> ReshardOp:
    (found,) = (op for op in plan.ops() if isinstance(op, ReshardOp) and op.id == "reshard:ref:ranks4-5")
    assert set(found.keeps) == {"tokens", "response_mask"}
    return found


def lines(plan: Plan, name: str, heading: str) -> list[str]:
    (page,) = Explainer(plan).pages(name)
    return [line for section in page.sections if section.heading == heading for line in section.lines]


def test_the_op_says_it(plan: Plan, move: ReshardOp) -> None:
    assert describe(move) == "move rows from group ranks4-5 to group ranks2-5 (all-to-all); copies stay in ranks4-5"
    others = [op for op in plan.ops() if isinstance(op, ReshardOp) and not op.keeps]
    assert others and not any("cop" in describe(op) for op in others)


def test_explanations_say_how_much_and_who_holds_it_twice(plan: Plan, move: ReshardOp) -> None:
    volumes = Volumes(plan)
    size = amount_bytes(total(volumes.volume(name).bytes for name in move.keeps))
    told = f"stay on ranks 4 to 5: at most {size} more; ranks 4 to 5 hold rows in both layouts"
    assert any(told in line for line in lines(plan, move.id, "bytes"))
    assert any(told in line for line in lines(plan, "ref", "bytes"))
    (tokens,) = (line for line in lines(plan, "ref", "reads") if line.startswith("`tokens`"))
    assert tokens.endswith("by all-to-all ranks4-5 -> ranks2-5; a copy stays in ranks4-5")


def test_edges_say_it(plan: Plan) -> None:
    flows = {(f.source, f.target): f for f in flows_of(plan) if "tokens" in f.what}
    assert size_of(flows["rollout", "ref"]).endswith("; copies stay")
    assert "stay" not in size_of(flows["rollout", "critic_update"])
    data = {(f["source"], f["target"]): f for f in flows_json(plan, flows_of(plan))}
    assert data["rollout", "ref"]["left"] == ["tokens", "response_mask"]


def test_the_sum_of_all(plan: Plan) -> None:
    volumes = Volumes(plan)
    moves = [op for op in plan.ops() if isinstance(op, ReshardOp)]
    left = total(volumes.volume(name).bytes for op in moves for name in op.keeps)
    assert volumes.left() == left
    (words, *_) = totals(plan, flows_of(plan))
    assert words.endswith(f"; copies that stay where rows were have at most {amount_bytes(left)} more.")
    plain = compile_file(PPO, Options(world_size=2)).plan
    assert "copies" not in next(totals(plain, flows_of(plain)))


def test_the_page_has_it(plan: Plan) -> None:
    assert "copies stay in ranks4-5" in page_of(plan)


def test_a_difference(plan: Plan) -> None:
    found = {c.name: c for c in changes(Side(compiled()), Side(plan)) if c.part == "data movement"}
    assert "all-to-all ranks4-5 to ranks2-5 (a copy stays)" in found["tokens"].after
    assert "ranks2-5" not in found["tokens"].before
