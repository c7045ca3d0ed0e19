"""`rldsl show` with selectors, of one rank, as a page."""

import json
import re

import pytest

from rldsl.cli import main


@pytest.fixture
def show(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments, code=0):
        assert main(["show", "tiny.rl", *arguments]) == code
        out, err = capsys.readouterr()
        return err if code else out

    return run


def titles(text):
    names = ("input", "rollout", "reward", "advantage", "update")
    drawn = text[: text.index("What moves")]
    return [n for n in names if f"─ {n} ─" in drawn]


@pytest.mark.parametrize(
    ("selectors", "nodes"),
    [
        (["reward"], ["reward"]),
        (["+reward"], ["input", "rollout", "reward"]),
        (["reward+"], ["reward", "advantage", "update"]),
        (["+reward+"], ["input", "rollout", "reward", "advantage", "update"]),
        (["1+reward"], ["input", "rollout", "reward"]),
        (["1+advantage"], ["reward", "advantage"]),
        (["reward+1"], ["reward", "advantage"]),
        (["input", "update"], ["input", "update"]),
    ],
)
def test_selectors(show, selectors, nodes):
    assert titles(show(*selectors)) == nodes


def test_a_selection_has_its_ops_only(show):
    text = show("advantage")
    assert "group_advantage(group=4)" in text
    assert "train" not in text.split("Each step")[1]
    assert "Not in the program" not in text


def test_options_and_selectors_mix(show):
    assert show("--no-color", "reward", "--rank", "1").count("Each step of every rank") == 1


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("rewar+", "no node is called `rewar`; did you mean `reward`?"),
        ("zzz", "the nodes are input, rollout, reward, advantage, update"),
        ("+", "`+` selects nothing; write NODE, +NODE"),
        ("a b c", "selects nothing"),
    ],
)
def test_a_selector_of_nothing(show, selector, said):
    assert said in show(selector, code=1)


def test_json_of_a_selection(show):
    shown = json.loads(show("reward", "--format", "json"))
    (program,) = shown["programs"]
    assert [op["op"] for op in program["ops"]] == ["compute", "free"]
    assert {(f["source"], f["target"]) for f in shown["flows"]} == {
        ("load:prompts", "reward"), ("rollout", "reward"), ("reward", "advantage")
    }  # fmt: skip
    assert json.loads(show("reward", "--rank", "0", "--format", "json")) == {"rank": 0, "groups": {}, **shown}
    whole = json.loads(show("--format", "json"))
    assert whole["algorithm"] == "tiny"
    assert sum(f["kind"] == "weights" for f in whole["flows"]) == 1


@pytest.mark.parametrize("form", ["mermaid", "dot"])
def test_graphs_of_a_selection(show, form):
    text = show("+reward", "--format", form)
    assert "rollout" in text
    assert "update" not in text


def test_what_moves_and_when(show):
    text = show("--world-size", "4", "--layout", "actor.generate : hf(dp = 2)")
    assert "all-to-all ranks0-1 -> world" in text
    assert "16 x 4 rows x 4 B = 256 B" in text
    assert "weights all-gather over world" in text
    assert "8 of 16 prompts change ranks" in text
    assert "moves send at most (" in text
    chart = text[text.index("Schedule") : text.index("Each step")]
    assert "no lengths of time are known" in chart
    first, second = (part.splitlines() for part in chart.rsplit("\nranks 2 to 3  ", 1))
    assert any(line.startswith("rollout") for line in first)
    assert not any(line.startswith("rollout") for line in second)
    assert second[-2] == "ranks 2 to 3 wait in op 1, reshard, for ranks 0 to 1, which run rollout"


def test_a_page(show):
    page = show("--format", "html")
    assert page.startswith("<!DOCTYPE html>")
    assert page == show("--format", "html")


def test_a_page_is_of_the_whole_plan(show):
    assert "leave out a selector" in show("reward", "--format", "html", code=1)
    assert "leave out --rank" in show("--rank", "0", "--format", "html", code=1)


def test_how_long_a_step_takes(show):
    text = show("--time", "--cluster", "2 x cpu")
    assert "A step takes" in text and "on 2 x cpu, as predicted" in text and "prompts of 512 tokens" in text
    assert "rollout: generate" in text and "update: train" in text
    found, longer = (
        json.loads(show("--time", "--cluster", "2 x cpu", "--format", "json", "--prompt-tokens", n))
        for n in ("8", "80")
    )
    assert found["prompt_tokens"] == 8 and found["step"] == pytest.approx(max(t["end"] for t in found["timeline"]))
    for op in found["ops"].values():
        assert op["seconds"] == pytest.approx(sum(op["parts"].values()))
    assert longer["ops"]["update"]["seconds"] > 1.5 * found["ops"]["update"]["seconds"]
    slower = json.loads(
        show("--time", "--cluster", "2 x cpu(fp32 = 0.05)", "--format", "json", "--prompt-tokens", "80")
    )
    assert slower["step"] > 1.5 * longer["step"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a cluster, such as `--cluster '8 x h100'`"),
        (["--cluster", "2 x cpu", "--rank", "0"], "leave out --rank"),
        (["--cluster", "2 x cpu", "update"], "leave out a selector"),
        (["--cluster", "2 x cpu", "--format", "dot"], "has the formats text and json"),
    ],
)
def test_what_time_is_not_told_of(show, arguments, said):
    assert said in show("--time", *arguments, code=1)


DEPLOY = """deploy {
  cluster 6 x cpu
  actor.train : fsdp(dp = 4) on 0..3
  actor.generate : hf(dp = 2) on 4..5
}
"""


def test_one_rank_of_several_groups(show, folder):
    (folder / "split.rl").write_text(DEPLOY)
    shown = show("--deploy", "split.rl", "--rank", "5")
    assert "actor.generate : hf on ranks 4 to 5, dp = 2" in shown
    line = next(line for line in shown.splitlines() if line.startswith("ranks4-5"))
    assert line.split("  ")[1] == "ranks 4 to 5; dp 1 of 2; prompts 1, 3, 5, 7, ..., 15 of 16"
    assert "ranks 0 to 3  " not in shown
    data = json.loads(show("--deploy", "split.rl", "--rank", "5", "--format", "json"))
    assert data["rank"] == 5
    assert data["groups"]["ranks4-5"]["dp"] == 1 and "ranks0-3" not in data["groups"]
    (program,) = data["programs"]
    assert (program["first"], program["last"]) == (4, 6)


def test_one_rank_of_any_number(show):
    assert "those whose number is 1 modulo the number of ranks" in show("--rank", "1")


def test_disjoint_groups_meet_only_to_hand_over(show, folder):
    (folder / "split.rl").write_text(DEPLOY)
    shown = show("--deploy", "split.rl")
    assert re.search(r"weights of actor +weights broadcast ranks0-3", shown)
    assert "ranks 0 to 3 wait in op " in shown
    assert "16 of 16 prompts change ranks" in " ".join(shown.split())


def test_bytes_of_weights(show, folder):
    """`tiny.rl` builds its model itself, so its size is known; nobody has a configuration of this one."""
    found = [f for f in json.loads(show("--world-size", "2", "--format", "json"))["flows"] if f["kind"] == "weights"]
    assert found[0]["bytes"]["constant"] > 100_000
    assert re.search(r"weights of actor, [\d.]+ kB a copy", show("--world-size", "2"))
    text = (folder / "tiny.rl").read_text()
    (folder / "tiny.rl").write_text(re.sub(r"scratch\(.*\)\n", 'hf("nobody/has-it")\n', text))
    assert "need the model's configuration" in show("--world-size", "2")
