"""What fits into GPU memory: weights by part, overhead by part, and the KV cache that is left.

Formulas and sources: docs/explanation/sizing.md; `planner.memory_explained` names them number by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from catalog.assumptions import assumed
from catalog.shapes import ServedFormat, Weights, attention_params, resident_gb, weights
from catalog.types import Gpu, ModelCard
from planner.overhead import overhead
from planner.plan import MemoryBudget, MemoryPart

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is asked of the memory: how the weights and the cache are kept, and how long sequences get."""

    engine: Literal["vllm", "sglang"]
    weights_gb: float
    """All weights in decimal GB, in the format that is served; the parts are scaled to it."""
    kv_bytes_per_value: float
    """2 for bf16, 1 for FP8."""
    context_tokens: int
    format: ServedFormat | None = None
    """None: the checkpoint's, or FP8 where bf16 files are served in much less than their size."""
    prediction: bool = False
    """Whether prediction layers are loaded for speculation; `weights_gb` then includes them."""
    running: int = 256
    """Sequences in one step at most: they size the logits and the sampler's buffers."""
    step_tokens: int | None = None
    """Tokens of one step at most, which size the activations; None: the engine's default for the GPU."""
    utilization: float | None = None
    """Share of the GPU that the engine may take; None: the assumed one of the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """How a replica's weights and cache are cut."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    """Data parallel attention groups inside the replica."""
    expert: int = 1
    nodes: int = 1

    @property
    def attention_ranks(self) -> int:
        """GPUs that share the heads of one sequence."""
        return max(1, self.tensor // self.data)

    def stage_share(self, card: ModelCard) -> float:
        """Share of the layers that the fullest pipeline stage holds."""
        return -(-card.layers // self.pipeline) / card.layers


def served_format(card: ModelCard, serving: Serving) -> ServedFormat:
    """Number format of the weights in memory."""
    if serving.format is not None:
        return serving.format
    if card.checkpoint.format == "bf16" and serving.weights_gb < 0.75 * card.checkpoint.gigabytes:
        return "fp8_online"
    return card.checkpoint.format


def served_weights_gb(card: ModelCard, quantization: str) -> float:
    """Decimal GB of the weights as they lie in GPU memory: the published files less the prediction layers, which the
    engines skip where nothing speculates; bf16 files may become FP8 while loading."""
    if quantization != "checkpoint" and card.checkpoint.format == "bf16":
        return resident_gb(card, "fp8_online")
    return card.checkpoint.gigabytes * resident_gb(card) / resident_gb(card, prediction=True)


def kv_heads_on_gpu(card: ModelCard, ranks: int) -> int:
    """KV heads that one of `ranks` GPUs keeps: at least one, so heads are copied once the ranks pass their number."""
    return max(1, -(-card.kv_heads // ranks))


def sequence_bytes(card: ModelCard, shards: Shards, *, tokens: int, bytes_per_value: float) -> float:
    """Bytes of one GPU that a sequence of `tokens` tokens holds.

    Grouped heads divide by the attention ranks, latents (MLA) are on every rank; layers with a window stop growing at
    it; layers of linear attention hold a state of fixed size.
    """
    if card.mla is not None:
        values = card.cached_values_per_layer
    else:
        values = 2 * kv_heads_on_gpu(card, shards.attention_ranks) * card.head_dim
    full = card.layers - card.sliding_layers - card.linear_layers
    positions = full * tokens + card.sliding_layers * min(tokens, card.sliding_window or tokens)
    state = card.state_bytes_per_sequence() / shards.attention_ranks
    return shards.stage_share(card) * (positions * values * bytes_per_value + state)


def weights_on_gpu(card: ModelCard, serving: Serving, shards: Shards) -> tuple[MemoryPart, ...]:
    """Weights by part on the fullest GPU of the replica."""
    parts = weights(card, served_format(card, serving))
    kept = [w for w in parts if serving.prediction or w.part != "prediction layers"]
    scale = serving.weights_gb / sum(w.gigabytes for w in kept)
    shares = _shares(card, shards, kept)
    found = [
        MemoryPart(name=w.part, kind="weights", gib=w.gigabytes * scale * shares[w.part] * 1e9 / GIB)
        for w in kept
        if shares[w.part]
    ]
    if card.mla is not None:
        found.append(MemoryPart(name="absorbed projections", kind="weights", gib=_absorbed_gib(card, shards)))
    return tuple(found)


def _absorbed_gib(card: ModelCard, shards: Shards) -> float:
    """Latent attention decodes with its up projections folded into queries and outputs: both engines keep a bf16 copy
    of them beside the weights (vLLM and SGLang, after loading)."""
    assert card.mla is not None  # noqa: S101 - the caller has checked
    mla = card.mla
    per_layer = mla.kv_lora_rank * card.heads * (mla.qk_nope_head_dim + mla.v_head_dim) * 2
    return card.layers * shards.stage_share(card) * per_layer / shards.attention_ranks / GIB


def _shares(card: ModelCard, shards: Shards, kept: Iterable[Weights]) -> Mapping[str, float]:
    """Share of each part that the fullest GPU holds.

    Matrices divide by the tensor ranks, attention by the ranks of one attention group and no finer than a KV head;
    routers and latent projections are on every rank. Tables are on the first and the last stage: with stages, the
    larger of the two counts, since layers are even.
    """
    stage, tensor, ranks = shards.stage_share(card), shards.tensor, shards.attention_ranks
    heads = 2 * card.kv_heads * card.head_dim * card.hidden / attention_params(card) if card.mla is None else 0.0
    attention = (1 - heads) / ranks + heads * kv_heads_on_gpu(card, ranks) / card.kv_heads
    experts = -(-card.moe.experts // tensor) / card.moe.experts if card.moe and shards.expert > 1 else 1 / tensor
    shares = {
        "attention": stage * attention,
        "latent projections": stage,
        "linear attention": stage / tensor,
        "dense feed-forward": stage / tensor,
        "experts": stage * experts,
        "shared experts": stage / tensor,
        "router": stage,
        "embedding": 1 / tensor,
        "head": 1 / tensor,
        "prediction layers": 1 / tensor,
        "vision": 1 / tensor,
    }
    if shards.pipeline > 1:
        sizes = {w.part: w.gigabytes for w in kept}
        first = sizes["embedding"] + sizes.get("vision", 0.0)
        last = sizes.get("head", sizes["embedding"]) + sizes.get("prediction layers", 0.0)
        if first >= last:
            shares["head"] = shares["prediction layers"] = 0.0
        else:
            shares["vision"] = 0.0
            if "head" in sizes:
                shares["embedding"] = 0.0
    return shares


def budget(
    card: ModelCard,
    gpu: Gpu,
    serving: Serving,
    *,
    tensor: int,
    pipeline: int,
    data: int,
    expert: int = 1,
    nodes: int = 1,
) -> MemoryBudget:
    """Memory of the fullest GPU under a layout; `kv_gib` is negative where the weights alone do not fit.

    kv_gib = gpu x utilization - weights - overhead. `utilization` is vLLM's share for everything, or SGLang's static
    share for weights and cache, where overhead lives in the rest of the GPU as far as that goes.
    """
    shards = Shards(tensor=tensor, pipeline=pipeline, data=data, expert=expert, nodes=nodes)
    held = weights_on_gpu(card, serving, shards)
    weights_gib = sum(part.gib for part in held)
    utilization = serving.utilization or assumed(
        "vllm_gpu_memory_utilization" if serving.engine == "vllm" else "sglang_mem_fraction_static"
    )
    extra = overhead(
        card,
        gpu,
        serving.engine,
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        nodes=nodes,
        running=serving.running,
        step_tokens=serving.step_tokens,
    )
    overhead_gib = sum(part.gib for part in extra)
    if serving.engine == "sglang":
        outside = min(overhead_gib, gpu.memory_gib * (1 - utilization))
        extra = (*extra, MemoryPart(name="outside the static share", kind="overhead", gib=-outside))
        overhead_gib -= outside
    kv_gib = gpu.memory_gib * utilization - overhead_gib - weights_gib
    one = sequence_bytes(card, shards, tokens=serving.context_tokens, bytes_per_value=serving.kv_bytes_per_value)
    room = max(0.0, kv_gib * GIB)
    return MemoryBudget(
        gpu_gib=gpu.memory_gib,
        utilization=utilization,
        weights_gib=weights_gib,
        overhead_gib=overhead_gib,
        kv_gib=kv_gib,
        kv_bytes_per_token=one / serving.context_tokens,
        kv_tokens=int(room / one * serving.context_tokens) * data,
        max_sequences=int(room / one) * data,
        parts=(*held, *extra),
    )


def sequences_at(
    card: ModelCard, memory: MemoryBudget, serving: Serving, shards: Shards, contexts: Iterable[int]
) -> dict[int, int]:
    """Sequences that fit at once by their length in tokens, under a budget that `budget` made."""
    room = max(0.0, memory.kv_gib * GIB)
    return {
        tokens: int(room / sequence_bytes(card, shards, tokens=tokens, bytes_per_value=serving.kv_bytes_per_value))
        * shards.data
        for tokens in contexts
    }
