"""No text makes `rldsl check` crash, hang, or take much memory: a few of what `bench/fuzz_check.py` tries, and its finds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.fuzz_check import SECONDS, Checker, Outcome, write_reproducer
from bench.mutations import FUNCTIONS, Program, program, seeds
from rldsl.compiler.parse import parse
from rldsl.compiler.passes.unroll_loops import MOST_COPIES
from rldsl.diagnostics import Diagnostics
from tests.compiler.programs import EXAMPLES, PROGRAM

RESAMPLED = """\
algorithm resampled {
  model actor : policy = scratch(; alphabet = "01=")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 16
  loop resample max 4 collect tokens, response_mask, rollout_logp, score where useful until 8 prompts {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
    node reward  = compute exact_match(completions, answers) -> score
    node spread  = compute has_spread(score) -> useful
  }
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.001
}
"""
HUGE = "9" * 5000


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    return Checker(tmp_path_factory.mktemp("fuzz"))


def codes(checker: Checker, text: str) -> list[str]:
    begin = time.process_time()  # a check never waits, but tests of others may run beside this one
    found = checker.check(Program(text, FUNCTIONS, "by hand"), as_json=True)[1]
    assert time.process_time() - begin < SECONDS
    return list(found)


def test_mutated_programs(checker: Checker) -> None:
    crashes = [o.crash for n in range(300) if (o := checker.outcome(n, program(7, n))).crash]
    assert not crashes


def test_a_seed_makes_the_same_programs() -> None:
    assert program(3, 14) == program(3, 14)
    assert len({program(3, n).text for n in range(50)}) > 45


def test_most_seeds_are_right() -> None:
    right = 0
    for text in seeds():
        found = Diagnostics()
        parse(text, "seed.rl", found)
        right += not found.has_errors
    assert right > 20 and right > 0.8 * len(seeds())  # the rest are the wrong examples of error pages


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("float = 0.0", f"float = {HUGE}", ["RL0304"]),
        ("int   = 4", f"int   = {HUGE}", ["RL0304"]),
        ("int   = 4", "int   = -9223372036854775808", ["RL0304"]),
        ("lr = 0.001", "lr = 1e999", ["RL0304"]),
        ("group   : int   = 4", "group   : int   = 4 in [1, 1e999]", ["RL0304"]),
        ("n = group", f"n = {HUGE}", ["RL0304"]),
        ("n = group", "n = " + " * ".join(["1_000_000_000"] * 9) + " // 1", ["RL0304"]),
        ("lr = 0.001", "lr = 1e300 * 1e300", ["RL0304"]),
        ('"rows.jsonl"', '"a" * 1_000_000_000_000', ["RL0304"]),
        ('"rows.jsonl"', '"%1000000000000d" % 1', ["RL0304"]),
        ('"rows.jsonl"', '"\\ud800"', ["RL0102"]),
        ("minibatch = 8", "minibatch = 7", ["RL0402"]),
    ],
)
def test_numbers_and_strings_that_no_plan_holds(checker: Checker, old: str, new: str, expected: list[str]) -> None:
    assert PROGRAM.count(old) >= 1
    found = codes(checker, PROGRAM.replace(old, new, 1))
    assert [c for c in found if not c.startswith("RL045")] == expected


def test_the_divisors_of_a_huge_batch_are_not_counted_out(checker: Checker) -> None:
    text = PROGRAM.replace("= 8 prompts", "= 1_000_000_000_000_000_003 prompts")
    assert codes(checker, text) == ["RL0402"]


def test_a_deployment_on_very_many_devices(checker: Checker) -> None:
    assert codes(checker, f"{PROGRAM}deploy {{ cluster {HUGE} x cpu }}") == ["RL0304"]


@pytest.mark.parametrize("bound", [MOST_COPIES // 4 + 1, 10**9, 10**18])
def test_a_loop_too_long_to_unroll(checker: Checker, bound: int) -> None:
    assert codes(checker, RESAMPLED.replace("max 4", f"max {bound}")) == ["RL0404"]


def test_the_longest_loop(checker: Checker) -> None:
    assert codes(checker, RESAMPLED.replace("max 4", f"max {MOST_COPIES // 4}")) == []


@pytest.mark.parametrize("names", ["score, score", "tokens, tokens, score"])
def test_a_field_collected_twice(checker: Checker, names: str) -> None:
    text = RESAMPLED.replace("rollout_logp, score where", f"rollout_logp, {names} where")
    assert set(codes(checker, text)) == {"RL0205"}


def test_a_field_carried_twice(checker: Checker) -> None:
    text = (EXAMPLES / "tools.rl").read_text().replace("carry tokens,", "carry tokens, tokens,")
    assert codes(checker, text) == ["RL0205"]


def test_a_thousand_unknown_names(checker: Checker) -> None:
    lines = "".join(f"  node n{i} = compute exact_match(completion{i}, answers) -> out{i}\n" for i in range(1000))
    assert codes(checker, PROGRAM.replace("  node reward", f"{lines}  node reward")).count("RL0201") == 1000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train policy_loss(tokens, response_mask,", "train policy_loss(tokens, response_mask = kl_coef,"),
        ("compute exact_match(completions, answers)", "compute exact_match(completions, answers = kl_coef)"),
        ("  node old ", "  output rows = score, rows = kl_coef\n  node old "),
        ("  node old ", "  metric m = mean(score, mask = kl_coef)\n  node old "),
    ],
)
def test_a_parameter_where_a_field_belongs(checker: Checker, old: str, new: str) -> None:
    assert PROGRAM.count(old) == 1
    assert codes(checker, PROGRAM.replace(old, new)) == ["RL0201"]


def test_what_is_left_of_a_crash_is_what_it_needs(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(one: Program, *, as_json: bool) -> None:
        assert "kl_coef > 0" not in one.text

    monkeypatch.setattr(checker, "check", fails)
    outcome = checker.outcome(0, Program(PROGRAM, FUNCTIONS, "by hand"))
    assert "AssertionError" in outcome.crash and outcome.text.split() == ["kl_coef", ">", "0"]


def test_a_reproducer_says_what_happened(tmp_path: Path) -> None:
    path = write_reproducer(Outcome(5, 0.1, crash="line one\nValueError: two", text="algorithm a {}\n"), 3, tmp_path)
    assert path.read_text().splitlines()[-1] == "algorithm a {}"
    assert "# ValueError: two" in path.read_text()


def test_the_bench_runs() -> None:
    script = Path(__file__).parents[2] / "bench" / "fuzz_check.py"
    done = subprocess.run(
        [sys.executable, str(script), "--count", "15", "--seed", "4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "count=15" in done.stdout and "crashes=0" in done.stdout
