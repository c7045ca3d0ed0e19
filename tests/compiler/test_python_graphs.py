"""What Python declarations become: the same graph as the .rl text."""

from pathlib import Path

import pytest

from rldsl.compiler.expr import Binary, Literal, ParamRef
from rldsl.compiler.frontend import load_graph, read_source
from rldsl.compiler.ir import Block, BlockKind, FieldArg, Graph, Method, ModelKind, Range
from rldsl.compiler.parse import parse
from rldsl.compiler.pipeline import Options, check_file, compile_file
from rldsl.compiler.printer import print_graph
from rldsl.compiler.trace import trace_file
from tests.compiler.python_programs import SMALL, write_everything


def traced(text: str, name: str = "algorithm.py") -> Graph:
    return trace_file(Path(name), f"import rldsl as rl\n{text}\n")


def test_twins_of_everything(tmp_path: Path) -> None:
    path = write_everything(tmp_path)
    graphs = [load_graph(p, read_source(p)) for p in (path.with_suffix(".rl"), path.with_suffix(".py"))]
    assert graphs[0] == graphs[1]
    assert parse(print_graph(graphs[1]), "printed.rl") == graphs[1]


def test_everything_compiles_alike(tmp_path: Path) -> None:
    path = write_everything(tmp_path)
    plans = [compile_file(path.with_suffix(s)).plan for s in (".rl", ".py")]
    assert plans[0].programs == plans[1].programs


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.2, gt=0, le=1", Range(low=0.0, high=1.0, low_open=True)),
        ("8, ge=1", Range(low=1.0, high_open=True)),
        ("8, lt=3.5", Range(high=3.5, low_open=True, high_open=True)),
        ("'a', choices=['a', 'b']", Range(choices=("a", "b"))),
        ("8", None),
    ],
)
def test_ranges(written: str, expected: Range | None) -> None:
    (param,) = traced(f"x = rl.param({written})").params
    assert param.range == expected and param.name == "x"


@pytest.mark.parametrize(
    "text",
    [
        "a, b = rl.param(1), rl.param(2)",
        "a: int = rl.param(1)\nb: int = rl.param(2)",
        "rl.param(1, name='a')\nx = rl.param(2, name='b')",
        "def make(default):\n    return rl.param(default)\na = make(1)\nb = make(2)",
        "def inside():\n    a = rl.param(1)\n    b = rl.param(2)\n    return a\ninside()",
    ],
)
def test_names_of_parameters(text: str) -> None:
    assert [(p.name, p.default) for p in traced(text).params] == [("a", 1), ("b", 2)]


def test_models() -> None:
    graph = traced(
        "actor = rl.policy('actor', rl.hf('x'), lora_rank=rl.param(8, name='rank'))\n"
        "critic = rl.value('critic', shared=actor)\n"
        "judge = rl.reward('judge', rl.hf('y'))\n"
        "still = rl.reward('still', frozen=judge)"
    )
    actor, critic, judge, still = graph.models
    assert [(k.name, k.value) for k in actor.options] == [("lora_rank", ParamRef(name="rank"))]
    assert critic.shares == "actor" and critic.kind is ModelKind.VALUE and critic.source is None
    assert judge.kind is ModelKind.REWARD and (still.copy_of, still.frozen) == ("judge", True)


def test_operators_on_either_side() -> None:
    graph = traced("n = rl.param(2)\nrl.inputs('a', source=rl.jsonl('f', w=1 / n, x=7 // n, y=7 % n), batch=2 * n - 1)")
    values = [k.value for k in graph.inputs[0].source.keywords]
    one, seven, n = Literal(value=1), Literal(value=7), ParamRef(name="n")
    assert values == [
        Binary(op="/", left=one, right=n),
        Binary(op="//", left=seven, right=n),
        Binary(op="%", left=seven, right=n),
    ]


def test_blocks() -> None:
    graph = traced(
        "turns = rl.param(3)\n"
        "with rl.loop('talk', max=turns, carry='text'):\n"
        "    rl.metric('length', std='text', when=turns > 1)\n"
        "with rl.validate('test', every=5):\n"
        "    rl.inputs('prompts', source=rl.jsonl('f'), batch=2)\n"
        "    rl.output('rows', 'prompts', 'score?', every=turns)\n"
    )
    talk, test = graph.blocks
    assert (talk.kind, talk.bound, talk.carry) == (BlockKind.LOOP, ParamRef(name="turns"), (FieldArg(name="text"),))
    assert talk.nodes[0].call.method is Method.METRIC and talk.nodes[0].call.function == "std"
    assert test == Block(
        id="test", kind=BlockKind.VALIDATE, bound=Literal(value=5), inputs=test.inputs, nodes=test.nodes
    )
    (rows,) = test.nodes
    assert rows.call.args == (FieldArg(name="prompts"), FieldArg(name="score", optional=True))
    assert rows.call.options[0].value == ParamRef(name="turns")
    assert not graph.nodes and not graph.inputs and test.inputs[0].names == ("prompts",)


def test_what_follows_a_block_is_outside_it() -> None:
    graph = traced("with rl.validate('test', every=5):\n    rl.metric('a', min='x')\nrl.metric('b', sum='x')")
    assert [n.id for n in graph.blocks[0].nodes] == ["a"] and [n.id for n in graph.nodes] == ["b"]


def test_a_file_whose_name_is_no_name() -> None:
    assert traced("", "my-own.py").name == "my_own"


def test_duplicates_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "algorithm.py"
    path.write_text(SMALL + "\n\nlr = rl.param(0.5)\nactor = rl.policy('actor', rl.scratch(alphabet='01'))\n")
    assert [d.code for d in check_file(path, Options())] == ["RL0205", "RL0205"]


def test_future_annotations(tmp_path: Path) -> None:
    plain, later = tmp_path / "plain.py", tmp_path / "later.py"
    plain.write_text(f"{SMALL}\nrl.algorithm('small')\n")
    later.write_text(f"from __future__ import annotations\n{SMALL}\nrl.algorithm('small')\n")
    assert load_graph(plain, plain.read_text()) == load_graph(later, later.read_text())


def test_an_unsaved_text_is_what_counts(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text("this is what was saved\n" * 40)
    assert [n.id for n in trace_file(path, SMALL).nodes] == ["rollout", "reward", "advantage", "update"]
