"""Model cards: their totals derived again from the config numbers."""

from __future__ import annotations

import re

import pytest

from catalog import Catalog, load
from catalog.types import ModelCard

IDS = sorted(load().models)
WITHIN = 0.015


def attention(card: ModelCard) -> float:
    """Weights of one layer's projections."""
    if card.mla is None:
        return card.hidden * card.head_dim * (2 * card.heads + 2 * card.kv_heads)
    mla = card.mla
    return (
        card.hidden * mla.q_lora_rank
        + mla.q_lora_rank * card.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
        + card.hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim)
        + mla.kv_lora_rank * card.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
        + card.heads * mla.v_head_dim * card.hidden
    )


def feed_forward(card: ModelCard, *, active: bool) -> float:
    """Weights of all layers' feed-forwards; `active` counts only the experts that one token uses."""
    total = card.dense_layers * 3.0 * card.hidden * card.intermediate
    if card.moe is not None:
        used = (card.moe.top_k if active else card.moe.experts) + card.moe.shared
        layer = used * 3 * card.hidden * card.moe.intermediate + card.moe.experts * card.hidden
        total += (card.layers - card.dense_layers) * layer
    return total


def embedding(card: ModelCard) -> float:
    return card.vocab * card.hidden


def parameters(card: ModelCard) -> float:
    matrices = 1 if card.tied_embeddings else 2
    return card.layers * attention(card) + feed_forward(card, active=False) + matrices * embedding(card)


def prediction_parameters(card: ModelCard) -> float:
    """A multi-token-prediction layer: a mixture layer, a projection of two hidden states, an embedding and a head."""
    if card.moe is None or not card.mtp_layers:
        return 0
    experts = (card.moe.experts + card.moe.shared) * 3 * card.hidden * card.moe.intermediate
    return card.mtp_layers * (attention(card) + experts + 2 * card.hidden**2 + 2 * embedding(card))


def checkpoint_bytes(card: ModelCard) -> float:
    """Size of the files by format: what is quantized, what stays bf16, and the scales."""
    total = parameters(card) + prediction_parameters(card)
    plain = (2 + 2 * card.mtp_layers) * embedding(card)
    match card.checkpoint.format:
        case "bf16":
            return 2 * total
        case "fp8":
            return (total - plain) + 2 * plain
        case "fp8_block128":
            return (total - plain) * (1 + 4 / 128**2) + 2 * plain
        case "awq_int4":  # a 16-bit scale and a 4-bit zero point for each group of 128
            return (total - plain) * (0.5 + 2.5 / 128) + 2 * plain
        case "mxfp4":  # an 8-bit scale for each block of 32, experts only
            assert card.moe is not None
            experts = card.layers * card.moe.experts * 3 * card.hidden * card.moe.intermediate
            return experts * (4 + 8 / 32) / 8 + (total - experts) * 2


@pytest.mark.parametrize("name", IDS)
def test_parameters_follow_from_the_config(name: str, catalog: Catalog) -> None:
    card = catalog.models[name]
    assert card.params_billion == pytest.approx(parameters(card) / 1e9, rel=WITHIN)
    assert card.mtp_params_billion == pytest.approx(prediction_parameters(card) / 1e9, rel=WITHIN)


@pytest.mark.parametrize("name", IDS)
def test_active_parameters_follow_from_the_config(name: str, catalog: Catalog) -> None:
    card = catalog.models[name]
    whole = card.layers * attention(card) + feed_forward(card, active=True) + 2 * embedding(card)
    # Publishers count the input embedding or leave it out, since looking a row up computes nothing.
    assert card.active_params_billion in (
        pytest.approx(whole / 1e9, rel=WITHIN),
        pytest.approx((whole - embedding(card)) / 1e9, rel=WITHIN),
    )


@pytest.mark.parametrize("name", IDS)
def test_checkpoint_size_follows_from_the_config(name: str, catalog: Catalog) -> None:
    card = catalog.models[name]
    assert card.checkpoint.gigabytes == pytest.approx(checkpoint_bytes(card) / 1e9, rel=WITHIN)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 131_072),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", 262_144),
        ("Qwen/Qwen3-32B", 262_144),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 327_680),
        ("Qwen/Qwen2.5-72B-Instruct", 327_680),
        ("meta-llama/Llama-3.1-405B-Instruct", 516_096),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 131_072),
        ("Qwen/Qwen3-235B-A22B", 192_512),
        ("openai/gpt-oss-120b", 73_728),
        ("deepseek-ai/DeepSeek-R1", 70_272),
    ],
)
def test_cache_bytes_per_token(name: str, expected: int, catalog: Catalog) -> None:
    card = catalog.models[name]
    assert card.kv_bytes_per_token() == expected
    assert card.kv_bytes_per_token(bytes_per_value=1) == expected / 2


@pytest.mark.parametrize("name", IDS)
def test_card_is_consistent(name: str, catalog: Catalog) -> None:
    card = catalog.models[name]
    assert (card.mla is not None) == (card.attention == "mla")
    assert (card.moe is None) == (card.dense_layers == card.layers)
    assert (card.attention == "sliding") == (card.sliding_window is not None) == (card.sliding_layers > 0)
    assert card.heads % card.kv_heads == 0
    assert (card.mtp_layers > 0) == (card.mtp_params_billion > 0)
    if card.attention == "gqa":
        assert card.kv_heads < card.heads


@pytest.mark.parametrize("name", IDS)
def test_revision_is_a_commit_of_its_own(name: str, catalog: Catalog) -> None:
    revision = catalog.models[name].revision
    if revision is not None:
        assert re.fullmatch(r"[0-9a-f]{40}", revision)
        assert [other for other, card in catalog.models.items() if card.revision == revision] == [name]


def test_nearly_all_revisions_are_known(catalog: Catalog) -> None:
    assert [name for name, card in catalog.models.items() if card.revision is None] == [
        "meta-llama/Llama-3.1-405B-Instruct"
    ]


def test_meta_models_need_a_token(catalog: Catalog) -> None:
    assert all(card.gated for name, card in catalog.models.items() if name.startswith("meta-llama/"))
    assert not any(card.gated for name, card in catalog.models.items() if name.startswith("deepseek-ai/"))


def test_parsers_are_named_for_known_engines(catalog: Catalog) -> None:
    for card in catalog.models.values():
        assert {*card.reasoning_parser, *card.tool_parser} <= set(catalog.engines), card.name
