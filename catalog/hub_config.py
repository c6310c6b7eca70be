"""A Hugging Face config.json to a model card: every problem at once, nothing guessed in silence.

Field names and what a missing one means follow the configuration classes of the `transformers` library. An architecture
that is not known here is read like the others (grouped attention, gated feed-forward) and remarked on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, cast

from catalog.hub_fields import Fields, Problem
from catalog.hub_quantization import checkpoint_format
from catalog.model_card import AttentionKind, Checkpoint, LinearAttention, Mla, ModelCard, Moe
from catalog.shapes import active_params, parameters, prediction_params, resident_gb

KNOWN = frozenset(
    {
        *("llama", "llama4_text", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"),
        *("deepseek_v2", "deepseek_v3", "kimi_k2", "gemma", "gemma2", "gemma3_text", "gpt_oss", "phi3", "glm4_moe"),
    }
)
_NESTED = ("text_config", "llm_config", "language_config")
_EXPERTS_AS_WIDE_AS_INTERMEDIATE = {"mixtral", "gpt_oss", "llama4_text", "phimoe", "granitemoe"}
# What `Gemma3TextConfig` takes where the file leaves it out: published Gemma 3 files name only some of them.
_GEMMA_3 = {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
_FILES_MAY_DIFFER = 0.25
_FILES_DIFFER = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a config does not say about its model."""

    name: str
    """Hub id."""
    as_of: date
    license: str = "see the model's page"
    gated: bool = False
    revision: str | None = None
    total_size: int | None = None
    """Bytes of all files: `metadata.total_size` of model.safetensors.index.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a config gave: a card, or the problems that stand against one."""

    card: ModelCard | None
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]


def read_config(config: Mapping[str, Any], origin: Origin) -> Reading:
    """The card of a config.json; with problems there is none."""
    text = dict(config)
    nested = next((key for key in _NESTED if isinstance(config.get(key), Mapping)), None)
    if nested:
        text = {**text, **cast("Mapping[str, Any]", config[nested])}
    fields = Fields(text, prefix=f"{nested}." if nested else "")
    kind = str(text.get("model_type", ""))
    if kind == "gemma3_text":
        fields.fill(_GEMMA_3, "the model type's own value")
    if kind not in KNOWN:
        fields.remark(
            f"architecture `{kind or 'unnamed'}` is not known here: read as grouped attention and gated feed-forward; "
            "compare the parameters with the model's page"
        )
    if config.get("is_encoder_decoder"):
        fields.problem("is_encoder_decoder", "an encoder-decoder model is not served here", "use a decoder-only model")
    card = _card(fields, kind, config, origin)
    if fields.problems:
        return Reading(card=None, problems=tuple(fields.problems), remarks=tuple(fields.remarks))
    card = _with_totals(card, fields, origin, sees="vision_config" in config)
    return Reading(
        card=None if fields.problems else card, problems=tuple(fields.problems), remarks=tuple(fields.remarks)
    )


def _card(fields: Fields, kind: str, config: Mapping[str, Any], origin: Origin) -> ModelCard:
    """A card whose totals are still missing; numbers that could not be read are 1 and have a problem."""
    layers = fields.integer("num_hidden_layers", "n_layer", "num_layers")
    hidden = fields.integer("hidden_size", "n_embd", "d_model")
    heads = fields.integer("num_attention_heads", "n_head")
    mla = _mla(fields)
    kv_heads = fields.integer("num_key_value_heads", "multi_query_group_num", default=heads)
    head_dim = _head_dim(fields, hidden, heads, mla)
    if kv_heads > heads:
        fields.problem(
            "num_key_value_heads", f"{kv_heads} is more than the {heads} attention heads", "it is at most as many"
        )
    elif heads % kv_heads:
        fields.problem(
            "num_key_value_heads", f"{heads} attention heads do not divide by {kv_heads}", "each KV head serves as many"
        )
    context = fields.integer("max_position_embeddings", "model_max_length", "seq_length", "n_positions")
    moe, dense_layers = _experts(fields, kind, layers)
    linear = _linear(fields, kind, layers)
    window, windowed = _sliding(fields, kind, layers, context)
    tied = fields.boolean("tie_word_embeddings", default=kind.startswith("gemma"))
    attention: AttentionKind = "mha" if kv_heads == heads else "gqa"
    if mla is not None:
        attention, kv_heads = "mla", heads
    elif windowed:
        attention = "sliding"
    return ModelCard(
        name=origin.name,
        layers=layers,
        dense_layers=dense_layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_dense_width(fields, kind) if dense_layers else 0,
        vocab=fields.integer("vocab_size"),
        tied_embeddings=tied,
        max_context=context,
        params_billion=0,
        active_params_billion=0,
        attention=attention,
        gated_attention=kind == "qwen3_next" or fields.boolean("attn_output_gate", default=False),
        sliding_window=window,
        sliding_layers=windowed,
        linear=linear,
        mla=mla,
        moe=moe,
        mtp_layers=fields.integer("num_nextn_predict_layers", default=0, minimum=0),
        checkpoint=Checkpoint(format=checkpoint_format(fields, config), gigabytes=0),
        gated=origin.gated,
        license=origin.license,
        revision=origin.revision,
        source="config.json" + (" and file list" if origin.total_size else "; file size from the shapes"),
        as_of=origin.as_of,
    )


def _head_dim(fields: Fields, hidden: int, heads: int, mla: Mla | None) -> int:
    if mla is not None:
        return mla.v_head_dim
    if fields.has("head_dim"):
        return fields.integer("head_dim")
    if hidden % heads:
        fields.problem(
            "hidden_size",
            f"{hidden} does not divide by {heads} attention heads, and there is no head_dim",
            "correct hidden_size or num_attention_heads, or add head_dim",
        )
    return hidden // heads


def _mla(fields: Fields) -> Mla | None:
    if not fields.has("kv_lora_rank"):
        return None
    return Mla(
        q_lora_rank=fields.integer("q_lora_rank", default=0, minimum=0),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_head_dim=fields.integer("qk_nope_head_dim"),
        qk_rope_head_dim=fields.integer("qk_rope_head_dim"),
        v_head_dim=fields.integer("v_head_dim"),
    )


def _dense_width(fields: Fields, kind: str) -> int:
    if kind == "llama4_text":
        return fields.integer("intermediate_size_mlp")
    return fields.integer("intermediate_size", "ffn_dim", "n_inner")


def _experts(fields: Fields, kind: str, layers: int) -> tuple[Moe | None, int]:
    """The mixture, and how many layers have a dense feed-forward instead."""
    experts = fields.integer("n_routed_experts", "num_experts", "num_local_experts", default=0, minimum=0)
    if experts < 2:
        if fields.has("num_experts_per_tok") and fields.integer("num_experts_per_tok", minimum=0) > 1:
            fields.problem(
                "num_experts_per_tok",
                "says that tokens go to experts, and no field says how many experts there are",
                "add n_routed_experts, num_experts or num_local_experts, or remove it from a dense model's config",
            )
        return None, layers
    top_k = fields.integer("num_experts_per_tok", "experts_per_token", "moe_topk")
    if top_k > experts:
        fields.problem("num_experts_per_tok", f"{top_k} is more than the {experts} experts", "it is at most as many")
    if fields.has("moe_intermediate_size"):
        width = fields.integer("moe_intermediate_size")
    else:
        width = fields.integer("intermediate_size")
        if kind not in _EXPERTS_AS_WIDE_AS_INTERMEDIATE:
            fields.remark("moe_intermediate_size is missing: experts are taken to be as wide as intermediate_size")
    shared = fields.integer("n_shared_experts", default=1 if kind == "llama4_text" else 0, minimum=0)
    beside = fields.integer("shared_expert_intermediate_size", default=0, minimum=0)
    if beside:
        shared = -(-beside // width)
        if beside % width:
            fields.remark(f"the shared expert ({beside} wide) is counted as {shared} of {width}")
    dense = _dense_layers(fields, layers)
    if dense >= layers:
        fields.problem(
            "first_k_dense_replace",
            f"leaves none of {layers} layers for the {experts} experts",
            "it is less than num_hidden_layers",
        )
    return Moe(experts=experts, shared=shared, top_k=top_k, intermediate=width), dense


def _dense_layers(fields: Fields, layers: int) -> int:
    first = fields.integer("first_k_dense_replace", default=0, minimum=0)
    step = fields.integer("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", default=1)
    only = fields.numbers("mlp_only_layers")
    sparse = {layer for layer in range(first, layers) if (layer + 1) % step == 0 or step == 1} - set(only)
    return layers - len(sparse)


def _linear(fields: Fields, kind: str, layers: int) -> LinearAttention | None:
    kinds = fields.words("layer_types", length=layers)
    count = sum(name == "linear_attention" for name in kinds)
    if not kinds and kind == "qwen3_next":
        count = layers - layers // fields.integer("full_attention_interval", default=4)
    if not count:
        return None
    return LinearAttention(
        layers=count,
        key_heads=fields.integer("linear_num_key_heads"),
        value_heads=fields.integer("linear_num_value_heads"),
        key_head_dim=fields.integer("linear_key_head_dim"),
        value_head_dim=fields.integer("linear_value_head_dim"),
        conv_kernel=fields.integer("linear_conv_kernel_dim"),
    )


def _sliding(fields: Fields, kind: str, layers: int, context: int) -> tuple[int | None, int]:
    """The window and how many layers have it: named layer by layer, or by the model type's rule."""
    window = fields.integer("attention_chunk_size", "sliding_window", default=0, minimum=0)
    if kind.startswith("qwen") and not fields.boolean("use_sliding_window", default=False):
        window = 0
    if not window or window >= context:
        return None, 0
    kinds = fields.words("layer_types", length=layers, told=False)
    if kinds:
        count = sum(name in ("sliding_attention", "chunked_attention") for name in kinds)
    elif kind == "llama4_text":
        rope = fields.numbers("no_rope_layers")
        interval = fields.integer("no_rope_layer_interval", default=4)
        count = sum(bool(flag) for flag in rope) if rope else layers - layers // interval
    elif kind == "gemma3_text":
        count = layers - layers // fields.integer("sliding_window_pattern", default=6)
    elif kind in ("gemma2", "gpt_oss"):
        count = -(-layers // 2)
    elif kind.startswith("qwen"):
        count = max(0, layers - fields.integer("max_window_layers", default=layers, minimum=0))
    elif kind in ("mistral", "mixtral", "phi3"):
        count = layers
    else:
        fields.remark(f"sliding_window is {window}, but not for which layers: all are taken to see everything")
        count = 0
    return (window, count) if count else (None, 0)


def _with_totals(card: ModelCard, fields: Fields, origin: Origin, *, sees: bool) -> ModelCard:
    """Parameters and size of the files, from the shapes; compared with the file list where there is one."""
    card = replace(card, mtp_params_billion=_rounded(prediction_params(card) / 1e9))
    shapes_gb = resident_gb(card, prediction=True)
    gigabytes = shapes_gb
    if origin.total_size is not None:
        gigabytes = origin.total_size / 1e9
        if sees and gigabytes > shapes_gb:
            card = replace(card, vision_params_billion=_rounded((gigabytes - shapes_gb) / 2))
            fields.remark("what the files hold beyond the text model is taken to be the image encoder, in bf16")
        elif abs(gigabytes / shapes_gb - 1) > _FILES_MAY_DIFFER:
            fields.problem(
                "metadata.total_size",
                f"{gigabytes:.1f} GB of files against {shapes_gb:.1f} GB by the shapes",
                "check that config.json and model.safetensors.index.json are of one model, and quantization_config",
            )
        elif abs(gigabytes / shapes_gb - 1) > _FILES_DIFFER:
            fields.remark(f"the files hold {gigabytes:.1f} GB, the shapes give {shapes_gb:.1f} GB")
    elif sees:
        fields.remark("the image encoder is not counted: give the folder with model.safetensors.index.json")
    total = sum(parameters(card).values()) / 1e9 - card.mtp_params_billion
    return replace(
        card,
        params_billion=_rounded(total),
        active_params_billion=_rounded(active_params(card) / 1e9 if card.moe else total - card.vision_params_billion),
        checkpoint=Checkpoint(format=card.checkpoint.format, gigabytes=_rounded(gigabytes)),
    )


def _rounded(value: float) -> float:
    """Four significant digits: publishers state three."""
    return float(f"{value:.4g}")
