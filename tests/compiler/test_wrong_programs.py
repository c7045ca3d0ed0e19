"""Every mistake gets its code, its place and, where there is one, its fix; one mistake gives one error."""

from pathlib import Path

import pytest

from rldsl.compiler.pipeline import Options, check_file, compile_graph
from rldsl.diagnostics import Diagnostic, DiagnosticError, Severity
from tests.compiler.programs import PPO, PROGRAM, graph_of

# (code, what to replace in PROGRAM, by what, the text that the caret must stand under)
BENT = [
    ("RL0102", "node reward ", "nod reward ", "nod"),
    ("RL0102", "-> score", "=> score", "=>"),
    ("RL0102", "(completions, answers)", "(completions, answers", "->"),
    ("RL0102", "group   : int   = 4", "group   : int   =", "="),
    ("RL0210", "group   : int ", "group   : integer ", "integer"),
    ("RL0210", "reference : policy ", "reference : polcy ", "polcy"),
    ("RL0210", "text[prompt]", "string[prompt]", "string[prompt]"),
    ("RL0201", "exact_match(completions,", "exact_match(completion,", "completion"),
    ("RL0202", "= actor.generate", "= acter.generate", "acter"),
    ("RL0203", "n = group", "n = grup", "grup"),
    ("RL0203", "when kl_coef > 0", "when kl_coeff > 0", "kl_coeff"),
    ("RL0204", "compute exact_match", "compute exact_mach", "exact_mach"),
    ("RL0205", "node old ", "node reward ", "reward"),
    (
        "RL0205",
        "  node old ",
        "  node twice = compute exact_match(completions, answers) -> score\n  node old ",
        "twice",
    ),
    ("RL0205", "param batch ", "param group : int = 4\n  param batch ", "group"),
    ("RL0206", "actor.generate(", "actor.generat(", "generat"),
    ("RL0207", "max_new_tokens = 4", "max_new_tokens = 4, temprature = 1.0", "temprature = 1.0"),
    ("RL0207", "minibatch = 8", "mini_batch = 8", "mini_batch = 8"),
    ("RL0207", "with batch", "with batch, shuffle = true", "shuffle = true"),
    ("RL0208", "with lr = 0.001, minibatch = 8", "with lr = 0.001 after rewrd", "update"),
    ("RL0209", "jsonl(", "json(", 'json("rows.jsonl")'),
    (
        "RL0209",
        'policy = scratch(; alphabet = "01")',
        'policy = scrach(; alphabet = "01")',
        'scrach(; alphabet = "01")',
    ),
    ("RL0301", "exact_match(completions, answers)", "exact_match(tokens, answers)", "tokens"),
    ("RL0301", "group_advantage(score; group)", "group_advantage(completions; group)", "completions"),
    ("RL0302", "exact_match(completions, answers)", "exact_match(completions)", "exact_match"),
    ("RL0302", "with lr = 0.001, minibatch = 8", "with minibatch = 8", "actor"),
    ("RL0302", "; n = group, max_new_tokens = 4", "; n = group", "actor"),
    ("RL0302", " with batch\n", "\n", None),
    ("RL0302", 'scratch(; alphabet = "01")', "scratch()", "scratch()"),
    ("RL0303", "exact_match(completions, answers)", "exact_match(completions, answers, prompts)", "prompts"),
    ("RL0304", "group   : int   = 4", "group   : int   = 4.5", "group"),
    ("RL0304", "lr = 0.001", 'lr = "fast"', 'lr = "fast"'),
    ("RL0304", "n = group", "n = group / 2", "n = group / 2"),
    ("RL0304", "n = group", "n = group // 0", "group // 0"),
    ("RL0306", "-> advantages", "-> advantages, returns", "advantage"),
    ("RL0307", "ref_logp?", "ref_logp", "ref_logp"),
    ("RL0308", "= actor.logprob", "= actor.value", "actor"),
    (
        "RL0308",
        "compute exact_match(completions, answers) -> score",
        "compute policy_loss(tokens) -> score",
        "policy_loss",
    ),
    ("RL0309", "= actor.train", "= reference.train", "reference"),
    ("RL0311", "minibatch = 8", "minibatch = 8 samples", "minibatch = 8 samples"),
    ("RL0401", "small {", "small {\n  model loop : policy = copy loop", "loop"),
    ("RL0402", "minibatch = 8", "minibatch = 3", "minibatch = 3"),
    ("RL0404", "n = group", "n = 0", "n = 0"),
    ("RL0404", "score; group", "score; group = 3", "group = 3"),
    ("RL0404", "lr = 0.001", "lr = -1.0", "lr = -1.0"),
    ("RL0404", 'alphabet = "01"', 'alphabet = "01", precision = "fp8"', 'precision = "fp8"'),
]


def errors(text: str, *settings: str) -> list[Diagnostic]:
    try:
        compile_graph(graph_of(text), Options(settings=settings), source_dir=Path())
    except DiagnosticError as error:
        return [d for d in error.diagnostics if d.severity is Severity.ERROR]
    return []


def under_caret(text: str, diagnostic: Diagnostic) -> str:
    assert diagnostic.span is not None
    line = text.splitlines()[diagnostic.span.line - 1]
    return line[diagnostic.span.column - 1 : diagnostic.span.end_column - 1]


@pytest.mark.parametrize(("code", "old", "new", "caret"), BENT, ids=[f"{b[0]}-{i}" for i, b in enumerate(BENT)])
def test_one_mistake_one_error(code: str, old: str, new: str, caret: str | None) -> None:
    assert PROGRAM.count(old) >= 1, old
    text = PROGRAM.replace(old, new, 1)
    found = errors(text)
    first = [d for d in found if d.code == code]
    assert first, [str(d) for d in found]
    if caret is not None:
        assert under_caret(text, first[0]) == caret
    others = [d for d in found if d.code != code]
    assert not others, [str(d) for d in others]


def test_correct_program_has_no_errors() -> None:
    assert errors(PROGRAM) == [] and errors(PPO) == []


def test_all_at_once_in_source_order() -> None:
    text = (
        PROGRAM.replace("n = group", "n = grup")
        .replace("completions, answers)", "completion, answers)")
        .replace("lr = 0.001", 'lr = "x"')
    )
    found = errors(text)
    assert [d.code for d in found] == ["RL0203", "RL0201", "RL0304"]


@pytest.mark.parametrize(
    ("old", "new", "fix"),
    [
        ("exact_match(completions,", "exact_match(completion,", "did you mean `completions`?"),
        ("= actor.generate", "= acter.generate", "did you mean `actor`?"),
        ("compute exact_match", "compute exact_mach", "did you mean `exact_match`?"),
        ("jsonl(", "json(", "did you mean `jsonl`?"),
        ("node reward ", "nod reward ", "did you mean `node`?"),
        ("minibatch = 8", "mini_batch = 8", "did you mean `minibatch`?"),
    ],
)
def test_near_names_are_suggested(old: str, new: str, fix: str) -> None:
    assert errors(PROGRAM.replace(old, new, 1))[0].fix == fix


def test_cycle_is_drawn() -> None:
    text = PROGRAM.replace(
        "compute exact_match(completions, answers) -> score", "compute group_advantage(advantages) -> score"
    )
    found = errors(text)
    assert [d.code for d in found] == ["RL0401"]
    assert "reward -> advantage -> reward" in found[0].message and len(found[0].labels) == 2


def test_samples_of_two_rollouts_do_not_mix() -> None:
    second = "  node other = actor.generate(prompts; max_new_tokens = 4) -> tokens2, mask2, logp2, texts2\n"
    text = PROGRAM.replace("  node reward", second + "  node reward").replace(
        "logprob(tokens, response_mask) -> old", "logprob(tokens, mask2) -> old"
    )
    assert "RL0310" in [d.code for d in errors(text)]


def test_outputs_left_out() -> None:
    assert [d.code for d in errors(PROGRAM.replace(" -> score", ""))] == ["RL0306", "RL0201"]


def test_nothing_trained() -> None:
    text = "\n".join(line for line in PROGRAM.splitlines() if "node update" not in line)
    assert [d.code for d in errors(text)] == ["RL0403"]


def test_two_algorithms_in_a_file() -> None:
    assert [d.code for d in errors(PROGRAM + PPO)] == ["RL0205"]


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("grup=3", "RL0203"),
        ("group=many", "RL0304"),
        ("group", "RL0304"),
        ("batch=7", "RL0402"),
        ("group=0", "RL0404"),
        ("kl_coef=nan", "RL0304"),
    ],
)
def test_settings(setting: str, code: str) -> None:
    assert [d.code for d in errors(PROGRAM, setting)][:1] == [code]


DEPLOYMENTS = [
    ("RL0402", "cluster 3 x cpu"),
    ("RL0506", "actor.train : fsdp(tp = 2)"),
    ("RL0404", "actor.train : fsdp(dp = 0)"),
    ("RL0203", "actor.train : fsdp(dp = ranks)"),
    ("RL0304", "actor.train : fsdp(dp = 1 // 0)"),
    ("RL0506", "cluster 0 x cpu"),
    ("RL0205", "actor.train : fsdp(dp = 1)\n  actor.train : fsdp(dp = 2)"),
    ("RL0506", "actor.sleep : fsdp(dp = 1)"),
    ("RL0506", "cluster 2 x cpu\n  actor.generate : hf(dp = 4)"),
    ("RL0506", "cluster 4 x cpu\n  actor.train : fsdp(dp = 2)"),
    ("RL0507", "actor.generate : hff(dp = 2)"),
    ("RL0508", "cluster 2 x h10"),
    ("RL0202", "acter.generate : hf(dp = 2)"),
]


@pytest.mark.parametrize(("code", "body"), DEPLOYMENTS)
def test_deployments(code: str, body: str) -> None:
    assert [d.code for d in errors(f"{PROGRAM}deploy {{\n  {body}\n}}\n")] == [code]


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("RL0451", "node idle = compute exact_match(completions, answers) -> nothing"),
        ("RL0452", "param unread : int = 1"),
        ("RL0453", "model idle : value = copy actor"),
    ],
)
def test_warnings_do_not_stop(code: str, line: str) -> None:
    text = PROGRAM.replace("small {", f"small {{\n  {line}")
    compiled = compile_graph(graph_of(text), Options(), source_dir=Path())
    assert [d.code for d in compiled.warnings] == [code]
    assert all(d.severity is Severity.WARNING for d in compiled.warnings)
    assert compile_graph(graph_of(PROGRAM), Options(), source_dir=Path()).warnings == ()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("none.rl", None, "RL0101"),
        ("algorithm.txt", "", "RL0103"),
        ("latin.rl", b"algorithm \xe9 {}", "RL0101"),
        ("broken.py", "def f(:\n", "RL0102"),
        ("raises.py", "x = 1\ny = 1 / 0\n", "RL0104"),
    ],
)
def test_files(tmp_path: Path, name: str, content: str | bytes | None, code: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = check_file(path, Options())
    assert [d.code for d in found] == [code]
    if code == "RL0104":
        assert found[0].span is not None and found[0].span.line == 2
