"""Weights by part: what a GPU holds, and what a decode step reads of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import load
from catalog.shapes import active_params, parameters, prediction_params, read_gb, resident_gb, weights
from catalog.types import ModelCard

CARDS = load().models
LLAMA_8B = CARDS["meta-llama/Llama-3.1-8B-Instruct"]
R1 = CARDS["deepseek-ai/DeepSeek-R1"]
GPT_OSS = CARDS["openai/gpt-oss-120b"]
ANY_CARD = st.sampled_from(list(CARDS.values()))


def test_a_step_of_an_8b_reads_15_of_its_16_gb() -> None:
    """Measured on H100 and H200 (bench/gpu): 15.0 GB a step; the 1.05 GB of embedding rows are looked up."""
    assert resident_gb(LLAMA_8B) == pytest.approx(16.06, rel=0.001)
    assert read_gb(LLAMA_8B, batch=1) == pytest.approx(15.0, rel=0.002)


def test_a_tied_table_is_read_as_the_head() -> None:
    tied = CARDS["meta-llama/Llama-3.2-3B-Instruct"]
    assert read_gb(tied) == pytest.approx(resident_gb(tied))


@pytest.mark.parametrize("name", sorted(CARDS))
def test_parts_add_up_to_the_published_files(name: str) -> None:
    card = CARDS[name]
    assert sum(w.gigabytes for w in weights(card)) == pytest.approx(card.checkpoint.gigabytes, rel=0.006)
    assert sum(parameters(card).values()) / 1e9 == pytest.approx(
        card.params_billion + card.mtp_params_billion, rel=0.006
    )
    assert prediction_params(card) / 1e9 == pytest.approx(card.mtp_params_billion, rel=0.006)


def test_prediction_layers_lie_in_memory_only_where_speculation_runs() -> None:
    """13.5 B parameters, of which 1.85 B (embedding and head) stay bf16: 11.6 + 3.7 GB."""
    more = resident_gb(R1, prediction=True) - resident_gb(R1)
    assert more == pytest.approx(15.3, rel=0.01)
    assert resident_gb(LLAMA_8B, prediction=True) == resident_gb(LLAMA_8B)


def test_what_each_format_leaves_alone() -> None:
    by_part = {w.part: w.bytes_per_param for w in weights(GPT_OSS)}
    assert by_part["experts"] == 4.25 / 8
    assert by_part["attention"] == by_part["router"] == by_part["embedding"] == by_part["head"] == 2
    by_part = {w.part: w.bytes_per_param for w in weights(R1)}
    assert by_part["experts"] == by_part["attention"] == pytest.approx(1.0002, abs=1e-4)
    assert by_part["router"] == by_part["embedding"] == by_part["head"] == 2


def test_fp8_while_loading_halves_all_but_tables() -> None:
    """8.03 B parameters, 1.05 B of them in embedding and head."""
    assert resident_gb(LLAMA_8B, "fp8_online") == pytest.approx(6.98 + 2 * 1.05, rel=0.002)


def test_experts_touched_grow_with_the_batch() -> None:
    """1 - (1 - 8/256)^32 = 64 % of the experts at 32 sequences."""
    experts = next(w.gigabytes for w in weights(R1) if w.part == "experts")
    grown = read_gb(R1, batch=32) - read_gb(R1, batch=1)
    assert grown == pytest.approx(experts * (0.638 - 8 / 256), rel=0.01)


@given(card=ANY_CARD, batch=st.integers(1, 500), more=st.integers(0, 500))
def test_a_larger_batch_never_reads_less_and_never_more_than_there_is(card: ModelCard, batch: int, more: int) -> None:
    assert read_gb(card, batch=batch) <= read_gb(card, batch=batch + more)
    rows = (batch + more) * card.hidden * 2 / 1e9
    assert read_gb(card, batch=batch + more) <= resident_gb(card) + rows + 1e-9


@given(card=ANY_CARD)
def test_active_parameters_are_what_the_card_says_or_leave_the_embedding_out(card: ModelCard) -> None:
    table = card.vocab * card.hidden / 1e9
    rounding = 0.015 * card.active_params_billion
    assert -rounding <= card.active_params_billion - active_params(card) / 1e9 <= table + rounding
