"""Signatures of library and user functions, read from their source with `ast`: nothing is imported or run."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_origin

from rldsl import types
from rldsl.compiler.ops import Scalar
from rldsl.diagnostics import Diagnostics, Span, did_you_mean, fail
from rldsl.types import SAMPLE, TOKEN, DType, FieldType

LIBRARY_MODULES = ("rldsl.algos.advantages", "rldsl.algos.losses", "rldsl.algos.rewards")
_SCALARS = {"int", "float", "bool", "str"}
_ROW_TYPES = {"str": DType.TEXT, "float": DType.F32, "int": DType.I64, "bool": DType.BOOL}


@dataclass(frozen=True, kw_only=True)
class FieldParam:
    """A parameter that takes a field of one of `types`."""

    name: str
    types: tuple[FieldType, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class HyperParam:
    """A keyword-only parameter that takes a number, a truth value or a string."""

    name: str
    type: str
    default: Scalar = None
    required: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Vanishing:
    """`@vanishes_where_zero("advantages", unless=("ref_logp",))`: rows where that field is 0 add no gradient."""

    field: str
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What the type checker must know of a function."""

    name: str
    inputs: tuple[FieldParam, ...]
    hypers: tuple[HyperParam, ...]
    outputs: tuple[FieldType, ...]
    output_names: tuple[str | None, ...] = ()
    is_loss: bool = False
    per_row: bool = False
    reduces: bool = False
    vanishing: Vanishing | None = None
    module: str | None = None
    file: str | None = None
    sha256: str | None = None
    span: Span | None = field(default=None, compare=False)

    @property
    def grouped(self) -> bool:
        """Whether it works on whole groups of samples, whose size it is told."""
        return any(h.name == "group" for h in self.hypers)


class _UnreadableError(Exception):
    """An annotation that we cannot make a type of."""

    def __init__(self, message: str, where: ast.AST, expected: str) -> None:
        super().__init__(message)
        self.where, self.expected = where, expected


@cache
def named_types() -> dict[str, tuple[FieldType, str | None]]:
    """The aliases of `rldsl.types`: name -> (type, default field name)."""
    found = {}
    for name, value in vars(types).items():
        metadata = get_args(value)[1:] if get_origin(value) is not None and hasattr(value, "__metadata__") else ()
        kinds = [m for m in metadata if isinstance(m, FieldType)]
        if kinds:
            found[name] = (kinds[0], next((m for m in metadata if isinstance(m, str)), None))
    return found


def span_of(node: ast.AST, file: str) -> Span:
    """Where an `ast` node stands; its columns count from 0, ours from 1."""
    assert isinstance(node, (ast.stmt, ast.expr, ast.arg)), node
    end_line = node.end_lineno or node.lineno
    return Span(file, node.lineno, node.col_offset + 1, end_line, (node.end_col_offset or node.col_offset) + 1)


def _last_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


@dataclass(frozen=True)
class _Annotation:
    types: tuple[FieldType, ...]
    name: str | None = None
    optional: bool = False
    row: bool = False


def _read_subscript(node: ast.Subscript) -> _Annotation:
    head = _last_name(node.value)
    if head == "list" and _last_name(node.slice) == "str":
        return _Annotation((FieldType(DType.TEXT, (SAMPLE,)),))
    if head == "Annotated" and isinstance(node.slice, ast.Tuple):
        texts = [e.value for e in node.slice.elts[1:] if isinstance(e, ast.Constant) and isinstance(e.value, str)]
        typed = [t for t in texts if "[" in t]
        name = next((t for t in texts if "[" not in t), None)
        if typed:
            try:
                return _Annotation((FieldType.parse(typed[0]),), name)
            except ValueError as error:
                raise _UnreadableError(str(error), node, "a field type") from error
        inner = _read_annotation(node.slice.elts[0])
        return _Annotation(inner.types, name or inner.name, inner.optional, inner.row)
    if head == "Optional":
        inner = _read_annotation(node.slice)
        return _Annotation(inner.types, inner.name, True, inner.row)
    raise _UnreadableError(f"`{ast.unparse(node)}` is no field type", node, "an alias such as `rl.PerToken`")


def _read_annotation(node: ast.expr) -> _Annotation:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            quoted = ast.parse(node.value, mode="eval").body
        except SyntaxError as error:
            raise _UnreadableError(f"`{node.value}` is no field type", node, "a field type") from error
        for part in ast.walk(quoted):
            ast.copy_location(part, node)
        return _read_annotation(quoted)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [_read_annotation(s) for s in (node.left, node.right) if not _is_none(s)]
        if not sides:
            raise _UnreadableError(f"`{ast.unparse(node)}` is no field type", node, "a field type")
        optional = _is_none(node.left) or _is_none(node.right) or any(s.optional for s in sides)
        kinds = tuple(t for s in sides for t in s.types)
        return _Annotation(kinds, sides[0].name, optional, all(s.row for s in sides))
    if isinstance(node, ast.Subscript):
        return _read_subscript(node)
    name = _last_name(node)
    if name in _ROW_TYPES:
        return _Annotation((FieldType(_ROW_TYPES[name], (SAMPLE,)),), row=True)
    if name in named_types():
        kind, default = named_types()[name]
        return _Annotation((kind,), default)
    hint = did_you_mean(name or "", named_types())
    message = f"`{ast.unparse(node)}` is no field type" + (f"; {hint}" if hint else "")
    raise _UnreadableError(
        message, node, "an alias such as `rl.PerToken`, `rl.PerSample`, `rl.Text`, or `str`, `float`, `int`"
    )


def _constant(node: ast.expr | None) -> tuple[bool, Scalar]:
    """(whether there is a default, its value); a default that is no constant counts as unknown but present."""
    if node is None:
        return False, None
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return True, None
    return True, value if isinstance(value, (int, float, bool, str)) else None


def _hyper(arg: ast.arg, default: ast.expr | None) -> HyperParam:
    kind, parts = None, list[str]()
    if arg.annotation is not None:
        parts = [p.strip() for p in ast.unparse(arg.annotation).strip("'\"").split("|")]
        kind = next((p for p in parts if p in _SCALARS), None)
    if kind is None:
        where = arg.annotation or arg
        raise _UnreadableError(
            f"parameter `{arg.arg}` needs one of int, float, bool, str", where, "int, float, bool or str"
        )
    present, value = _constant(default)
    return HyperParam(name=arg.arg, type=kind, default=value, required=not present, optional="None" in parts)


def _is_reduce(arg: ast.arg) -> bool:
    return arg.annotation is not None and _last_name(arg.annotation) == "Reduce"


def _vanishing(function: ast.FunctionDef) -> Vanishing | None:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and _last_name(decorator.func) == "vanishes_where_zero":
            return _promise(decorator, {a.arg for a in function.args.args})
    return None


def _promise(decorator: ast.Call, params: set[str]) -> Vanishing:
    named = {k.arg: k.value for k in decorator.keywords}
    field_node = decorator.args[0] if decorator.args else named.get("field")
    expected = "the names of parameters, as strings"
    try:
        name = ast.literal_eval(field_node) if field_node else None
        unless = tuple(ast.literal_eval(named["unless"])) if "unless" in named else ()
    except (ValueError, TypeError) as error:
        raise _UnreadableError("the promise of zero gradients must be written out", decorator, expected) from error
    wrong = [n for n in (name, *unless) if n not in params]
    if wrong:
        raise _UnreadableError(f"the promise of zero gradients names {wrong[0]!r}, no parameter", decorator, expected)
    assert isinstance(name, str)
    return Vanishing(field=name, unless=unless)


def _returns(function: ast.FunctionDef) -> tuple[bool, list[_Annotation]]:
    node = function.returns
    if node is None:
        raise _UnreadableError(f"`{function.name}` does not say what it returns", function, "a return annotation")
    if _last_name(node) == "TokenLoss":
        return True, []
    if isinstance(node, ast.Subscript) and _last_name(node.value) == "tuple" and isinstance(node.slice, ast.Tuple):
        return False, [_read_annotation(e) for e in node.slice.elts]
    return False, [_read_annotation(node)]


def _read_inputs(function: ast.FunctionDef) -> list[tuple[FieldParam, bool]]:
    args = [*function.args.posonlyargs, *function.args.args]
    defaults = [None] * (len(args) - len(function.args.defaults)) + list(function.args.defaults)
    found = []
    for arg, default in zip(args, defaults, strict=True):
        if arg.annotation is None:
            raise _UnreadableError(f"parameter `{arg.arg}` of `{function.name}` has no annotation", arg, "a field type")
        read = _read_annotation(arg.annotation)
        found.append(
            (
                FieldParam(name=arg.arg, types=read.types, optional=read.optional or default is not None),
                read.row,
            )
        )
    return found


def _check_rows(function: ast.FunctionDef, inputs: list[bool], outputs: list[bool]) -> None:
    """A function is of one row (`str`, `float` throughout) or of all of a rank's rows, not of both."""
    if len({*inputs, *outputs}) > 1:
        expected = "`str` and `float` for one row, or `rl.Text`, `rl.PerSample` for all rows"
        message = f"`{function.name}` takes or gives one row in one place and many in another"
        raise _UnreadableError(message, function, expected)


def _check_loss(function: ast.FunctionDef, inputs: list[FieldParam]) -> None:
    """The engine hands a loss what the model gives and the mask; the fields of the call follow."""
    first = [p.types for p in inputs[:2]]
    want = [(FieldType(DType.F32, (SAMPLE, TOKEN)),), (FieldType(DType.BOOL, (SAMPLE, TOKEN)),)]
    expected = "`logp: rl.PerToken, response_mask: rl.Mask`, then fields"
    if first != want:
        raise _UnreadableError(f"the loss `{function.name}` does not begin with log-probs and mask", function, expected)
    taken = [p.name for p in inputs[2:] if p.name in ("tokens", "response_mask")]
    if taken:
        raise _UnreadableError(
            f"the loss `{function.name}` cannot have a parameter `{taken[0]}` here", function, expected
        )


def _check_reduce(function: ast.FunctionDef, alone: str | None) -> None:
    """Ranks have different numbers of rows and of micro-batches: what is called for each cannot wait for the others."""
    reduce = next(filter(_is_reduce, function.args.kwonlyargs), None)
    if alone is not None and reduce is not None:
        expected = "`rl.Reduce` only in a function of all of a rank's rows"
        raise _UnreadableError(f"`{function.name}` is {alone} and cannot sum over ranks", reduce, expected)


def read_signature(function: ast.FunctionDef) -> Signature:
    """The signature of one function definition. Raises `_UnreadableError`."""
    if function.args.vararg or function.args.kwarg or function.args.posonlyargs:
        message = f"`{function.name}` takes *args, **kwargs or positional-only parameters"
        raise _UnreadableError(message, function, "named, annotated parameters")
    inputs = _read_inputs(function)
    keyword_only = list(zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True))
    is_loss, outputs = _returns(function)
    _check_rows(function, [row for _, row in inputs], [o.row for o in outputs])
    if is_loss:
        _check_loss(function, [p for p, _ in inputs])
    per_row = bool(outputs) and all(o.row for o in outputs)
    _check_reduce(function, "a loss" if is_loss else "a function of one row" if per_row else None)
    return Signature(
        name=function.name,
        inputs=tuple(p for p, _ in inputs),
        hypers=tuple(_hyper(a, d) for a, d in keyword_only if not _is_reduce(a)),
        outputs=tuple(o.types[0] for o in outputs),
        output_names=tuple(o.name for o in outputs),
        is_loss=is_loss,
        per_row=per_row,
        reduces=any(_is_reduce(a) for a, _ in keyword_only),
        vanishing=_vanishing(function),
    )


def functions_in(tree: ast.Module | ast.With) -> Iterator[ast.FunctionDef]:
    """Functions of the module that are not private, those inside `with rl.loop(...):` too."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.With):
            yield from functions_in(node)


@cache
def _library_trees() -> dict[str, tuple[str, Path, ast.FunctionDef]]:
    found = {}
    for module in LIBRARY_MODULES:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None, module
        path = Path(spec.origin)
        for function in functions_in(ast.parse(path.read_text())):
            found[function.name] = (module, path, function)
    return found


def library_names() -> tuple[str, ...]:
    """Names of the shipped functions."""
    return tuple(sorted(_library_trees()))


def library_function(name: str) -> ast.FunctionDef:
    """The definition of a shipped function."""
    return _library_trees()[name][2]


@cache
def library_signature(name: str) -> Signature | None:
    """A shipped function's signature, or None if there is no such function."""
    if name not in _library_trees():
        return None
    module, path, function = _library_trees()[name]
    return _placed(read_signature(function), span_of(function, str(path)), module=module)


def _placed(
    signature: Signature,
    span: Span,
    *,
    module: str | None = None,
    file: str | None = None,
    sha256: str | None = None,
) -> Signature:
    return Signature(**{**vars(signature), "span": span, "module": module, "file": file, "sha256": sha256})


def parse_user_file(path: Path, shown: str, span: Span | None) -> tuple[ast.Module, str]:
    """The syntax tree and sha256 of a Python file. RL0101 when it cannot be read, RL0102 when it does not parse."""
    try:
        data = path.read_bytes()
    except OSError as error:
        fail(
            "RL0101",
            f"cannot read `{shown}`: {error.strerror}",
            span=span,
            fix="paths are relative to the source file",
        )
    try:
        return _parsed(data)
    except (SyntaxError, ValueError) as error:
        line = error.lineno or 1 if isinstance(error, SyntaxError) else 1
        column = error.offset or 1 if isinstance(error, SyntaxError) else 1
        fail(
            "RL0102",
            f"`{shown}` is not Python: {error.msg if isinstance(error, SyntaxError) else error}",
            span=Span(str(path), line, column, line, column + 1),
        )


@lru_cache(maxsize=256)
def _parsed(data: bytes) -> tuple[ast.Module, str]:
    """Each content is read once, however often it is asked for. The tree is not to be changed."""
    return ast.parse(data), hashlib.sha256(data).hexdigest()


def user_signature(
    function: ast.FunctionDef, *, path: Path, file: str, sha256: str, found: Diagnostics
) -> Signature | None:
    """A user function's signature, or None after saying (RL0305) why it cannot be read."""
    try:
        signature = read_signature(function)
    except _UnreadableError as error:
        found.error(
            "RL0305",
            f"the signature of `{function.name}` cannot be read: {error}",
            span=span_of(error.where, str(path)),
            expected=error.expected,
            fix="annotate parameters and result, such as `def reward(completions: str, answers: str) -> float`",
        )
        return None
    return _placed(signature, span_of(function, str(path)), file=file, sha256=sha256)
