"""Step times: what must hold of them whatever the numbers are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planner.performance import decode_step_ms, prefill_ms
from settings.serving import Layout
from tests.planner.performance.replicas import CATALOG, LLAMA_8B, LLAMA_70B, MIXTRAL, R1, replica

CASES = [
    (LLAMA_8B, "L40S", Layout()),
    (LLAMA_8B, "H100", Layout()),
    (LLAMA_70B, "A100-80", Layout(tensor=4)),
    (LLAMA_70B, "H100", Layout(tensor=8, pipeline=2)),
    (MIXTRAL, "H100", Layout(tensor=4)),
    (R1, "H200", Layout(tensor=8)),
    (R1, "H200", Layout(tensor=8, data=8, expert=8)),
    (R1, "H100", Layout(tensor=16)),
]


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES),
    batch=st.floats(1, 400),
    more=st.floats(0, 400),
    context=st.floats(1, 30_000),
    longer=st.floats(0, 30_000),
)
def test_more_sequences_or_longer_ones_never_make_a_step_shorter(case, batch, more, context, longer):
    made = replica(*case)
    step = decode_step_ms(made, batch=batch, context=context)
    assert decode_step_ms(made, batch=batch + more, context=context) >= step > 0
    assert decode_step_ms(made, batch=batch, context=context + longer) >= step


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES),
    tokens=st.integers(1, 30_000),
    more=st.integers(0, 30_000),
    context=st.floats(0, 30_000),
)
@example(case=CASES[3], tokens=6316, more=1877, context=0.0)  # one chunk more on two stages
def test_longer_prompts_never_prefill_faster(case, tokens, more, context):
    made = replica(*case)
    assert prefill_ms(made, tokens=tokens + more, context=context) >= prefill_ms(made, tokens=tokens, context=context)
    assert prefill_ms(made, tokens=tokens, context=context) >= prefill_ms(made, tokens=tokens) > 0


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(CASES), batch=st.floats(1, 400), bandwidth=st.floats(1, 4), compute=st.floats(1, 4))
def test_a_faster_gpu_is_never_slower(case, batch, bandwidth, compute):
    card, name, layout = case
    gpu = CATALOG.gpus[name]
    faster = replace(
        gpu,
        hbm_gb_per_s=gpu.hbm_gb_per_s * bandwidth,
        bf16_tflops=gpu.bf16_tflops * compute,
        fp8_tflops=gpu.fp8_tflops and gpu.fp8_tflops * compute,
    )
    slow, fast = replica(card, gpu, layout), replica(card, faster, layout)
    assert decode_step_ms(fast, batch=batch, context=2000) <= decode_step_ms(slow, batch=batch, context=2000)
    assert prefill_ms(fast, tokens=3000) <= prefill_ms(slow, tokens=3000)


def test_a_step_of_a_dense_model_is_its_roofline():
    """8B on H100, batch 1: (8.03 - 0.525) B weights x 2 bytes at 84.3 % of 3350 GB/s, and the smaller parts."""
    made = replica(LLAMA_8B)
    parts = made.costs.decode_parts(1, 1000)
    assert parts["matrices"] == pytest.approx((8.03 - 0.525) * 2 / (3.350 * 0.843), rel=0.01)
    assert parts["cache"] == pytest.approx(1000 * 131072 / 1e6 / (3350 * 0.926), rel=0.01)
    assert sum(parts.values()) == pytest.approx(decode_step_ms(made, batch=1, context=1000))
    assert "messages" not in parts


@pytest.mark.parametrize(
    ("made", "tokens"),
    [
        (replica(LLAMA_8B), 700),
        (replica(LLAMA_70B, layout=Layout(tensor=8, pipeline=2)), 20_000),
        (replica(MIXTRAL), 90),
    ],
    ids=["one chunk", "chunks over two stages", "a mixture"],
)
def test_the_parts_of_a_prefill_are_all_of_it(made, tokens):
    parts = made.costs.prefill_parts(tokens, 1000)
    assert sum(parts.values()) == pytest.approx(made.costs.prefill_ms(tokens, 1000))
    assert min(parts.values()) > 0


def test_a_mixture_reads_the_experts_that_its_batch_touches():
    """Top 2 of 8: one token reads a quarter of the experts, many read all; computing takes over later."""
    costs = replica(MIXTRAL, layout=Layout(tensor=4)).costs
    one, four, many = (costs.decode_parts(batch, 100)["experts"] for batch in (1, 4, 64))
    assert one == pytest.approx(many / 4, rel=0.01)
    assert four == pytest.approx(many * (1 - 0.75**4), rel=0.01)


def test_tensor_parallel_over_nodes_pays_for_the_network():
    """R1 over 16 H100: 61 layers x two sums x at least EFA's latency, more on a slower network."""
    inside = replica(R1, "H100", Layout(tensor=16), network_gbps=3200).costs.decode_parts(32, 4000)
    slow = replica(R1, "H100", Layout(tensor=16), network_gbps=400).costs.decode_parts(32, 4000)
    assert 61 * 2 * 0.050 * 0.9 < inside["messages"] < slow["messages"]


def test_pcie_sums_cost_more_than_nvlink():
    pcie = replica(LLAMA_70B, "L40S", Layout(tensor=8)).costs.decode_parts(32, 1000)["messages"]
    nvlink = replica(LLAMA_70B, "H100", Layout(tensor=8)).costs.decode_parts(32, 1000)["messages"]
    assert pcie > 3 * nvlink


def test_pipeline_stages_fill_with_requests():
    """One request goes through both stages in turn; many keep both busy, so the pair of stages loses nothing."""
    one, two = replica(LLAMA_70B, layout=Layout(tensor=8)), replica(LLAMA_70B, layout=Layout(tensor=8, pipeline=2))
    assert decode_step_ms(two, batch=1, context=1000) > decode_step_ms(one, batch=1, context=1000)
    whole, halves = decode_step_ms(one, batch=256, context=4000), decode_step_ms(two, batch=256, context=4000)
    assert halves < 1.2 * whole


def test_latent_attention_of_data_parallel_groups_reads_each_cache_once():
    """Tensor parallel ranks all read every sequence's latent cache; with eight groups each reads an eighth of them."""
    tensor = replica(R1, "H200", Layout(tensor=8)).costs.decode_parts(128, 8000)["cache"]
    groups = replica(R1, "H200", Layout(tensor=8, data=8, expert=8)).costs.decode_parts(128, 8000)["cache"]
    assert groups < tensor / 2


def test_a_sliding_window_stops_the_cache_from_growing():
    card = CATALOG.models["openai/gpt-oss-120b"]
    costs = replica(card, layout=Layout(tensor=1)).costs
    short, long = costs.cache_ms(1, 100), costs.cache_ms(1, 100_000)
    assert long < 1000 * short * 0.6
    assert costs.attention_ms(4000, 0) < replace_window(card).attention_ms(4000, 0)


def replace_window(card):
    """Costs of the same model with full attention everywhere."""
    return replica(replace(card, sliding_layers=0), layout=Layout(tensor=1)).costs
