"""Bytes of fields as a plan has them."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import lcm
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rldsl.compiler.ops import ReshardOp
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Group, Plan
from rldsl.compiler.volume import Amount, Volumes, symbol, total

EXAMPLES = Path(__file__).parents[2] / "examples"


def volumes(name: str, **options: object) -> tuple[Volumes, list[ReshardOp]]:
    plan = compile_file(EXAMPLES / name, Options(**options)).plan
    return Volumes(plan), [op for op in plan.ops() if isinstance(op, ReshardOp)]


@pytest.mark.parametrize(
    ("field", "row", "rows", "at"),
    [
        ("prompts", symbol("text(prompts)"), 16, 16 * 30),
        ("tokens", symbol("P", 8) + Amount(24 * 8), 32, 32 * (100 + 24) * 8),
        ("response_mask", symbol("P") + Amount(24), 32, 32 * (100 + 24)),
        ("rewards", symbol("P", 4) + Amount(24 * 4), 32, 32 * (100 + 24) * 4),
        ("score", Amount(4), 32, 128),
    ],
)
def test_ppo(field, row, rows, at):
    found = volumes("ppo.rl")[0].volume(field)
    assert (found.row, found.rows.count) == (row, rows)
    assert found.bytes.at({"P": 100, "text(prompts)": 30}) == at
    assert found.bound == (field != "score")


def test_the_turns_of_a_dialogue_add_up():
    found = volumes("tools.rl")[0]
    tokens = [v.tokens for f in ("dialogue.1.tokens", "dialogue.tokens") if (v := found.volume(f))]
    first, last = (dict(t.symbols) for t in tokens)
    assert first["P"] == last["P"] == 1
    said = next(s for s in last if s != "P")
    assert said == "tokens(dialogue.observation)"
    assert last[said] > first.get(said, 0)
    assert tokens[1].constant > tokens[0].constant


def test_what_a_loop_keeps_is_bounded_by_its_rollouts():
    kept = volumes("dapo.rl")[0].volume("tokens")
    assert kept.rows.at_most and kept.rows.prompts == 4
    assert kept.tokens == symbol("P") + Amount(24)


def test_prompts_that_a_model_wrote_are_not_the_loaded_ones():
    found = volumes("debate.rl")[0]
    symbols = {s for name in found._types if (v := found.volume(name)) for s, _ in v.bytes.symbols}
    assert "P" in symbols
    assert any(s.startswith("tokens(") for s in symbols)


def test_all_that_moves():
    found, moves = volumes("ppo.rl", world_size=4, layouts=("actor.generate : hf(dp = 2)",))
    sent = [found.sent(op) for op in moves]
    assert [(s.prompts, s.of, s.messages) for s in sent] == [(8, 16, 2)] * len(moves)
    assert found.moved() == total(s.bytes for s in sent)
    assert volumes("ppo.rl")[0].moved() == Amount()


def test_amounts():
    both = symbol("P", 2) + Amount(3) + symbol("P") + symbol("Q")
    assert both * 2 == Amount(6, (("P", 6), ("Q", 2)))
    assert both.at({"P": 10, "Q": 1}) == 34
    assert total(()) == Amount()


def test_a_plan_says_where_its_fields_lie_and_how_many_bytes_they_have():
    options = Options(world_size=4, layouts=("actor.train : fsdp() on 0..1", "actor.generate : hf() on 2..3"))
    plan = compile_file(EXAMPLES / "ppo.rl", options).plan
    volumes = Volumes(plan)
    for field in plan.fields:
        volume = volumes.volume(field.name)
        assert volume is not None
        symbols = {**dict.fromkeys(field.bytes, 3), "1": 1}
        assert volume.bytes.at(symbols) == sum(n * symbols[s] for s, n in field.bytes.items())
    assert plan.field("tokens").layouts == ("ranks2-3", "ranks0-1")
    assert plan.field("prompts").layouts == ("ranks2-3",)
    assert plan.field("score").bytes == {"1": volumes.volume("score").rows.count * 4}
    assert set(plan.field("tokens").bytes) == {"1", "P"}


@cache
def ppo() -> Plan:
    return compile_file(EXAMPLES / "ppo.rl").plan


@st.composite
def groups(draw: st.DrawFn, world: int) -> Group:
    cuts = sorted(draw(st.sets(st.integers(0, world), min_size=4, max_size=4)))
    ranks = ((cuts[0], cuts[3]),) if draw(st.booleans()) else ((cuts[0], cuts[1]), (cuts[2], cuts[3]))
    size = sum(last - first for first, last in ranks)
    axes = [(t, c, p) for t in (1, 2, 3) for c in (1, 2) for p in (1, 2) if size % (t * c * p) == 0]
    tp, cp, pp = draw(st.sampled_from(axes))
    return Group(name=f"{ranks}{tp}{cp}{pp}", ranks=ranks, tp=tp, cp=cp, pp=pp)


@given(st.data(), st.integers(4, 24))
def test_what_crosses_is_what_the_prompts_one_by_one_say(data, world):
    source, target = data.draw(groups(world)), data.draw(groups(world))
    batch = data.draw(st.integers(1, 3 * lcm(source.dp(world), target.dp(world))))
    there = [target.holders(p % target.dp(world), world) for p in range(batch)]
    here = [source.holders(p % source.dp(world), world) for p in range(batch)]
    sent = [(p, here[p][0], rank) for p in range(batch) for rank in there[p] if rank not in here[p]]
    messages = Counter((sender, receiver) for _, sender, receiver in sent)
    op = ReshardOp(id="move", fields=("score",), source=source.name, target=target.name, batch=batch)
    volumes = Volumes(replace(ppo(), world_size=world, groups=(source, target)))
    found = volumes.sent(op)
    assert (found.prompts, found.messages) == (len({p for p, _, _ in sent}), len(messages))
    rows = 2  # a prompt
    bytes_of = (8 + 8 * n * rows + -(-4 * n * rows // 8) * 8 for n in messages.values())
    assert found.bytes == Amount(sum(bytes_of))
