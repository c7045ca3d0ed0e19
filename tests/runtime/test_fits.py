"""A plan runs only where it fits: RL0504 for hardware, RL0707 for the number of ranks."""

import msgspec
import pytest

from rldsl.backends.fits import check_engines, check_hardware, check_world_size
from rldsl.compiler.plan import Phase, PhaseSpec, Plan
from rldsl.diagnostics import DiagnosticError
from tests.compiler.programs import PROGRAM, compiled


def code(check, *args: object) -> str | None:
    try:
        check(*args)
    except DiagnosticError as error:
        return error.diagnostics[0].code
    return None


def plan_for(**fields: object) -> Plan:
    return msgspec.structs.replace(compiled(PROGRAM).plan, **fields)


@pytest.mark.parametrize(
    ("cluster", "device", "expected"),
    [
        (None, "cpu", None),
        ("cpu", "cpu", None),
        ("gpu", "NVIDIA L4", None),
        ("h100", "NVIDIA H100 80GB HBM3", None),
        ("h100", "NVIDIA H200", "RL0504"),
        ("h100", "cpu", "RL0504"),
        ("gpu", "cpu", "RL0504"),
    ],
)
def test_hardware(cluster: str | None, device: str, expected: str | None) -> None:
    assert code(check_hardware, plan_for(cluster=cluster), device) == expected


@pytest.mark.parametrize(
    ("world_size", "divides", "ranks", "expected"),
    [(None, 4, 2, None), (None, 4, 3, "RL0707"), (2, 4, 2, None), (2, 4, 4, "RL0707"), (None, 4, 0, "RL0707")],
)
def test_ranks(world_size: int | None, divides: int, ranks: int, expected: str | None) -> None:
    assert code(check_world_size, plan_for(world_size=world_size, divides=divides), ranks) == expected


@pytest.mark.parametrize(("engine", "expected"), [("fsdp", None), ("megatron", "RL0711")])
def test_engines(engine: str, expected: str | None) -> None:
    phases = (PhaseSpec(model="actor", phase=Phase.TRAIN, engine=engine, group="world"),)
    assert code(check_engines, plan_for(phases=phases)) == expected
