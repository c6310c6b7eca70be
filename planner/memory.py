"""What fits into GPU memory: weights, overhead and the KV cache that is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from catalog.assumptions import assumed
from catalog.types import Gpu, ModelCard
from planner.plan import MemoryBudget

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is asked of the memory: how the weights and the cache are kept, and how long sequences get."""

    engine: Literal["vllm", "sglang"]
    weights_gb: float
    """All weights in decimal GB, in the format that is served."""
    kv_bytes_per_value: float
    """2 for bf16, 1 for FP8."""
    context_tokens: int


def served_weights_gb(card: ModelCard, quantization: str) -> float:
    """Decimal GB of the weights as they lie in GPU memory."""
    if quantization != "checkpoint" and card.checkpoint.format == "bf16":
        return card.params_billion * assumed("fp8_online_bytes_per_param")
    return card.checkpoint.gigabytes


def attention_params_billion(card: ModelCard) -> float:
    """Attention weights of all layers; data parallel attention copies them to every group.

    Source: shapes of the projections in the models' published configurations (q, k, v, o; or the low-rank ones of MLA).
    """
    if card.mla is not None:
        mla = card.mla
        query = card.hidden * mla.q_lora_rank + mla.q_lora_rank * card.heads * (
            mla.qk_nope_head_dim + mla.qk_rope_head_dim
        )
        cache = card.hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim) + mla.kv_lora_rank * card.heads * (
            mla.qk_nope_head_dim + mla.v_head_dim
        )
        output = card.heads * mla.v_head_dim * card.hidden
        per_layer = query + cache + output
    else:
        per_layer = 2 * card.hidden * card.heads * card.head_dim + 2 * card.hidden * card.kv_heads * card.head_dim
    return card.layers * per_layer / 1e9


def mean_kv_bytes_per_token(card: ModelCard, serving: Serving) -> float:
    """Bytes of KV cache of one token of a full-length sequence over all layers, before any sharding.

    Layers with a sliding window stop growing at the window, so a long sequence costs less a token than a short one.
    """
    total = card.kv_bytes_per_token(bytes_per_value=serving.kv_bytes_per_value)
    if not card.sliding_layers or not card.sliding_window or serving.context_tokens <= card.sliding_window:
        return total
    sliding = total * card.sliding_layers / card.layers
    return (total - sliding) + sliding * card.sliding_window / serving.context_tokens


def overhead_gib(card: ModelCard) -> float:
    """GiB of one GPU for CUDA context, NCCL, activations and graphs."""
    large = card.moe is not None and card.params_billion >= assumed("large_moe_params_billion")
    return assumed("overhead_gib_large_moe" if large else "overhead_gib_dense")


def budget(card: ModelCard, gpu: Gpu, serving: Serving, *, tensor: int, pipeline: int, data: int) -> MemoryBudget:
    """Memory of one GPU under a layout; `kv_gib` is negative where the weights alone do not fit.

    weights = W / (tensor x pipeline), plus the attention weights that each data parallel group holds again.
    KV cache a token on one GPU = total / pipeline x max(1, kv_heads / tensor) / kv_heads: grouped-query heads are
    copied once tensor passes their number, latent (MLA) caches are copied to every rank. Source: vLLM and SGLang
    sharding rules, see docs/explanation/sizing.md.
    """
    ranks = tensor * pipeline
    weights_gib = serving.weights_gb * 1e9 / GIB / ranks
    if data > 1:
        share = serving.weights_gb / card.params_billion  # bytes a parameter as served
        attention_gib = attention_params_billion(card) * share * 1e9 / GIB
        weights_gib += attention_gib * (data - 1) / ranks
    if serving.engine == "vllm":
        utilization = assumed("vllm_gpu_memory_utilization")
        inside = overhead_gib(card)
    else:
        # SGLang's static share holds weights and cache only; overhead lives in the rest of the GPU.
        utilization = assumed("sglang_mem_fraction_static")
        inside = max(0.0, overhead_gib(card) - gpu.memory_gib * (1 - utilization))
    kv_gib = gpu.memory_gib * utilization - inside - weights_gib
    attention_ranks = tensor // data
    share_of_heads = 1.0 if card.mla is not None else max(1, -(-card.kv_heads // attention_ranks)) / card.kv_heads
    per_token = mean_kv_bytes_per_token(card, serving) / pipeline * share_of_heads
    tokens = max(0, int(kv_gib * GIB / per_token)) * data
    return MemoryBudget(
        gpu_gib=gpu.memory_gib,
        utilization=utilization,
        weights_gib=weights_gib,
        overhead_gib=inside,
        kv_gib=kv_gib,
        kv_bytes_per_token=per_token,
        kv_tokens=tokens,
        max_sequences=tokens // serving.context_tokens,
    )
