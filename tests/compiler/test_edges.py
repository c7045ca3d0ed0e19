"""Programs at the edges: legal ones that must compile, wrong ones that must not crash the compiler."""

from pathlib import Path

import pytest

from rldsl.compiler.ops import ComputeOp, SaveOp, TrainOp
from rldsl.compiler.pipeline import Options, check_file, compile_file
from rldsl.diagnostics import DiagnosticError
from tests.compiler.programs import PPO, PROGRAM, after, compiled, errors
from tests.compiler.test_functions import python_file

SWITCH = "small {\n  param on : bool = false"


def codes(text: str, *settings: str) -> list[str]:
    return [d.code for d in errors(text, *settings)]


def test_no_training_is_left() -> None:
    text = PROGRAM.replace("small {", SWITCH).replace("with lr = 0.001, minibatch = 8", "with lr = 0.001 when on")
    assert codes(text) == ["RL0403"]
    assert codes(text, "on=true") == []


def test_a_training_that_is_off_does_not_count() -> None:
    off = "  node extra = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.1, minibatch = 3 when on\n}"
    text = PROGRAM.replace("small {", SWITCH).rstrip().removesuffix("}") + off
    assert codes(text) == []
    assert codes(text, "on=true") == ["RL0402"]


def test_nothing_is_left_to_read(tmp_path: Path) -> None:
    mine = "import rldsl as rl\ndef f(ref_logp: rl.PerToken | None = None) -> rl.PerSample: ...\n"
    (tmp_path / "mine.py").write_text(mine)
    text = PROGRAM.replace("compute exact_match(completions, answers)", "compute f(ref_logp?)")
    (tmp_path / "a.rl").write_text('use "mine.py"\n' + text)
    assert [d.code for d in check_file(tmp_path / "a.rl") if d.severity == "error"] == ["RL0302"]


def test_a_function_of_no_fields() -> None:
    assert codes(PROGRAM.replace("exact_match(completions, answers)", "exact_match()")) == ["RL0302"]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("def f(completions: rl.Text) -> rl.PromptText: ...", "RL0301"),
        ("def f(completions: str, /) -> float: ...", "RL0305"),
        ('def f(completions: "a b") -> float: ...', "RL0305"),
        ("def f(completions: None | None) -> float: ...", "RL0305"),
        ("@rl.vanishes_where_zero(FIELD)\ndef f(completions: str) -> float: ...", "RL0305"),
        ('@rl.vanishes_where_zero("nothing")\ndef f(completions: str) -> float: ...', "RL0305"),
        ("@rl.vanishes_where_zero()\ndef f(completions: str) -> float: ...", "RL0305"),
    ],
)
def test_functions(tmp_path: Path, source: str, code: str) -> None:
    (tmp_path / "mine.py").write_text(f"import rldsl as rl\n\n\n{source}\n")
    (tmp_path / "a.rl").write_text(
        'use "mine.py"\n' + PROGRAM.replace("exact_match(completions, answers)", "f(completions)")
    )
    found = [d.code for d in check_file(tmp_path / "a.rl") if d.severity == "error"]
    assert found[0] == code, found


@pytest.mark.parametrize(
    "params",
    [
        "logp: rl.PerToken",
        "logp: rl.PerSample, response_mask: rl.Mask",
        "logp: rl.PerToken, response_mask: rl.Mask, tokens: rl.TokenIds",
    ],
)
def test_losses(tmp_path: Path, params: str) -> None:
    (tmp_path / "mine.py").write_text(f"import rldsl as rl\n\n\ndef mine({params}) -> rl.TokenLoss: ...\n")
    text = PROGRAM.replace(
        "policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef)", "mine(tokens, response_mask)"
    )
    (tmp_path / "a.rl").write_text('use "mine.py"\n' + text)
    assert [d.code for d in check_file(tmp_path / "a.rl") if d.severity == "error"] == ["RL0305"]


def test_a_policy_that_does_not_generate_is_saved() -> None:
    text = PROGRAM.replace("model reference : policy = frozen actor", "model reference : policy = copy actor")
    text = text.replace("= actor.train", "= reference.train").replace("ref_logp?; kl_coef", "ref_logp?; kl_coef")
    assert [o.model for o in compiled(text).plan.ops() if isinstance(o, SaveOp)] == ["reference"]


def test_save_every() -> None:
    plan = compiled(PROGRAM.replace("with lr = 0.001", "with save_every = 5, lr = 0.001")).plan
    assert next(o for o in plan.ops() if isinstance(o, SaveOp)).every == 5


@pytest.mark.parametrize(
    ("declared", "code"),
    [("bool = true", "RL0404"), ('str = "7"', "RL0404"), ("int = -1", "RL0404"), ("int = 7", None)],
)
def test_seed(declared: str, code: str | None) -> None:
    assert codes(PROGRAM.replace("small {", f"small {{\n  param seed : {declared}")) == ([code] if code else [])


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("lr = 0.001", "lr = 1e999", "RL0304"),
        ("lr = 0.001", "lr = 0.001, beta1 = 1.0", "RL0404"),
        ("minibatch = 8", "minibatch = 8_", "RL0102"),
        ("param group   : int   = 4", 'param group   : str   = -"a"', "RL0102"),
        ('"rows.jsonl"', '"rows\\xZZ"', "RL0102"),
        ('"rows.jsonl"', '"rows\\0"', "RL0102"),
        ("n = group", 'n = "%z" % group', "RL0304"),
        ("n = group", f"n = {'9' * 400} / group", "RL0304"),
        ("n = group", f"n = {' + '.join(['1'] * 3000)}", "RL0102"),
    ],
)
def test_values(old: str, new: str, code: str) -> None:
    try:
        found = codes(PROGRAM.replace(old, new, 1))
    except DiagnosticError as error:  # of the parser
        found = [d.code for d in error.diagnostics]
    assert found == [code]


def test_brackets_nest_as_deep_as_they_like() -> None:
    assert codes(PROGRAM.replace("lr = 0.001", f"lr = {'(' * 3000}0.001{')' * 3000}")) == []


def test_none_turns_clipping_off() -> None:
    text = PPO.replace(
        "value_loss(tokens, response_mask, values, returns)",
        "value_loss(tokens, response_mask, values, returns; value_clip = none)",
    )
    train = next(o for o in compiled(text).plan.ops() if isinstance(o, TrainOp) and o.loss == "value_loss")
    assert train.params == {"value_clip": None}
    assert codes(PROGRAM.replace("lr = 0.001", "lr = none")) == ["RL0304"]


def test_after_a_node_that_is_gone() -> None:
    """`after` names nodes; a field of a node that is gone may be called the same as one that stays."""
    text = PROGRAM.replace("small {", SWITCH).replace(
        "  node old ", "  node late = compute exact_match(completions, answers) -> x when on\n  node old "
    )
    text = text.replace("-> advantages", "-> advantages after late, old")
    graph = after(text, "fold_conditions").graph
    assert graph.node_of["advantage"].after == ("old",)


def test_groups_need_samples(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import rldsl as rl\n\n\ndef f(answers: rl.Text) -> rl.PerSample: ...\n")
    text = PROGRAM.replace("exact_match(completions, answers)", "f(answers)").replace("(score; group)", "(score)")
    (tmp_path / "a.rl").write_text('use "mine.py"\n' + text)
    assert [d.code for d in check_file(tmp_path / "a.rl") if d.severity == "error"] == ["RL0301"]


def test_deploy_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a.rl").write_text(PROGRAM)
    (tmp_path / "d.rl").write_text("deploy {\n  actr.generate : hf(dp = 2)\n}\n")
    found = check_file(tmp_path / "a.rl", Options(deploy=tmp_path / "d.rl"))
    assert [d.code for d in found] == ["RL0202"] and found[0].span is not None and found[0].span.file.endswith("d.rl")


BASE = """
import rldsl as rl

actor = rl.policy("actor", rl.scratch(alphabet="01"))
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('rl.policy("other", "org/name")', "RL0105"),
        ('rl.policy("other")', "RL0105"),
        ('rl.policy("other", copy="actor")', "RL0105"),
        ('rl.inputs("prompts", source="rows.jsonl", batch=8)', "RL0105"),
        ('rl.inputs("prompts", source=rl.jsonl("f"), batch=8, type="txt")', "RL0210"),
        ('rl.layout("actor", "train", "fsdp", dp=2)', "RL0105"),
        ('rl.deploy(cluster="h100")', "RL0105"),
        ("rl.deploy(cluster=(8,))", "RL0105"),
        ("import sys; sys.exit(3)", "RL0104"),
        ("rl.inputs('prompts', source=rl.jsonl('f'), batch=[1])", "RL0105"),
    ],
)
def test_python_declarations(tmp_path: Path, line: str, code: str) -> None:
    (tmp_path / "a.py").write_text(BASE + line + "\n")
    assert [d.code for d in check_file(tmp_path / "a.py")] == [code]


@pytest.mark.parametrize(
    ("body", "function"),
    [
        ("return rl.lib.exact_match(completions, answers)", "exact_match"),
        ("x = rl.lib.exact_match(completions, answers)\n    return x", "reward"),
        ("return [0.5 * rl.lib.exact_match(c, a) for c, a in zip(completions, answers)]", "reward"),
        ("return rl.lib.exact_match(completions, answers) * 0.5", "reward"),
    ],
)
def test_a_body_is_one_call_or_runs(tmp_path: Path, body: str, function: str) -> None:
    plan = compile_file(python_file(tmp_path, body=body)).plan
    assert next(o for o in plan.ops() if isinstance(o, ComputeOp) and o.id == "reward").function == function


def test_a_models_method_is_the_whole_body(tmp_path: Path) -> None:
    path = python_file(tmp_path, body="return actor.generate(completions)[0]")
    assert [d.code for d in check_file(path)] == ["RL0105"]


def test_a_function_from_a_package_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "pk").mkdir()
    (tmp_path / "pk" / "rewards.py").write_text(
        "import rldsl as rl\n\n\n@rl.function\ndef mine(completions: str, answers: str) -> float:\n    return 0.0\n"
    )
    path = python_file(tmp_path, body="return mine(completions, answers)")
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom pk.rewards import mine\n\n\n@dataclass\nclass Note:\n    text: str\n\n\n"
        + path.read_text()
    )
    spec = compile_file(path).plan.function("mine")
    assert spec.file == "pk/rewards.py"


def test_after_takes_functions(tmp_path: Path) -> None:
    path = python_file(tmp_path, body="return rl.lib.exact_match(completions, answers)")
    path.write_text(
        path.read_text().replace("@rl.node(role=rl.ADVANTAGE)", "@rl.node(role=rl.ADVANTAGE, after=reward)")
    )
    assert not check_file(path)


@pytest.mark.parametrize(
    "signature",
    [
        "completions: str, answers: str) -> rl.PerSample",
        "completions: str, answers: rl.Text) -> float",
        "completions: rl.Text) -> float",
    ],
)
def test_one_row_or_all_rows(tmp_path: Path, signature: str) -> None:
    (tmp_path / "mine.py").write_text(f"import rldsl as rl\n\n\ndef f({signature}: ...\n")
    (tmp_path / "a.rl").write_text(
        'use "mine.py"\n' + PROGRAM.replace("exact_match(completions, answers)", "f(completions)")
    )
    assert [d.code for d in check_file(tmp_path / "a.rl") if d.severity == "error"] == ["RL0305"]


def test_tokens_need_a_field_with_tokens(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import rldsl as rl\n\n\ndef f(score: rl.PerSample) -> rl.PerToken: ...\n")
    (tmp_path / "a.rl").write_text(
        'use "mine.py"\n' + PROGRAM.replace("compute group_advantage(score; group)", "compute f(score)")
    )
    assert [d.code for d in check_file(tmp_path / "a.rl") if d.severity == "error"] == ["RL0301"]


def test_a_misspelt_function_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def overlap(completions: str, answers: str) -> float: ...\n")
    (tmp_path / "a.rl").write_text('use "mine.py"\n' + PROGRAM.replace("compute exact_match", "compute overlapp"))
    found = [d for d in check_file(tmp_path / "a.rl") if d.severity == "error"]
    assert [(d.code, d.fix) for d in found] == [("RL0204", "did you mean `overlap`?")]


@pytest.mark.parametrize(
    ("text", "said"),
    [('algorithm a {\n  param x : str = "abc\n}', "not closed"), (PROGRAM.rstrip().removesuffix("}"), "line 1")],
)
def test_what_is_not_closed(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.rl").write_text(text)
    (found,) = check_file(tmp_path / "a.rl")
    assert found.code == "RL0102" and said in f"{found.message} {found.fix}"


@pytest.mark.parametrize("setting", ['alphabet = ""', 'alphabet = "01", hidden = 63'])
def test_a_scratch_model_that_cannot_be(setting: str) -> None:
    assert codes(PROGRAM.replace('alphabet = "01"', setting)) == ["RL0404"]


def test_node_without_brackets_and_training_without_annotation(tmp_path: Path) -> None:
    path = python_file(tmp_path, body="return marked(completions, answers)")
    text = path.read_text().replace("@rl.node(role=rl.ACTOR)\ndef rollout", "@rl.node\ndef rollout")
    path.write_text(text.replace(") -> rl.Metrics:", "):"))
    assert not check_file(path)


@pytest.mark.parametrize(
    ("old", "new", "code", "fix"),
    [
        ("return actor.generate", "return actr.generate", "RL0202", "did you mean `actor`?"),
        (
            "    return actor.train(loss, lr=0.01)",
            "    actor.train(loss, lr=0.01)",
            "RL0105",
            "return actor.train(...)",
        ),
        ("rl.GroupAdvantages:", "rl.GroupAdvantage:", "RL0104", "GroupAdvantages"),
    ],
)
def test_the_cause_is_named(tmp_path: Path, old: str, new: str, code: str, fix: str) -> None:
    path = python_file(tmp_path, body="return marked(completions, answers)")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    (found,) = check_file(path)
    assert found.code == code and fix in f"{found.message} {found.fix}"


def test_a_template_for_a_field_nobody_reads_is_dropped() -> None:
    text = PROGRAM.replace("input prompts, answers", "input question, prompts, answers").replace(
        'jsonl("rows.jsonl")', 'jsonl("rows.jsonl"; template = "{question}?")'
    )
    load = next(iter(compiled(text).plan.ops()))
    assert load.source.args["template"] == "{question}?", "`prompts` takes the template"
    text = text.replace("question, prompts, answers", "question, asked, answers").replace(
        "generate(prompts;", "generate(prompts = asked;"
    )
    load = next(iter(compiled(text).plan.ops()))
    assert "template" not in load.source.args and "question" not in load.columns
