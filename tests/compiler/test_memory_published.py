"""The memory model beside peaks that others published, and beside what ran there and what did not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench import memory_published
from bench.memory_published import (
    FIGURES,
    LLAMA_8B,
    QWEN_14B,
    QWEN_15B,
    VERDICTS,
    EverySecondProduct,
    Kind,
    Published,
    SpreadKeys,
    Verdict,
    torchtitan,
    unsplit,
)
from rldsl.compiler.cost.activations import Attention, Layer, MicroBatch
from rldsl.compiler.cost.hardware import GIB
from rldsl.compiler.cost.reserve import MIB
from rldsl.compiler.cost.shard import Shard
from rldsl.compiler.ops import Recompute


@pytest.mark.parametrize("each", FIGURES, ids=lambda each: each.name)
def test_published_peak(each: Published):
    assert each.passed, f"{each.estimate:.2f} of {each.gib:.2f} GiB"


@pytest.mark.parametrize("each", VERDICTS, ids=lambda each: each.name)
def test_what_ran_is_said_to_fit(each: Verdict):
    assert each.fits == each.ran


def test_there_are_figures_of_each_kind():
    assert Counter(each.kind for each in FIGURES) == {Kind.ALLOCATED: 24, Kind.HELD: 8, Kind.RESERVED: 4}


def test_a_figure_that_is_off_does_not_pass():
    first, last = FIGURES[0], FIGURES[-1]
    assert not replace(first, gib=first.gib * 1.2).passed
    assert not replace(first, gib=first.gib / 1.2).passed
    assert not replace(last, gib=last.gib / 2).passed


def layer(of: type[Layer]) -> Layer:
    micro = MicroBatch(packs=1, length=8192, states=8192, cells=8192)
    return of(shard=Shard(facts=LLAMA_8B), micro=micro, width=2, attention=Attention.CAUSAL)


def test_what_other_systems_keep():
    # Keys and values of 32 heads in place of those of 8, 128 numbers each, in two bytes.
    assert layer(SpreadKeys).saved - layer(Layer).saved == 8192 * 2 * 2 * 24 * 128
    # Not the products of the keys (1,024 numbers), the output of attention (4,096) and up (14,336).
    kept, every_second = (layer(of).kept(Recompute.SELECTIVE) for of in (Layer, EverySecondProduct))
    assert kept - every_second == 8192 * 2 * (1024 + 4096 + 14336)


def test_no_gradients_wait_in_a_step_of_one_micro_batch():
    categories = torchtitan(LLAMA_8B, 8, 1).peak.by_category()
    assert "gradients" not in categories
    assert categories["weights"] + categories["optimizer"] == pytest.approx(12 * LLAMA_8B.parameters / 8, rel=1e-6)
    # What the modules need by `--modules`.
    assert torchtitan(LLAMA_8B, 8, 1).bytes / GIB == pytest.approx(41.11, rel=0.015)


def test_the_bench_prints_and_judges(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["memory_published.py"])
    assert memory_published.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("estimate over published") == len(Kind)
    assert all(each.name in printed for each in FIGURES)
    assert all(what in printed for what, _ in memory_published.LEFT_OUT)
    monkeypatch.setattr(memory_published, "BETWEEN", (1.0, 1.01))
    assert memory_published.main() == 1


def test_blocks_of_the_allocator():
    # Gate, up and down of 135 MiB in 48 layers, embedding and head of 1,485 MiB: 1 MiB each. Queries have 50 MiB.
    assert unsplit(QWEN_14B) == (3 * 48 + 2) * MIB
    # 26.25 MiB leave 1.75, which is split off; of the embedding of 445.125 MiB 0.875 are not.
    assert unsplit(QWEN_15B) == MIB * 7 // 8
