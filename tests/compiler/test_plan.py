"""plan.json: schema, determinism, hashes, faults."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from rldsl.compiler.pipeline import compile_file
from rldsl.compiler.plan import schema
from rldsl.compiler.plan_io import dumps, loads, read_plan, write_plan
from rldsl.diagnostics import DiagnosticError
from tests.compiler.programs import EXAMPLES, PPO, PROGRAM, compiled

GOLDEN = Path(__file__).parent / "golden"


def code_of(text: str) -> str:
    with pytest.raises(DiagnosticError) as caught:
        loads(text, "plan.json")
    return caught.value.diagnostics[0].code


def test_schema_is_the_types() -> None:
    shipped = json.loads(files("rldsl.compiler").joinpath("plan.schema.json").read_text())
    assert shipped == json.loads(json.dumps(schema())), "run `make schema`"


@pytest.mark.parametrize("text", [PROGRAM, PPO])
def test_plans_fit_the_schema(text: str) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    assert list(validator.iter_errors(json.loads(dumps(compiled(text).plan)))) == []


def test_schema_refuses_nonsense() -> None:
    body = json.loads(dumps(compiled(PROGRAM).plan))
    body["programs"][0]["ops"][0]["op"] = "teleport"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, schema())


def test_round_trip(tmp_path: Path) -> None:
    plan = compiled(PPO).plan
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_parameters_change_the_hash() -> None:
    assert (
        json.loads(dumps(compiled(PROGRAM).plan))["hash"]
        != json.loads(dumps(compiled(PROGRAM, "group=2").plan))["hash"]
    )


def test_edited_plan_is_refused() -> None:
    text = dumps(compiled(PROGRAM).plan)
    assert code_of(text.replace('"lr": 0.001', '"lr": 0.1')) == "RL0502"


def test_unknown_major_is_refused_and_unknown_key_is_not() -> None:
    body = json.loads(dumps(compiled(PROGRAM).plan))
    assert code_of(json.dumps({**body, "schema": "2.0"})) == "RL0503"
    from rldsl.compiler.plan import plan_hash

    newer = {**body, "schema": "1.7", "colour": "blue"}
    newer["hash"] = plan_hash(newer)
    assert loads(json.dumps(newer), "plan.json").algorithm == "small"


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"schema": "1.0"}', '{"schema": "x"}'])
def test_no_plan_at_all(text: str) -> None:
    assert code_of(text) == "RL0501"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError) as caught:
        read_plan(tmp_path / "none.json")
    assert caught.value.diagnostics[0].code == "RL0101"


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    plan = compile_file(EXAMPLES / f"{name}.rl").plan
    body = json.loads(dumps(plan))
    body.pop("source")
    text = json.dumps(body, indent=1) + "\n"
    path = GOLDEN / f"{name}.plan.json"
    if request.config.getoption("--update-goldens"):
        path.write_text(text)
    assert path.read_text() == text, "the plan changed: look, then run pytest --update-goldens"
