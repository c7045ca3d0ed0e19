"""What could be written otherwise in an algorithm or its deployment so that a plan takes less of a rank's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rldsl.compiler.expr import Expr, Literal, format_expr
from rldsl.compiler.ir import Deploy, Keyword, Method, Model, Module, Node, PhaseLayout, SourceCall, changed
from rldsl.compiler.layouts import relaid
from rldsl.compiler.methods import MODEL_SOURCES
from rldsl.compiler.passes.bind_parameters import keyword_value
from rldsl.compiler.plan import Phase
from rldsl.compiler.printer import deploy_lines
from rldsl.compiler.trials import Draft

PINS = ("micro_batch_tokens", "recompute", "logits")
"""Options of a training that the compiler chooses where the user does not."""
_ROLLOUTS = (Method.GENERATE, Method.EXTEND)
_LONGEST = "max_new_tokens"


@dataclass(frozen=True, slots=True)
class Variant:
    """A draft, and what to write for it, the lines of its deployment aside."""

    draft: Draft
    said: tuple[str, ...] = ()

    @property
    def deploy(self) -> Deploy:
        """Cluster and layouts; empty where there are none."""
        return self.draft.module.graph.deploy or Deploy()

    @property
    def batches(self) -> tuple[str, ...]:
        """The prompts of each input, of which `lines` says nothing."""
        return tuple(format_expr(i.batch) for i in self.draft.module.graph.inputs)

    def lines(self, start: Draft) -> tuple[str, ...]:
        """All that is to be written in place of what `start` has."""
        before = set(deploy_lines(start.module.graph.deploy or Deploy()))
        made = [line for line in deploy_lines(self.deploy) if line not in before]
        if self.draft.world_size != start.world_size:
            made.append(f"--world-size {self.draft.world_size}")
        return (*(f"`{line}`" for line in made), *self.said)

    def _with(self, module: Module, *said: str) -> Variant:
        return Variant(replace(self.draft, module=module), (*self.said, *said))

    def deployed(self, deploy: Deploy) -> Variant:
        """On another deployment."""
        module = self.draft.module
        return self._with(replace(module, graph=replace(module.graph, deploy=deploy)))

    def _with_nodes(self, change: Callable[[Node], Node], *said: str) -> Variant:
        module = self.draft.module
        nodes = tuple(map(change, module.graph.nodes))
        return self._with(replace(module, graph=module.graph.with_nodes(nodes)), *said)

    # Ranks.

    def on_ranks(self, times: int) -> Variant:
        """On so many times the ranks: the cluster, explicit dp and ranges of ranks all grow alike."""
        deploy, asked = self.deploy, self.draft.world_size
        scaled = replace(
            deploy,
            count=deploy.count * times if deploy.count and not asked else deploy.count,
            layouts=tuple(_scaled(p, times) for p in deploy.layouts),
            places=tuple(replace(p, ranks=_spread(p.ranks, times)) for p in deploy.places),
        )
        made = self.deployed(scaled) if deploy != scaled else self
        return Variant(replace(made.draft, world_size=asked * times if asked else None), made.said)

    def with_batches(self, times: int) -> Variant:
        """With so many times the prompts in each batch and minibatch. Nothing is said of it."""
        graph = self.draft.module.graph
        inputs = tuple(replace(i, batch=_times(i.batch, times)) for i in graph.inputs)
        blocks = tuple(replace(b, until=_times(b.until, times) if b.until else None) for b in graph.blocks)
        made = self._with(
            replace(self.draft.module, graph=graph.with_values(models=graph.models, inputs=inputs, blocks=blocks))
        )
        return made._with_nodes(
            lambda n: changed(n, call=changed(n.call, options=_mapped(n.call.options, "minibatch", times)))
        )

    # Layouts.

    def laid_out(self, phases: Mapping[tuple[str, Phase], str], axes: Mapping[str, int]) -> Variant:
        """With each of these phases on its engine along `axes`, on the ranks that it had; dp is what is left."""
        deploy = self.deploy
        own = {(p.model, p.phase): p for p in deploy.layouts}
        made = {
            key: replace(
                relaid(own.get(key) or PhaseLayout(model=key[0], phase=key[1], engine=engine), axes), engine=engine
            )
            for key, engine in phases.items()
        }
        kept = tuple(made.pop((p.model, Phase(p.phase)), p) for p in deploy.layouts)
        return self.deployed(replace(deploy, layouts=(*kept, *made.values())))

    # Values.

    def pinned(self) -> list[tuple[str, ...]]:
        """Trainings with options that the compiler would choose: each alone, then all of them."""
        names = [n.id for n in self.draft.module.graph.nodes if pins_of(n)]
        return [*((n,) for n in names), *([tuple(names)] if len(names) > 1 else [])]

    def unpinned(self, trainings: tuple[str, ...]) -> Variant:
        """Without these options of some trainings."""
        nodes = self.draft.module.graph.node_of
        said = (f"leave {_words(pins_of(nodes[n]))} of `{n}` to the compiler" for n in trainings)
        return self._with_nodes(lambda n: _unpinned(n) if n.id in trainings else n, *said)

    def in_bfloat16(self) -> Variant | None:
        """With all models in bfloat16; None where they are."""
        module = self.draft.module
        slow = {m.name for m in module.graph.models if m.source and _precision(m.source) == "fp32"}
        if not slow:
            return None
        models = tuple(_lower(m) for m in module.graph.models)
        graph = module.graph.with_values(models=models, inputs=module.graph.inputs, blocks=module.graph.blocks)
        origins = {name: _lower(m) for name, m in module.origins.items()}
        return self._with(
            replace(module, graph=graph, origins=origins), f'`precision = "bf16"` of {_words(sorted(slow))}'
        )

    @property
    def longest(self) -> int:
        """The most tokens that a rollout samples; 0 without rollouts."""
        return max((_longest(n) for n in self.draft.module.graph.nodes if n.call.method in _ROLLOUTS), default=0)

    def shorter(self, most: int) -> Variant:
        """With at most so many tokens sampled in each rollout."""
        rollouts = [n for n in self.draft.module.graph.nodes if n.call.method in _ROLLOUTS]
        cut = [n.id for n in rollouts if _longest(n) > most]
        of = f" of {_words(cut)}" if len(rollouts) > 1 else ""
        limit = Literal(value=most)
        return self._with_nodes(
            lambda n: _with_keyword(n, _LONGEST, limit) if n.id in cut else n, f"`{_LONGEST} = {most}`{of}"
        )


def pins_of(node: Node) -> tuple[str, ...]:
    """The options that a training is pinned by."""
    if node.call.method is not Method.TRAIN:
        return ()
    return tuple(name for name in PINS if keyword_value(node.call.options, name, None) not in (None, 0))


def _unpinned(node: Node) -> Node:
    options = tuple(k for k in node.call.options if k.name not in PINS)
    return changed(node, call=changed(node.call, options=options))


def _words(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(f"`{n}`" for n in names)


def _longest(node: Node) -> int:
    return int(keyword_value(node.call.keywords, _LONGEST, 0) or 0)


def _with_keyword(node: Node, name: str, value: Literal) -> Node:
    keywords = tuple(changed(k, value=value) if k.name == name else k for k in node.call.keywords)
    return changed(node, call=changed(node.call, keywords=keywords))


def _mapped(options: tuple[Keyword, ...], name: str, times: int) -> tuple[Keyword, ...]:
    return tuple(changed(k, value=_times(k.value, times)) if k.name == name else k for k in options)


def _times(value: Expr, times: int) -> Literal:
    assert isinstance(value, Literal) and isinstance(value.value, int), "bind_parameters has checked it"
    return Literal(value=value.value * times)


def _spread(ranks: tuple[int, int], times: int) -> tuple[int, int]:
    first, last = ranks
    return first * times, (last + 1) * times - 1


def _scaled(layout: PhaseLayout, times: int) -> PhaseLayout:
    ranks = _spread(layout.ranks, times) if layout.ranks else None
    return replace(layout, axes=_mapped(layout.axes, "dp", times), ranks=ranks)


def _precision(source: SourceCall) -> str:
    default = next(s.default for s in MODEL_SOURCES[source.kind].keywords if s.name == "precision")
    return str(keyword_value(source.keywords, "precision", default))


def _lower(model: Model) -> Model:
    if model.source is None:
        return model
    others = tuple(k for k in model.source.keywords if k.name != "precision")
    lower = Keyword(name="precision", value=Literal(value="bf16"))
    return replace(model, source=replace(model.source, keywords=(*others, lower)))
