"""Weights of a model by part: how many parameters, in which number format, and how much of them a decode step reads.

Everything follows from the numbers of a card; norms and biases (under 0.1 %) are left out. Sources: shapes of the
projections in the models' published implementations; what each format leaves in bf16 is named at `bytes_per_param`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from catalog.model_card import LinearAttention, Mla, ModelCard

Part = Literal[
    "embedding",
    "head",
    "attention",
    "latent projections",
    "linear attention",
    "dense feed-forward",
    "experts",
    "shared experts",
    "router",
    "prediction layers",
    "vision",
]
ServedFormat = Literal["bf16", "fp8", "fp8_block128", "fp8_online", "mxfp4", "awq_int4"]
"""A checkpoint's format, or `fp8_online`: bf16 files quantised while loading."""

_UNQUANTISED: tuple[Part, ...] = ("embedding", "head", "router", "vision")
"""FP8, AWQ and MXFP4 checkpoints all name these among the modules that they do not convert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One part of the weights."""

    part: Part
    params: float
    bytes_per_param: float

    @property
    def gigabytes(self) -> float:
        """Decimal GB."""
        return self.params * self.bytes_per_param / 1e9


def attention_params(card: ModelCard) -> float:
    """Projections of one layer with a KV cache, all heads."""
    if card.mla is not None:
        return _mla(card, card.mla) + latent_params(card)
    queries = card.heads * (2 if card.gated_attention else 1)
    return card.hidden * card.head_dim * (queries + card.heads + 2 * card.kv_heads)


def _mla(card: ModelCard, mla: Mla) -> float:
    """The projections that divide by heads."""
    queries = (mla.q_lora_rank or card.hidden) * card.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    cache = mla.kv_lora_rank * card.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    return queries + cache + card.heads * mla.v_head_dim * card.hidden


def latent_params(card: ModelCard) -> float:
    """Projections of one layer down to the latents (q_a and kv_a), which have no heads to divide by."""
    if card.mla is None:
        return 0.0
    return card.hidden * (card.mla.q_lora_rank + card.mla.kv_lora_rank + card.mla.qk_rope_head_dim)


def linear_attention_params(hidden: int, linear: LinearAttention) -> float:
    """Projections of one gated delta net layer: queries, keys, values and gate; decay and write strength; the
    convolution; the output."""
    keys = linear.key_heads * linear.key_head_dim
    values = linear.value_heads * linear.value_head_dim
    inputs = hidden * (2 * keys + 2 * values + 2 * linear.value_heads)
    return inputs + (2 * keys + values) * linear.conv_kernel + values * hidden


def expert_params(card: ModelCard) -> float:
    """One expert: gate, up and down."""
    return 3.0 * card.hidden * card.moe.intermediate if card.moe is not None else 0.0


def parameters(card: ModelCard) -> dict[Part, float]:
    """Parameters of each part over all layers; parts that a model lacks are absent. The prediction layers and the
    vision encoder are as the card states them; a tied head is the embedding and counts once."""
    cached = card.layers - card.linear_layers
    latent = latent_params(card)
    table = float(card.vocab * card.hidden)
    found: dict[Part, float] = {
        "embedding": table,
        "head": 0.0 if card.tied_embeddings else table,
        "attention": cached * (attention_params(card) - latent),
        "latent projections": cached * latent,
        "dense feed-forward": card.dense_layers * 3.0 * card.hidden * card.intermediate,
        "prediction layers": card.mtp_params_billion * 1e9,
        "vision": card.vision_params_billion * 1e9,
    }
    if card.linear is not None:
        found["linear attention"] = card.linear.layers * linear_attention_params(card.hidden, card.linear)
    if card.moe is not None:
        expert = card.moe_layers * expert_params(card)
        found["experts"] = expert * card.moe.experts
        found["shared experts"] = expert * card.moe.shared
        found["router"] = float(card.moe_layers * card.hidden * card.moe.experts)
    return {part: params for part, params in found.items() if params}


def bytes_per_param(part: Part, served: ServedFormat) -> float:
    """Bytes of one parameter of a part in a number format.

    - fp8 (modelopt, one scale a tensor) and fp8_online: all matrices but embedding, head and router;
    - fp8_block128 (DeepSeek, Qwen): the same, a float32 scale for each 128 x 128 block;
    - awq_int4: the same, for each group of 128 a 16-bit scale and a 4-bit zero point;
    - mxfp4 (gpt-oss): experts alone, an 8-bit scale for each 32; attention, router, embedding and head stay bf16.
    """
    if served == "mxfp4":
        return (4 + 8 / 32) / 8 if part == "experts" else 2.0
    if served == "bf16" or part in _UNQUANTISED:
        return 2.0
    return {"fp8": 1.0, "fp8_online": 1.0, "fp8_block128": 1 + 4 / 128**2, "awq_int4": 0.5 + 2.5 / 128}[served]


@functools.lru_cache(maxsize=512)
def weights(card: ModelCard, served: ServedFormat | None = None) -> tuple[Weights, ...]:
    """All parts in the served format (the checkpoint's where None), prediction layers included."""
    how: ServedFormat = served or card.checkpoint.format
    counted = parameters(card)
    table = counted["embedding"]
    found = [
        Weights(part=part, params=params, bytes_per_param=bytes_per_param(part, how))
        for part, params in counted.items()
    ]
    if "prediction layers" in counted and how not in ("bf16", "mxfp4"):
        # Their own copies of embedding and head stay bf16 like the model's.
        kept = min(counted["prediction layers"], 2 * table * card.mtp_layers)
        mixed = (kept * 2 + (counted["prediction layers"] - kept) * bytes_per_param("attention", how)) / counted[
            "prediction layers"
        ]
        found = [
            Weights(part=w.part, params=w.params, bytes_per_param=mixed) if w.part == "prediction layers" else w
            for w in found
        ]
    return tuple(found)


def resident_gb(card: ModelCard, served: ServedFormat | None = None, *, prediction: bool = False) -> float:
    """Decimal GB that lie in GPU memory over all GPUs, nothing copied; prediction layers only where speculation runs
    (vLLM and SGLang skip them while loading otherwise)."""
    return sum(w.gigabytes for w in weights(card, served) if prediction or w.part != "prediction layers")


def read_gb(card: ModelCard, served: ServedFormat | None = None, *, batch: float = 1) -> float:
    """Decimal GB of weights that one decode step of `batch` sequences reads, over all GPUs.

    Less than what is resident: of the embedding table a step looks up `batch` rows (a tied table is read whole as the
    head), of the experts it touches 1 - (1 - top_k / experts)^batch, and of the vision encoder nothing.
    """
    total = 0.0
    for w in weights(card, served):
        if w.part == "embedding":
            total += w.gigabytes if card.tied_embeddings else batch * card.hidden * w.bytes_per_param / 1e9
        elif w.part == "experts" and card.moe is not None:
            total += w.gigabytes * (1 - (1 - card.moe.top_k / card.moe.experts) ** batch)
        elif w.part not in ("vision", "prediction layers"):
            total += w.gigabytes
    return total


def active_params(card: ModelCard) -> float:
    """Parameters that one token is multiplied with: the head, not the embedding table, and `top_k` of the experts."""
    total = 0.0
    for part, params in parameters(card).items():
        if part == "experts" and card.moe is not None:
            total += params * card.moe.top_k / card.moe.experts
        elif part == "embedding":
            total += params if card.tied_embeddings else 0.0
        elif part not in ("vision", "prediction layers"):
            total += params
    return total


def prediction_params(card: ModelCard) -> float:
    """Parameters of the multi-token-prediction layers by shape: a layer with experts, the projection of two hidden
    states to one, an embedding and a head."""
    if not card.mtp_layers:
        return 0.0
    if card.moe is None:
        inner = 3.0 * card.hidden * card.intermediate
    else:
        inner = (card.moe.experts + card.moe.shared) * expert_params(card)
    joined = 2.0 * card.hidden**2
    return card.mtp_layers * (attention_params(card) + inner + joined + 2 * card.vocab * card.hidden)
