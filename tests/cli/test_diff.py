"""`rldsl diff A B`: what changed in meaning."""

import json
import re
import subprocess

import pytest

from rldsl.cli import main

HEAD = """def shaped(score: rl.Score) -> rl.Score:
    return score - 1
"""


@pytest.fixture
def diff(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "140")

    def run(a, b, *options, code=2):
        assert main(["diff", a, b, *options]) == code
        out, err = capsys.readouterr()
        return err if code == 1 else out

    return run


@pytest.fixture
def edited(folder):
    """(pattern, replacement) pairs -> `other.rl`, the tiny algorithm with them made."""

    def write(*pairs):
        text = (folder / "tiny.rl").read_text()
        for pattern, replacement in pairs:
            text, count = re.subn(pattern, replacement, text)
            assert count
        (folder / "other.rl").write_text(text)
        return "other.rl"

    return write


def found(diff, a, b, *options):
    """(part, kind, name, what) of each change."""
    shown = json.loads(diff(a, b, "--json", *options))
    return [(c["part"], c["kind"], c["name"], c["what"]) for c in shown["changes"]]


@pytest.mark.parametrize(
    "edits",
    [
        [("algorithm tiny", "# a comment\nalgorithm  tiny")],
        [(r"(  param group.*\n)(  param kl_coef.*\n)", r"\2\1")],
        [(r"(  node reward.*\n)(  node ref .*\n)", r"\2\1")],
        [(r"(  model actor.*\n)(  model reference.*\n)", r"\2\1")],
        [(r"(  node old.*\n)(  node update.*\n)", r"\2\1")],
    ],
)
def test_order_and_form_mean_nothing(diff, edited, edits):
    shown = diff("tiny.rl", edited(*edits), code=0)
    assert shown == "tiny.rl -> other.rl: the same in meaning\n"


def test_order_of_independent_nodes_means_nothing(diff, edited, folder):
    metrics = "  metric best = max(score)\n  metric mean_score = mean(score)\n"
    a = edited((r"(  node old)", metrics + r"\1"))
    (folder / "a.rl").write_text((folder / a).read_text())
    b = edited((r"(  node old)", "".join(reversed(metrics.splitlines(keepends=True))) + r"\1"))
    assert diff("a.rl", b, code=0) == "a.rl -> other.rl: the same in meaning\n"


def test_a_plan_and_its_source_are_the_same(diff, folder):
    assert main(["compile", "tiny.rl", "--emit", "plan.json"]) == 0
    diff("plan.json", "tiny.rl", code=0)
    assert json.loads(diff("plan.json", "plan.json", "--json", code=0)) == {"same": True, "changes": []}


def test_parameters_and_conditions(diff, edited):
    shown = diff("tiny.rl", edited(("kl_coef : float = 0.0", "kl_coef : float = 0.1")))
    assert "~ kl_coef  0 -> 0.1" in shown
    assert "+ reference  policy, copy of actor, frozen" in shown
    assert "+ ref     reference.logprob; before: its condition is false (fold_conditions)" in shown
    assert "reads ref_logp: none -> ref_logp" in shown


def test_what_passes_do_otherwise(diff, edited):
    shown = diff("tiny.rl", edited(("with lr = 1e-5", "with lr = 1e-5, epochs = 2")))
    assert "epochs: 1 -> 2" in shown
    assert "reads old_logp: the running step's own log-probs -> old_logp; `update` takes one optimiser step" in shown
    assert "+ old     actor.logprob; before: no training step, metric or output needs it (eliminate_dead)" in shown


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        (("batch = 16", "batch = 8"), ("inputs", "changed", "answers, prompts", "prompts")),
        (("basic_arithmetic", "chain_sum"), ("inputs", "changed", "answers, prompts", "source")),
        (("max_new_tokens = 8", "max_new_tokens = 9"), ("nodes", "changed", "rollout", "max_new_tokens")),
        (("last_number", "exact_match"), ("nodes", "changed", "reward", "calls")),
        (("reward : REWARD", "reward : ACTOR"), ("nodes", "changed", "reward", "role")),
        (
            ("node reward : REWARD = compute last_number", "node judge = compute exact_match"),
            ("nodes", "added", "judge", ""),
        ),
        (
            ("node reward : REWARD = compute last_number", "node judge = compute exact_match"),
            ("nodes", "removed", "reward", ""),
        ),
        (("algorithm tiny", "algorithm small"), ("algorithm", "changed", "name", "")),
        (("group : int = 4", "group : int = 2"), ("fields", "changed", "score", "rows a prompt")),
        ((r"alphabet = ", "hidden = 32, alphabet = "), ("models", "changed", "actor", "is")),
    ],
)
def test_changes(diff, edited, edit, change):
    assert change in found(diff, "tiny.rl", edited(edit))


def test_new_names_are_told_as_such(diff, edited):
    other = edited(("node reward", "node judge"), (r"\bscore\b", "points"), (r"\btexts\b", "answers_given"))
    assert found(diff, "tiny.rl", other) == [
        ("nodes", "renamed", "reward", ""),
        ("fields", "renamed", "texts", ""),
        ("fields", "renamed", "score", ""),
    ]
    assert "» reward  is called judge now" in diff("tiny.rl", other)


def test_a_new_name_and_a_new_setting(diff, edited):
    other = edited(
        ("node rollout", "node sample"), ("node old ", "node before "), ("max_new_tokens = 8", "max_new_tokens = 9")
    )
    changed = found(diff, "tiny.rl", other)
    assert ("nodes", "added", "sample", "") in changed and ("nodes", "removed", "rollout", "") in changed


def test_an_optimisation_left_out(diff, folder):
    assert main(["compile", "tiny.rl", "--emit", "plan.json"]) == 0
    assert main(["compile", "tiny.rl", "--emit", "less.json", "--disable-pass", "skip_zero_rows"]) == 0
    shown = diff("plan.json", "less.json")
    assert "~ skip_zero_rows  update: changes it -> does not change it; rows where `advantages` is 0" in shown
    assert "skip_where_zero: advantages -> none" in shown


def test_another_deployment(diff, folder):
    assert main(["compile", "tiny.rl", "--emit", "all.json"]) == 0
    layout = ["--world-size", "4", "--layout", "actor.generate : hf(dp = 2)"]
    assert main(["compile", "tiny.rl", "--emit", "two.json", *layout]) == 0
    shown = diff("all.json", "two.json")
    assert "~ plan  for: any number of ranks that divides 16 -> exactly 4 ranks" in shown
    assert "~ rollout  runs on: all ranks -> ranks 0 to 1" in shown
    assert "~ response_mask  local -> all-to-all ranks0-1 to world" in shown
    assert "~ reward" not in shown


def test_options_hold_for_both_sides(diff, edited):
    other = edited(("kl_coef : float = 0.0", "kl_coef : float = 0.1"))
    assert diff("tiny.rl", other, "--set", "kl_coef=0.2", code=0) == "tiny.rl -> other.rl: the same in meaning\n"


def test_code_of_functions(diff, edited, folder):
    (folder / "mine.py").write_text(f"import rldsl as rl\n\n{HEAD}")
    (folder / "yours.py").write_text(f"# with a comment\nimport rldsl as rl\n\n\n{HEAD}")
    (folder / "other.py").write_text(f"import rldsl as rl\n\n{HEAD}".replace("- 1", "- 2"))
    for name in ("mine", "yours", "other"):
        file = edited(
            ("algorithm tiny", f'use "{name}.py"\nalgorithm tiny'),
            (
                r"(  node advantage : ADVANTAGE = compute group_advantage\()score",
                r"  node shape = compute shaped(score) -> better\n\1better",
            ),
        )
        (folder / f"{name}.rl").write_text((folder / file).read_text())
    diff("mine.rl", "yours.rl", code=0)
    assert found(diff, "mine.rl", "other.rl") == [("functions", "changed", "shaped", "file")]


@pytest.fixture
def repository(folder):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    git("init", "-q")
    (folder / "sub").mkdir()
    (folder / "base.rl").write_text("algorithm base {\n  param base_lr : float = 1e-5\n}\n")
    text = (folder / "tiny.rl").read_text().replace("lr = 1e-5", "lr = base_lr")
    (folder / "sub" / "mine.rl").write_text(f'import "../base.rl"\n{text}')
    git("add", ".")
    git("commit", "-qm", "one")
    (folder / "sub" / "mine.rl").write_text(
        f'import "../base.rl"\n{text}'.replace("group : int = 4", "group : int = 2")
    )
    return folder


def test_revisions(diff, repository, monkeypatch):
    shown = diff("HEAD:sub/mine.rl", "sub/mine.rl")
    assert shown.startswith("HEAD:sub/mine.rl -> sub/mine.rl\n")
    assert "~ group  4 -> 2" in shown
    diff("HEAD:sub/mine.rl", "HEAD:./sub/mine.rl", code=0)
    monkeypatch.chdir(repository / "sub")
    diff("HEAD:./mine.rl", "HEAD:sub/mine.rl", code=0)


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("HEAD:sub/mien.rl", "revision HEAD has no file `sub/mien.rl`; did you mean `sub/mine.rl`?"),
        ("nosuch:tiny.rl", "`nosuch:tiny.rl` names no file, nor a revision that git knows"),
        ("nope.rl", "cannot read `nope.rl`"),
        ("bad.rl", "unknown field `text`"),
    ],
)
def test_mistakes(diff, repository, side, said):
    assert said in diff(side, "tiny.rl", code=1)
