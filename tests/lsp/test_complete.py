"""What can be typed at a place; `|` in a line is the cursor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rldsl.lsp.complete import complete
from rldsl.lsp.view import View
from tests.lsp.conftest import MAIN

Edited = Callable[[str], View]


def offered(edited: Edited, line: str, before: str = "  validate test") -> list[str]:
    """Labels where `line` has its cursor, put before `before`."""
    left, _, right = line.partition("|")
    head, mark, tail = MAIN.partition(before)
    assert mark
    text = f"{head}{left}{right}\n{mark}{tail}"
    return [i.label for i in complete(edited(text), len(head) + len(left))]


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("node x = |", ["compute", "reference", "actor"]),
        ("node x = co|", ["compute", "reference", "actor"]),
        ("node x = actor.|", ["generate", "extend", "logprob", "train"]),
        ("node x = reference.|", ["generate", "extend", "logprob"]),
        ("node x : |", ["ACTOR", "CRITIC", "REWARD", "REFERENCE", "ADVANTAGE"]),
        ("node x : ACTOR, |", ["MODEL_INFERENCE", "MODEL_TRAIN", "COMPUTE"]),
        ("node x = compute brevity(completions; |", ["weight"]),
        ("node x = compute group_advantage(score; group = 4, |", ["eps", "scale"]),
        ("node x = compute group_advantage(score; |group = 4)", ["group", "eps", "scale"]),
        ("node x = actor.generate(prompts; n = 2) -> tokens, |", ["response_mask", "rollout_logp", "completions"]),
        ("node x = compute f(a) after |", ["rollout", "ref", "short", "brief", "samples", "advantage", "update"]),
        ("node x = actor.generate(prompts) |", ["with", "when", "after", "->"]),
        ("metric x = |", ["mean", "std", "min", "max", "sum"]),
        ("metric x = mean(score) |", ["when"]),
        ("model x : |", ["policy", "value", "reward"]),
        ("model x : policy = |", ["frozen", "copy", "shared", "hf", "scratch", "reference", "actor"]),
        ("model x : policy = frozen |", ["frozen", "copy", "shared", "hf", "scratch", "reference", "actor"]),
        ("model x : policy = actor with |", ["lora_rank", "lora_alpha", "lora_targets"]),
        ("param x : |", ["int", "float", "bool", "str"]),
        ("input x : text[prompt] = |", ["reasoning_gym", "jsonl", "parquet"]),
        ('input x : text[prompt] = jsonl("a"; |', ["shuffle", "template"]),
        ('input x : text[prompt] = jsonl("a") with |', ["batch"]),
        ("output x = score with |", ["every"]),
        ("# node x = |", []),
        ('param x : str = "no|', []),
        ("node x = compute f(a) when lr > 0 |", ["with", "after"]),
        ("loop x max 3 |", ["carry", "collect", "where", "until"]),
        ("node |", []),
    ],
)
def test_begins_with(edited: Edited, line: str, first: list[str]):
    assert offered(edited, line)[: len(first) or None] == first


def test_fields_of_a_call_come_first(edited: Edited):
    found = offered(edited, "node x = compute exact_match(|")
    assert found[:2] == ["answers", "completions"]
    assert {"score", "tokens", "completions =", "answers ="} <= set(found)
    assert "observation" not in found and "truth" not in found


def test_fields_inside_a_block(edited: Edited):
    found = offered(edited, "    node x = compute f(|", before="    node act")
    assert {"observation", "done", "tokens"} <= set(found) and "truth" not in found


def test_functions(edited: Edited):
    found = offered(edited, "node x = compute |")
    assert found[0] == "brevity", "the user's own come first"
    assert {"group_advantage", "exact_match"} <= set(found) and "policy_loss" not in found
    assert set(offered(edited, "node x = actor.train |")) >= {"policy_loss", "value_loss", "gspo_loss"}
    assert "group_advantage" not in offered(edited, "node x = actor.train |")


def test_values(edited: Edited):
    found = offered(edited, "node x = actor.train f(tokens) with aggregate = |")
    assert found[:2] == ['"token_mean"', '"sequence_mean"'] and {"turns", "lr", "group", "none"} <= set(found)
    assert "turns" in offered(edited, "node x = compute f(score) when |")
    assert offered(edited, "param x : bool = |") == ["true", "false"]


def test_statements(edited: Edited):
    assert {"when", "after", "node", "metric", "loop", "param"} <= set(offered(edited, "  no|"))
    inside = offered(edited, "    |", before="    node act")
    assert "node" in inside and "param" not in inside and "algorithm" not in inside
    assert offered(edited, "|", before='import "base.rl"') == ["use", "import", "algorithm", "deploy"]


def test_deployments(edited: Edited):
    here = "  actor.generate"
    begins = offered(edited, "  |", before=here)
    assert begins[:3] == ["cluster", "reference", "actor"]
    assert {"talk.tool", "short", "advantage", "test.right"} <= set(begins)
    assert {"rollout", "talk.act", "update", "ref"}.isdisjoint(begins), "where these run their models say"
    assert offered(edited, "  actor.train : fsdp(dp = 2) |", before=here) == ["on"]
    assert offered(edited, "  short |", before=here) == ["on"]
    assert offered(edited, "  short on |", before=here) == []
    assert offered(edited, "  short on 0..1\n  |", before=here) == begins
    assert offered(edited, "  short on 0 .. 1\n  |", before=here) == begins
    assert offered(edited, "  actor.|", before=here) == ["train", "generate", "infer"]
    assert offered(edited, "  actor.train : |", before=here) == ["fsdp", "megatron"]
    assert offered(edited, "  actor.train : fsdp(|", before=here) == ["dp"]
    assert "h100" in offered(edited, "  cluster 8 x |", before=here)
    assert {"memory", "network"} <= set(offered(edited, "  cluster 8 x h100(|", before=here))
    assert offered(edited, "  cluster 8 x h100(memory = 64)\n  |", before=here) == begins


def test_files(edited: Edited, folder: Path):
    assert offered(edited, 'use "|', before='import "base.rl"') == ["mine.py"]
    assert offered(edited, 'import "|"', before='use "mine.py"') == ["base.rl"]


def test_details(view: View):
    offset = MAIN.index("mean(score)") + len("mean(")
    found = {i.label: i for i in complete(view, offset)}
    assert found["score"].detail == "f32[sample]" and found["score"].kind == "field"
    offset = MAIN.index("compute brevity") + len("compute ")
    found = {i.label: i for i in complete(view, offset)}
    assert (
        "GRPO" in found["group_advantage"].documentation and found["brevity"].detail == "Short answers are worth more."
    )


def test_everywhere(view: View):
    for offset in range(len(MAIN) + 1):
        found = complete(view, offset)
        assert len({(i.label, i.kind) for i in found}) == len(found), offset
