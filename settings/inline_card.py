"""The numbers of a model that the catalog does not know, written into the stack file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from settings.base import Section, WrongValueError


class InlineMla(Section):
    """Multi-head latent attention, as DeepSeek and Kimi have it."""

    q_lora_rank: int = Field(ge=0)
    """Size of the queries' latent; 0 where queries have none."""
    kv_lora_rank: int = Field(ge=1)
    """Size of the latent that the KV cache holds."""
    qk_nope_head_dim: int = Field(ge=1)
    qk_rope_head_dim: int = Field(ge=1)
    v_head_dim: int = Field(ge=1)


class InlineExperts(Section):
    """Mixture of experts."""

    experts: int = Field(ge=2, le=10_000)
    """Routed experts of a layer."""
    shared: int = Field(default=0, ge=0)
    """Experts that every token uses."""
    top_k: int = Field(ge=1)
    """Routed experts that one token uses."""
    intermediate: int = Field(ge=16)
    """Width of one expert."""

    @model_validator(mode="after")
    def _enough(self) -> InlineExperts:
        if self.top_k > self.experts:
            raise WrongValueError(
                f"{self.top_k} of {self.experts} experts cannot be used", help="it is at most `experts`", at=("top_k",)
            )
        return self


class InlineWindow(Section):
    """Layers that see only the latest tokens."""

    tokens: int = Field(ge=16)
    """Length of the window, or of the chunk."""
    layers: int = Field(ge=1)
    """How many layers have it."""


class InlineLinear(Section):
    """Layers of linear attention, which hold a state of fixed size in place of a KV cache."""

    layers: int = Field(ge=1)
    key_heads: int = Field(ge=1)
    value_heads: int = Field(ge=1)
    key_head_dim: int = Field(ge=1)
    value_head_dim: int = Field(ge=1)
    conv_kernel: int = Field(ge=1)


class InlineCard(Section):
    """The numbers of a model that the catalog does not know; `python -m ops model-card --inline` makes them."""

    layers: int = Field(ge=1, le=1000)
    dense_layers: int | None = Field(default=None, ge=0)
    """Layers without experts; all where there are no experts, none where there are."""
    hidden: int = Field(ge=64)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=8)
    intermediate: int = Field(default=0, ge=0)
    """Width of the dense feed-forward; 0 where every layer has experts."""
    vocab: int = Field(ge=1000)
    tied_embeddings: bool = False
    """Whether the output head is the embedding table."""
    max_context: int = Field(ge=512)
    """Longest sequence in tokens."""
    params_billion: float = Field(gt=0, le=5000)
    active_params_billion: float | None = Field(default=None, gt=0, le=5000)
    """Parameters that one token touches; all of them where left out."""
    gated_attention: bool = False
    """Whether queries carry an output gate."""
    mla: InlineMla | None = None
    moe: InlineExperts | None = None
    sliding_window: InlineWindow | None = None
    linear: InlineLinear | None = None
    mtp_layers: int = Field(default=0, ge=0, le=16)
    """Multi-token-prediction layers in the files."""
    mtp_params_billion: float = Field(default=0, ge=0)
    vision_params_billion: float = Field(default=0, ge=0)
    """Image encoder, counted in `params_billion`."""
    checkpoint: Literal["bf16", "fp8", "fp8_block128", "mxfp4", "awq_int4"] = "bf16"
    """Number format of the published weights."""
    checkpoint_gb: float | None = Field(default=None, gt=0)
    """Size of the weights' files in GB (10^9 bytes); from the shapes where left out."""
    hub_id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository on the model hub, for instance `my-org/my-model`."""
    gated: bool = False
    """Whether the hub asks for a token."""

    @model_validator(mode="after")
    def _consistent(self) -> InlineCard:
        """What would size another model than the one that is meant."""
        if self.kv_heads > self.heads or self.heads % self.kv_heads:
            raise WrongValueError(
                f"{self.heads} heads do not divide by {self.kv_heads} KV heads",
                help="see num_key_value_heads in config.json",
                at=("kv_heads",),
            )
        dense = self.dense_layers if self.dense_layers is not None else 0 if self.moe else self.layers
        if dense > self.layers or (self.moe is None and dense < self.layers) or (self.moe and dense == self.layers):
            raise WrongValueError(
                f"{dense} dense layers of {self.layers} do not go with {'' if self.moe else 'no '}`moe`",
                help="with `moe` fewer than `layers`, else all of them",
                at=("dense_layers",),
            )
        if dense and self.intermediate < 64:
            raise WrongValueError(
                f"{dense} dense layers need the width of their feed-forward",
                help="see intermediate_size in config.json",
                at=("intermediate",),
            )
        special = (self.sliding_window.layers if self.sliding_window else 0) + (
            self.linear.layers if self.linear else 0
        )
        if special > self.layers:
            raise WrongValueError(
                f"{special} layers with a window or a state, of {self.layers}",
                help="together at most `layers`",
                at=("sliding_window",) if self.sliding_window else ("linear",),
            )
        return self
