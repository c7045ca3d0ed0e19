"""What the annotations of a node's function say: types of the fields it reads, names and types of those it writes."""

from __future__ import annotations

import ast
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

from rldsl.compiler.pysource import span_in
from rldsl.diagnostics import Diagnostic, Diagnostics, Span, fail
from rldsl.types import PROMPT, SAMPLE, DType, FieldType

_FIX = "annotate it with an alias such as `rl.Score`, or `Annotated[rl.PerSample, ...]` for a field of your own"
_ROWS: dict[object, DType] = {str: DType.TEXT, float: DType.F32, int: DType.I64, bool: DType.BOOL}


@dataclass(frozen=True, kw_only=True)
class Read:
    """A field that a function reads: which types its annotation allows (none: it says nothing of types)."""

    name: str
    types: tuple[FieldType, ...]
    span: Span


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """A function's annotations, evaluated; `span` is that of the return annotation."""

    reads: tuple[Read, ...] = ()
    writes: tuple[FieldType | None, ...] = ()
    names: tuple[str, ...] | None = None
    span: Span | None = field(default=None, compare=False)


def read_annotations(run: Callable[..., Any], definition: ast.FunctionDef, span: Span) -> Annotations:
    """The annotations of a node's function.

    Raises RL0305 for every parameter that has none or is no plain one, RL0105 when one of them cannot be evaluated.
    """
    file = run.__code__.co_filename
    _check_parameters(definition, file)
    try:
        hints = typing.get_type_hints(run, localns={"Tensor": object}, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:
        fail("RL0105", f"an annotation of node `{run.__name__}` is unknown: {error}", span=span)
    reads = tuple(
        Read(name=a.arg, types=field_types(hints.get(a.arg)), span=_annotation_span(a, file))
        for a in definition.args.args
    )
    result = hints.get("return", _MISSING)
    if result is _MISSING or definition.returns is None:
        return Annotations(reads=reads)
    returned = span_in(file, definition.returns)
    return Annotations(reads=reads, writes=written_types(result), names=output_names(result), span=returned)


_MISSING = object()


def _annotation_span(arg: ast.arg, file: str) -> Span:
    assert arg.annotation is not None, "checked before"
    return span_in(file, arg.annotation)


def _check_parameters(definition: ast.FunctionDef, file: str) -> None:
    """RL0305 unless all parameters are named and annotated."""
    found, args = Diagnostics(), definition.args
    name = definition.name
    for extra in (*args.posonlyargs, args.vararg, args.kwarg):
        if extra is not None:
            message = f"`{name}` takes *args, **kwargs or positional-only parameters"
            found.add(_unreadable(message, _arg_span(extra, file), "named, annotated parameters"))
    for arg in args.args:
        if arg.annotation is None:
            message = f"parameter `{arg.arg}` of `{name}` has no annotation"
            found.add(_unreadable(message, _arg_span(arg, file), "a field type"))
    found.raise_if_errors()


def _unreadable(message: str, span: Span, expected: str) -> Diagnostic:
    return Diagnostic(code="RL0305", message=message, span=span, expected=expected, fix=_FIX)


def _arg_span(arg: ast.arg, file: str) -> Span:
    return span_in(file, ast.copy_location(ast.Name(id=arg.arg), arg))


def field_types(hint: object) -> tuple[FieldType, ...]:
    """The types of field that an annotation allows; none when it does not say."""
    if hint in _ROWS:
        return (FieldType(_ROWS[hint], (SAMPLE,)),)
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return tuple(t for part in typing.get_args(hint) for t in field_types(part))
    for said in getattr(hint, "__metadata__", ()):
        if isinstance(said, FieldType):
            return (said,)
        if isinstance(said, str) and "[" in said:
            return _written_out(said)
    if hasattr(hint, "__metadata__"):
        return field_types(typing.get_args(hint)[0])
    return (FieldType(DType.TEXT, (SAMPLE,)),) if hint == list[str] else ()


def _written_out(text: str) -> tuple[FieldType, ...]:
    try:
        return (FieldType.parse(text),)
    except ValueError:
        return ()  # said where the signature is read


def written_types(hint: object) -> tuple[FieldType | None, ...]:
    """The types of what a return annotation declares, None where it does not say."""
    return tuple(next(iter(field_types(part)), None) for part in _parts(hint))


def output_names(hint: object) -> tuple[str, ...] | None:
    """Names of the fields that a return annotation declares; None when it declares none."""
    if isinstance(hint, type) and hasattr(hint, "_fields"):
        return tuple(hint._fields)
    names = [_field_name(part) for part in _parts(hint)]
    return None if None in names else tuple(n for n in names if n is not None)


def _parts(hint: object) -> tuple[object, ...]:
    """What a function returns, one by one: of a tuple or a NamedTuple its elements, of None nothing."""
    if hint is None or hint is type(None):
        return ()
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        hints = typing.get_type_hints(hint, localns={"Tensor": object}, include_extras=True)
        return tuple(hints.get(name) for name in hint._fields)
    return typing.get_args(hint) if typing.get_origin(hint) is tuple else (hint,)


def _field_name(hint: object) -> str | None:
    names = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, str) and "[" not in m]
    return names[-1] if names else None


def check_reads(reads: tuple[Read, ...], types: Mapping[str, FieldType], found: Diagnostics) -> None:
    """RL0301 for an annotation of a type that the field does not have; a prompt's row may be read by its samples."""
    for read in reads:
        have = types.get(read.name)
        if have is None or not read.types or any(_fits(want, have) for want in read.types):
            continue
        found.error(
            "RL0301",
            f"`{read.name}` is not of the type that it is annotated with",
            span=read.span,
            expected=str(have),
            found=" or ".join(map(str, read.types)),
        )


def _fits(want: FieldType, have: FieldType) -> bool:
    repeated = want.unit == SAMPLE and have.unit == PROMPT
    return want == have or (repeated and (want.dtype, want.axes[1:]) == (have.dtype, have.axes[1:]))


def check_writes(
    said: Annotations, made: tuple[FieldType | None, ...], outputs: tuple[str, ...], found: Diagnostics
) -> None:
    """RL0301 for a return annotation of other types than what the body returns."""
    for name, want, have in zip(outputs, said.writes, made, strict=False):
        if want is not None and have is not None and want != have:
            found.error(
                "RL0301",
                f"`{name}` is not of the type that the return annotation says",
                span=said.span,
                expected=str(have),
                found=str(want),
            )
