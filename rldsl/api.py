"""The decorator API: the names behind `import rldsl as rl`. It records; the compiler makes a graph of the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

from rldsl.compiler.handles import ParamHandle, QuantityHandle, SourceHandle, keywords_of, to_expr
from rldsl.compiler.ir import Block, BlockKind, FieldArg, Input, Node, PhaseLayout, Place, Range
from rldsl.compiler.ops import Scalar
from rldsl.compiler.pysource import Site, caller_frame, caller_site
from rldsl.compiler.record import BlockRecord, Builder, Scope, check_name, current, declaring
from rldsl.diagnostics import did_you_mean, fail
from rldsl.functions import function, lib, use
from rldsl.models import ModelHandle, expect, hf, policy, reward, scratch, value
from rldsl.nodes import field_named, metric, node, output
from rldsl.session import check, compile, graph, reset  # noqa: A004 - as the command is called
from rldsl.types import PROMPT, DType, FieldType

__all__ = [
    "algorithm",
    "check",
    "compile",
    "count",
    "deploy",
    "function",
    "graph",
    "hf",
    "inputs",
    "jsonl",
    "layout",
    "lib",
    "loop",
    "metric",
    "node",
    "output",
    "param",
    "parquet",
    "place",
    "policy",
    "reasoning_gym",
    "reset",
    "reward",
    "scratch",
    "use",
    "validate",
    "value",
]

S = TypeVar("S", bool, int, float, str)
Unit = Literal["prompts", "samples", "tokens"]
_UNITS = ("prompts", "samples", "tokens")


def algorithm(name: str) -> None:
    """Name the algorithm; without it, it is called like its file."""
    site = caller_site()
    with declaring() as builder:
        builder.name, builder.span = check_name(name, "an algorithm", site.span), site.span


def param(
    default: S,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: Sequence[S] = (),
    unit: Unit | None = None,
    name: str | None = None,
) -> S:
    """A hyper-parameter. Its name is that of the variable it is assigned to; `--set name=...` replaces `default`.

    `gt`, `ge`, `lt`, `le` bound it, or `choices` lists what it may be; `unit` says what it counts. To a type checker
    it is of its default's type; while the file runs it stands for the value it will have.
    """
    frame, site = caller_frame(), caller_site()
    within = None
    with declaring():
        if name is not None:
            check_name(name, "a parameter", site.span)
        _check_unit(unit, site)
        within = _range(gt, ge, lt, le, choices, site)
    handle = ParamHandle(default, name=name, unit=unit, within=within, frame=frame)
    current().add_param(handle)
    return cast(S, handle)


def count(value: int, unit: Unit) -> int:
    """A number with the unit that it counts: `rl.count(64, "prompts")`, where a parameter is not wanted."""
    site = caller_site()
    with declaring():
        _check_unit(unit, site)
        if not _is_number(value):
            fail("RL0105", "a count is a number", span=site.span, expected="64", found=repr(value))
    return cast(int, QuantityHandle(value, unit))


def _check_unit(unit: object, site: Site) -> None:
    if unit is not None and unit not in _UNITS:
        fix = did_you_mean(str(unit), _UNITS)
        fail("RL0105", "unknown unit", span=site.of("unit"), expected=", ".join(_UNITS), found=repr(unit), fix=fix)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _range(
    gt: float | None, ge: float | None, lt: float | None, le: float | None, choices: object, site: Site
) -> Range | None:
    """The values that a parameter may have; an end that is missing counts as open."""
    ends = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    given = [end for end, value in ends.items() if value is not None]
    for end in given:
        if not _is_number(ends[end]):
            fail("RL0105", f"`{end}` is a number", span=site.of(end), expected="0", found=repr(ends[end]))
    if {"gt", "ge"} <= {*given} or {"lt", "le"} <= {*given}:
        fail("RL0105", "a range has one lower and one upper end", span=site.span, found=", ".join(given))
    if choices != ():
        return Range(choices=_choices(choices, bool(given), site))
    if not given:
        return None
    low, high = ge if gt is None else gt, le if lt is None else lt
    return Range(
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        low_open=ge is None,
        high_open=le is None,
    )


def _choices(choices: object, bounded: bool, site: Site) -> tuple[Scalar, ...]:
    span = site.of("choices")
    if bounded:
        fail("RL0105", "a parameter has either a range or choices", span=span)
    listed = isinstance(choices, (tuple, list)) and choices
    if not listed or not all(isinstance(c, (bool, int, float, str)) for c in cast("Sequence[object]", choices)):
        fail("RL0105", "`choices` lists values", span=span, expected='("a", "b")', found=repr(choices))
    return tuple(cast("Sequence[Scalar]", choices))


def reasoning_gym(dataset: str, **keywords: Scalar) -> SourceHandle:
    """Tasks of the package reasoning-gym; further keywords go to the data set."""
    return SourceHandle(kind="reasoning_gym", args=(dataset,), keywords=keywords, site=caller_site())


def jsonl(path: str, **keywords: Scalar) -> SourceHandle:
    """Rows of a JSON-lines file, relative to the source file. Keywords: shuffle, template, `<field>_column`."""
    return SourceHandle(kind="jsonl", args=(path,), keywords=keywords, site=caller_site())


def parquet(path: str, **keywords: Scalar) -> SourceHandle:
    """Rows of a Parquet file, relative to the source file. Keywords: shuffle, template, `<field>_column`."""
    return SourceHandle(kind="parquet", args=(path,), keywords=keywords, site=caller_site())


def inputs(*names: str, source: SourceHandle, batch: int, type: str | None = None) -> None:  # noqa: A002 - the language's word
    """Declare the fields read from a data source, `batch` prompts a step; `type` is `text[prompt]` unless given."""
    site = caller_site()
    with declaring() as builder:
        for name in names:
            check_name(name, "a field", site.span)
        if not names:
            fail("RL0105", "an input names no field", span=site.span, expected='`"prompts", "answers"`')
        expect(source, SourceHandle, "the source of an input", 'rl.jsonl("rows.jsonl") or another source', site)
        kind = _input_type(type, site)

        def make() -> Input:
            size = to_expr(batch, site.of("batch"))
            return Input(names=names, type=kind, source=source.call(), batch=size, span=site.span)

        if isinstance(builder.scope, _Loop):
            fail(
                "RL0105", "a loop reads the inputs outside it", span=site.span, fix="move `rl.inputs` out of the block"
            )
        builder.scope.inputs.add(names, make)


def _input_type(text: str | None, site: Site) -> FieldType:
    if text is None:
        return FieldType(DType.TEXT, (PROMPT,))
    try:
        return FieldType.parse(text)
    except (ValueError, TypeError) as error:
        expected = "a type such as `text[prompt]`"
        fail("RL0210", str(error), span=site.of("type"), expected=expected, found=str(text))


class _Loop(Scope):
    """The scope of a loop, which has no inputs of its own."""


class BlockHandle:
    """A block while its declarations are made: `with rl.loop(...):`."""

    def __init__(self, scope: Scope, make: Callable[[Scope], BlockRecord] | None, name: str, site: Site) -> None:
        self._scope, self._make, self._name, self._site = scope, make, name, site
        self._outer: Scope | None = None

    def __enter__(self) -> None:
        with declaring() as builder:
            self._outer, builder.scope = builder.scope, self._scope
            if self._outer is not builder.top:
                self._make = None
                builder.scope = self._scope if builder.tracing else self._outer
                fail("RL0105", "blocks do not nest", span=self._site.span, fix="put this one beside the other")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        builder = current()
        if self._outer is not None:
            builder.scope = self._outer
        if error is None and self._make is not None:
            builder.blocks.add([self._name], self._make(self._scope))


def loop(
    name: str,
    *,
    max: int,  # noqa: A002 - the language's word
    carry: str | Sequence[str] = (),
    collect: str | Sequence[str] = (),
    where: str | None = None,
    until: int | None = None,
) -> BlockHandle:
    """A part that runs at most `max` times a step: `with rl.loop("talk", max=3, carry=("tokens", ...)):`.

    With `carry`, each iteration reads those fields as they stand and writes them anew, and after the loop they are
    the last ones. With `collect` and `where` (a field, bool[prompt]), each iteration works on fresh prompts, and
    those where it is true are kept until there are `until` of them (the inputs' batch, if not given).
    """
    site = caller_site()
    make = None
    with declaring() as builder:
        check_name(name, "a loop", site.span)
        carried, collected = _fields(carry, site, "carry"), _fields(collect, site, "collect")
        if bool(carried) == bool(collected):
            fail("RL0105", f"loop `{name}` needs either `carry` or `collect`", span=site.span)
        if bool(collected) != (where is not None) or (until is not None and not collected):
            fail("RL0105", f"loop `{name}`: `collect` and `where` go together, and `until` with them", span=site.span)
        kept = None if where is None else field_named(where, "a field", site.of("where"))

        def made(scope_inputs: tuple[Input, ...], nodes: tuple[Node, ...]) -> Block:
            return Block(
                id=name,
                kind=BlockKind.LOOP,
                bound=to_expr(max, site.of("max")),
                carry=carried,
                collect=collected,
                where=kept,
                until=None if until is None else to_expr(until, site.of("until")),
                inputs=scope_inputs,
                nodes=nodes,
                span=site.span,
            )

        make = made
    return _block(_Loop, make, name, site, builder)


def validate(name: str, *, every: int) -> BlockHandle:
    """A part that runs in steps 0, `every`, 2 * `every`, ... and the last, and trains nothing.

    Its inputs always read the first `batch` rows, and its models have the weights that the step began with.
    """
    site = caller_site()
    make = None
    with declaring() as builder:
        check_name(name, "a validation", site.span)

        def made(own: tuple[Input, ...], nodes: tuple[Node, ...]) -> Block:
            bound = to_expr(every, site.of("every"))
            return Block(id=name, kind=BlockKind.VALIDATE, bound=bound, inputs=own, nodes=nodes, span=site.span)

        make = made
    return _block(Scope, make, name, site, builder)


def _block(
    kind: type[Scope],
    make: Callable[[tuple[Input, ...], tuple[Node, ...]], Block] | None,
    name: str,
    site: Site,
    builder: Builder,
) -> BlockHandle:
    record = None if make is None else (lambda scope: BlockRecord(scope=scope, make=make))
    return BlockHandle(kind(replaces=not builder.tracing), record, name, site)


def _fields(names: object, site: Site, keyword: str) -> tuple[FieldArg, ...]:
    given = (names,) if isinstance(names, str) else names
    if not isinstance(given, (tuple, list)):
        expected = '("tokens", "response_mask")'
        fail("RL0105", f"`{keyword}` names fields", span=site.of(keyword), expected=expected, found=repr(names))
    return tuple(field_named(n, "a field", site.of(keyword)) for n in given)


def deploy(*, cluster: tuple[int, str], **figures: float) -> None:
    """Say what the plan is for: `rl.deploy(cluster=(8, "h100"))`.

    `figures` are your own of the hardware, where they differ from those that `rldsl ls clusters` prints, in the same
    units: `memory=64` GiB, `network=25` GB/s.
    """
    site = caller_site()
    with declaring() as builder:
        given: Any = cluster
        fits = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str)
        if not (fits and isinstance(given[0], int) and not isinstance(given[0], bool)):
            expected = '(8, "h100")'
            fail("RL0105", "a cluster is a number and a kind", span=site.span, expected=expected, found=repr(cluster))
        if builder.tracing and builder.cluster is not None:
            fail("RL0205", "the cluster is said twice", span=site.span, fix="remove one of them")
        builder.cluster = cluster
        builder.figures = lambda: keywords_of(figures, site)


def layout(model: ModelHandle, phase: str, engine: str, *, on: tuple[int, int] | None = None, **axes: int) -> None:
    """Engine and parallel axes of one phase of a model: `rl.layout(actor, "train", "fsdp", dp=4, on=(0, 3))`.

    `on` are its first and its last rank; without it the phase has the first ranks, as many as the axes fill.
    """
    site = caller_site()
    with declaring() as builder:
        expect(model, ModelHandle, "what a layout is for", "a model, as `rl.policy(...)` returns it", site)

        def make() -> PhaseLayout:
            keywords, ranks = keywords_of(axes, site), None if on is None else _ranks(on, site)
            return PhaseLayout(model=model.name, phase=phase, engine=engine, axes=keywords, ranks=ranks, span=site.span)

        builder.layouts.add([(model.name, phase)], make)


def place(node: str, *, on: tuple[int, int]) -> None:
    """The first and the last rank that run a node without a model: `rl.place("reward", on=(4, 7))`."""
    site = caller_site()
    with declaring() as builder:
        expect(node, str, "what a place is for", "the name of a node", site)
        builder.places.add([node], lambda: Place(node=node, ranks=_ranks(on, site), span=site.span))


def _ranks(on: object, site: Site) -> tuple[int, int]:
    given = on if isinstance(on, tuple) else ()
    if len(given) != 2 or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in given):
        fail("RL0105", "`on` is the first and the last rank", span=site.of("on"), expected="on=(4, 7)", found=repr(on))
    return int(given[0]), int(given[1])
