"""Memory of a GPU by part: worked examples, engines' own logs, and what must hold for every model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.load import load
from catalog.shapes import resident_gb
from catalog.types import ModelCard
from planner.layout import legal_tensor_degrees
from planner.memory import (
    GIB,
    Serving,
    Shards,
    budget,
    sequence_bytes,
    sequences_at,
    served_format,
    served_weights_gb,
    weights_on_gpu,
)
from planner.memory_explained import MemoryQuestion, memory_numbers

CATALOG = load()
CARDS = CATALOG.models
H100 = CATALOG.gpus["H100"]
R1 = CARDS["deepseek-ai/DeepSeek-R1"]
LLAMA_8B = CARDS["meta-llama/Llama-3.1-8B-Instruct"]
LLAMA_70B = CARDS["meta-llama/Llama-3.3-70B-Instruct"]
GEMMA_3 = CARDS["google/gemma-3-27b-it"]
QWEN_NEXT = CARDS["Qwen/Qwen3-Next-80B-A3B-Instruct"]
QWEN_235B_FP8 = CARDS["Qwen/Qwen3-235B-A22B-FP8"]

ANY_CARD = st.sampled_from(list(CARDS.values()))
ENGINE = st.sampled_from(["vllm", "sglang"])


def serving(card: ModelCard, *, engine="vllm", context=8192, kv_bytes=2.0, running=256, quantization="checkpoint"):
    return Serving(
        engine=engine,
        weights_gb=served_weights_gb(card, quantization),
        kv_bytes_per_value=kv_bytes,
        context_tokens=context,
        running=running,
    )


def parts_of(memory):
    return {part.name: part.gib for part in memory.parts}


# What engines logged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tensor", "logged_gib"), [(1, 14.96), (2, 7.48)])
def test_weights_as_vllm_logs_them(tensor, logged_gib):
    """ "model weights take 14.96GiB" and, with -tp 2, "7.48GiB": Llama-3-8B, vllm-project/vllm#10511."""
    memory = budget(LLAMA_8B, H100, serving(LLAMA_8B), tensor=tensor, pipeline=1, data=1)
    assert memory.weights_gib == pytest.approx(logged_gib, rel=0.005)


def test_activations_as_vllm_logs_them():
    """ "PyTorch activation peak memory 1.26GiB" for the same model, its sampler included (vllm-project/vllm#10511)."""
    found = parts_of(budget(LLAMA_8B, H100, serving(LLAMA_8B), tensor=1, pipeline=1, data=1))
    assert found["activations"] == pytest.approx(1.26, rel=0.1)


def test_cache_as_vllm_logs_it():
    """ "GPU KV cache size: 178,880 tokens" in 8.11 GiB: Qwen3-235B-A22B-FP8 on 4 H100, vllm-project/vllm#21348. vLLM
    then ran up to 1024 sequences by default and captured its graphs outside of the share; utilization was 0.90."""
    memory = budget(QWEN_235B_FP8, H100, serving(QWEN_235B_FP8, running=1024), tensor=4, pipeline=1, data=1)
    assert memory.kv_bytes_per_token == 48_128
    logged_gib = 178_880 * memory.kv_bytes_per_token / GIB
    assert logged_gib == pytest.approx(8.11, rel=0.015)
    assert memory.kv_gib + parts_of(memory)["CUDA graphs"] == pytest.approx(8.11, rel=0.15)


def test_cache_as_sglang_logs_it():
    """The same with SGLang and --mem-fraction-static 0.93: 367,404 tokens, 2 x 8.23 GB (GiB in fact)."""
    held = sequence_bytes(QWEN_235B_FP8, Shards(tensor=4), tokens=367_404, bytes_per_value=2)
    assert held / GIB == pytest.approx(2 * 8.23, rel=0.005)


# Worked by hand ---------------------------------------------------------------------------------------------------


def test_latent_attention_by_part():
    """R1 over 16 ranks, decimal GB: experts 653.9 / 16, projections to the latents whole, absorbed copies in bf16."""
    found = {p.name: p.gib * GIB / 1e9 for p in weights_on_gpu(R1, serving(R1), Shards(tensor=16))}
    assert found["experts"] == pytest.approx(653.9 / 16, rel=0.003)
    assert found["latent projections"] == pytest.approx(61 * 7168 * (1536 + 576) / 1e9, rel=0.003)
    assert found["router"] == pytest.approx(58 * 7168 * 256 * 2 / 1e9, rel=0.003)
    assert found["absorbed projections"] == pytest.approx(61 * 512 * 128 * 256 * 2 / 16 / 1e9, rel=0.003)
    assert "prediction layers" not in found


def test_speculation_loads_the_prediction_layers():
    plain = serving(R1)
    asked = replace(plain, prediction=True, weights_gb=R1.checkpoint.gigabytes)
    found = {p.name: p.gib * GIB / 1e9 for p in weights_on_gpu(R1, asked, Shards(tensor=16))}
    assert found["prediction layers"] == pytest.approx(15.3 / 16, rel=0.01)


def test_stages_hold_one_table_each():
    """70B over two stages: half of the layers and one of the two tables of 2.1 GB."""
    asked = serving(LLAMA_70B)
    whole = {p.name: p.gib for p in weights_on_gpu(LLAMA_70B, asked, Shards())}
    staged = {p.name: p.gib for p in weights_on_gpu(LLAMA_70B, asked, Shards(pipeline=2))}
    assert ("embedding" in staged) != ("head" in staged)
    assert staged["attention"] == pytest.approx(whole["attention"] / 2)
    # 61 layers over two stages: the fuller one has 31.
    assert Shards(pipeline=2).stage_share(R1) == 31 / 61


def test_windows_stop_growing():
    """Gemma 3: 10 full layers and 52 of 1024 tokens, 16 heads of 128 in bf16."""
    value = 2 * 16 * 128 * 2
    assert sequence_bytes(GEMMA_3, Shards(), tokens=512, bytes_per_value=2) == 62 * 512 * value
    assert sequence_bytes(GEMMA_3, Shards(), tokens=32768, bytes_per_value=2) == (10 * 32768 + 52 * 1024) * value


def test_linear_layers_hold_a_state_instead():
    """Qwen3-Next: 12 layers with a cache of 2 heads of 256; 36 states of 32 x 128 x 128 float32 and 8192 x 3 bf16."""
    state = 36 * (32 * 128 * 128 * 4 + 8192 * 3 * 2)
    one = sequence_bytes(QWEN_NEXT, Shards(), tokens=1000, bytes_per_value=2)
    assert one == 12 * 2 * 2 * 256 * 2 * 1000 + state


def test_grouped_heads_are_copied_past_their_number():
    many = replace(LLAMA_70B, kv_heads=4)
    four = sequence_bytes(many, Shards(tensor=4), tokens=100, bytes_per_value=2)
    eight = sequence_bytes(many, Shards(tensor=8), tokens=100, bytes_per_value=2)
    assert four == eight
    assert sequence_bytes(many, Shards(tensor=2), tokens=100, bytes_per_value=2) == 2 * four


def test_fp8_while_loading():
    asked = serving(LLAMA_70B, quantization="fp8")
    assert asked.weights_gb == pytest.approx(resident_gb(LLAMA_70B, "fp8_online"))
    assert served_format(LLAMA_70B, asked) == "fp8_online"
    assert served_format(LLAMA_70B, serving(LLAMA_70B)) == "bf16"


def test_sequences_by_length():
    asked = serving(LLAMA_70B, context=8192)
    memory = budget(LLAMA_70B, H100, asked, tensor=8, pipeline=1, data=1)
    found = sequences_at(LLAMA_70B, memory, asked, Shards(tensor=8), [2048, 8192, 131072])
    assert found[8192] == memory.max_sequences
    assert found[2048] == pytest.approx(4 * found[8192], abs=4)
    assert found[131072] == memory.kv_tokens // 131072


def test_every_part_is_explained():
    asked = serving(R1, engine="sglang", context=32768)
    shards = Shards(tensor=16, nodes=2)
    memory = budget(R1, H100, asked, tensor=16, pipeline=1, data=1, nodes=2)
    question = MemoryQuestion(
        card=R1, gpu=H100, serving=asked, shards=shards, context_source="models[0].context_tokens"
    )
    numbers = {number.name: number for number in memory_numbers(question, memory)}
    for part in memory.parts:
        assert numbers[f"{part.kind}: {part.name}"].value == part.gib
        assert numbers[f"{part.kind}: {part.name}"].formula != "a constant"
    assert numbers["KV cache on one GPU"].value == memory.kv_gib


# What holds for every model ---------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(card=ANY_CARD, engine=ENGINE, data=st.data())
def test_parts_add_up(card, engine, data):
    tensor = data.draw(st.sampled_from(legal_tensor_degrees(card, 16)))
    pipeline = data.draw(st.integers(1, 4))
    memory = budget(card, H100, serving(card, engine=engine), tensor=tensor, pipeline=pipeline, data=1)
    by_kind = {kind: sum(p.gib for p in memory.parts if p.kind == kind) for kind in ("weights", "overhead")}
    assert by_kind["weights"] == pytest.approx(memory.weights_gib)
    assert by_kind["overhead"] == pytest.approx(memory.overhead_gib, abs=1e-9)
    total = memory.weights_gib + memory.overhead_gib + memory.kv_gib
    assert total == pytest.approx(memory.gpu_gib * memory.utilization)


@settings(max_examples=60, deadline=None)
@given(card=ANY_CARD)
def test_one_gpu_holds_the_whole_files(card):
    """Nothing is cut, nothing copied but what latent attention absorbs: the parts are the published files."""
    found = weights_on_gpu(card, serving(card), Shards())
    held = sum(p.gib for p in found if p.name != "absorbed projections") * GIB / 1e9
    assert held == pytest.approx(served_weights_gb(card, "checkpoint"))


@settings(max_examples=80, deadline=None)
@given(
    card=ANY_CARD, engine=ENGINE, tensor=st.sampled_from([1, 2, 4, 8]), small=st.floats(16, 100), more=st.floats(0, 100)
)
def test_more_memory_never_makes_a_fit_worse(card, engine, tensor, small, more):
    def with_gib(gib):
        gpu = replace(H100, memory_mib=int(gib * 1024))
        return budget(card, gpu, serving(card, engine=engine), tensor=tensor, pipeline=1, data=1)

    # Engines take larger steps on larger GPUs (defaults change at 20, 60, 70 and 160 GiB): compare within one size.
    limits = [gib for gib in (20, 60, 70, 160) if small < gib <= small + more]
    low, high = with_gib(small), with_gib(min([small + more, *(gib - 0.01 for gib in limits)]))
    assert high.kv_tokens >= low.kv_tokens
    assert high.max_sequences >= low.max_sequences


@settings(max_examples=80, deadline=None)
@given(
    card=ANY_CARD, tensor=st.sampled_from([1, 4, 8]), context=st.integers(256, 100_000), longer=st.integers(0, 100_000)
)
def test_a_longer_context_never_holds_more_sequences(card, tensor, context, longer):
    short = budget(card, H100, serving(card, context=context), tensor=tensor, pipeline=1, data=1)
    long = budget(card, H100, serving(card, context=context + longer), tensor=tensor, pipeline=1, data=1)
    assert long.max_sequences <= short.max_sequences


@settings(max_examples=80, deadline=None)
@given(card=ANY_CARD, data=st.data())
def test_more_tensor_ranks_never_hold_more_weights(card, data):
    degrees = legal_tensor_degrees(card, 32)
    low = data.draw(st.sampled_from(degrees))
    high = data.draw(st.sampled_from([degree for degree in degrees if degree >= low]))
    expert = data.draw(st.booleans())

    def gib(tensor):
        shards = Shards(tensor=tensor, expert=tensor if expert else 1)
        return sum(part.gib for part in weights_on_gpu(card, serving(card), shards))

    assert gib(high) <= gib(low) + 1e-9
