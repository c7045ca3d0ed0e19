"""Parameters get their values, and every expression becomes a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Expr, Literal, evaluate, format_expr, format_scalar, unfit
from rldsl.compiler.ir import (
    BUILT_IN,
    Block,
    BlockKind,
    Call,
    Deploy,
    Keyword,
    Method,
    Model,
    Module,
    Node,
    Param,
    ParamType,
    Range,
    SourceCall,
    changed,
)
from rldsl.compiler.methods import DATA_SOURCES, FIGURES, LORA, METHODS, MODEL_SOURCES, Setting
from rldsl.compiler.ops import Scalar
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.warn_unused import SEED
from rldsl.compiler.plan import AXES
from rldsl.compiler.units import unit_of
from rldsl.diagnostics import Diagnostics, Span, did_you_mean


@dataclass(frozen=True, kw_only=True)
class BindParameters:
    """Replace every expression by its value under `--set` and the defaults, and check types, ranges and units.

    Before: `actor.generate(prompts; n = group)`, group = 8.   After: `actor.generate(prompts; n = 8)`
    """

    name: ClassVar[str] = "bind_parameters"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `values`; no ParamRef is left in the graph."""
        graph = module.graph
        values = _values(graph.params, context)
        units = {p.name: p.unit for p in graph.params}
        binder = _Binder(module, values, units, context.found)
        _check_seed(graph.params, values, context.found)
        models = tuple(binder.model(m) for m in graph.models)
        bound = graph.with_nodes(tuple(binder.node(n) for n in graph.nodes)).with_values(
            models=models,
            inputs=tuple(replace(i, batch=binder.batch(i.batch), source=binder.source(i.source)) for i in graph.inputs),
            blocks=tuple(binder.block(b) for b in graph.blocks),
        )
        if graph.deploy:
            bound = replace(bound, deploy=binder.deploy(graph.deploy))
        by_name = {m.name: m for m in models}
        for model in models:
            _check_scratch(model, context.found)
        origins = {m.name: origin for m in models if (origin := _origin(m, by_name))}
        return replace(module, values=values, graph=bound, origins=origins)


def _is_within(param: Param, value: Scalar, found: Diagnostics) -> bool:
    """Whether a value lies in the range that the parameter declares; RL0404 if not."""
    within = param.range or Range()
    if value in within.choices:
        return True
    if within.choices:
        shown, hint = format_scalar(value), did_you_mean(str(value), map(str, within.choices))
        what, expected = f"`{param.name}` cannot be {shown}", ", ".join(map(format_scalar, within.choices))
        found.error("RL0404", what, span=param.span, expected=expected, found=shown, fix=hint)
        return False
    setting = Setting(
        name=param.name,
        type=param.type,
        least=None if within.low_open else within.low,
        above=within.low if within.low_open else None,
        most=None if within.high_open else within.high,
        below=within.high if within.high_open else None,
    )
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    return _check_range(value, setting, param.span, found)


def _check_scratch(model: Model, found: Diagnostics) -> None:
    """RL0404 for a small model that cannot be built: no characters, or heads that do not divide."""
    if model.source is None or model.source.kind != "scratch":
        return
    given = model.source.keywords
    defaults = {s.name: s.default for s in MODEL_SOURCES["scratch"].keywords}
    if not all(isinstance(k.value, Literal) for k in given):
        return
    if keyword_value(given, "alphabet", "?") == "":
        found.error("RL0404", "`alphabet` has no characters", span=model.source.span)
    hidden, heads = (keyword_value(given, name, defaults[name]) for name in ("hidden", "heads"))
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 and hidden % (2 * heads):
        expected = f"a multiple of 2 * heads = {2 * heads}"
        found.error("RL0404", "`hidden` does not divide", span=model.source.span, expected=expected, found=str(hidden))


def _origin(model: Model, by_name: Mapping[str, Model]) -> Model | None:
    """The model whose source `model`'s weights come from; None when copies go round in a circle or nowhere."""
    seen: set[str] = set()
    while model.source is None:
        original = model.copy_of or model.shares
        if model.name in seen or original is None or original not in by_name:
            return None
        seen.add(model.name)
        model = by_name[original]
    return model


def _values(params: tuple[Param, ...], context: Context) -> dict[str, Scalar]:
    known = {p.name: p for p in params}
    # A default of the wrong type, or out of range, gives no value: what reads the parameter is not reported again.
    values: dict[str, Scalar] = {}
    for param in params:
        if fits(param.default, param.type):
            if _is_within(param, param.default, context.found):
                values[param.name] = param.default
        else:
            context.found.error(
                "RL0304",
                f"the default of `{param.name}` is no {param.type}",
                span=param.span,
                expected=param.type,
                found=format_scalar(param.default),
            )
    for name, text in context.settings.items():
        if name not in known:
            hint = did_you_mean(name, known)
            context.found.error(
                "RL0203",
                f"--set: unknown parameter `{name}`",
                expected=", ".join(sorted(known)),
                found=name,
                fix=hint,
            )
            continue
        value = read_setting(text, known[name].type)
        if value is None:
            context.found.error(
                "RL0304",
                f"--set: `{name}` is of type {known[name].type}",
                span=known[name].span,
                expected=known[name].type,
                found=text,
            )
            continue
        values.pop(name, None)
        if _is_within(known[name], value, context.found):
            values[name] = value
    return values


def read_setting(text: str, kind: ParamType) -> Scalar:
    """The value of `text` as `kind`, or None if it is none, or one that no plan can hold."""
    value = _read(text, kind)
    return None if unfit(value) else value


def _read(text: str, kind: ParamType) -> Scalar:
    try:
        match kind:
            case ParamType.INT:
                return int(text)
            case ParamType.FLOAT:
                return float(text)
            case ParamType.BOOL:
                return {"true": True, "false": False}.get(text.lower())
            case ParamType.STR:
                return text
    except ValueError:
        return None


def _check_seed(params: tuple[Param, ...], values: Mapping[str, Scalar], found: Diagnostics) -> None:
    """The runtime reads `seed`, which no expression need mention."""
    for param in params:
        seed = values.get(param.name)
        if param.name == SEED and param.name in values and not (fits(seed, "int") and 0 <= int(seed or 0) < 1 << 63):
            found.error(
                "RL0404",
                "`seed` seeds sampling and the order of the data",
                span=param.span,
                expected="an int of at least 0, below 2**63",
                found=format_scalar(seed),
            )


def fits(value: Scalar, kind: str) -> bool:
    """Whether `value` is of the type that a parameter or a setting has; a whole number is a float."""
    if unfit(value):
        return False
    match kind:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "bool":
            return isinstance(value, bool)
        case _:
            return isinstance(value, str)


class _Binder:
    def __init__(
        self,
        module: Module,
        values: Mapping[str, Scalar],
        units: Mapping[str, str | None],
        found: Diagnostics,
    ) -> None:
        self.module, self.values, self.units, self.found = module, values, units, found

    def literal(self, expr: Expr) -> Literal | None:
        """The value, or None after an error (an unknown name has been reported already)."""
        try:
            text = None if isinstance(expr, Literal) else format_expr(expr)
            return Literal(value=evaluate(expr, self.values), unit=self.unit(expr), text=text, span=expr.span)
        except KeyError:
            return None
        except (TypeError, ArithmeticError, ValueError) as error:
            self.found.error("RL0304", f"this cannot be computed: {error}", span=expr.span)
            return None

    def unit(self, expr: Expr) -> str | None:
        return unit_of(expr, self.units, self.mixed)

    def mixed(self, left: str, right: str, span: Span | None) -> None:
        what = f"{left} and {right} can be neither added nor compared"
        self.found.error("RL0311", what, span=span, expected=left, found=right)

    def model(self, model: Model) -> Model:
        settings = {s.name: s for s in LORA}
        options = tuple(self.keyword(k, settings.get(k.name)) for k in model.options)
        if options and (model.frozen or model.shares):
            what = f"`{model.name}` has no weights of its own to train, so it takes no adapters"
            self.found.error("RL0309", what, span=options[0].span)
        elif options and "lora_rank" not in {k.name for k in options} <= set(settings):
            self.found.error("RL0302", f"`{model.name}` needs `lora_rank = ...`", span=options[0].span)
        return replace(model, source=self.source(model.source) if model.source else None, options=options)

    def block(self, block: Block) -> Block:
        loop = block.kind is BlockKind.LOOP
        bound = Setting(name="max" if loop else "every", type="int", least=1 if block.where or not loop else 0)
        until = Setting(name="until", type="int", least=1, unit="prompts")
        return replace(
            block,
            bound=self.checked(block.bound, bound),
            until=self.checked(block.until, until) if block.until else None,
        )

    def checked(self, expr: Expr, setting: Setting) -> Expr:
        value = self.literal(expr)
        if value is not None:
            check_setting(value, setting, expr.span, self.found)
        return value or expr

    def node(self, node: Node) -> Node:
        if not (node.call.keywords or node.call.options or node.when):
            return node
        built_in = node.call.method in BUILT_IN
        signature = None if built_in else self.module.signatures.get(node.call.function or "")
        spec = METHODS[node.call.method] if node.call.method else None
        settings = {s.name: s for s in spec.keywords} if spec else {}
        if signature:
            settings |= {h.name: Setting(name=h.name, type=h.type, optional=h.optional) for h in signature.hypers}
        options = {o.name: o for o in spec.options} if spec else {}
        call = changed(
            node.call,
            keywords=tuple(self.keyword(k, settings.get(k.name)) for k in node.call.keywords),
            options=tuple(self.keyword(k, options.get(k.name)) for k in node.call.options),
        )
        when = self.literal(node.when) if node.when else None
        return changed(node, call=call, when=when)

    def keyword(self, keyword: Keyword, setting: Setting | None) -> Keyword:
        value = self.literal(keyword.value)
        if value is None:
            return keyword
        if setting is not None:
            check_setting(value, setting, keyword.span, self.found)
        return changed(keyword, value=value)

    def batch(self, expr: Expr) -> Expr:
        return self.checked(expr, Setting(name="batch", type="int", least=1, unit="prompts"))

    def deploy(self, deploy: Deploy) -> Deploy:
        settings = {axis: Setting(name=axis, type="int", least=1) for axis in (*AXES, "ep")}
        figures = {s.name: s for s in FIGURES}
        return replace(
            deploy,
            figures=tuple(self.keyword(f, figures.get(f.name)) for f in deploy.figures),
            layouts=tuple(
                replace(p, axes=tuple(self.keyword(a, settings.get(a.name)) for a in p.axes)) for p in deploy.layouts
            ),
        )

    def source(self, source: SourceCall) -> SourceCall:
        kind = MODEL_SOURCES.get(source.kind) or DATA_SOURCES.get(source.kind)
        settings = {s.name: s for s in (*kind.args, *kind.keywords)} if kind else {}
        args = tuple(
            self.keyword(Keyword(name=s.name, value=a, span=a.span), s).value
            for a, s in zip(source.args, kind.args if kind else (), strict=False)
        )
        return replace(
            source, args=args, keywords=tuple(self.keyword(k, settings.get(k.name)) for k in source.keywords)
        )


def check_setting(value: Literal, setting: Setting, span: Span | None, found: Diagnostics) -> None:
    """RL0304 for a wrong type, RL0311 for a wrong unit, RL0404 outside the range."""
    number = value.value
    name, shown = setting.name, format_scalar(number)
    if number is None and setting.optional:
        return
    if not fits(number, setting.type):
        found.error(
            "RL0304",
            f"`{name}` must be of type {setting.type}",
            span=span,
            expected=setting.type,
            found=shown,
        )
        return
    if setting.unit and value.unit and value.unit != setting.unit:
        found.error(
            "RL0311",
            f"`{name}` counts {setting.unit}",
            span=span,
            expected=setting.unit,
            found=f"{shown} {value.unit}",
        )
    if setting.choices and number not in setting.choices:
        hint = did_you_mean(str(number), setting.choices)
        found.error(
            "RL0404",
            f"`{name}` cannot be {shown}",
            span=span,
            expected=", ".join(setting.choices),
            found=shown,
            fix=hint,
        )
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        _check_range(number, setting, span, found)


def _check_range(number: float, setting: Setting, span: Span | None, found: Diagnostics) -> bool:
    bounds = [f"at least {setting.least:g}"] if setting.least is not None else []
    bounds += [f"above {setting.above:g}"] if setting.above is not None else []
    bounds += [f"below {setting.below:g}"] if setting.below is not None else []
    bounds += [f"at most {setting.most:g}"] if setting.most is not None else []
    low = (setting.least is not None and number < setting.least) or (
        setting.above is not None and number <= setting.above
    )
    high = setting.most is not None and number > setting.most
    beyond = setting.below is not None and number >= setting.below
    if low or high or beyond:
        found.error(
            "RL0404",
            f"`{setting.name}` is out of range",
            span=span,
            expected=" and ".join(bounds),
            found=format_scalar(number),
        )
    return not (low or high or beyond)


def keyword_value(keywords: tuple[Keyword, ...], name: str, default: Scalar) -> Scalar:
    """The bound value of `name`, or `default` where it is not given."""
    for keyword in keywords:
        if keyword.name == name:
            assert isinstance(keyword.value, Literal), f"{name} is not bound"
            return keyword.value.value
    return default


def option_of(call: Call, name: str) -> Scalar:
    """The value of a method's option or keyword, from the call or the method's default."""
    assert call.method is not None
    spec = METHODS[call.method]
    default = next(s.default for s in (*spec.keywords, *spec.options) if s.name == name)
    return keyword_value((*call.keywords, *call.options), name, default)


def number_of(call: Call, name: str) -> float:
    """`option_of` where the value is a number."""
    value = option_of(call, name)
    assert isinstance(value, (int, float)), name
    return value


def optimiser_steps(call: Call, batch: int) -> int:
    """How many optimiser steps a training call takes on one batch of `batch` prompts."""
    assert call.method is Method.TRAIN
    minibatch = option_of(call, "minibatch") or batch
    assert isinstance(minibatch, int)
    return int(number_of(call, "epochs")) * -(-batch // minibatch)
