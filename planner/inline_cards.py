"""A model whose numbers stand in the stack file, as a card like the catalog's."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from catalog.model_card import AttentionKind, Checkpoint, LinearAttention, Mla, ModelCard, Moe
from catalog.shapes import parameters, resident_gb
from settings.inline_card import InlineCard

_MAY_DIFFER = 0.25
"""Shapes leave out what an architecture has beside attention and feed-forward; more than this is another model."""


def card_of(inline: InlineCard, as_of: date) -> ModelCard:
    """The card; sizes that were left out follow from the shapes."""
    window = inline.sliding_window
    attention: AttentionKind = "mha" if inline.kv_heads == inline.heads else "gqa"
    if inline.mla is not None:
        attention = "mla"
    elif window is not None:
        attention = "sliding"
    dense = inline.dense_layers if inline.dense_layers is not None else 0 if inline.moe else inline.layers
    card = ModelCard(
        name=inline.hub_id,
        layers=inline.layers,
        dense_layers=dense,
        hidden=inline.hidden,
        heads=inline.heads,
        kv_heads=inline.kv_heads,
        head_dim=inline.head_dim,
        intermediate=inline.intermediate,
        vocab=inline.vocab,
        tied_embeddings=inline.tied_embeddings,
        max_context=inline.max_context,
        params_billion=inline.params_billion,
        active_params_billion=inline.active_params_billion or inline.params_billion,
        attention=attention,
        gated_attention=inline.gated_attention,
        sliding_window=window.tokens if window else None,
        sliding_layers=window.layers if window else 0,
        linear=LinearAttention(**inline.linear.model_dump()) if inline.linear else None,
        mla=Mla(**inline.mla.model_dump()) if inline.mla else None,
        moe=Moe(**inline.moe.model_dump()) if inline.moe else None,
        mtp_layers=inline.mtp_layers,
        mtp_params_billion=inline.mtp_params_billion,
        vision_params_billion=inline.vision_params_billion,
        checkpoint=Checkpoint(format=inline.checkpoint, gigabytes=0),
        gated=inline.gated,
        license="given in the stack file",
        source="given in the stack file",
        as_of=as_of,
    )
    gigabytes = inline.checkpoint_gb or resident_gb(card, prediction=True)
    return replace(card, checkpoint=Checkpoint(format=inline.checkpoint, gigabytes=gigabytes))


def contradiction(card: ModelCard) -> str | None:
    """What the shapes say against the parameters that were given; None where they agree."""
    derived = sum(parameters(card).values()) / 1e9 - card.mtp_params_billion
    if abs(derived / card.params_billion - 1) <= _MAY_DIFFER:
        return None
    return f"{card.params_billion:g} billion parameters, but layers, widths and vocabulary make {derived:.4g}"
