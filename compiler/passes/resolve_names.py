"""Every name is known where it is used."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from rldsl.compiler.expr import Expr, references
from rldsl.compiler.ir import (
    BUILT_IN,
    Call,
    Deploy,
    FieldArg,
    Graph,
    Keyword,
    Method,
    Model,
    ModelKind,
    Module,
    Node,
    SourceCall,
    changed,
)
from rldsl.compiler.methods import DATA_SOURCES, ENGINES, METHODS, MODEL_SOURCES, SourceKind
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_arguments import field_params
from rldsl.compiler.passes.check_unique import UNNAMED
from rldsl.compiler.plan import Phase
from rldsl.compiler.signature import (
    Signature,
    functions_in,
    library_names,
    library_signature,
    parse_user_file,
    user_signature,
)
from rldsl.compiler.syntax_words import FOREIGN
from rldsl.diagnostics import Diagnostic, DiagnosticError, Diagnostics, Label, Span, did_you_mean
from rldsl.types import Role

_MODULE_ROLES = {
    "rldsl.algos.rewards": Role.REWARD,
    "rldsl.algos.advantages": Role.ADVANTAGE,
}
DEFAULT_ROLE = "COMPUTE"
_LISTED = 50  # names, of those that are known
_MISSPELT = 50  # names, for which near ones are looked for: where more are unknown, it is not their spelling
_HARDLY_ANOTHER = 0.8  # names as alike as this are one, misspelt


@dataclass(frozen=True, kw_only=True)
class ResolveNames:
    """Check names, read the signatures of the functions used, and infer roles.

    Before: `node ref = reference.logprob(tokns, response_mask) -> ref_logp`
    After:  RL0201 unknown field `tokns`; did you mean `tokens`? - or the same node with role REFERENCE.
    """

    name: ClassVar[str] = "resolve_names"

    def apply(self, module: Module, context: Context) -> Module:
        """Signatures by function name, and roles where none is stated."""
        graph = module.graph
        own: set[str] = set()
        signatures = _signatures(graph, context, own)
        _Names(graph, signatures, own, context.found).check()
        nodes = tuple(n if n.role else changed(n, role=_role(n, graph, signatures)) for n in graph.nodes)
        return replace(module, graph=graph.with_nodes(nodes), signatures=signatures)


def _used_functions(graph: Graph) -> set[str]:
    return {n.call.function for n in graph.nodes if n.call.function and n.call.method not in BUILT_IN}


def _signatures(graph: Graph, context: Context, own: set[str]) -> dict[str, Signature]:
    """Signatures of the functions called, user files before the library; `own` gets all names of the former."""
    wanted = _used_functions(graph)
    read: dict[str, Signature] = {}
    for use in graph.uses:
        path = context.source_dir / use.path
        try:
            tree, sha256 = parse_user_file(path, use.path, use.span)
        except DiagnosticError as error:
            for diagnostic in error.diagnostics:
                context.found.add(diagnostic)
            own |= wanted  # each may be one of those in the file
            continue
        for function in functions_in(tree):
            own.add(function.name)
            if function.name in wanted:
                _add_user_function(function, read, path=path, file=use.path, sha256=sha256, context=context)
    for name in sorted(wanted - set(read)):
        signature = library_signature(name)
        if signature is not None:
            read[name] = signature
    return read


def _add_user_function(
    function: ast.FunctionDef,
    read: dict[str, Signature],
    *,
    path: Path,
    file: str,
    sha256: str,
    context: Context,
) -> None:
    signature = user_signature(function, path=path, file=file, sha256=sha256, found=context.found)
    if signature is None:
        return
    if function.name in library_names():
        context.found.error(
            "RL0205",
            f"`{function.name}` is the name of a shipped function",
            span=signature.span,
            fix="rename yours",
        )
    if function.name in read:
        context.found.error(
            "RL0205", f"function `{function.name}` is defined in two of the files used", span=signature.span
        )
    read[function.name] = signature


def _role(node: Node, graph: Graph, signatures: dict[str, Signature]) -> str:
    model = graph.model_of.get(node.call.model or "")
    if model is not None:
        if model.kind is not ModelKind.POLICY:
            return Role.CRITIC if model.kind is ModelKind.VALUE else Role.REWARD
        return Role.REFERENCE if model.frozen else Role.ACTOR
    signature = signatures.get(node.call.function or "")
    return _MODULE_ROLES.get(signature.module or "", DEFAULT_ROLE) if signature else DEFAULT_ROLE


def _forgets_outputs(node: Node, signatures: dict[str, Signature]) -> bool:
    """Whether a node names fewer fields than it writes, or calls one as another is called."""
    if UNNAMED in (o.rpartition(".")[2] for o in node.outputs):
        return True
    if node.call.method is not None:
        return not node.outputs and node.call.method not in BUILT_IN and bool(METHODS[node.call.method].outputs)
    signature = signatures.get(node.call.function or "")
    return signature is not None and len(node.outputs) < len(signature.outputs)


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


class _Names:
    """Looks up every name that the graph mentions."""

    def __init__(self, graph: Graph, signatures: dict[str, Signature], own: set[str], found: Diagnostics) -> None:
        self.graph, self.signatures, self.own, self.found = graph, signatures, own, found
        self.fields = {*graph.producer_of, *graph.input_of}
        self.params = {p.name for p in graph.params}
        self.unnamed = any(_forgets_outputs(n, signatures) for n in graph.nodes)
        self.unknown: dict[tuple[str, str], list[Diagnostic]] = {}
        self.known_of: dict[str, list[str]] = {}

    def check(self) -> None:
        self.look_up()
        for same in self.unknown.values():
            first, *others = sorted(same, key=lambda d: (d.span is None, d.span))
            labels = tuple(Label(span=d.span, message="here too") for d in others if d.span)
            self.found.add(replace(first, labels=labels))

    def look_up(self) -> None:
        for model in self.graph.models:
            self.model(model)
        for item in self.graph.inputs:
            self.source(item.source, DATA_SOURCES, "data")
            self.expr(item.batch)
        for block in self.graph.blocks:
            self.expr(block.bound)
            if block.until:
                self.expr(block.until)
        for node in self.graph.nodes:
            self.node(node)
        if self.graph.deploy:
            seen: set[tuple[str, str]] = set()
            for layout in self.graph.deploy.layouts:
                phase = (layout.model, layout.phase)
                if phase in seen:
                    self.found.error("RL0205", f"`{'.'.join(phase)}` has two layouts", span=layout.span)
                seen.add(phase)
                self.known("RL0202", "model", layout.model, self.graph.model_of, layout.span)
                self.keywords(layout.axes)
            self.keywords(self.graph.deploy.figures)
            self.places(self.graph.deploy)

    def places(self, deploy: Deploy) -> None:
        """Nodes that the deployment puts on ranks: known ones without a model, each once."""
        nodes = self.graph.node_of
        inside = {name.rpartition(".")[2]: name for name, node in nodes.items() if node.block is not None}
        seen: set[str] = set()
        for place in deploy.places:
            if place.node in seen:
                self.found.error("RL0205", f"`{place.node}` is put on ranks twice", span=place.span)
            seen.add(place.node)
            fix = f"write `{inside[place.node]}`" if place.node in inside else None
            model, _, phase = place.node.rpartition(".")
            if model in self.graph.model_of and phase in set(Phase):
                fix = f"write `{place.node} : {ENGINES[Phase(phase)][0]}() on ...` for a phase"
            if not self.known("RL0208", "node", place.node, nodes, place.span, fix) or place.node not in nodes:
                continue
            call = nodes[place.node].call
            if call.model:
                what = f"`{place.node}` runs where `{call.model}` lies"
                self.found.error("RL0506", what, span=place.span, fix=f"place a phase of `{call.model}` with `on`")
            elif call.method is Method.COLLECT:
                what = f"`{place.node}` counts where the nodes of the loop run"
                self.found.error("RL0506", what, span=place.span, fix="place these with `on`")

    def known(
        self, code: str, what: str, name: str, names: Collection[str], span: Span | None, fix: str | None = None
    ) -> bool:
        if name in names or name in self.graph.poisoned:
            return True
        if what not in self.known_of:
            # In a block, too, the user writes the last part.
            self.known_of[what] = sorted({n.rpartition(".")[2] for n in names})
        known = self.known_of[what]
        same = self.unknown.setdefault((code, name), [])
        if fix is None and same:
            fix = same[0].fix
        elif fix is None and len(self.unknown) <= _MISSPELT:
            fix = did_you_mean(name, known)
        unknown = Diagnostic(
            code=code,
            message=f"unknown {what} `{name}`",
            span=span,
            expected=_listed(known) or f"there is no {what} yet",
            found=name,
            fix=fix,
        )
        same.append(unknown)
        return False

    def expr(self, expr: Expr) -> None:
        for reference in references(expr):
            constant = FOREIGN.get(reference.name)
            fix = f"write `{constant}`" if constant else None
            if reference.name in self.fields:
                fix = f"`{reference.name}` is a field: what is known before a run is computed of parameters"
            self.known("RL0203", "parameter", reference.name, self.params, reference.span, fix)

    def keywords(self, keywords: tuple[Keyword, ...]) -> None:
        seen: set[str] = set()
        for keyword in keywords:
            if keyword.name in seen:
                self.found.error("RL0205", f"`{keyword.name}` is given twice", span=keyword.span)
            seen.add(keyword.name)
            self.expr(keyword.value)

    def model(self, model: Model) -> None:
        place = model.origin_span or model.span
        if model.copy_of is not None:
            self.known("RL0202", "model", model.copy_of, self.graph.model_of, place)
            self.check_copies_end(model)
        if model.shares is not None and self.known("RL0202", "model", model.shares, self.graph.model_of, place):
            self.trunk(model)
        self.keywords(model.options)
        if model.source is not None:
            self.source(model.source, MODEL_SOURCES, "model")

    def trunk(self, model: Model) -> None:
        """RL0313 unless a head can sit on the model shared."""
        trunk = self.graph.model_of.get(model.shares or "")
        if trunk is None:
            return
        why = None
        if model.kind is not ModelKind.VALUE:
            why = f"`{model.name}` is a {model.kind} model, and only a value model's head sits on another's trunk"
        elif trunk.kind is not ModelKind.POLICY or trunk.shares or trunk.frozen:
            why = f"`{trunk.name}` is no policy of its own that is trained"
        if why is not None:
            fix = "share a policy with a source: `model critic : value = shared actor`"
            self.found.error("RL0313", f"a trunk cannot be shared so: {why}", span=model.span, fix=fix)

    def check_copies_end(self, model: Model) -> None:
        chain = [model.name]
        while (copied := self.graph.model_of[chain[-1]].copy_of) in self.graph.model_of:
            assert copied is not None
            if copied in chain:
                first = next(m.name for m in self.graph.models if m.name in chain)
                if copied == model.name == first:
                    self.found.error(
                        "RL0401",
                        f"these models are copies of each other: {' -> '.join([*chain, copied])}",
                        span=model.span,
                    )
                return
            chain.append(copied)

    def source(self, source: SourceCall, kinds: dict[str, SourceKind], what: str) -> None:
        self.known("RL0209", f"{what} source", source.kind, kinds, source.span)
        for arg in source.args:
            self.expr(arg)
        self.keywords(source.keywords)

    def node(self, node: Node) -> None:
        self.call(node.call)
        if node.when:
            self.expr(node.when)
        for other, span in zip_longest(node.after, node.after_spans[: len(node.after)]):
            self.known("RL0208", "node", other, self.graph.node_of, span or node.span)

    def call(self, call: Call) -> None:
        if call.model is not None:
            self.known("RL0202", "model", call.model, self.graph.model_of, call.span)
        if call.method in BUILT_IN:
            self.arguments(call)
            return
        if call.function is not None and call.function not in self.signatures and not self._named_but_unreadable(call):
            names = {*self.own, *library_names()}
            brings = None if self.graph.uses else 'if it is yours: `use "mine.py"` brings the functions of a file'
            self.known(
                "RL0204", "function", call.function, names, call.span, did_you_mean(call.function, names) or brings
            )
        if call.method is Method.TRAIN and call.function is None:
            self.found.error(
                "RL0302",
                "`train` needs a loss function",
                span=call.span,
                fix="write `actor.train policy_loss(...)`",
            )
        self.arguments(call)

    def arguments(self, call: Call) -> None:
        for arg in call.args:
            if arg.name in self.fields or self._misplaced_setting(arg, call) or self._unnamed_output(arg.name):
                continue
            self.known("RL0201", "field", arg.name, self.fields, arg.span or call.span)
        self.keywords(call.keywords)
        self.keywords(call.options)

    def _misplaced_setting(self, arg: FieldArg, call: Call) -> bool:
        """Whether this is rather a setting that stands before the `;`: `bind_arguments` says so."""
        if arg.param is None or arg.name not in self.params or call.method in (Method.OUTPUT, Method.COLLECT):
            return False
        signature = self.signatures.get(call.function or "")
        return arg.param not in {p.name for p in field_params(call, signature)}

    def _unnamed_output(self, name: str) -> bool:
        """Whether a field is rather one that a node forgets to name (RL0306) than one that is misspelt."""
        if not self.unnamed:
            return False
        fields = {f.rpartition(".")[2] for f in self.fields}
        return not get_close_matches(name, fields, n=1, cutoff=_HARDLY_ANOTHER)

    def _named_but_unreadable(self, call: Call) -> bool:
        """Whether RL0305 has been said of this function: one mistake, one message."""
        return any(d.code == "RL0305" and f"`{call.function}`" in d.message for d in self.found)
