"""Every argument meets its parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.ir import BUILT_IN, Call, FieldArg, Keyword, Method, Module, Node, SourceCall, changed
from rldsl.compiler.methods import DATA_SOURCES, LORA, METHODS, MODEL_SOURCES, Setting, SourceKind
from rldsl.compiler.passes.base import Context
from rldsl.compiler.signature import FieldParam, Signature
from rldsl.diagnostics import Diagnostics, Span, did_you_mean

_METRIC = ("field", "mask")


_METRIC = ("field", "mask")


@dataclass(frozen=True, kw_only=True)
class BindArguments:
    """Give each field argument the parameter it binds to.

    An argument named like a parameter binds to it; the others fill what remains, in order.
    Before: `compute math_verify(completions, truth)`
    After:  `compute math_verify(completions, answers = truth)`
    """

    name: ClassVar[str] = "bind_arguments"

    def apply(self, module: Module, context: Context) -> Module:
        """Nodes whose arguments carry `param`."""
        binder = _Binder(module, context.found)
        nodes = tuple(binder.node(n) for n in module.graph.nodes)
        for model in module.graph.models:
            if model.source:
                binder.source(model.source, MODEL_SOURCES)
            binder.keywords(model.options, {s.name for s in LORA}, f"model `{model.name}`")
        for item in module.graph.inputs:
            binder.source(item.source, DATA_SOURCES)
        return replace(module, graph=module.graph.with_nodes(nodes))


def field_params(call: Call, signature: Signature | None) -> tuple[FieldParam, ...]:
    """The parameters that a call's field arguments bind to.

    In `M.train f(tokens, response_mask, ...)` the model turns `tokens` into f's first parameter, so the
    first two are the model's and the rest are those of f after its first two.
    """
    if call.method is None:
        return signature.inputs if signature else ()
    own = METHODS[call.method].inputs
    return (*own, *signature.inputs[2:]) if call.method is Method.TRAIN and signature else own


class _Binder:
    def __init__(self, module: Module, found: Diagnostics) -> None:
        self.module, self.found = module, found

    def node(self, node: Node) -> Node:
        call = node.call
        signature = self.module.signatures.get(call.function or "")
        if call.method in BUILT_IN:
            return self.built_in(node)
        if call.function is not None and signature is None:
            return node
        if not self.fits_its_place(node, signature):
            return node
        if call.method is None and not call.args:
            message = f"`{call.function}` is given no field: there would be no rows to compute on"
            self.found.error("RL0302", message, span=call.span, fix="pass a field, such as `completions`")
            return node
        args = self.bind(node, field_params(call, signature))
        hypers = {h.name for h in signature.hypers} if signature else set()
        spec = METHODS[call.method] if call.method else None
        own = {k.name for k in spec.keywords} if spec else set()
        own_fields = {p.name for p in signature.inputs} if signature else set()
        self.keywords(call.keywords, hypers | own, f"`{call.function or call.method}`", own_fields)
        self.keywords(call.options, {o.name for o in spec.options} if spec else set(), f"`{call.method or 'compute'}`")
        self.required(call, signature, node.span)
        self.outputs(node, signature)
        return changed(node, call=changed(call, args=args))

    def built_in(self, node: Node) -> Node:
        """A metric reads a field and perhaps a mask; an output and a collection read whatever they name."""
        call = node.call
        assert call.method is not None
        spec = METHODS[call.method]
        self.keywords(call.keywords, {k.name for k in spec.keywords}, f"`{call.function or call.method}`")
        self.keywords(call.options, {o.name for o in spec.options}, f"`{call.method}`")
        if call.method is not Method.METRIC:
            return node
        # By place, not by name: a metric of the field `mask` is no mask.
        free = tuple(
            changed(a, written=None, param=a.param or name) for a, name in zip(call.args, _METRIC, strict=False)
        )
        bound = changed(node, call=changed(call, args=(*free, *call.args[2:])))
        return changed(node, call=changed(call, args=self.bind(bound, spec.inputs)))

    def bind(self, node: Node, params: tuple[FieldParam, ...]) -> tuple[FieldArg, ...]:
        names = [p.name for p in params]
        taken = {_wanted(a) for a in node.call.args if _wanted(a) in names}
        free = iter([n for n in names if n not in taken])
        bound: list[FieldArg] = []
        for arg in node.call.args:
            own = arg.written or arg.name
            wanted = arg.param or (own if own in names else next(free, None))
            if wanted is None or wanted not in names or any(b.param == wanted for b in bound):
                self.too_many(node, arg, names)
                continue
            bound.append(changed(arg, param=wanted))
        given = {b.param for b in bound}
        for param in params:
            if param.name not in given and not param.optional and len(bound) == len(node.call.args):
                self.found.error(
                    "RL0302",
                    f"`{_called(node.call)}` needs `{param.name}`",
                    span=node.call.span,
                    expected=", ".join(names),
                    found=", ".join(a.written or a.name for a in node.call.args) or "no fields",
                    fix=f"add `{param.name}` to the arguments",
                )
        return tuple(sorted(bound, key=lambda b: names.index(b.param or "")))

    def too_many(self, node: Node, arg: FieldArg, names: list[str]) -> None:
        hint = did_you_mean(arg.param, names) if arg.param else None
        if arg.param in self.settings(node.call):
            hint = f"settings stand behind `;`: write `; {arg.param} = {arg.name}`"
        self.found.error(
            "RL0303",
            f"`{_called(node.call)}` has no parameter for `{arg.param or arg.name}`",
            span=arg.span or node.call.span,
            expected=", ".join(names) or "no fields",
            found=arg.param or arg.name,
            fix=hint,
        )

    def settings(self, call: Call) -> set[str]:
        """The names of what a call takes behind `;`."""
        signature = self.module.signatures.get(call.function or "")
        own = {k.name for k in METHODS[call.method].keywords} if call.method else set()
        return own | ({h.name for h in signature.hypers} if signature else set())

    def keywords(self, given: tuple[Keyword, ...], known: Iterable[str], of: str, fields: Iterable[str] = ()) -> None:
        """RL0207 for settings that are not `known`. `fields` are what the function would take as fields."""
        names, others = sorted(known), set(fields)
        for keyword in given:
            if keyword.name not in names:
                self.found.error(
                    "RL0207",
                    f"{of} takes no `{keyword.name}`",
                    span=keyword.span,
                    expected=", ".join(names) or "nothing",
                    found=keyword.name,
                    fix=_keyword_only(of, keyword.name)
                    if keyword.name in others
                    else near_setting(keyword.name, names),
                )

    def required(self, call: Call, signature: Signature | None, span: Span | None) -> None:
        spec = METHODS[call.method] if call.method else None
        settings = [(s.name, s.required) for s in spec.keywords] if spec else []
        settings += [(h.name, h.required and h.name != "group") for h in signature.hypers] if signature else []
        given = {k.name for k in call.keywords}
        for name, required in settings:
            if required and name not in given and not _misspelt(name, given):
                self.found.error(
                    "RL0302",
                    f"`{_called(call)}` needs `{name} = ...`",
                    span=call.span or span,
                    fix=f"add `; {name} = ...`",
                )
        options = {k.name for k in call.options}
        for option in spec.options if spec else ():
            if option.required and option.name not in options and not _misspelt(option.name, options):
                what = f"`{call.model}.{call.method}` needs `with {option.name} = ...`"
                self.found.error("RL0302", what, span=call.span or span)

    def outputs(self, node: Node, signature: Signature | None) -> None:
        method = node.call.method
        outputs = METHODS[method].outputs if method else signature.outputs if signature else ()
        count, given = len(outputs), len(node.outputs)
        fewer_is_fine = method is not None and given > 0
        if given > count or (given < count and not fewer_is_fine):
            names = ", ".join(o[0] for o in METHODS[method].outputs) if method else ""
            self.found.error(
                "RL0306",
                f"`{_called(node.call)}` gives {count} field{'s' * (count != 1)}, but `{node.id}` names {given}",
                span=node.span,
                expected=names or f"{count} name{'s' * (count != 1)} after `->`",
                found=", ".join(node.outputs) or "none",
            )

    def fits_its_place(self, node: Node, signature: Signature | None) -> bool:
        """Whether a loss is trained on and anything else is not; RL0308 otherwise."""
        if signature is None or signature.is_loss == (node.call.method is Method.TRAIN):
            return True
        message = (
            f"`{signature.name}` is a loss: a model trains on it"
            if signature.is_loss
            else f"`{signature.name}` is no loss"
        )
        fix = f"write `actor.train {signature.name}(...)`" if signature.is_loss else "a loss returns `rl.TokenLoss`"
        self.found.error("RL0308", message, span=node.call.span, fix=fix)
        return False

    def source(self, source: SourceCall, kinds: dict[str, SourceKind]) -> None:
        kind = kinds.get(source.kind)
        if kind is None:
            return
        given = {k.name for k in source.keywords}
        for setting in kind.args[len(source.args) :]:
            if setting.required and setting.name not in given:
                self.found.error(
                    "RL0302",
                    f"`{source.kind}` needs `{setting.name}`",
                    span=source.span,
                    expected=_listed(kind.args),
                )
        for setting in kind.keywords:
            if setting.required and setting.name not in given and not _misspelt(setting.name, given):
                self.found.error("RL0302", f"`{source.kind}` needs `{setting.name} = ...`", span=source.span)
        if len(source.args) > len(kind.args):
            self.found.error(
                "RL0303",
                f"`{source.kind}` takes {len(kind.args)} unnamed values",
                span=source.span,
                expected=_listed(kind.args),
            )
        if not kind.open_ended:
            self.keywords(source.keywords, {s.name for s in (*kind.args, *kind.keywords)}, f"`{source.kind}`")


def _misspelt(name: str, given: Iterable[str]) -> bool:
    """Whether what is missing may be there under a wrong name, which is reported by itself."""
    return any(near_setting(other, [name]) for other in given)


_ALIASES = {
    "learning_rate": "lr",
    "num_generations": "n",
    "num_samples": "n",
    "samples": "n",
    "max_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "mini_batch_size": "minibatch",
    "batch_size": "minibatch",
    "num_epochs": "epochs",
    "ppo_epochs": "epochs",
}
"""What other systems call our settings."""


def _keyword_only(of: str, name: str) -> str:
    return f"a setting stands behind `*` in the function: `def {of.strip('`')}(..., *, {name}: ...)`"


def near_setting(name: str, known: Iterable[str]) -> str | None:
    """`did you mean X?`, by spelling or because another system calls it so."""
    known = list(known)
    alias = _ALIASES.get(name)
    return f"did you mean `{alias}`?" if alias in known else did_you_mean(name, known)


def _wanted(arg: FieldArg) -> str:
    """The parameter that an argument names, by hand or by being called like it."""
    return arg.param or arg.written or arg.name


def _called(call: Call) -> str:
    return call.function or (f"{call.model}.{call.method}" if call.model else str(call.method))


def _listed(settings: tuple[Setting, ...]) -> str:
    return ", ".join(s.name for s in settings) or "nothing"
