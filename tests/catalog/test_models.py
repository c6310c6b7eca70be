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
        gate = card.heads if card.gated_attention else 0
        return card.hidden * card.head_dim * (2 * card.heads + gate + 2 * card.kv_heads)
    mla = card.mla
    heads = card.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    queries = (card.hidden + heads) * mla.q_lora_rank if mla.q_lora_rank else card.hidden * heads
    return (
        queries
        + card.hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim)
        + mla.kv_lora_rank * card.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
        + card.heads * mla.v_head_dim * card.hidden
    )


def linear_attention(card: ModelCard) -> float:
    """Weights of all layers with a recurrent state: two projections in, one out, a convolution."""
    if card.linear is None:
        return 0
    linear = card.linear
    keys, values = linear.key_heads * linear.key_head_dim, linear.value_heads * linear.value_head_dim
    projections = card.hidden * (2 * keys + 2 * values) + card.hidden * 2 * linear.value_heads + values * card.hidden
    return linear.layers * (projections + (2 * keys + values) * linear.conv_kernel)


def all_attention(card: ModelCard) -> float:
    return (card.layers - card.linear_layers) * attention(card) + linear_attention(card)


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
    text = all_attention(card) + feed_forward(card, active=False) + matrices * embedding(card)
    return text + card.vision_params_billion * 1e9


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
    whole = all_attention(card) + feed_forward(card, active=True) + 2 * embedding(card)
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
        ("moonshotai/Kimi-K2-Instruct", 70_272),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", 31_104),
        ("microsoft/Phi-3.5-mini-instruct", 393_216),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 24_576),
        ("google/gemma-3-27b-it", 507_904),
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
    assert card.sliding_layers + card.linear_layers <= card.layers
    if card.attention == "gqa":
        assert card.kv_heads < card.heads


@pytest.mark.parametrize("name", IDS)
def test_revision_is_a_commit_of_its_own(name: str, catalog: Catalog) -> None:
    revision = catalog.models[name].revision
    if revision is not None:
        assert re.fullmatch(r"[0-9a-f]{40}", revision)
        assert [other for other, card in catalog.models.items() if card.revision == revision] == [name]


def test_most_revisions_of_what_the_stacks_serve_are_known(catalog: Catalog) -> None:
    """Unverified ones are null, never guessed."""
    known = [card.name for card in catalog.models.values() if card.revision is not None]
    assert len(known) == 17
    assert "deepseek-ai/DeepSeek-R1" in known


def test_kinds_of_model_that_the_catalog_covers(catalog: Catalog) -> None:
    cards = list(catalog.models.values())
    assert len(cards) >= 28
    assert {card.attention for card in cards} == {"mha", "gqa", "mla", "sliding"}
    assert {card.checkpoint.format for card in cards} == {"bf16", "fp8", "fp8_block128", "awq_int4", "mxfp4"}
    assert any(card.linear for card in cards)
    assert any(card.moe and card.dense_layers for card in cards)


@pytest.mark.parametrize("name", IDS)
def test_a_quantisation_has_the_shape_of_its_base(name: str, catalog: Catalog) -> None:
    card = catalog.models[name]
    if card.base_model is None:
        return
    base = catalog.models[card.base_model]
    assert card.params_billion == base.params_billion
    assert card.checkpoint.gigabytes < base.checkpoint.gigabytes
    assert base.base_model is None
    assert (card.layers, card.hidden, card.moe) == (base.layers, base.hidden, base.moe)


def test_meta_models_need_a_token(catalog: Catalog) -> None:
    assert all(card.gated for name, card in catalog.models.items() if name.startswith("meta-llama/"))
    assert not any(card.gated for name, card in catalog.models.items() if name.startswith("deepseek-ai/"))


def test_parsers_are_named_for_known_engines(catalog: Catalog) -> None:
    for card in catalog.models.values():
        assert {*card.reasoning_parser, *card.tool_parser} <= set(catalog.engines), card.name
