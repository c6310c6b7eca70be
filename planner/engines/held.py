"""What engine options put into GPU memory beside the model: prediction layers, a draft model, adapters."""

from __future__ import annotations

from catalog.shapes import resident_gb
from catalog.types import ModelCard
from planner.memory import served_weights_gb
from settings.engines import DraftSpeculation, Lora, MtpSpeculation, SglangOptions, VllmOptions


def predicts(options: VllmOptions | SglangOptions) -> bool:
    """Whether the model's own prediction layers are loaded."""
    return isinstance(options.speculation, MtpSpeculation)


def weights_gb(card: ModelCard, quantization: str, options: VllmOptions | SglangOptions) -> float:
    """Decimal GB of all weights of a replica: the model's, and what speculation and adapters add."""
    held = served_weights_gb(card, quantization)
    if predicts(options):
        online = quantization != "checkpoint" and card.checkpoint.format == "bf16"
        held = resident_gb(card, "fp8_online", prediction=True) if online else card.checkpoint.gigabytes
    if isinstance(options.speculation, DraftSpeculation):
        held += options.speculation.gigabytes
    return held + adapters_gb(card, options.lora)


def adapters_gb(card: ModelCard, lora: Lora | None) -> float:
    """Decimal GB set aside for adapters: two matrices of the rank for each linear layer of attention and of a dense
    feed-forward, in bf16, for each adapter that a batch may mix. Experts are not counted: adapters seldom have them."""
    if lora is None:
        return 0.0
    rank = max([adapter.rank for adapter in lora.adapters] + [0 if lora.max_rank == "auto" else int(lora.max_rank)])
    return lora.concurrent * adapter_files_gb(card, rank)


def adapter_files_gb(card: ModelCard, rank: int) -> float:
    """Decimal GB of one adapter's files, if it changes every such layer and is published in 16 bits."""
    queries, keys = card.heads * card.head_dim, card.kv_heads * card.head_dim
    attention = 2 * (card.hidden + queries) + 2 * (card.hidden + keys)
    dense = 3 * (card.hidden + card.intermediate)
    values = card.layers * attention + card.dense_layers * dense
    return rank * values * 2 / 1e9


def beside_gb(card: ModelCard, options: VllmOptions | SglangOptions) -> float:
    """Decimal GB of files that a start reads beside the model's own: of a draft model and of every adapter."""
    drafted = options.speculation.gigabytes if isinstance(options.speculation, DraftSpeculation) else 0.0
    return drafted + sum(adapter_files_gb(card, one.rank) for one in (options.lora.adapters if options.lora else ()))
