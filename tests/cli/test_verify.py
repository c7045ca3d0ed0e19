"""`rldsl verify`: the verdict on any plan, as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rldsl.cli import main
from rldsl.compiler.plan import plan_hash

MINE = """import rldsl as rl


def brevity(completions: str, answers: str) -> float:
    return -1.0 * len(completions)
"""


def compiled(folder: Path, *options: str) -> Path:
    assert main(["compile", "tiny.rl", "--emit", "plan.json", *options]) == 0
    return folder / "plan.json"


def rewritten(path: Path, old: str, new: str) -> None:
    """Another tool's plan: changed, with a hash that fits."""
    text = path.read_text()
    assert old in text
    body = json.loads(text.replace(old, new))
    path.write_text(json.dumps(body | {"hash": plan_hash(body)}))


def test_a_plan_is_verified(folder, capsys):
    compiled(folder, "--world-size", "2")
    capsys.readouterr()
    assert main(["verify", "plan.json"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("plan.json: verified (") and "ops, 1 program;" in out and "one order of collectives" in out
    assert err == ""


def test_a_verdict_as_json(folder, capsys):
    compiled(folder)
    capsys.readouterr()
    assert main(["verify", "plan.json", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (
        verdict["verified"] is True
        and verdict["ops"] > 5
        and verdict["programs"] == 1
        and "residency" in verdict["proved"]
    )


def test_every_problem_is_told(folder, capsys):
    path = compiled(folder)
    rewritten(path, '"n": 4', '"n": 5')
    rewritten(path, '"lr": 1e-05', '"lr": -1.0')
    capsys.readouterr()
    assert main(["verify", "plan.json", "--json"]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {d["code"] for d in found} == {"RL0505"} and len(found) >= 3
    assert any("lr = -1" in d["message"] for d in found)
    assert any("`rollout` writes `tokens` with 5 rows a prompt, not 4" in d["message"] for d in found)


@pytest.mark.parametrize(
    ("text", "code"),
    [("", "RL0501"), ("[]", "RL0501"), ("{}", "RL0501"), ('{"schema": "9.0"}', "RL0503"), ('{"schema": "1.0"}', "RL0501"),
     ('{"schema": "\u00b2"}', "RL0501"), ('{"schema": "1.0", "algorithm": "\\ud800"}', "RL0501"), ("[" * 90_000, "RL0501")],
)  # fmt: skip
def test_what_is_no_plan_is_said_to_be_none(folder, capsys, text, code):
    (folder / "plan.json").write_text(text)
    assert main(["verify", "plan.json"]) == 1
    out, err = capsys.readouterr()
    assert code in out and err == ""


def test_a_changed_plan_is_told_by_its_hash(folder, capsys):
    path = compiled(folder)
    path.write_text(path.read_text().replace('"n": 4', '"n": 5'))
    assert main(["verify", "plan.json"]) == 1
    assert "RL0502" in capsys.readouterr().out


def test_no_file(folder, capsys):
    assert main(["verify", "nowhere.json"]) == 1
    assert "RL0101" in capsys.readouterr().out


def test_own_functions_are_judged_where_their_file_is_at_hand(folder, capsys):
    (folder / "mine.py").write_text(MINE)
    source = (folder / "tiny.rl").read_text().replace("last_number(", "brevity(")
    (folder / "tiny.rl").write_text(f'use "mine.py"\n{source}')
    path = compiled(folder)
    rewritten(path, '"param": "answers"', '"param": "truth"')
    capsys.readouterr()
    assert main(["verify", "plan.json"]) == 1
    assert "takes no field `truth`" in " ".join(capsys.readouterr().out.split())
    # Changed since: what it takes now says nothing about the plan, and the run will say that it changed.
    (folder / "mine.py").write_text(MINE + "\n")
    assert main(["verify", "plan.json"]) == 0
    (folder / "mine.py").unlink()
    assert main(["verify", "plan.json"]) == 0


@pytest.mark.parametrize("name", ["ppo.rl", "ppo.py"])
def test_an_algorithm_is_no_plan(name, capsys):
    file = Path(__file__).parents[2] / "examples" / name
    assert main(["verify", str(file)]) == 1
    said = capsys.readouterr().out
    assert "RL0501" in said and "is an algorithm and no plan" in said and "--emit plan.json" in said.replace("\n", " ")


def changed_needs(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Figures of one op that others do not contradict: below the peak, less than what the models take."""
    body = json.loads(path.read_text())
    peak = body["memory"]["peak_op"]
    said = max((o for o in body["memory"]["ops"] if o["op"] != peak), key=lambda o: o["workspace"])
    change(said)
    path.write_text(json.dumps(body | {"hash": plan_hash(body)}))


def less(said: dict[str, Any]) -> None:
    cut = said["workspace"] // 2
    largest = max(said["categories"], key=lambda c: said["categories"][c])
    assert said["categories"][largest] > cut
    said["workspace"] -= cut
    said["categories"][largest] -= cut


def more(said: dict[str, Any]) -> None:
    said["workspace"] += 8
    said["categories"]["fields"] = said["categories"].get("fields", 0) + 8


def test_what_ops_need_is_counted_again(folder, capsys):
    path = compiled(folder, "--cluster", "1 x cpu", "--memory", "8GiB")
    capsys.readouterr()
    assert main(["verify", "plan.json"]) == 0
    assert "what each op needs by its models' configurations" in capsys.readouterr().out
    changed_needs(path, more)  # a bound may be generous
    assert main(["verify", "plan.json"]) == 0
    changed_needs(path, less)
    capsys.readouterr()
    assert main(["verify", "plan.json"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("error[RL0505]") == 1 and "bytes beside its states by its models' configurations" in out


def test_without_the_models_it_is_said_that_needs_are_not_counted(folder, capsys):
    path = compiled(folder, "--cluster", "1 x cpu", "--memory", "8GiB")
    text = path.read_text()
    assert '"source": "scratch"' in text
    body = json.loads(text)
    for model in body["models"]:
        model |= {"source": "nobody/nothing", "source_args": {}}
    path.write_text(json.dumps(body | {"hash": plan_hash(body)}))
    capsys.readouterr()
    assert main(["verify", "plan.json"]) == 0
    assert "not counted again: what each op needs" in capsys.readouterr().out
