"""Layouts and memory against figures that were worked out by hand or published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.load import load
from catalog.shapes import attention_params
from planner.layout import candidates, choose, fit, legal_tensor_degrees, node_of, tensor_problem
from planner.memory import Serving, budget, served_weights_gb
from settings.serving import Layout

CATALOG = load()
LLAMA_70B = CATALOG.models["deepseek-ai/DeepSeek-R1-Distill-Llama-70B"]
LLAMA_8B = CATALOG.models["meta-llama/Llama-3.1-8B-Instruct"]
QWEN_32B_40_HEADS = CATALOG.models["deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"]
R1 = CATALOG.models["deepseek-ai/DeepSeek-R1"]


def node(instance: str):
    entry = CATALOG.instances[instance]
    return node_of(entry, CATALOG.gpus[entry.gpu])


def serving(card, *, engine="vllm", context=8192, weights_gb=None, kv_bytes=2.0):
    return Serving(
        engine=engine,
        weights_gb=weights_gb or served_weights_gb(card, "checkpoint"),
        kv_bytes_per_value=kv_bytes,
        context_tokens=context,
    )


@pytest.mark.parametrize(
    ("card", "instance", "tensor", "tokens"),
    [
        # Worked by hand: 8 x (80 x 0.9 - 4.35) - 131.4 GiB = 410 GiB, 320 KiB a token; 4.35 GiB of overhead: driver
        # 0.80, context 0.67, workspace 0.40, the sampler's peak 1.16, graphs 0.50, NCCL 0.82.
        (LLAMA_70B, "p5.48xlarge", 8, 1_343_000),
        (LLAMA_70B, "p5.48xlarge", 4, 456_000),
        # 3.78 GiB: driver and context are smaller.
        (LLAMA_70B, "p4d.24xlarge", 8, 413_600),
    ],
)
def test_kv_tokens_of_dense_models(card, instance, tensor, tokens):
    found = fit(card, node(instance), serving(card), Layout(tensor=tensor))
    assert found.memory.kv_tokens == pytest.approx(tokens, rel=0.01)


def test_latent_cache_is_copied_to_every_rank():
    """R1 over 16 H100 with vLLM: 72 - 40.3 (673.2 GB, no prediction layer) - 6.1 = 25.6 GiB, 70,272 bytes a token."""
    found = fit(R1, node("p5.48xlarge"), serving(R1), Layout(tensor=16))
    assert found.memory.kv_bytes_per_token == 61 * 576 * 2
    assert found.memory.kv_tokens == pytest.approx(391_000, rel=0.01)
    assert found.layout.nodes == 2


def test_data_parallel_attention_multiplies_the_cache_and_copies_the_attention_weights():
    plain = fit(R1, node("p5en.48xlarge"), serving(R1, engine="sglang"), Layout(tensor=8))
    split = fit(R1, node("p5en.48xlarge"), serving(R1, engine="sglang"), Layout(tensor=8, data=8))
    assert split.memory.kv_tokens > 5 * plain.memory.kv_tokens
    # 11.4 GB of FP8 attention weights a group (published for R1), of which 0.92 GB (the projections to the latents) are
    # on every rank anyway; the absorbed bf16 copies of 1.02 B parameters go with the heads.
    assert R1.layers * attention_params(R1) / 1e9 == pytest.approx(11.4, rel=0.05)
    copied = 11.4 - 0.92 + 2 * 1.02
    assert split.memory.weights_gib - plain.memory.weights_gib == pytest.approx(copied / 1.0737 * 7 / 8, rel=0.02)


def test_grouped_heads_are_copied_past_their_number():
    many = replace(LLAMA_70B, kv_heads=4)
    gpu = CATALOG.gpus["H100"]
    four = budget(many, gpu, serving(many), tensor=4, pipeline=1, data=1)
    eight = budget(many, gpu, serving(many), tensor=8, pipeline=1, data=1)
    assert four.kv_bytes_per_token == eight.kv_bytes_per_token


def test_degrees_that_break_a_model():
    assert legal_tensor_degrees(QWEN_32B_40_HEADS, 16) == [1, 2, 4, 8]
    assert "heads" in str(tensor_problem(QWEN_32B_40_HEADS, 16))
    assert tensor_problem(R1, 16) is None
    assert "128" in str(tensor_problem(R1, 32))


def test_auto_takes_the_smallest_comfortable_layout():
    assert choose(LLAMA_8B, node("g6e.xlarge"), serving(LLAMA_8B)).layout.tensor == 1
    assert choose(LLAMA_70B, node("p4d.24xlarge"), serving(LLAMA_70B)).layout.tensor == 8
    two_nodes = choose(R1, node("p5.48xlarge"), serving(R1, engine="sglang")).layout
    assert (two_nodes.tensor, two_nodes.nodes) == (16, 2)
    vllm = choose(R1, node("p5.48xlarge"), serving(R1)).layout
    assert (vllm.tensor, vllm.pipeline, vllm.nodes) == (8, 2, 2)
    assert choose(R1, node("p5en.48xlarge"), serving(R1)).layout.nodes == 1


def test_models_stay_on_one_node_without_rdma():
    assert choose(LLAMA_70B, node("g5.xlarge"), serving(LLAMA_70B)) is None
    assert all(layout.pipeline == 1 for layout in candidates(LLAMA_70B, node("g5.48xlarge"), "vllm"))


@settings(max_examples=60, deadline=None)
@given(
    card=st.sampled_from(list(CATALOG.models.values())),
    instance=st.sampled_from([n for n, i in CATALOG.instances.items() if i.gpus]),
    engine=st.sampled_from(["vllm", "sglang"]),
    context=st.sampled_from([1024, 8192, 32768]),
)
def test_whatever_is_chosen_fits_and_is_legal(card, instance, engine, context):
    where = node(instance)
    found = choose(card, where, serving(card, engine=engine, context=context))
    if found is None:
        return
    layout, memory = found.layout, found.memory
    assert memory.max_sequences >= 1
    used = memory.weights_gib + memory.overhead_gib + memory.kv_gib
    assert used <= memory.gpu_gib * memory.utilization + 1e-6
    assert tensor_problem(card, layout.tensor) is None
    assert layout.tensor * layout.pipeline == layout.gpus
    assert layout.gpus_per_node <= where.gpus
    if layout.nodes > 1:
        assert where.gdr


@pytest.mark.parametrize(
    ("name", "instance", "tensor"),
    [
        # Two H200 would hold it with a cache of 12 % of the weights; published deployments take four.
        ("Qwen/Qwen3-235B-A22B-FP8", "p5en.48xlarge", 4),
        ("Qwen/Qwen3-235B-A22B-FP8", "p5.48xlarge", 4),
        ("nvidia/Llama-3.1-405B-Instruct-FP8", "p5.48xlarge", 8),
        ("openai/gpt-oss-120b", "p5.48xlarge", 1),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "p5.48xlarge", 2),
        ("deepseek-ai/DeepSeek-R1", "p5en.48xlarge", 8),
    ],
)
def test_the_cache_is_large_enough_to_share_the_reading_of_weights(name, instance, tensor):
    card = CATALOG.models[name]
    found = choose(card, node(instance), serving(card))
    assert found is not None
    assert (found.layout.tensor, found.layout.nodes) == (tensor, 1)


def test_whole_experts_lift_the_limit_of_their_width():
    """Qwen3-235B-FP8: 1536 over 8 ranks is 192, no multiple of 128; with 16 on each of 8 GPUs none is cut."""
    card = CATALOG.models["Qwen/Qwen3-235B-A22B-FP8"]
    assert tensor_problem(card, 8) is not None
    assert tensor_problem(card, 8, experts_apart=True) is None
    assert tensor_problem(CATALOG.models["mistralai/Mixtral-8x7B-Instruct-v0.1"], 16, experts_apart=True) is not None
    # R1's shared expert is cut whatever the others are.
    assert tensor_problem(R1, 32, experts_apart=True) is not None


def test_sglang_is_not_given_more_ranks_than_anybody_runs():
    """Llama 4 has 40 heads: over two nodes 16 do not divide, over five 40 would."""
    card = CATALOG.models["meta-llama/Llama-4-Maverick-17B-128E-Instruct"]
    assert choose(card, node("p5.48xlarge"), serving(card, engine="sglang")) is None
    over_nodes = choose(card, node("p5.48xlarge"), serving(card))
    assert over_nodes is not None
    assert (over_nodes.layout.tensor, over_nodes.layout.pipeline) == (8, 2)
