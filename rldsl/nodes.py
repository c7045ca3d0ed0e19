"""Nodes: `@rl.node`, and what goes to the log and to files: `rl.metric`, `rl.output`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from rldsl.compiler.annotations import Annotations, read_annotations
from rldsl.compiler.handles import CallHandle, FieldHandle, Handle, keywords_of, to_expr
from rldsl.compiler.ir import BUILT_IN, Call, FieldArg, Method, Node
from rldsl.compiler.methods import METHODS
from rldsl.compiler.ops import Reduction
from rldsl.compiler.pysource import (
    Site,
    caller_site,
    calls_in,
    definition_of,
    has_body,
    name_span,
    resolve_callee,
    span_in,
)
from rldsl.compiler.record import NodeRecord, check_name, declaring
from rldsl.diagnostics import Span, did_you_mean, fail
from rldsl.functions import Function, Namespace, needs_file
from rldsl.models import ModelHandle
from rldsl.types import NodeType

F = TypeVar("F", bound=Callable[..., Any])


@overload
def node(run: F, /) -> F: ...


@overload
def node(
    *,
    name: str | None = None,
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
    name: str | None = None,
    role: str | None = None,
    type: NodeType | None = None,  # noqa: A002 - the design's word
    writes: str | tuple[str, ...] | None = None,
    when: object = None,
    after: object = (),
) -> F | Callable[[F], F]:
    """Declare a node: its parameters are the fields it reads, its return annotation the fields it writes.

    A body that is one call of a model's method, of a function of `rl.lib` or `rl.use(...)`, or of one marked
    `@rl.function` is that call; any other body is run as it stands, on real values. The node is called like the
    function unless `name` says otherwise. `after` takes nodes, by name or as they are.
    """

    def decorate(run: F) -> F:
        with declaring() as builder:
            record, node_id = _recorded(run, name, role=role, kind=type, writes=writes, when=when, after=after)
            builder.scope.nodes.add([node_id], record)
        return run

    return decorate if run is None else decorate(run)


def _recorded(
    run: Callable[..., Any],
    name: str | None,
    *,
    role: str | None,
    kind: NodeType | None,
    writes: str | tuple[str, ...] | None,
    when: object,
    after: object,
) -> tuple[NodeRecord, str]:
    file, definition = run.__code__.co_filename, definition_of(run.__code__)
    if definition is None:
        place = Span.whole_line(file, run.__code__.co_firstlineno)
        fail("RL0105", f"the source of node `{run.__name__}` cannot be found", span=place)
    span = name_span(definition, file)
    node_id = check_name(name or run.__name__, "a node", span)
    annotations = read_annotations(run, definition, span)
    traced = _traced(run, definition)
    handle = traced or _own_body(run, definition, annotations, span)
    outputs = _outputs(writes, annotations, handle.method, node_id, span)
    role = None if role is None else check_name(str(role), "a role", span)
    order = _node_names(after, span)

    def make() -> Node:
        condition = None if when is None else to_expr(when, span)
        made = Node(id=node_id, call=handle.call(), outputs=outputs, role=role, when=condition, after=order, span=span)
        _check_type(made, kind, span)
        return made

    record = NodeRecord(
        make=make,
        annotations=annotations,
        writes=handle.writes if handle.method is None else tuple(t for _, t in METHODS[handle.method].outputs),
        file=handle.file,
        body=run.__code__ if traced is None else None,
        span=span,
    )
    return record, node_id


def _check_type(made: Node, kind: NodeType | None, span: Span) -> None:
    if kind is not None and made.type != kind:
        fail(
            "RL0105",
            f"node `{made.id}` is declared {kind}, but its body makes it {made.type}",
            span=span,
            expected=str(kind),
            found=str(made.type),
        )


def _node_names(after: object, span: Span) -> tuple[str, ...]:
    """Ids of nodes, given as names or as the functions themselves."""
    given = after if isinstance(after, (tuple, list)) else (after,)
    names = tuple(n if isinstance(n, str) else getattr(n, "__name__", None) for n in given)
    if not all(isinstance(n, str) for n in names):
        fail("RL0105", "`after` takes nodes", span=span, expected="a node's name or function", found=repr(after))
    return cast("tuple[str, ...]", names)


def _fields_of(run: Callable[..., Any], definition: ast.FunctionDef) -> tuple[list[FieldHandle], dict[str, object]]:
    """The fields that a node's parameters name, and the defaults of its keyword-only settings."""
    written = {a.arg: a for a in definition.args.args}
    fields: list[FieldHandle] = []
    settings: dict[str, object] = {}
    for parameter in inspect.signature(run).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if isinstance(parameter.default, Handle):
                settings[parameter.name] = parameter.default
            continue
        at = written[parameter.name]
        span = span_in(run.__code__.co_filename, ast.copy_location(ast.Name(id=at.arg), at))
        optional = parameter.default is not inspect.Parameter.empty
        fields.append(FieldHandle(name=parameter.name, optional=optional, span=span))
    return fields, settings


def _traced(run: Callable[..., Any], definition: ast.FunctionDef) -> CallHandle | None:
    """What the body records, when everything it calls records."""
    calls = calls_in(definition)
    if not calls or not all(_records(c.func, run) for c in calls):
        return None
    fields, _ = _fields_of(run, definition)
    recorded = run(*fields)
    return recorded if isinstance(recorded, CallHandle) else None


def _records(written: ast.expr, run: Callable[..., Any]) -> bool:
    """Whether calling what is written would record a call; RL0204 for a function that its library does not have."""
    owner = resolve_callee(written.value, run) if isinstance(written, ast.Attribute) else None
    if isinstance(written, ast.Attribute) and isinstance(owner, Namespace):
        if owner.find(written.attr) is None:
            fail(
                "RL0204",
                f"unknown function `{written.attr}`",
                span=span_in(run.__code__.co_filename, written),
                expected=", ".join(owner.names()),
                found=written.attr,
                fix=did_you_mean(written.attr, owner.names()),
            )
        return True
    if isinstance(written, ast.Attribute) and isinstance(owner, ModelHandle):
        _check_method(owner, written, run)
    callee = resolve_callee(written, run)
    return isinstance(callee, Function) or _is_model_method(callee)


def _check_method(model: ModelHandle, written: ast.Attribute, run: Callable[..., Any]) -> None:
    """RL0206 for `actor.generat(...)`, RL0308 for a method that models of this kind do not have."""
    if callable(getattr(model, written.attr, None)):
        return
    span = span_in(run.__code__.co_filename, written)
    known = [m.value for m in Method if m not in BUILT_IN]
    if written.attr in known:
        kinds = " or ".join(f"a {k} model" for k in METHODS[Method(written.attr)].kinds)
        what = f"`{model.name}` is a {model.kind} model: it has no `{written.attr}`"
        fail("RL0308", what, span=span, expected=kinds, found=f"a {model.kind} model")
    what = f"unknown method of a model `{written.attr}`"
    fix = did_you_mean(written.attr, known)
    fail("RL0206", what, span=span, expected=", ".join(known), found=written.attr, fix=fix)


def _is_model_method(callee: object) -> bool:
    return inspect.ismethod(callee) and isinstance(callee.__self__, ModelHandle)


def _own_body(run: Callable[..., Any], definition: ast.FunctionDef, annotations: Annotations, span: Span) -> CallHandle:
    """The node's own function is what it computes."""
    file = run.__code__.co_filename
    if not has_body(definition):
        fix = "return a call of a model's method or of a function, or compute the result here"
        fail("RL0105", f"node `{run.__name__}` has no body", span=span, fix=fix)
    body = [n for statement in definition.body for n in ast.walk(statement)]
    calls = [n for n in body if isinstance(n, ast.Call)]
    for call in calls:
        if _is_model_method(resolve_callee(call.func, run)):
            _check_inner_calls(call, calls, run)
            fail(
                "RL0105",
                f"in node `{run.__name__}`, a model's method must be the whole body, and be returned",
                span=span_in(file, call),
                fix=f"write `return {ast.unparse(call.func)}(...)`; compute with its result in a node of its own",
            )
        _check_model_name(call, run)
    _check_parameters(body, run)
    needs_file(file, f"the body of node `{run.__name__}`", span)
    fields, settings = _fields_of(run, definition)
    return CallHandle(
        function=run.__name__,
        args=tuple(f.arg() for f in fields),
        keywords=settings,
        file=file,
        writes=annotations.writes,
        site=Site(span=span),
    )


def _check_inner_calls(method: ast.Call, calls: list[ast.Call], run: Callable[..., Any]) -> None:
    """RL0105 for what stands inside a model's method, but would have to run, not to be recorded."""
    inner = [c for c in calls if c is not method and c in list(ast.walk(method))]
    for call in inner:
        if _records(call.func, run):
            continue
        name, own = ast.unparse(call.func), resolve_callee(call.func, run)
        what = f"`{name}` is called inside `{ast.unparse(method.func)}(...)`, which is recorded, not run"
        fix = f"put `@rl.function` above `def {name}`" if inspect.isfunction(own) else "give the value as it is"
        fail("RL0105", what, span=span_in(run.__code__.co_filename, call), fix=fix)
    if isinstance(method.func, ast.Attribute) and method.func.attr == Method.TRAIN and not method.args:
        what = f"`{ast.unparse(method.func)}` needs a loss"
        fix = f"write `{ast.unparse(method.func)}(rl.lib.policy_loss(...), ...)`"
        fail("RL0105", what, span=span_in(run.__code__.co_filename, method), fix=fix)


def _check_parameters(body: list[ast.AST], run: Callable[..., Any]) -> None:
    """RL0105 for a parameter that a node's own function reads from outside: when it runs, there are only values."""
    stored = {n.id for n in body if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own = stored | set(inspect.signature(run).parameters)
    for name in (n for n in body if isinstance(n, ast.Name) and n.id not in own):
        if isinstance(resolve_callee(name, run), Handle):
            what = f"`{name.id}` is a parameter, which has no value inside `{run.__name__}`"
            fix = f"take it as a setting: `def {run.__name__}(..., *, {name.id}: float = {name.id})`"
            fail("RL0105", what, span=span_in(run.__code__.co_filename, name), fix=fix)


def _check_model_name(call: ast.Call, run: Callable[..., Any]) -> None:
    """RL0202 for `actr.generate(...)`, where nothing is called `actr`."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and isinstance(call.func, ast.Attribute) and call.func.attr in set(Method):
        known = [k for k, v in run.__globals__.items() if isinstance(v, ModelHandle)]
        if resolve_callee(owner, run) is None:
            span = span_in(run.__code__.co_filename, owner)
            fail("RL0202", f"unknown model `{owner.id}`", span=span, found=owner.id, fix=did_you_mean(owner.id, known))


def _outputs(
    writes: str | tuple[str, ...] | None, annotations: Annotations, method: Method | None, node_id: str, span: Span
) -> tuple[str, ...]:
    if writes is not None:
        names = (writes,) if isinstance(writes, str) else tuple(writes)
    elif annotations.names is not None:
        names = annotations.names
    elif method is Method.TRAIN:
        names = ()
    else:
        fail(
            "RL0105",
            f"node `{node_id}` does not say under which name it writes its result",
            span=span,
            fix='write `-> rl.Score`, `-> Annotated[rl.PerSample, "mine"]`, `-> Annotated[float, "mine"]` or `writes=`',
        )
    return tuple(check_name(n, "a field", span) for n in names)


def field_named(text: object, what: str, span: Span) -> FieldArg:
    """A field by name; `name?` may be absent, as in the language."""
    name = text.removesuffix("?") if isinstance(text, str) else text
    return FieldArg(name=check_name(name, what, span), optional=name != text, span=span)


def metric(
    name: str,
    *,
    mean: str | None = None,
    std: str | None = None,
    min: str | None = None,  # noqa: A002 - the language's words
    max: str | None = None,  # noqa: A002
    sum: str | None = None,  # noqa: A002
    mask: str | None = None,
    when: object = None,
) -> None:
    """Log a field as one number a step: `rl.metric("accuracy", mean="score")`.

    The reduction is over all rows of all ranks, and over the tokens of `mask` where one is given; the metrics of a
    block are logged as `block.name`. `"ref_logp?"` names a field that may be absent.
    """
    site = caller_site()
    with declaring() as builder:
        check_name(name, "a metric", site.span)
        given = dict(zip(Reduction, (mean, std, min, max, sum), strict=True))
        chosen = [(kind, field) for kind, field in given.items() if field is not None]
        if len(chosen) != 1:
            found = ", ".join(kind for kind, _ in chosen) or "none"
            what = f"metric `{name}` needs one reduction of one field"
            fail("RL0105", what, span=site.span, expected='`mean="score"`, or std, min, max, sum', found=found)
        ((reduction, reduced),) = chosen
        fields = [(reduced, reduction.value)] + ([] if mask is None else [(mask, "mask")])
        args = tuple(field_named(f, "a field", site.of(keyword)) for f, keyword in fields)
        call = Call(method=Method.METRIC, function=reduction.value, args=args, span=site.span)
        builder.scope.nodes.add([name], _sink(name, lambda: call, when, site))


def output(name: str, *fields: str, every: int | None = None, when: object = None) -> None:
    """Write rows of fields to `outputs/<name>-<rank>.jsonl` of the run, in every `every`-th step.

    `"ref_logp?"` names a field that may be absent.
    """
    site = caller_site()
    with declaring() as builder:
        check_name(name, "an output", site.span)
        args = tuple(field_named(f, "a field", site.span) for f in fields)
        if not args:
            fail("RL0105", f"output `{name}` names no field", span=site.span, expected='`"prompts", "completions"`')
        options = {} if every is None else {"every": every}

        def call() -> Call:
            return Call(method=Method.OUTPUT, args=args, options=keywords_of(options, site), span=site.span)

        builder.scope.nodes.add([name], _sink(name, call, when, site))


def _sink(name: str, call: Callable[[], Call], when: object, site: Site) -> NodeRecord:
    def make() -> Node:
        condition = None if when is None else to_expr(when, site.of("when"))
        return Node(id=name, call=call(), when=condition, span=site.span)

    return NodeRecord(make=make, span=site.span)
