"""Figures of hardware: complete, in the units they are given in, and replaced one by one."""

from dataclasses import asdict, replace

import pytest

from rldsl.compiler.cost.hardware import GB, GIB, HARDWARE, TERA, UNITS, figures_of, hardware_of
from rldsl.compiler.methods import CLUSTERS, FIGURES
from rldsl.compiler.pipeline import Options, compile_file

TINY = """
algorithm tiny {
  param net : float = 12.5
  model actor : policy = scratch(; alphabet = "01=")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout   = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward    = compute exact_match(completions, answers) -> score
  node advantage = compute group_advantage(score) -> advantages
  node update    = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.001
}
"""


def test_every_kind_of_cluster_has_figures():
    assert set(HARDWARE) == set(CLUSTERS)
    assert all(each.name == name for name, each in HARDWARE.items())


def test_every_figure_can_be_given():
    assert set(UNITS) == set(asdict(HARDWARE["h100"])) - {"name"} == {s.name for s in FIGURES}
    assert set(figures_of(HARDWARE["h100"])) == set(UNITS)


def test_own_figures_replace_single_ones():
    own = hardware_of("h100", {"memory": 64, "network": 12.5, "bf16": 800, "per_node": 4})
    assert own == replace(HARDWARE["h100"], memory=64 * GIB, network=12.5 * GB, bf16=800 * TERA, per_node=4)
    assert isinstance(own.memory, int) and isinstance(own.per_node, int)
    assert hardware_of("h100") == hardware_of("h100", {}) == HARDWARE["h100"]


def test_a_plan_has_the_figures_that_its_deployment_gives(tmp_path):
    path = tmp_path / "tiny.rl"
    path.write_text(TINY + "deploy {\n  cluster 4 x h100(network = 2 * net, memory = 64)\n}\n")
    assert compile_file(path).plan.figures == {"memory": 64, "network": 25}
    assert compile_file(path, Options(settings=("net=5",))).plan.figures == {"memory": 64, "network": 10}
    assert compile_file(path, Options(cluster="4 x a100(usable = 0.5)")).plan.figures == {"usable": 0.5}
    assert compile_file(path, Options(cluster="4 x a100")).plan.figures == {}


def test_a_budget_needs_memory():
    assert hardware_of("cpu").budget is None
    assert hardware_of("cpu", {"memory": 2, "usable": 0.5}).budget == GIB


@pytest.mark.parametrize(
    ("ranks", "stride", "rate"),
    # 400 is what eight adapters of 50 carry; with stride 8 a group has one rank a node, so one adapter.
    [(2, 1, 450), (8, 1, 450), (16, 1, 400), (64, 1, 400), (2, 4, 450), (4, 4, 100), (4, 8, 50), (4, 16, 50)],
)
def test_ranks_beyond_a_node_share_its_network(ranks, stride, rate):
    assert HARDWARE["h100"].link_between(ranks, stride) == rate * GB


def test_a_kind_of_card_is_no_slower_than_any_card():
    for name, each in HARDWARE.items():
        if name != "cpu":
            assert each.bandwidth >= HARDWARE["gpu"].bandwidth and each.link >= HARDWARE["gpu"].link


def test_reading_and_giving_a_figure_are_inverse():
    for each in HARDWARE.values():
        given = {name: value / UNITS[name] for name, value in figures_of(each).items() if value is not None}
        assert hardware_of(each.name, given) == each
