"""What a message suggests is what helps: mistakes of people who learn the language."""

from pathlib import Path

import pytest

from rldsl.compiler.pipeline import check_file
from tests.compiler.programs import PROGRAM

LOOP = """\
  node first = actor.generate(prompts; n = 4, max_new_tokens = 4) -> t, m, l, said
  loop talk max 2 carry t, m, l {
    node tool = compute calculator(said) -> observation, done
    node next = actor.extend(t, m, l, observation, done; max_new_tokens = 4) -> t, m, l, said
  }
  metric length = mean(m)
"""
KEPT = """\
  loop more max 2 collect found where useful {
    node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> t, m, l, texts
    node reward  = compute exact_match(completions = texts, answers) -> found
    node spread  = compute has_spread(found) -> useful
  }
  output rows = answers, found
"""
MINE = "def short(completions: str, answers: str, weight: float = 0.1) -> float:\n    return 0.0\n"


def added(statements: str) -> str:
    return PROGRAM.rstrip().removesuffix("}") + statements + "}\n"


@pytest.mark.parametrize(
    ("text", "code", "fix"),
    [
        (added(LOOP), "RL0401", "carry what an iteration reads of the one before: `loop talk ... carry ..., said`"),
        (added(KEPT), "RL0310", "collect it too: `loop more ... collect ..., answers where ...`"),
        (
            PROGRAM.replace("generate(prompts; n = group, max", "generate(prompts, n = group; max"),
            "RL0303",
            "settings stand behind `;`: write `; n = group`",
        ),
        (PROGRAM.replace("with lr = 0.001", "with learning_rate = 0.001"), "RL0207", "did you mean `lr`?"),
        (added("  metric gap = mean(-rollout_logp, response_mask)\n"), "RL0102", "let a function make the field"),
        (
            'use "mine.py"\n' + PROGRAM.replace("exact_match(completions, answers)", "short(completions, answers; weight = 0.2)"),
            "RL0207",
            "a setting stands behind `*` in the function: `def short(..., *, weight: ...)`",
        ),
        (
            'import "base.rl"\nalgorithm a {\n  node mine = compute group_advantage(score; group, scale = false) -> advantages\n}\n',
            "RL0205",
            "call it `advantage` to replace that one",
        ),
    ],
    ids=["carry", "collect", "semicolon", "learning_rate", "negated", "keyword-only", "replace"],
)  # fmt: skip
def test_the_fix(tmp_path: Path, text: str, code: str, fix: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "base.rl").write_text(PROGRAM)
    (tmp_path / "a.rl").write_text(text)
    (found,) = (d for d in check_file(tmp_path / "a.rl") if d.severity == "error")
    assert (found.code, found.fix and fix in found.fix) == (code, True), found
