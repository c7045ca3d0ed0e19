"""What is legal and surely not what was meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from rldsl.compiler.ir import FieldArg, Method, Module, Node
from rldsl.compiler.passes.base import Context
from rldsl.compiler.passes.bind_parameters import keyword_value, number_of, optimiser_steps, option_of
from rldsl.compiler.passes.check_counts import batch_of
from rldsl.diagnostics import Diagnostics, Span

# Shipped functions that see nothing in a group of one, and what they then give.
_OF_GROUPS = {"group_advantage": "0 for every sample", "has_spread": "false for every prompt"}
# Settings of shipped functions that act on a field which may be absent.
_ACTS_ON = {
    ("policy_loss", "kl_coef"): "ref_logp",
    ("policy_loss", "tis_cap"): "rollout_logp",
    ("kl_penalty", "kl_coef"): "ref_logp",
}
_ON_POLICY = ("reinforce_loss",)


@dataclass(frozen=True, kw_only=True)
class WarnUnwanted:
    """Warn of what the numbers of this compilation make useless; the graph stays as it is.

    Before: `actor.generate(prompts; n = 1)`, `compute group_advantage(score)`.   After: the same, and RL0454.
    """

    name: ClassVar[str] = "warn_unwanted"

    def apply(self, module: Module, context: Context) -> Module:
        """The module as it is; RL0454 to RL0457 and RL0460 to RL0462."""
        for node in module.graph.nodes:
            if node.call.method is Method.TRAIN:
                _training(node, module, context.found)
            elif node.call.method is Method.GENERATE:
                _same_samples(node, context.found)
            _groups_of_one(node, module, context.found)
            _idle_settings(node, module, context.found)
        return module


def _shipped(node: Node, module: Module) -> str | None:
    """The name of the function called, if it is one of the library."""
    signature = module.signatures.get(node.call.function or "")
    return signature.name if signature is not None and signature.module is not None else None


def _rollout(node: Node, module: Module) -> Node | None:
    """The rollout whose samples a node reads."""
    lineages = (info.lineage for a in node.call.args if (info := module.fields.get(a.name)) and info.lineage)
    lineage = next(lineages, "")
    return module.graph.node_of.get(lineage.rpartition(".kept.")[2])


def _place(node: Node, *names: str) -> Span | None:
    """Where one of the settings or options is given, else where the call is."""
    given = (k.span for k in (*node.call.keywords, *node.call.options) if k.name in names)
    return next(given, node.call.span)


def _groups_of_one(node: Node, module: Module, found: Diagnostics) -> None:
    name, rollout = _shipped(node, module), _rollout(node, module)
    if name in _OF_GROUPS and rollout is not None and number_of(rollout.call, "n") == 1:
        what = f"groups have one sample, so `{name}` is {_OF_GROUPS[name]}"
        found.warning("RL0454", what, span=node.call.span, fix=f"let `{rollout.id}` take more samples: `n = 8`")


def _idle_settings(node: Node, module: Module, found: Diagnostics) -> None:
    name = _shipped(node, module)
    for (function, setting), field in _ACTS_ON.items():
        given = any(a.param == field and not a.absent for a in node.call.args)
        if name == function and not given and keyword_value(node.call.keywords, setting, None):
            what = f"`{setting}` of `{name}` does nothing without `{field}`"
            fix = f"hand `{field}` to `{name}`, or leave `{setting}` out"
            found.warning("RL0456", what, span=_place(node, setting), fix=fix)


def _same_samples(node: Node, found: Diagnostics) -> None:
    greedy = number_of(node.call, "temperature") == 0 or option_of(node.call, "top_k") == 1
    if greedy and number_of(node.call, "n") > 1:
        what = f"`{node.id}` decodes greedily, so all samples of a prompt are the same"
        fix = "raise the temperature, or take one sample"
        found.warning("RL0461", what, span=_place(node, "temperature", "top_k"), fix=fix)


def _training(node: Node, module: Module, found: Diagnostics) -> None:
    if number_of(node.call, "lr") == 0:
        what = f"`{node.id}` trains with a learning rate of 0, so the weights of `{node.call.model}` stay as they are"
        found.warning("RL0455", what, span=_place(node, "lr"))
    steps = optimiser_steps(node.call, batch_of(module, node))
    name = _shipped(node, module)
    if name in _ON_POLICY and steps > 1:
        what = f"`{name}` is for one optimiser step on a batch, and takes {steps}: later ones are off-policy"
        fix = "use `policy_loss`, which compares with the policy that sampled"
        found.warning("RL0462", what, span=_place(node, "epochs", "minibatch"), fix=fix)
    rollout = _rollout(node, module)
    if rollout is not None:
        _uncorrected(node, rollout, module, found)
        _strange_ratio(node, rollout, module, found)


def _uncorrected(node: Node, rollout: Node, module: Module, found: Diagnostics) -> None:
    """RL0457: samples of older weights, and the loss does not know how likely those made them."""
    logp = rollout.outputs[2:3]
    # `policy_loss` only measures the distance to the sampler, unless it is told to truncate.
    measured = _shipped(node, module) == "policy_loss" and not keyword_value(node.call.keywords, "tis_cap", None)
    reads = [a.name for a in node.call.args if not (measured and a.param == "rollout_logp")]
    stale = rollout.call.method is Method.GENERATE and option_of(rollout.call, "staleness") == 1
    if stale and rollout.call.model == node.call.model and not set(logp) & set(_behind(reads, module)):
        what = f"`{rollout.id}` samples with older weights, and `{node.id}` does not correct for it"
        fix = "hand the log-probs that `generate` writes to the loss, as `old_logp` or as `rollout_logp` with `tis_cap`"
        found.warning("RL0457", what, span=node.call.span, fix=fix)


def _behind(fields: Iterable[str], module: Module) -> Iterator[str]:
    """Every field that `fields` are made of, and themselves."""
    graph = module.graph
    handed = {c.param: c.name for b in graph.blocks for c in (*b.carry, *b.collect) if c.param}
    todo, seen = list(fields), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        producer = graph.producer_of.get(name)
        todo += [*(producer.reads if producer else ()), *([handed[name]] if name in handed else ())]


def _strange_ratio(node: Node, rollout: Node, module: Module, found: Diagnostics) -> None:
    """RL0460: the ratio of the loss is to a model that neither samples nor is trained."""
    old = next((a for a in node.call.args if a.param == "old_logp"), None)
    producer = module.graph.producer_of.get(old.name) if old is not None else None
    if old is None or producer is None or producer.call.method is not Method.LOGPROB or not _shipped(node, module):
        return
    if producer.call.model not in (node.call.model, rollout.call.model):
        model, trained = producer.call.model, node.call.model
        what = f"`old_logp` of `{node.call.function}` is of `{model}`, but `{rollout.call.model}` sampled"
        fix = f"give it the log-probs of `{trained}` before the update, or those of the rollout"
        found.warning("RL0460", what, span=_span(old, node), fix=fix)


def _span(arg: FieldArg, node: Node) -> Span | None:
    return arg.span or node.call.span
