"""The planner's step times against those measured on H100 and H200, at points that no factor was fitted to.

What was measured is no engine: its own time is left out of the prediction, and NCCL did the sums.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from bench.gpu import fit_experts
from bench.gpu.fit import is_fitted
from catalog.assumptions import assumed
from catalog.measurements import DecodePoint, PrefillPoint, factors, measurement
from catalog.shapes import expert_params
from catalog.types import Moe
from planner.plan import MemoryPart
from settings.serving import Layout
from tests.planner.performance.replicas import LLAMA_8B, LLAMA_70B, replica

CARDS = {"llama-8b": (LLAMA_8B, 1), "llama-70b-tp1-slice": (LLAMA_70B, 1), "llama-70b-tp2-slice": (LLAMA_70B, 2)}
"""The shard of eight was measured without the sums that the planner counts."""


def costs_of(gpu: str, point: DecodePoint | PrefillPoint, weights_gb: float):
    """Costs of a replica of exactly the layers that were measured."""
    card, tensor = CARDS[point.model]
    vocab = card.vocab if point.layers == card.layers else 0  # slices were measured without a head
    part = replace(card, layers=point.layers, dense_layers=point.layers, vocab=vocab)
    whole = replica(LLAMA_70B, gpu, Layout(tensor=8))
    held = (MemoryPart(name="attention", kind="weights", gib=weights_gb * 1e9 / 2**30),)
    memory = replace(whole.memory, weights_gib=weights_gb * 1e9 / 2**30 * 10, parts=held)
    layout = replace(whole.layout, tensor=tensor, gpus_per_node=tensor)
    made = replace(whole, card=part, layout=layout, memory=memory, precision=point.precision)
    return made.costs, tensor


def errors(gpu: str, what: str) -> list[float]:
    found: list[float] = []
    for stem in ("h100",) if gpu == "H100" else ("h200", "h200-x2"):
        run = measurement(stem)
        weights = {(p.model, p.precision): p.weights_gb for p in run.decode}
        for point in run.decode if what == "decode" else run.prefill:
            if point.model not in CARDS or is_fitted(point):
                continue
            costs, tensor = costs_of(gpu, point, weights[(point.model, point.precision)])
            reduced = factors()[gpu].all_reduce
            sums = 2 * point.layers / 1e3
            if isinstance(point, DecodePoint):
                parts = costs.decode_parts(point.batch, point.tokens)
                predicted = sum(ms for name, ms in parts.items() if name not in {"engine", "messages"})
                rows = point.batch
            else:
                costs.chunk = 10**9
                rows = point.batch * point.tokens
                predicted = costs.matrices_ms(rows, point.batch) + costs.prefill_layers_ms
                predicted += point.batch * costs.attention_ms(point.tokens, 0)
            predicted += sums * reduced.us(size=rows * 8192 * 2, ranks=tensor)
            found.append(predicted / point.ms - 1)
    return found


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_decode_steps_are_predicted(gpu):
    missed = [abs(error) for error in errors(gpu, "decode")]
    assert len(missed) > 75
    assert statistics.median(missed) <= 0.15
    assert max(missed) <= 0.30


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_prefills_are_predicted(gpu):
    missed = [abs(error) for error in errors(gpu, "prefill")]
    assert len(missed) > 15
    assert statistics.median(missed) <= 0.20


@pytest.mark.parametrize("stem", ["h100-experts", "h200-experts"])
def test_experts_are_read_and_computed_as_measured(stem):
    """One layer of experts alone; the smallest shapes are launches more than reads, and are not judged."""
    run = measurement(stem)
    missed: list[float] = []
    for point in run.experts:
        if point.us < 100 or point.model == "deepseek-r1-ep8":
            continue  # ep8 holds a part of the experts of a layer
        moe = Moe(experts=point.experts, top_k=point.top_k, intermediate=point.intermediate)
        card = replace(LLAMA_70B, moe=moe, layers=1, dense_layers=0, hidden=point.hidden, params_billion=1e-3)
        gigabytes = expert_params(card) * point.experts * (1 if point.precision == "fp8" else 2) / 1e9
        held = (MemoryPart(name="experts", kind="weights", gib=gigabytes * 1e9 / 2**30),)
        whole = replica(LLAMA_70B, run.gpu, Layout(tensor=8))
        memory = replace(whole.memory, weights_gib=held[0].gib, parts=held)
        layout = replace(whole.layout, tensor=1, gpus_per_node=1)
        costs = replace(whole, card=card, layout=layout, memory=memory, precision=point.precision).costs
        dense = max(costs.always_ms, costs.dense_row_ms * point.tokens)
        missed.append(abs((costs.matrices_ms(point.tokens, 0) - dense) * 1e3 / point.us - 1))
    assert len(missed) > 40
    assert statistics.median(missed) <= 0.15


def test_the_experts_factors_are_those_of_the_points():
    share, half_rows = fit_experts.fit()
    assert (assumed("moe_matrix_share"), assumed("moe_half_rows")) == (share, half_rows)
