"""A .rl file and its Python twin give the same plan."""

import msgspec
import pytest

from rldsl.compiler.pipeline import Options, compile_file
from rldsl.compiler.plan import Source
from rldsl.compiler.plan_io import dumps
from tests.compiler.programs import EXAMPLES

PAIRS = sorted(p.relative_to(EXAMPLES).with_suffix("") for p in EXAMPLES.rglob("*.rl") if p.with_suffix(".py").exists())


@pytest.mark.parametrize("name", PAIRS, ids=str)
@pytest.mark.parametrize("settings", [(), ("kl_coef=0.3",), ("kl_coef=0.0",)])
def test_byte_identical(name: object, settings: tuple[str, ...]) -> None:
    plans = [compile_file(EXAMPLES / f"{name}{suffix}", Options(settings=settings)).plan for suffix in (".rl", ".py")]
    first, second = (dumps(msgspec.structs.replace(p, source=Source())) for p in plans)
    assert first == second
    assert plans[0].source != plans[1].source


def test_there_are_twins() -> None:
    assert {"grpo", "ppo"} <= {p.name for p in PAIRS}
