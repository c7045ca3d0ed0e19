"""The user's own functions, from either form."""

from pathlib import Path

import msgspec
import pytest

from rldsl.compiler.ops import ComputeOp
from rldsl.compiler.pipeline import Options, check_file, compile_file
from rldsl.compiler.plan import Source
from rldsl.compiler.signature import library_names, library_signature
from tests.compiler.programs import PROGRAM

REWARDS = """
import rldsl as rl


def brevity(completions: str, answers: str, *, weight: float = 1.0) -> float:
    return weight / (1 + len(completions))


def batched(completions: rl.Text, answers: rl.Text) -> rl.PerSample:
    import torch

    return torch.tensor([float(len(c)) for c in completions])
"""


def write(folder: Path, body: str, call: str) -> Path:
    (folder / "mine.py").write_text(body)
    path = folder / "mine.rl"
    path.write_text('use "mine.py"\n\n' + PROGRAM.replace("exact_match(completions, answers)", call))
    return path


def codes(path: Path) -> list[str]:
    return [d.code for d in check_file(path, Options())]


@pytest.mark.parametrize(
    ("call", "per_row"),
    [("brevity(completions, answers; weight = 2.0)", True), ("batched(completions, answers)", False)],
)
def test_used_from_rl(tmp_path: Path, call: str, per_row: bool) -> None:
    plan = compile_file(write(tmp_path, REWARDS, call)).plan
    spec = plan.function(call.split("(", maxsplit=1)[0])
    assert spec.file == "mine.py" and spec.sha256 and spec.per_row == per_row


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("def brevity(completions, answers: str) -> float: ...", "RL0305"),
        ("def brevity(completions: str, answers: str): ...", "RL0305"),
        ("def brevity(completions: rl.PerTokn, answers: str) -> float: ...", "RL0305"),
        ("def brevity(*rows: str) -> float: ...", "RL0305"),
        ("def brevity(completions: str, answers: str, *, weight) -> float: ...", "RL0305"),
        ("def brevty(completions: str, answers: str) -> float: ...", "RL0204"),
        ("def brevity(completions: str", "RL0102"),
    ],
)
def test_bad_signatures(tmp_path: Path, body: str, code: str) -> None:
    assert codes(write(tmp_path, body, "brevity(completions, answers)")) == [code]


def test_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path, REWARDS, "brevity(completions, answers)")
    (tmp_path / "mine.py").unlink()
    assert codes(path) == ["RL0101"]


def test_library_name_is_taken(tmp_path: Path) -> None:
    body = "def exact_match(completions: str, answers: str) -> float: ..."
    assert codes(write(tmp_path, body, "exact_match(completions, answers)")) == ["RL0205"]


def test_every_library_function_is_readable() -> None:
    assert {"policy_loss", "value_loss", "gae", "group_advantage", "kl_penalty", "math_verify"} <= set(library_names())
    for name in library_names():
        signature = library_signature(name)
        assert signature is not None and (signature.outputs or signature.is_loss), name


PYTHON = """
import rldsl as rl

rl.algorithm("small")
actor = rl.policy("actor", rl.scratch(alphabet="01"))
rl.inputs("prompts", "answers", source=rl.jsonl("rows.jsonl"), batch=4)


@rl.node(role=rl.ACTOR)
def rollout(prompts: rl.Prompts) -> rl.Rollout:
    return actor.generate(prompts, n=2, max_new_tokens=4)


@rl.function
def marked(completions: str, answers: str) -> float:
    return float(completions == answers)


@rl.node(role=rl.REWARD)
def reward({params}) -> {result}:
    {body}


@rl.node(role=rl.ADVANTAGE)
def advantage(score: rl.Score) -> rl.GroupAdvantages:
    return rl.lib.group_advantage(score)


@rl.node(role=rl.ACTOR, type=rl.{kind})
def update(tokens: rl.TokenIds, response_mask: rl.Mask, advantages: rl.GroupAdvantages, rollout_logp: rl.RolloutLogp) -> rl.Metrics:
    loss = rl.lib.policy_loss(tokens, response_mask, advantages, old_logp=rollout_logp)
    return actor.train(loss, lr=0.01)
"""
GOOD = {"params": "completions: rl.Text, answers: rl.Text", "result": "rl.Score", "kind": "MODEL_TRAIN"}


def python_file(folder: Path, **parts: str) -> Path:
    path = folder / "algorithm.py"
    path.write_text(PYTHON.format(**{**GOOD, **parts}))
    return path


def reward_of(path: Path) -> ComputeOp:
    return next(o for o in compile_file(path).plan.ops() if isinstance(o, ComputeOp) and o.id == "reward")


def test_own_body_is_the_function(tmp_path: Path) -> None:
    body = "import torch\n    return torch.tensor([float(c == a) for c, a in zip(completions, answers)])"
    assert reward_of(python_file(tmp_path, body=body)).function == "reward"


def test_marked_function_is_traced(tmp_path: Path) -> None:
    assert reward_of(python_file(tmp_path, body="return marked(completions, answers)")).function == "marked"


def test_library_function_is_traced_with_its_group(tmp_path: Path) -> None:
    path = python_file(tmp_path, body="return rl.lib.exact_match(completions, answers)")
    assert reward_of(path).function == "exact_match"
    advantage = next(o for o in compile_file(path).plan.ops() if o.id == "advantage")
    assert advantage.params == {"group": 2}, "a group function gets its rollout's number of samples"


def test_rl_and_python_share_a_function(tmp_path: Path) -> None:
    """The same reward from a .rl file and from the Python file that defines it: one plan."""
    python = python_file(tmp_path, body="return marked(completions, answers)")
    from rldsl.compiler.frontend import load_graph, read_source
    from rldsl.compiler.printer import print_graph

    (tmp_path / "twin.rl").write_text(print_graph(load_graph(python, read_source(python))))
    plans = [msgspec.structs.replace(compile_file(p).plan, source=Source()) for p in (python, tmp_path / "twin.rl")]
    assert plans[0] == plans[1]


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"body": "return 1.0", "result": "float"}, "RL0105"),
        ({"body": "return marked(completions, answers)", "result": "rl.Scor"}, "RL0104"),
        ({"body": "return marked(completions, answers)", "kind": "COMPUTE"}, "RL0105"),
        ({"body": "return marked(completion, answers)", "params": "completion: rl.Text, answers: rl.Text"}, "RL0201"),
        ({"body": "return rl.lib.exact_mach(completions, answers)"}, "RL0204"),
    ],
)
def test_python_mistakes(tmp_path: Path, parts: dict[str, str], code: str) -> None:
    found = check_file(python_file(tmp_path, **parts), Options())
    assert [d.code for d in found] == [code], found
    assert found[0].span is not None and found[0].span.file.endswith("algorithm.py")
