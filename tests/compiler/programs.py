"""A small correct program that tests bend."""

from __future__ import annotations

from pathlib import Path

from rldsl.compiler.ir import Graph, Module
from rldsl.compiler.parse import parse
from rldsl.compiler.passes.base import Context
from rldsl.compiler.pipeline import CHECKS, LOWERING, Compiled, Options, compile_graph, run_passes
from rldsl.diagnostics import Diagnostic, DiagnosticError, Diagnostics, Severity

EXAMPLES = Path(__file__).parents[2] / "examples"
CLUSTERS = sorted((EXAMPLES / "clusters").glob("*.rl"))
ALGORITHMS = sorted({*EXAMPLES.rglob("*.rl")} - {*CLUSTERS})

PROGRAM = """\
algorithm small {
  param group   : int   = 4
  param batch   : int   = 8 prompts
  param kl_coef : float = 0.0

  model actor     : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor

  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch

  node rollout   = actor.generate(prompts; n = group, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute exact_match(completions, answers) -> score
  node old       = actor.logprob(tokens, response_mask) -> old_logp
  node ref       = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node advantage = compute group_advantage(score; group) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, old_logp, advantages, ref_logp?; kl_coef) with lr = 0.001, minibatch = 8
}
"""

PPO = """\
algorithm small_ppo {
  param kl_coef : float = 0.1
  model actor     : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  model critic    : value  = copy actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout       = actor.generate(prompts; max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward        = compute exact_match(completions, answers) -> score
  node old           = actor.logprob(tokens, response_mask) -> old_logp
  node ref           = reference.logprob(tokens, response_mask) -> ref_logp when kl_coef > 0
  node baseline      = critic.value(tokens, response_mask) -> values
  node shaping       = compute kl_penalty(score, response_mask, old_logp, ref_logp?; kl_coef) -> rewards
  node advantage     = compute gae(rewards, values, response_mask) -> advantages, returns
  node critic_update = critic.train value_loss(tokens, response_mask, values, returns) with lr = 0.001, minibatch = 4, epochs = 2
  node actor_update  = actor.train policy_loss(tokens, response_mask, old_logp, advantages) with lr = 0.001, minibatch = 4, epochs = 2
}
"""


def graph_of(text: str) -> Graph:
    return parse(text, "test.rl")


def compiled(
    text: str, *settings: str, world_size: int | None = None, disable: frozenset[str] = frozenset()
) -> Compiled:
    options = Options(settings=settings, world_size=world_size, disable=disable)
    return compile_graph(graph_of(text), options, source_dir=Path())


def errors(text: str, *settings: str) -> list[Diagnostic]:
    """The errors that compiling `text` finds."""
    try:
        compiled(text, *settings)
    except DiagnosticError as error:
        return [d for d in error.diagnostics if d.severity is Severity.ERROR]
    return []


def after(text: str, name: str, *settings: str) -> Module:
    """The module as it is after pass `name`."""
    context = Context(found=Diagnostics(), source_dir=Path(), settings=dict(s.split("=") for s in settings))
    module = Module(graph=graph_of(text))
    for one in CHECKS + LOWERING:
        module = run_passes(module, (one,), context, Options())
        if one.name == name:
            break
    context.found.raise_if_errors()
    return module
