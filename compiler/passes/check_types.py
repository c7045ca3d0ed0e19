"""dtype, axes, unit and lineage of every field."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rldsl.compiler.expr import Binary, Expr
from rldsl.compiler.ir import BUILT_IN, SINKS, Block, FieldArg, FieldInfo, Method, Module, Node, changed
from rldsl.compiler.methods import METHODS
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_arguments import field_params
from rldsl.compiler.signature import FieldParam
from rldsl.diagnostics import Diagnostics, Label
from rldsl.types import PROMPT, SAMPLE, DType, FieldType

_FLAG = FieldType(DType.BOOL, (PROMPT,))


@dataclass(frozen=True, kw_only=True)
class CheckTypes:
    """Give every field its type, its set of prompts and its lineage, and check every argument against its parameter.

    A prompt field may be read where a sample field is expected: it is repeated for each sample.
    A field whose producer is in error gets no type, and nothing that reads it is reported again.
    Before: `score` unknown.   After: `score : f32[sample]`, samples of `rollout`.
    """

    name: ClassVar[str] = "check_types"

    def apply(self, module: Module, context: Context) -> Module:
        """The module with `fields`."""
        graph = module.graph
        checker = _Checker(module, context.found)
        for item in graph.inputs:
            if item.type.unit != PROMPT:
                context.found.error(
                    "RL0301",
                    "an input has one row a prompt",
                    span=item.span,
                    expected="text[prompt]",
                    found=str(item.type),
                )
            for name in item.names:
                checker.fields[name] = FieldInfo(type=item.type, producer="input", prompts=item.block)
        if not graph.has_cycle:
            for node_id in graph.in_order:
                checker.node(graph.node_of[node_id])
            for block in graph.blocks:
                checker.carried(block)
        if not graph.poisoned and not any(n.call.method is Method.TRAIN for n in graph.nodes):
            what = (
                "no node trains a model: nothing would come of a run" if graph.nodes else "there is no algorithm here"
            )
            fix = "add a `train` node" if graph.nodes else "`rldsl check` an example to see what one looks like"
            context.found.error("RL0403", what, span=graph.span, fix=fix)
        return replace(module, fields=checker.fields)


class _Checker:
    def __init__(self, module: Module, found: Diagnostics) -> None:
        self.graph, self.signatures, self.found = module.graph, module.signatures, found
        self.fields: dict[str, FieldInfo] = {}
        self.handed = {c.param for b in self.graph.blocks for c in b.carry}
        self.handed |= {c.name for b in self.graph.blocks for c in b.collect}

    def node(self, node: Node) -> None:
        if node.call.method is Method.COLLECT:
            self.collection(node)
            return
        self.stated_type(node)
        self.model_kind(node)
        clean = self.arguments(node)
        rows = self.rows(node)
        if not clean or node.call.method in SINKS:
            return
        self.prompt_rows(node, rows)
        self.lengths(node)
        for name, kind in zip(node.outputs, self.output_types(node), strict=False):
            lineage = rows.lineage if kind.unit == SAMPLE else None
            self.fields[name] = FieldInfo(type=kind, producer=node.id, prompts=rows.prompts, lineage=lineage)
        if node.block is not None:
            self.carried(self.graph.block_of[node.block])

    def arguments(self, node: Node) -> bool:
        """Whether the types of all arguments are known; wrong ones are reported."""
        if node.call.method is Method.OUTPUT:
            return all(a.name in self.fields for a in node.call.args)
        signature = self.signatures.get(node.call.function or "") if node.call.method not in BUILT_IN else None
        params = {p.name: p for p in field_params(node.call, signature)}
        known = [self.argument(node, arg, params.get(arg.param or "")) for arg in node.call.args]
        if node.call.method is Method.METRIC and all(known):
            self.masked(node)
        return all(known)

    def masked(self, node: Node) -> None:
        """RL0301 for a metric with a mask of tokens over a field that has none."""
        types = {a.param: self.fields[a.name].type for a in node.call.args}
        if "mask" in types and not types["field"].ragged:
            self.found.error(
                "RL0301",
                f"a mask picks tokens, and what `{node.id}` measures has none",
                span=node.call.args[-1].span or node.call.span,
                expected="a field such as f32[sample, token]",
                found=str(types["field"]),
                fix="leave the mask out",
            )

    def rows(self, node: Node) -> FieldInfo:
        """Whose rows a node's results are: of one set of prompts and one rollout, or RL0310."""
        read = [(a, info) for a in node.call.args if (info := self.fields.get(a.name))]
        rollouts: dict[str | None, FieldArg] = {}
        sets: dict[str | None, FieldArg] = {}
        for arg, info in read:
            sets.setdefault(info.prompts, arg)
            if info.lineage is not None:
                rollouts.setdefault(info.lineage, arg)
        if len(sets) > 1:
            shown = ", ".join(f"`{a.name}` of {_set_name(s)}" for s, a in sets.items())
            what = f"these are rows of different prompts: {shown}"
            self.found.error("RL0310", what, span=node.call.span, fix=self.to_collect(read))
        elif len(rollouts) > 1:
            shown = ", ".join(f"`{a.name}` of `{rollout}`" for rollout, a in rollouts.items())
            fix = "a function with `group` can write one row a prompt, which goes with the samples of any rollout"
            self.found.error("RL0310", f"these are rows of different rollouts: {shown}", span=node.call.span, fix=fix)
        lineage = next(iter(rollouts), None)
        if node.call.method is Method.GENERATE and lineage is None:
            lineage = node.id
        first = read[0][1] if read else FieldInfo(type=_FLAG, producer="")
        return changed(first, prompts=next(iter(sets), None), lineage=lineage)

    def to_collect(self, read: list[tuple[FieldArg, FieldInfo]]) -> str | None:
        """What to collect besides, where some of the rows are those that a loop kept."""
        kept = next((i.prompts for _, i in read if (i.prompts or "").endswith(".kept")), None)
        others = dict.fromkeys(a.written or a.name for a, i in read if i.prompts != kept)
        if kept is None:
            return None
        return f"collect it too: `loop {kept.removesuffix('.kept')} ... collect ..., {', '.join(others)} where ...`"

    def collection(self, node: Node) -> None:
        """What a loop collects has the types that it has inside, but rows of a set of its own."""
        block = self.graph.block_of[node.block or node.id]
        if node.block is not None:
            known = [(a, info) for a in node.call.args if (info := self.fields.get(a.name))]
            for arg, info in known:
                producer = self.graph.producer_of.get(arg.name)
                if producer is not None and producer.when is not None:
                    what = f"`{producer.id}` writes what `{block.id}` collects, so it cannot have a condition"
                    self.found.error("RL0307", what, span=producer.span)
                if info.prompts != block.id and self.reads_input(block):
                    what = f"`{block.id}` collects `{arg.written or arg.name}`, which is no field of its own prompts"
                    self.found.error("RL0310", what, span=arg.span or node.span)
            where = self.fields.get(node.call.args[0].name)
            if where is not None and where.type != _FLAG:
                self.found.error(
                    "RL0301",
                    f"`{node.call.args[0].written or node.call.args[0].name}` cannot say which prompts to keep",
                    span=node.call.args[0].span,
                    expected=str(_FLAG),
                    found=str(where.type),
                    fix="a function with `group` may write `rl.PromptFlag`, such as `has_spread(score; group)`",
                )
            return
        for outer, arg in zip(node.outputs, block.collect, strict=True):
            info = self.fields.get(arg.name)
            if info is not None and info.prompts == block.id:
                lineage = f"{block.id}.kept.{info.lineage}" if info.lineage else None
                self.fields[outer] = changed(info, producer=node.id, prompts=f"{block.id}.kept", lineage=lineage)

    def reads_input(self, block: Block) -> bool:
        """Whether a loop that collects has prompts of its own; RL0215 has been said if not."""
        return any(i.block == block.id for i in self.graph.inputs)

    def carried(self, block: Block) -> None:
        """RL0312 when what a loop carries has another type, or other rows, after an iteration than before.

        What reads it later is checked as if it had not changed.
        """
        for arg in block.carry:
            before, after = self.fields.get(arg.name), self.fields.get(arg.param or "")
            if before is None or after is None:
                continue
            producer = self.graph.producer_of.get(arg.param or "")
            if producer is not None and producer.when is not None:
                what = f"`{producer.id}` writes what `{block.id}` carries, so it cannot have a condition"
                self.found.error("RL0307", what, span=producer.span)
            if _kind(before) != _kind(after):
                self.found.error(
                    "RL0312",
                    f"`{block.id}` carries `{arg.written or arg.name}`, which changes its type",
                    span=arg.span or block.span,
                    expected=f"{_described(before)}, as before the loop",
                    found=f"{_described(after)}, as `{after.producer}` writes it",
                )
                self.fields[arg.param or ""] = before

    def stated_type(self, node: Node) -> None:
        if node.stated_type is not None and node.stated_type != node.type:
            self.found.error(
                "RL0314",
                f"`{node.id}` is declared {node.stated_type}, but its call makes it {node.type}",
                span=node.span,
                expected=str(node.stated_type),
                found=str(node.type),
                fix=f"write `{node.type}`, or leave it out",
            )

    def output_types(self, node: Node) -> tuple[FieldType, ...]:
        if node.call.method is not None:
            return tuple(kind for _, kind in METHODS[node.call.method].outputs)
        signature = self.signatures.get(node.call.function or "")
        return signature.outputs if signature else ()

    def lengths(self, node: Node) -> None:
        """RL0301 for a function that makes tokens' values of fields without tokens: their number is unknown."""
        reads = [info.type for a in node.call.args if (info := self.fields.get(a.name))]
        writes = self.output_types(node)
        if node.call.method is None and any(k.ragged for k in writes) and not any(k.ragged for k in reads):
            self.found.error(
                "RL0301",
                f"`{node.call.function}` writes a value for each token, but reads no field that has tokens",
                span=node.call.span,
                fix="let it read `response_mask` as well",
            )

    def prompt_rows(self, node: Node, rows: FieldInfo) -> None:
        """RL0301 for a function that makes prompt rows of sample rows, unless it works on whole groups of them."""
        signature = self.signatures.get(node.call.function or "")
        if node.call.method is not None or signature is None or not rows.lineage:
            return
        if any(k.unit == PROMPT for k in signature.outputs) and not signature.grouped:
            self.found.error(
                "RL0301",
                f"`{node.call.function}` reads samples and cannot write prompt rows",
                span=node.call.span,
                expected="a type of samples, such as `f32[sample]`, or a keyword-only `group: int`",
                found=", ".join(map(str, signature.outputs)),
                fix="a function of whole groups has a setting `group` and writes one row a group",
            )
        elif any(k.unit == PROMPT and k.ragged for k in signature.outputs):
            fix = "write one number a group, such as `rl.PerPrompt`, or keep the samples' rows"
            what = f"`{node.call.function}` makes one row of each group, whose samples differ in length"
            self.found.error("RL0301", what, span=node.call.span, expected="a type without tokens", fix=fix)

    def argument(self, node: Node, arg: FieldArg, param: FieldParam | None) -> bool:
        """Whether the argument's type is known and right."""
        info = self.fields.get(arg.name)
        if info is None or param is None:
            return False
        self.conditional(node, arg, param)
        if any(_accepts(want, info.type, node) for want in param.types):
            return True
        wanted = " or ".join(str(t) for t in param.types)
        producer = self.graph.producer_of.get(arg.name)
        labels = (
            (Label(span=producer.span, message=f"`{arg.name}` is written here"),) if producer and producer.span else ()
        )
        self.found.error(
            "RL0301",
            f"`{arg.written or arg.name}` has the wrong type for `{param.name}` of `{_called(node)}`",
            span=arg.span or node.call.span,
            expected=wanted,
            found=str(info.type),
            labels=labels,
        )
        return True

    def conditional(self, node: Node, arg: FieldArg, param: FieldParam) -> None:
        """RL0307 when the field may be missing and the reader does not say that it can do without."""
        producer = self.graph.producer_of.get(arg.name)
        if node.call.method in SINKS or arg.name in self.handed:
            return  # a sink goes with its field; of what a loop hands out, RL0307 is said there
        if producer is None or producer.when is None or _implies(node.when, producer.when):
            return
        if not arg.optional:
            self.found.error(
                "RL0307",
                f"`{arg.written or arg.name}` is only there when `{producer.id}` runs",
                span=arg.span or node.call.span,
                fix=f"write `{arg.written or arg.name}?`, or give this node the same condition",
            )
        elif not param.optional:
            name = node.call.function or node.call.method
            self.found.error("RL0307", f"`{name}` cannot do without `{param.name}`", span=arg.span or node.call.span)

    def model_kind(self, node: Node) -> None:
        model = self.graph.model_of.get(node.call.model or "")
        if model is None or node.call.method is None:
            return
        spec = METHODS[node.call.method]
        if model.kind not in spec.kinds:
            self.found.error(
                "RL0308",
                f"`{model.name}` is a {model.kind} model: it has no `{node.call.method}`",
                span=node.call.span,
                expected=" or ".join(f"a {k} model" for k in spec.kinds),
                found=f"a {model.kind} model",
            )
        if node.call.method is Method.TRAIN and model.frozen:
            labels = (Label(span=model.span, message="declared frozen here"),) if model.span else ()
            self.found.error(
                "RL0309",
                f"`{model.name}` is frozen and cannot be trained",
                span=node.call.span,
                labels=labels,
            )


def _set_name(prompts: str | None) -> str:
    return "the step's prompts" if prompts is None else f"`{prompts}`"


def _called(node: Node) -> str:
    return node.call.function or str(node.call.method)


def _kind(info: FieldInfo) -> tuple[object, ...]:
    return info.type, info.prompts, info.lineage


def _described(info: FieldInfo) -> str:
    return f"{info.type} of `{info.lineage}`" if info.lineage else str(info.type)


def _accepts(want: FieldType, have: FieldType, node: Node) -> bool:
    if want == have:
        return True
    # Functions may read a prompt's column beside the samples': the row is repeated. Models may not.
    broadcast = node.call.method is None or node.call.method is Method.TRAIN
    same = want.dtype == have.dtype and want.axes[1:] == have.axes[1:]
    return broadcast and same and want.unit == SAMPLE and have.unit == PROMPT


def _implies(condition: Expr | None, other: Expr) -> bool:
    """Whether `condition` is `other` or a conjunction that contains it."""
    if condition == other:
        return True
    if not isinstance(condition, Binary) or condition.op != "and":
        return False
    return _implies(condition.left, other) or _implies(condition.right, other)
