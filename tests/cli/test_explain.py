"""`rldsl explain FILE NAME`."""

import json

import pytest

from rldsl.cli import main


@pytest.fixture
def explain(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["compile", "tiny.rl", "--emit", "plan.json"]) == 0
    capsys.readouterr()

    def run(*arguments, code=0):
        assert main(["explain", *arguments]) == code
        out, err = capsys.readouterr()
        return err if code else out

    return run


@pytest.mark.parametrize("file", ["plan.json", "tiny.rl"])
def test_a_node(explain, file):
    text = explain(file, "advantage")
    assert text.splitlines()[0] == "advantage   node, ADVANTAGE, COMPUTE   tiny.rl:13:8"
    assert "node advantage : ADVANTAGE = compute group_advantage(score; group) -> advantages" in text
    assert "16 prompts x 4 samples = 64 rows, spread over all ranks" in text
    assert "1 step: reward" in text
    assert "2 steps: rollout" in text


FEWER = ("--world-size", "4", "--layout", "actor.generate : hf(dp = 2)")


def test_rows_by_rank(explain):
    text = explain("tiny.rl", "rollout", *FEWER)
    assert "16 prompts x 4 samples = 64 rows, 32 a rank on 2 ranks" in text
    assert "on ranks 0 to 1, as op 2 of ranks 0 to 1" in text
    assert "not on ranks 2 to 3" in text
    assert "by all-to-all ranks0-1 -> world" in explain("tiny.rl", "update", *FEWER)


def test_a_node_whose_condition_is_false(explain):
    text = explain("tiny.rl", "ref")
    assert text.splitlines()[0] == "ref   not in the program   tiny.rl:12:8"
    assert "its condition is false: `kl_coef > 0` with kl_coef = 0 (fold_conditions)" in text
    assert "`ref_logp` was for `update`" in text
    assert "`kl_coef > 0` with kl_coef = 0.1: it holds" in explain("tiny.rl", "ref", "--set", "kl_coef=0.1")


def test_a_node_that_nothing_needs(explain):
    text = explain("plan.json", "old")
    assert "no training step, metric or output needs it (eliminate_dead)" in text
    assert "`old_logp` was for `update`; elide_old_logp: `update` takes one optimiser step a batch" in text


def test_without_its_source_a_plan_says_less(explain, folder):
    (folder / "tiny.rl").write_text("# another\n")
    text = explain("plan.json", "ref")
    assert "its condition is false (fold_conditions)" in text
    assert text.splitlines()[0] == "ref   not in the program   tiny.rl:12:8"


def test_passes_that_touched_a_node(explain):
    text = explain("tiny.rl", "update")
    assert "elide_old_logp: `update` takes one optimiser step" in text
    assert "skip_zero_rows: rows where `advantages` is 0" in text
    assert "16 prompts / 16 a minibatch x 1 pass = 1 optimiser step" in text
    assert "a minibatch: 16 prompts x 4 samples = 64 rows, spread over all ranks" in text
    assert "as many tokens as the engine chooses; a row has at most P + 8" in text
    assert "`update` by lower_nodes, op " in text and "`free:update` by insert_frees, op " in text
    assert "`old_logp`: the policy's own log-probs of the running step" in text


def test_a_field(explain):
    text = explain("plan.json", "tokens")
    assert text.splitlines()[0] == "tokens   field, i64[sample, token]"
    assert "16 x 4 rows, at most (P + 8) x 8 B" in text


def test_a_model(explain):
    text = explain("plan.json", "actor")
    assert text.splitlines()[0] == "actor   model   tiny.rl:5:9"
    assert "by `update`, op " in text
    assert "all-gather over the ranks, op 1 of every rank" in text


def test_a_model_that_is_gone(explain):
    assert "no node is left that uses it (eliminate_dead)" in explain("plan.json", "reference")


def test_a_parameter(explain):
    text = explain("plan.json", "group")
    assert text.split() == [
        "group",
        "parameter",
        "tiny.rl:2:9",
        "value",
        "4",
        "stands",
        "in",
        "`rollout`,",
        "`advantage`",
    ]


def test_all_that_was_decided(explain):
    text = explain("plan.json")
    assert "Any number of ranks that divides 16" in text
    assert "`ref`: its condition is false (fold_conditions)" in text
    assert "`sync_weights:actor`: training shards the weights" in text


def test_json(explain):
    (page,) = json.loads(explain("plan.json", "reward", "--json"))
    assert page["title"] == "reward"
    assert {"heading": "does", "lines": ["last_number"]} in page["sections"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan.json", "advantge"], "plan.json has nothing called `advantge`; did you mean `advantage`?"),
        (["plan.json", "zzz"], "`rldsl show plan.json` shows what there is"),
        (["RL0201", "reward"], "`RL0201` is neither a plan nor an algorithm"),
        (["RL9999"], "there is no code RL9999"),
        (["plan.json", "reward", "--set", "group=2"], "is compiled already"),
        (["nope.rl", "reward"], "cannot read `nope.rl`"),
    ],
)
def test_mistakes(explain, arguments, said):
    assert said in explain(*arguments, code=1)


def test_codes_still_have_pages(explain):
    assert explain("307").startswith("# RL0307")
    assert "RL0307  " in explain()


def test_nodes_of_blocks(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    text = (folder / "tiny.rl").read_text()
    loop = """  loop resample max 3 collect tokens, response_mask, logp, score where useful {
    node rollout = actor.generate(prompts; n = group, max_new_tokens = 8) -> tokens, response_mask, logp, texts
    node reward = compute last_number(texts, answers) -> score
    node spread = compute has_spread(score; group) -> useful
  }
"""
    lines = [
        line for line in text.splitlines(keepends=True) if not line.startswith(("  node rollout", "  node reward"))
    ]
    lines.insert(next(i for i, line in enumerate(lines) if line.startswith("  input")) + 1, loop)
    (folder / "loop.rl").write_text("".join(lines))
    assert main(["explain", "loop.rl", "spread"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("resample.spread   node, ADVANTAGE, COMPUTE   loop.rl:12:10\n")
    assert "alike in 3 rounds of a loop" in shown
    assert "round 3: op " in shown
    assert "only until resample is full" in shown
    assert main(["explain", "loop.rl", "resample.2.spread"]) == 0
    assert "1 step: resample.2.collect" in capsys.readouterr().out
    assert main(["explain", "loop.rl", "resample"]) == 0
    shown = capsys.readouterr().out
    assert "what `resample.collect` kept" in shown
    assert "resample   block   loop.rl:9:8" in shown


def test_what_is_imported_is_where_it_stands(explain, folder):
    (folder / "child.rl").write_text('import "tiny.rl"\nalgorithm child {\n  param group : int = 2\n}\n')
    assert main(["compile", "child.rl", "--emit", "child.json"]) == 0
    explain("child.json")
    (folder / "child.rl").write_text("# gone\n")
    assert explain("child.json", "advantage").splitlines()[0].endswith("tiny.rl:13:8")
    assert "child.rl:3:9" in explain("child.json", "group").splitlines()[0]
    assert explain("child.json", "prompts").splitlines()[0].endswith("tiny.rl:8:9")
