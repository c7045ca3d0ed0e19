"""What is wrong with a config.json at hand: all of it, where it stands, and whether a plan is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rldsl.cli import main
from rldsl.compiler.cost.json_text import key_place
from rldsl.compiler.pipeline import Options, check_file, compile_file
from rldsl.diagnostics import Diagnostic, DiagnosticError, Severity, Span

GRPO = Path(__file__).parents[2] / "examples" / "grpo.rl"
GIB = 1 << 30
WHOLE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def written(folder: Path, config: dict[str, Any] | str) -> Path:
    """The config.json of a model in `folder`."""
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
    return path


def options(folder: Path, **more: Any) -> Options:
    return Options(settings=(f"model={folder}", "kl_coef=0.1"), **{"cluster": "2 x h100", **more})


def refused(folder: Path, **more: Any) -> tuple[Diagnostic, ...]:
    with pytest.raises(DiagnosticError) as caught:
        compile_file(GRPO, options(folder, **more))
    return caught.value.diagnostics


def test_every_fault_is_told_once_where_it_stands(tmp_path: Path) -> None:
    """Actor and reference have the same file."""
    config = {k: v for k, v in WHOLE.items() if k != "vocab_size"}
    path = written(tmp_path / "m", {**config, "hidden_size": "64", "num_hidden_layers": 0})
    found = refused(tmp_path / "m")
    assert [(d.code, d.severity) for d in found] == [("RL0802", Severity.ERROR)] * 3
    places = {d.message: (d.span.line, d.span.column, d.span.end_column) for d in found if d.span}
    assert places == {
        f"{path} has no key `vocab_size`": (1, 1, 1),
        f"`hidden_size` of {path} makes no sense": (3, 2, 15),
        f"`num_hidden_layers` of {path} makes no sense": (5, 2, 21),
    }
    assert all(d.fix and d.expected and [label.message for label in d.labels] for d in found)


def test_the_place_of_a_mistake_in_the_text(tmp_path: Path) -> None:
    path = written(tmp_path / "m", '{"model_type": "llama",\n "hidden_size": 64\n "vocab_size": 100}')
    (found,) = refused(tmp_path / "m", memory=GIB)
    assert found.code == "RL0802" and found.span == Span(str(path), 3, 2, 3, 3)
    assert found.found == "Expecting ',' delimiter" and found.fix


@pytest.mark.parametrize("text", ["[1]", "[" * 100_000, "1" * 5000])
def test_what_is_json_and_no_object_or_not_even_json(text: str, tmp_path: Path) -> None:
    written(tmp_path / "m", text)
    (found,) = refused(tmp_path / "m")
    assert found.code == "RL0802" and found.found


def test_all_models_are_looked_at(tmp_path: Path) -> None:
    """One that is nowhere does not hide what is wrong with another."""
    text = GRPO.read_text().replace("frozen actor", f'hf("{tmp_path / "m"}")')
    (tmp_path / "two.rl").write_text(text)
    written(tmp_path / "m", "{")
    found = check_file(tmp_path / "two.rl", options(Path("nobody/nothing")))
    assert [(d.code, d.severity) for d in found] == [("RL0802", Severity.ERROR)]


def test_a_kind_of_model_that_is_not_known_is_no_mistake_without_a_budget_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "m", {**WHOLE, "model_type": "phi3"})
    made = compile_file(GRPO, options(tmp_path / "m"))
    (warned,) = made.warnings
    assert made.plan.memory is None and (warned.code, warned.severity) == ("RL0801", Severity.WARNING)
    assert warned.span == Span(str(path), 2, 2, 2, 14)
    (found,) = refused(tmp_path / "m", memory=70 * GIB)
    assert (found.code, found.severity) == ("RL0801", Severity.ERROR) and "--memory" in (found.fix or "")


def test_without_a_budget_nothing_is_read_into_a_config(tmp_path: Path) -> None:
    written(tmp_path / "m", "{")
    assert compile_file(GRPO, options(tmp_path / "m", cluster="2 x cpu")).warnings == ()
    disabled = compile_file(GRPO, options(tmp_path / "m", disable=frozenset({"plan_memory"})))
    assert disabled.plan.memory is None and disabled.warnings == ()


def test_the_command_ends_with_1_and_writes_no_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "m", '{"model_type": "llama" "hidden_size": 64}')
    arguments = ["compile", str(GRPO), "--cluster", "2 x h100", "--set", "model=m", "--emit", "plan.json"]
    assert main(arguments) == 1 and not Path("plan.json").exists()
    said = capsys.readouterr().err
    assert "error[RL0802]" in said and "m/config.json:1:24" in said


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (("a",), (1, 2, 5)),
        (("b",), (2, 2, 5)),
        (("b", "a"), (2, 24, 27)),
        (("b", "c"), (2, 9, 12)),
        (("b", "c", "a"), (2, 15, 18)),
        (("c",), None),
        (("list", "a"), None),
        (('x"{:',), (4, 2, 9)),
    ],
)
def test_the_place_of_a_key(keys: tuple[str, ...], place: tuple[int, int, int] | None) -> None:
    text = """{"a": "b\\":{",
 "b": { "c": {"a": 1}, "a": 2},
 "list": [{"a": "c"}],
 "x\\"{:": null}"""
    assert json.loads(text) and key_place(text, keys) == place
