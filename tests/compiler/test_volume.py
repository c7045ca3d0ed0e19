"""Bytes of fields as a plan has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldsl.compiler.ops import ReshardOp
from rldsl.compiler.pipeline import Options, compile_file
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
