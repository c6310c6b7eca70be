"""What a GPU holds beside weights and KV cache: driver, context, NCCL, activations, sampler, graphs, workspaces."""

from __future__ import annotations

from typing import Literal

from catalog.assumptions import assumed
from catalog.types import Gpu, ModelCard
from planner.performance.step import chunk_tokens
from planner.plan import MemoryPart

GIB = 2**30


def overhead(
    card: ModelCard,
    gpu: Gpu,
    engine: Literal["vllm", "sglang"],
    *,
    tensor: int,
    pipeline: int,
    data: int,
    nodes: int,
    running: int,
    step_tokens: int | None = None,
) -> tuple[MemoryPart, ...]:
    """GiB of one GPU by part; parts that do not apply are absent.

    Activations are the larger of a layer's and the sampler's, of which one is freed before the other. `running` is how
    many sequences one step samples at most, `step_tokens` how many tokens it takes (None: the engine's default for the
    GPU). Sources of the constants: catalog/assumptions.yaml.
    """
    found = {
        "driver": gpu.memory_gib * assumed("driver_reserved_share"),
        "CUDA context": assumed(context_assumption(gpu)),
        "engine workspaces": assumed(f"{engine}_workspace_gib"),
        "activations": max(
            activations_gib(card, step_of(engine, gpu, step_tokens, data), tensor=tensor, data=data),
            sampling_gib(card, running),
        ),
        "CUDA graphs": assumed("graphs_gib_base") + assumed("graphs_gib_per_layer") * card.layers / pipeline,
    }
    if tensor * pipeline > 1:
        found["NCCL"] = assumed("nccl_gib_node") + (assumed("nccl_gib_efa") if nodes > 1 else 0.0)
    if card.moe is not None and card.params_billion >= assumed("large_moe_params_billion"):
        found["expert workspaces"] = assumed("large_moe_workspace_gib")
    return tuple(MemoryPart(name=name, kind="overhead", gib=gib) for name, gib in found.items())


def step_of(engine: Literal["vllm", "sglang"], gpu: Gpu, given: int | None, data: int) -> int:
    """Tokens that one attention group computes in a step: SGLang divides what it is told among the groups, vLLM's
    groups are engines of their own, each with the whole."""
    if given is None:
        return chunk_tokens(engine, gpu) // data
    return given // data if engine == "sglang" else given


def context_assumption(gpu: Gpu) -> str:
    """Key of what CUDA's context and libraries take on a GPU of this generation."""
    generation = int(gpu.compute_capability.partition(".")[0])
    if generation >= 10:
        return "cuda_context_gib_blackwell"
    return "cuda_context_gib_hopper" if generation == 9 else "cuda_context_gib_ampere"


def sampling_gib(card: ModelCard, running: int) -> float:
    """Peak of sampling `running` sequences: every rank holds their logits over the whole vocabulary."""
    return running * card.vocab * assumed("sampling_bytes_per_logit") / GIB


def activations_gib(card: ModelCard, tokens: int, *, tensor: int, data: int) -> float:
    """Peak of one layer for a full step of `tokens` tokens in bf16, the rest being freed by then.

    tokens x 2 bytes x (3 hidden + queries, keys and values / attention ranks + the wider feed-forward), where a dense
    one holds gate, up and product (3 intermediate / tensor) and a mixture the same for `top_k` experts and their
    outputs before the sum.
    """
    ranks = max(1, tensor // data)
    if card.mla is not None:
        heads = card.heads * (card.mla.qk_nope_head_dim + card.mla.qk_rope_head_dim + 2 * card.mla.v_head_dim)
    else:
        heads = (card.heads + 2 * card.kv_heads) * card.head_dim
    wide = 3 * card.intermediate / tensor
    if card.moe is not None:
        wide = max(wide, card.moe.top_k * (3 * card.moe.intermediate / tensor + card.hidden))
    return tokens * 2 * (3 * card.hidden + heads / ranks + wide) / GIB
