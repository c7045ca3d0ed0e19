"""Hypothesis strategies: any graph that `.rl` text can say, right or wrong. Correct programs are in `random_programs`."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from rldsl.compiler.expr import BINARY, Binary, Expr, Literal, ParamRef, Unary, negate
from rldsl.compiler.ir import (
    BUILT_IN,
    Block,
    BlockKind,
    Call,
    Deploy,
    FieldArg,
    Graph,
    Import,
    Input,
    Keyword,
    Method,
    Model,
    ModelKind,
    Node,
    Param,
    ParamType,
    PhaseLayout,
    Range,
    SourceCall,
    Use,
)
from rldsl.compiler.ops import Reduction, Scalar
from rldsl.types import PROMPT, SAMPLE, TOKEN, DType, FieldType, NodeType

T = TypeVar("T")
# Keywords elsewhere, but names where one must stand.
SOFT = (
    "use", "import", "algorithm", "deploy", "param", "model", "input", "node", "metric", "output", "loop", "validate",
    "x", "max", "every", "carry", "collect", "where", "until", "prompts", "samples", "tokens", "policy", "in_", "group",
)  # fmt: skip
RESERVED = frozenset(
    ("with", "when", "after", "and", "or", "not", "true", "false", "none", "compute", "frozen", "copy", "shared", "in")
) | {"cluster"}

names = st.sampled_from(SOFT) | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True).filter(
    lambda n: n not in RESERVED
)
strings = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
whole = st.integers(0, 20) | st.integers(0, (1 << 63) - 1)
real = st.floats(0, allow_nan=False, allow_infinity=False)
units = st.none() | st.sampled_from(("prompts", "samples", "tokens"))
field_types = st.builds(
    FieldType, st.sampled_from(DType), st.sampled_from(((PROMPT,), (SAMPLE,), (SAMPLE, TOKEN), (PROMPT, TOKEN)))
)


def _negated(value: Scalar, negative: bool) -> Scalar:
    return value if isinstance(value, bool | str | None) or not negative else -value


scalars = st.builds(_negated, st.none() | st.booleans() | whole | real | strings, st.booleans())


def _literal(value: Scalar, unit: str | None) -> Literal:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Literal(value=value, unit=unit if number else None)


literals = st.builds(_literal, scalars, units)


def _grown(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    binary = st.builds(lambda op, a, b: Binary(op=op, left=a, right=b), st.sampled_from(sorted(BINARY)), inner, inner)
    return binary | inner.map(negate) | inner.map(lambda e: Unary(op="not", operand=e))


exprs: st.SearchStrategy[Expr] = st.recursive(
    literals | st.builds(ParamRef, name=names), _grown, max_leaves=8
)  # all that the language can say
small_exprs: st.SearchStrategy[Expr] = literals | st.builds(ParamRef, name=names) | exprs


def few(items: st.SearchStrategy[T], least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[T, ...]]:
    """A short tuple."""
    return st.lists(items, min_size=least, max_size=most).map(tuple)


keywords = few(st.builds(Keyword, name=names, value=small_exprs), most=2)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Intervals, open, closed or without an end, and lists of choices."""
    if draw(st.booleans()):
        return Range(choices=draw(few(scalars, least=1)))
    ends = st.none() | st.builds(lambda v, n: -v if n else v, real | st.integers(0, 100).map(float), st.booleans())
    low, high = draw(ends), draw(ends)
    return Range(low=low, high=high, low_open=draw(st.booleans()), high_open=draw(st.booleans()))


@st.composite
def params(draw: st.DrawFn) -> Param:
    """Of all types, with defaults of the right type and of others."""
    kind, literal = draw(st.sampled_from(ParamType)), draw(literals)
    default = literal.value
    if kind is ParamType.FLOAT and isinstance(default, int) and not isinstance(default, bool):
        default = float(default)
    within = draw(st.none() | ranges())
    return Param(name=draw(names), type=kind, default=default, unit=literal.unit, range=within)


sources = st.builds(SourceCall, kind=names, args=few(small_exprs, most=2), keywords=keywords)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """With a source, a copy, or a head on another's trunk; frozen or not; with options."""
    origin = draw(st.sampled_from(("source", "copy_of", "shares")))
    return Model(
        name=draw(names),
        kind=draw(st.sampled_from(ModelKind)),
        source=draw(sources) if origin == "source" else None,
        copy_of=draw(names) if origin == "copy_of" else None,
        shares=draw(names) if origin == "shares" else None,
        frozen=draw(st.booleans()),
        options=draw(keywords),
    )


inputs = st.builds(Input, names=few(names, least=1), type=field_types, source=sources, batch=small_exprs)
field_args = st.builds(
    lambda name, optional, param: FieldArg(name=name, optional=optional, param=None if param == name else param),
    names,
    st.booleans(),
    st.none() | names,
)
conditions = st.none() | exprs
arguments = few(field_args)


def _call(
    **parts: st.SearchStrategy[object],
) -> st.SearchStrategy[Call]:
    return st.builds(Call, **parts)


calls = _call(
    model=names,
    method=st.sampled_from([m for m in Method if m not in BUILT_IN]),
    function=st.none() | names,
    args=arguments,
    keywords=keywords,
    options=keywords,
) | _call(function=names, args=arguments, keywords=keywords, options=keywords)


@st.composite
def plain_nodes(draw: st.DrawFn) -> Node:
    """A node with a call; its type may be stated, alone or behind a role."""
    return Node(
        id=draw(names),
        call=draw(calls),
        outputs=draw(few(names)),
        role=draw(st.none() | names),
        stated_type=draw(st.none() | st.sampled_from(NodeType)),
        when=draw(conditions),
        after=draw(few(names, most=2)),
    )


metrics = st.builds(
    Node,
    id=names,
    call=_call(
        method=st.just(Method.METRIC),
        function=st.sampled_from([r.value for r in Reduction]),
        # Only here does it matter that a field has the name of its parameter: others bind by name.
        args=few(st.builds(FieldArg, name=names, optional=st.booleans(), param=st.none() | names)),
        keywords=keywords,
    ),
    when=conditions,
)
outputs = st.builds(
    Node,
    id=names,
    call=_call(method=st.just(Method.OUTPUT), args=few(field_args, least=1), options=keywords),
    when=conditions,
)
nodes = few(plain_nodes() | metrics | outputs)

carrying = st.builds(
    Block, id=names, kind=st.just(BlockKind.LOOP), bound=small_exprs, carry=few(field_args, least=1), nodes=nodes
)
collecting = st.builds(
    Block,
    id=names,
    kind=st.just(BlockKind.LOOP),
    bound=small_exprs,
    collect=few(field_args, least=1),
    where=field_args,
    until=st.none() | small_exprs,
    nodes=nodes,
)
validations = st.builds(
    Block, id=names, kind=st.just(BlockKind.VALIDATE), bound=small_exprs, inputs=few(inputs, most=2), nodes=nodes
)
layouts = st.builds(PhaseLayout, model=names, phase=names, engine=names, axes=keywords)


@st.composite
def deploys(draw: st.DrawFn) -> Deploy:
    """With a cluster or without one."""
    has_cluster = draw(st.booleans())
    return Deploy(
        count=draw(whole) if has_cluster else None,
        cluster=draw(names) if has_cluster else None,
        figures=draw(keywords) if has_cluster else (),
        layouts=draw(few(layouts)),
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Everything that a file can hold; now and then without an algorithm."""
    uses, imports = draw(few(st.builds(Use, path=strings), most=2)), draw(few(st.builds(Import, path=strings), most=2))
    deploy = draw(st.none() | deploys())
    if draw(st.integers(0, 19)) == 0:
        return Graph(name="", uses=uses, imports=imports, deploy=deploy)
    return Graph(
        name=draw(names),
        params=draw(few(params())),
        models=draw(few(models())),
        inputs=draw(few(inputs, most=2)),
        uses=uses,
        imports=imports,
        nodes=draw(nodes),
        blocks=draw(few(carrying | collecting | validations, most=2)),
        deploy=deploy,
    )
