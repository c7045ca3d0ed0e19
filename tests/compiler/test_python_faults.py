"""A mistake in Python declarations is a diagnostic that points at it; all of a file's are reported together."""

from pathlib import Path

import pytest

from rldsl.compiler.pipeline import Options, check_file
from rldsl.diagnostics import Diagnostic
from tests.compiler.python_programs import MINE, SMALL

SCORE = "def advantage(score: rl.Score) -> rl.GroupAdvantages:"

# (code, the text that the caret stands under, what to add to SMALL)
ADDED = [
    ("RL0105", "gt=0", "x = rl.param('a', gt=0, ge=1)", True),
    ("RL0105", "le='1'", "x = rl.param(1, le='1')", False),
    ("RL0105", "choices=()", "x = rl.param(1, choices=[])", True),
    ("RL0105", "choices='ab'", "x = rl.param('a', choices='ab')", False),
    ("RL0105", "choices=(1,)", "x = rl.param(1, ge=0, choices=(1,))", False),
    ("RL0105", "unit='promts'", "x = rl.param(1, unit='promts')", False),
    ("RL0105", "rl.param(1)", "x = [rl.param(1)]", False),
    ("RL0105", "rl.param(1, name='the x')", "rl.param(1, name='the x')", False),
    ("RL0105", "rl.count('8', 'prompts')", "rl.count('8', 'prompts')", False),
    ("RL0304", "rl.param([1])", "x = rl.param([1])", False),
    ("RL0105", "rl.policy('other')", "rl.policy('other')", False),
    ("RL0105", "rl.value('other', shared=actor, copy=actor)", "rl.value('other', shared=actor, copy=actor)", False),
    ("RL0105", "rl.reward('other', 'path')", "rl.reward('other', 'path')", False),
    ("RL0105", "rl.value('other', shared='actor')", "rl.value('other', shared='actor')", False),
    ("RL0105", "rl.policy('none', copy=actor)", "rl.policy('none', copy=actor)", False),
    ("RL0207", "lora_rnk=8", "rl.policy('other', copy=actor, lora_rnk=8)", False),
    ("RL0105", "rl.inputs('a', source='rows.jsonl', batch=4)", "rl.inputs('a', source='rows.jsonl', batch=4)", False),
    ("RL0105", "batch=[4]", "rl.inputs('a', source=rl.jsonl('f'), batch=[4])", False),
    ("RL0210", "type='txt[prompt]'", "rl.inputs('a', source=rl.jsonl('f'), batch=4, type='txt[prompt]')", False),
    ("RL0105", "rl.inputs(source=rl.jsonl('f'), batch=4)", "rl.inputs(source=rl.jsonl('f'), batch=4)", False),
    ("RL0105", "rl.metric('m')", "rl.metric('m')", False),
    ("RL0105", "rl.metric('m', mean='a', max='b')", "rl.metric('m', mean='a', max='b')", False),
    ("RL0105", "mean='a b'", "rl.metric('m', mean='a b')", False),
    ("RL0105", "rl.output('m')", "rl.output('m')", False),
    ("RL0105", "rl.loop('m', max=2)", "with rl.loop('m', max=2):\n    pass", False),
    (
        "RL0105",
        "rl.loop('m', max=2, collect='a')",
        "with rl.loop('m', max=2, collect='a'):\n    pass",
        False,
    ),
    (
        "RL0105",
        "rl.validate('in', every=2)",
        "with rl.validate('out', every=2):\n    with rl.validate('in', every=2):\n        pass",
        False,
    ),
    (
        "RL0105",
        "rl.inputs('a', source=rl.jsonl('f'), batch=4)",
        "with rl.loop('m', max=2, carry='tokens'):\n    rl.inputs('a', source=rl.jsonl('f'), batch=4)",
        False,
    ),
    ("RL0105", "rl.deploy(cluster='8 x cpu')", "rl.deploy(cluster='8 x cpu')", False),
    ("RL0105", "rl.layout('actor', 'train', 'fsdp')", "rl.layout('actor', 'train', 'fsdp')", False),
    ("RL0105", "rl.use(3)", "rl.use(3)", False),
    ("RL0105", "rl.check()", "rl.check()", False),
    ("RL0105", "rl.compile()", "rl.compile()", False),
    ("RL0104", "1 if lr > 0 else 2", "x = 1 if lr > 0 else 2", True),
]

# (code, the text that the caret stands under, what to replace in SMALL, by what)
BENT = [
    ("RL0305", "score", SCORE, "def advantage(score) -> rl.GroupAdvantages:"),
    ("RL0305", "rows", SCORE, "def advantage(*rows: rl.Score) -> rl.GroupAdvantages:"),
    ("RL0301", "rl.Completions", SCORE, "def advantage(score: rl.Completions) -> rl.GroupAdvantages:"),
    ("RL0301", "rl.Advantages", SCORE, "def advantage(score: rl.Score) -> rl.Advantages:"),
    ("RL0301", "rl.Values", "-> rl.Score:", "-> rl.Values:"),
    ("RL0105", "advantage", SCORE, "def advantage(score: rl.Score):"),
    ("RL0105", "advantage", SCORE, "def advantage(score: 'rl.Scre') -> rl.GroupAdvantages:"),
    ("RL0204", "rl.lib.group_advntage", "rl.lib.group_advantage", "rl.lib.group_advntage"),
    ("RL0206", "actor.generat", "actor.generate", "actor.generat"),
    ("RL0308", "actor.score", "actor.generate", "actor.score"),
    ("RL0105", "actor.generate(prompts, n=2, max_new_tokens=4)", "return actor.gen", "rows = len(prompts)\n    return actor.gen"),
    ("RL0105", "rollout", "return actor.generate(prompts, n=2, max_new_tokens=4)", "..."),
    ("RL0105", "actor.generate('a', n=2, max_new_tokens=4)", "generate(prompts", "generate('a'"),
    ("RL0105", "actor.train(lr, lr=lr)", "actor.train(rl.lib.policy_loss(tokens, response_mask, advantages, old_logp=rollout_logp)", "actor.train(lr"),
    ("RL0207", "max_tokens=4", "max_new_tokens=4", "max_new_tokens=4, max_tokens=4"),
    ("RL0207", "mini=4", "lr=lr)", "lr=lr, mini=4)"),
    ("RL0105", "n=[2]", "n=2", "n=[2]"),
    ("RL0304", "n='2'", "n=2", "n='2'"),
    ("RL0105", "réward", "def reward(", "def réward("),
]  # fmt: skip


def found_in(folder: Path, text: str) -> tuple[Diagnostic, ...]:
    path = folder / "algorithm.py"
    path.write_text(text)
    return tuple(d for d in check_file(path, Options()) if d.severity == "error")


def under_caret(text: str, diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    assert span is not None and span.file.endswith("algorithm.py"), diagnostic
    lines = text.splitlines()
    if span.end_line == span.line:
        return lines[span.line - 1][span.column - 1 : span.end_column - 1]
    return lines[span.line - 1][span.column - 1 :]


@pytest.mark.parametrize(("code", "under", "line", "within"), ADDED, ids=[a[2] for a in ADDED])
def test_added(tmp_path: Path, code: str, under: str, line: str, within: bool) -> None:
    """`within`: the caret stands under more than that text."""
    text = f"{SMALL}\n\n{line}\n"
    found = found_in(tmp_path, text)
    assert [d.code for d in found] == [code], found
    shown = under_caret(text, found[0])
    assert shown in line if within else shown == under


@pytest.mark.parametrize(("code", "under", "old", "new"), BENT, ids=[b[3] for b in BENT])
def test_bent(tmp_path: Path, code: str, under: str, old: str, new: str) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new)
    found = found_in(tmp_path, text)
    assert [d.code for d in found] == [code], found
    assert under_caret(text, found[0]).startswith(under), found


def test_all_at_once_and_in_order(tmp_path: Path) -> None:
    text = SMALL.replace("gt=0", "gt='0'").replace("score: rl.Score", "score: rl.Text").replace("n=2", "n=[2]")
    text += "\n\nrl.metric('m')\nundefined\n"
    assert [d.code for d in found_in(tmp_path, text)] == ["RL0105", "RL0105", "RL0104"]
    text = text.replace("undefined\n", "")
    assert [d.code for d in found_in(tmp_path, text)] == ["RL0105", "RL0105", "RL0301", "RL0105"]


def test_two_bodies_of_one_name(tmp_path: Path) -> None:
    own = "@rl.node{}\ndef count(completions: rl.Text) -> rl.Score:\n    return [1.0 + 1.0 for _ in completions]\n\n\n"
    text = SMALL.replace(
        "@rl.node\ndef reward(", own.format("") + own.format("(name='again', writes='more')") + "@rl.node\ndef reward("
    ).replace("rl.Answers) -> rl.Score", "rl.Answers) -> rl.OldLogp")
    found = found_in(tmp_path, text)
    assert {d.code for d in found} == {"RL0205", "RL0301"}
    assert any(d.labels and d.labels[0].span.line < d.span.line for d in found if d.span)


def test_a_prompts_row_is_read_by_its_samples(tmp_path: Path) -> None:
    assert not found_in(tmp_path, SMALL.replace("answers: rl.Answers", "answers: rl.Text"))


@pytest.mark.parametrize(
    ("call", "code"), [("mine.brevity(completions, answers)", None), ("mine.brevty(completions, answers)", "RL0204")]
)
def test_functions_of_a_file(tmp_path: Path, call: str, code: str | None) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    text = SMALL.replace("rl.lib.exact_match(completions, answers)", call)
    found = found_in(tmp_path, text.replace("lr = ", "mine = rl.use('mine.py')\nlr = "))
    assert [d.code for d in found] == ([code] if code else [])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    text = SMALL.replace("rl.lib.exact_match", "mine.brevity").replace("lr = ", "mine = rl.use('mine.py')\nlr = ")
    found = found_in(tmp_path, text)
    assert [d.code for d in found] == ["RL0101"]
    assert under_caret((tmp_path / "algorithm.py").read_text(), found[0]) == "rl.use('mine.py')"


def test_faults_of_declarations_hide_no_others(tmp_path: Path) -> None:
    """What a faulty declaration would have named is not known, so nobody who names it is told that it is unknown."""
    (tmp_path / "a.py").write_text(
        """\
import rldsl as rl

actor = rl.policy("actor", rl.scratch(alphabet="01"))
rl.inputs("prompts", "answers", source=rl.jsonl("rows.jsonl"), batch=-4)
lr = rl.param(0.1, gt=0, ge=1)


@rl.node
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=4, max_new_tokens=4, temprature=1.0)


@rl.node
def reward(completions: rl.Completions, answers: rl.Answers):
    return rl.lib.exact_match(completions, answers)


@rl.node
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(score, grup=3)
"""
    )
    found = check_file(tmp_path / "a.py")
    assert [(d.code, d.span and d.span.line) for d in found] == [
        ("RL0404", 4),
        ("RL0105", 5),
        ("RL0207", 10),
        ("RL0105", 14),
        ("RL0207", 20),
    ]


HEAD = """\
from typing import Annotated

import rldsl as rl

actor = rl.policy("actor", rl.scratch(alphabet="01="))
weight = rl.param(0.1)
rl.inputs("prompts", "answers", source=rl.jsonl("rows.jsonl"), batch=4)


def plain(logp: rl.PerToken, response_mask: rl.Mask, advantages: rl.PerSample) -> rl.TokenLoss:
    return rl.TokenLoss(-advantages[:, None] * logp)


@rl.node
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=4, max_new_tokens=4)


"""
TRAIN = "@rl.node\ndef update(tokens: rl.TokenIds, response_mask: rl.Mask, advantages: rl.GroupAdvantages) -> rl.Metrics:\n    "


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        (
            TRAIN + "return actor.train(plain(tokens, response_mask, advantages), lr=0.1)\n",
            "`plain` is called inside `actor.train(...)`",
            "put `@rl.function` above `def plain`",
        ),
        (TRAIN + "return actor.train(lr=0.1)\n", "`actor.train` needs a loss", "write `actor.train(rl.lib"),
        (
            TRAIN + "return actor.train(rl.lib.reinforce_loss(tokens, response_mask, advantages), lr=float(weight))\n",
            "`float` is called inside `actor.train(...)`",
            "give the value as it is",
        ),
        (
            '@rl.node\ndef score(completions: str) -> Annotated[float, "score"]:\n    return weight * len(completions)\n',
            "`weight` is a parameter, which has no value inside `score`",
            "def score(..., *, weight: float = weight)",
        ),
        ('rl.policy("other", rl.scratch(alphabet=f"01{weight}"))\n', "so no text can be made of it", "join strings"),
    ],
    ids=["unmarked loss", "no loss", "float()", "global parameter", "f-string"],
)  # fmt: skip
def test_what_stands_for_a_value_that_is_not_there_yet(tmp_path: Path, text: str, message: str, fix: str) -> None:
    (tmp_path / "a.py").write_text(HEAD + text)
    (found,) = (d for d in check_file(tmp_path / "a.py") if d.code == "RL0105")
    assert message in found.message and found.fix is not None and fix in found.fix
    assert found.span is not None and found.span.line > HEAD.count("\n")
