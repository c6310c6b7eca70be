"""Model cards: the numbers of a model's config.json that size it, and what an engine must be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from catalog.sourced import Sourced

CheckpointFormat = Literal["bf16", "fp8", "fp8_block128", "mxfp4", "awq_int4"]
AttentionKind = Literal["mha", "gqa", "mla", "sliding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mla:
    """Multi-head latent attention: the KV cache holds `kv_lora_rank + qk_rope_head_dim` values a token and layer."""

    q_lora_rank: int
    """0 where queries are projected without a latent (DeepSeek-V2-Lite)."""
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Moe:
    """Mixture-of-experts feed-forward of the layers that are not dense."""

    experts: int
    shared: int = 0
    """Experts that every token uses, as wide as the routed ones."""
    top_k: int
    intermediate: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearAttention:
    """Layers with a recurrent state of fixed size in place of a KV cache (gated delta net of Qwen3-Next)."""

    layers: int
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The files as downloaded, multi-token-prediction layers included."""

    format: CheckpointFormat
    gigabytes: float
    """Decimal GB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard(Sourced):
    """The numbers of a model's config.json that size it, and what an engine must be told.

    Weights by part, resident and read in a decode step, are in `catalog.shapes`.
    """

    name: str
    """Hub id, such as `deepseek-ai/DeepSeek-R1`."""
    layers: int
    dense_layers: int
    """Layers with a dense feed-forward; all of them in a dense model."""
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the dense feed-forward; 0 where every layer is a mixture of experts."""
    vocab: int
    tied_embeddings: bool = False
    """The output head is the embedding table."""
    max_context: int
    params_billion: float
    """All weights but the multi-token-prediction layers."""
    active_params_billion: float
    attention: AttentionKind
    gated_attention: bool = False
    """Queries carry an output gate of their own size (Qwen3-Next)."""
    sliding_window: int | None = None
    sliding_layers: int = 0
    """Layers whose KV cache stops growing at `sliding_window` tokens (a window, or a chunk as in Llama 4)."""
    linear: LinearAttention | None = None
    mla: Mla | None = None
    moe: Moe | None = None
    mtp_layers: int = 0
    mtp_params_billion: float = 0
    vision_params_billion: float = 0
    """Image encoder and its projection: resident, not read in a decode step."""
    checkpoint: Checkpoint
    gated: bool
    """Needs a hub token whose owner accepted the licence."""
    license: str
    remote_code: bool = False
    """Its tokenizer is code in the repository, which engines run only where they are told to trust it."""
    revision: str | None = None
    """40-hex commit of the hub repository; None where none could be verified."""
    base_model: str | None = None
    """Card of the same weights in their first format, where this one is a quantisation of it."""
    # Mappings have no hash; a card is known by the rest.
    reasoning_parser: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    """Engine key -> value of its reasoning-parser option."""
    tool_parser: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.moe is not None else 0

    @property
    def linear_layers(self) -> int:
        """Layers without a KV cache."""
        return self.linear.layers if self.linear is not None else 0

    @property
    def cached_values_per_layer(self) -> int:
        """Values that one token leaves in the KV cache of one layer that has one, before any sharding."""
        if self.mla is not None:
            return self.mla.kv_lora_rank + self.mla.qk_rope_head_dim
        return 2 * self.kv_heads * self.head_dim

    def kv_bytes_per_token(self, *, bytes_per_value: float = 2) -> float:
        """Bytes of KV cache that one token of a long sequence adds over all layers, before any sharding.

        Layers with a sliding window count in full: this is what a token shorter than the window costs. Layers of
        linear attention cost nothing a token; their state is `state_bytes_per_sequence`.
        """
        return (self.layers - self.linear_layers) * self.cached_values_per_layer * bytes_per_value

    def state_bytes_per_sequence(self) -> float:
        """Bytes that a sequence holds in the layers of linear attention, whatever its length: the recurrent matrix in
        float32 and the last inputs of the convolution in bf16. Source: shapes of the published implementation."""
        if self.linear is None:
            return 0.0
        linear = self.linear
        recurrent = linear.value_heads * linear.key_head_dim * linear.value_head_dim * 4
        width = 2 * linear.key_heads * linear.key_head_dim + linear.value_heads * linear.value_head_dim
        return linear.layers * (recurrent + width * (linear.conv_kernel - 1) * 2)
