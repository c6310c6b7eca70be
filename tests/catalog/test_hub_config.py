"""Published configs (excerpts, numbers unchanged) give the catalog's cards; wrong ones give every problem at once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import load
from catalog.hub_config import Origin, Reading, read_config
from catalog.types import Checkpoint, ModelCard

CONFIGS = Path(__file__).parent / "configs"
CARDS = load().models
PUBLISHED = {
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.1-70b-awq": "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "llama-4-scout": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "llama-4-maverick": "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
    "qwen2.5-72b": "Qwen/Qwen2.5-72B-Instruct",
    "qwen3-235b-a22b-fp8": "Qwen/Qwen3-235B-A22B-FP8",
    "qwen3-next-80b-a3b": "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "mixtral-8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "deepseek-r1": "deepseek-ai/DeepSeek-R1",
    "deepseek-v2-lite": "deepseek-ai/DeepSeek-V2-Lite-Chat",
    "kimi-k2": "moonshotai/Kimi-K2-Instruct",
    "gemma-2-27b": "google/gemma-2-27b-it",
    "gemma-3-27b": "google/gemma-3-27b-it",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "phi-4": "microsoft/phi-4",
    "phi-3.5-mini": "microsoft/Phi-3.5-mini-instruct",
    "glm-4.5-air": "zai-org/GLM-4.5-Air",
}


def config(name: str, **changes: Any) -> dict[str, Any]:
    found = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")) | changes
    return {key: value for key, value in found.items() if value is not ...}


def read(values: dict[str, Any], **origin: Any) -> Reading:
    return read_config(values, Origin(**{"name": "my-org/model", "as_of": date(2026, 11, 22), **origin}))


def problems(reading: Reading) -> dict[str, str]:
    assert (reading.card is None) == bool(reading.problems)
    return {problem.field: problem.message for problem in reading.problems}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_config_gives_the_catalogs_card(name: str) -> None:
    """Shape exactly; totals, which the catalog has as published, within their rounding."""
    card = CARDS[PUBLISHED[name]]
    reading = read(
        config(name),
        name=card.name,
        license=card.license,
        gated=card.gated,
        revision=card.revision,
        total_size=int(card.checkpoint.gigabytes * 1e9),
    )
    made = reading.card
    assert made is not None, reading.problems
    # Publishers leave the input embedding in the active count or out of it.
    table = card.vocab * card.hidden / 1e9
    assert 0 <= card.active_params_billion * 1.015 - made.active_params_billion <= table + 0.03 * card.params_billion
    for total in ("params_billion", "mtp_params_billion"):
        assert getattr(made, total) == pytest.approx(getattr(card, total), rel=0.015)
    assert made.vision_params_billion == pytest.approx(card.vision_params_billion, rel=0.06)
    assert made.checkpoint.gigabytes == pytest.approx(card.checkpoint.gigabytes, rel=0.001)

    def shape(of: ModelCard) -> ModelCard:
        return replace(
            of,
            **dict.fromkeys(("params_billion", "active_params_billion", "mtp_params_billion"), 0.0),
            vision_params_billion=0,
            checkpoint=Checkpoint(format=of.checkpoint.format, gigabytes=0),
            source="",
            as_of=date.min,
            base_model=None,
            reasoning_parser={},
            tool_parser={},
            remote_code=False,  # tokenizer_config.json says it
        )

    assert shape(made) == shape(card)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_follow_from_the_shapes_where_no_file_list_is_given(name: str) -> None:
    card, made = CARDS[PUBLISHED[name]], read(config(name)).card
    assert made is not None
    text_gb = card.checkpoint.gigabytes - 2 * card.vision_params_billion
    assert made.checkpoint.gigabytes == pytest.approx(text_gb, rel=0.015)
    assert "shapes" in made.source


def test_what_a_file_leaves_out_is_told() -> None:
    reading = read(config("gemma-3-27b"))
    assert any("vocab_size 262208" in remark and "max_position_embeddings" in remark for remark in reading.remarks)
    assert any("image encoder is not counted" in remark for remark in reading.remarks)
    assert read(config("llama-3.1-8b")).remarks == ()


def test_an_unknown_architecture_is_read_and_remarked_on() -> None:
    reading = read(config("llama-3.1-8b", model_type="brandnew"))
    assert reading.card is not None
    assert reading.card.params_billion == 8.03
    assert any("`brandnew` is not known" in remark for remark in reading.remarks)


def test_a_window_of_unknown_layers_is_told_and_not_used() -> None:
    reading = read(config("llama-3.1-8b", model_type="brandnew", sliding_window=1024))
    assert reading.card is not None
    assert reading.card.sliding_window is None
    assert any("not for which layers" in remark for remark in reading.remarks)


@pytest.mark.parametrize(
    ("name", "changes", "field", "says"),
    [
        ("llama-3.1-8b", {"hidden_size": 4100}, "hidden_size", "does not divide by 32"),
        ("llama-3.1-8b", {"num_key_value_heads": 64}, "num_key_value_heads", "more than the 32"),
        ("llama-3.1-8b", {"num_experts_per_tok": 8}, "num_experts_per_tok", "no field says how many experts"),
        ("llama-3.1-8b", {"quantization_config": 3}, "quantization_config", "is 3"),
        ("llama-3.1-8b", {"num_key_value_heads": 5}, "num_key_value_heads", "do not divide by 5"),
        ("llama-3.1-8b", {"num_hidden_layers": ...}, "num_hidden_layers", "missing (or n_layer, num_layers)"),
        ("llama-3.1-8b", {"num_hidden_layers": "32"}, "num_hidden_layers", "is '32'"),
        ("llama-3.1-8b", {"num_hidden_layers": 32.5}, "num_hidden_layers", "is 32.5"),
        ("llama-3.1-8b", {"num_attention_heads": 0}, "num_attention_heads", "is 0"),
        ("llama-3.1-8b", {"vocab_size": -1}, "vocab_size", "is -1"),
        ("llama-3.1-8b", {"vocab_size": True}, "vocab_size", "is True"),
        ("llama-3.1-8b", {"tie_word_embeddings": "no"}, "tie_word_embeddings", "is 'no'"),
        ("llama-3.1-8b", {"is_encoder_decoder": True}, "is_encoder_decoder", "encoder-decoder"),
        ("llama-3.1-8b", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config", "bitsandby"),
        ("llama-3.1-8b", {"quantization_config": {"quant_method": "gptq", "bits": 3}}, "quantization_config", "3 bits"),
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "num_experts_per_tok", "more than the 8 experts"),
        ("mixtral-8x7b", {"num_experts_per_tok": ...}, "num_experts_per_tok", "missing"),
        ("deepseek-r1", {"first_k_dense_replace": 61}, "first_k_dense_replace", "none of 61 layers"),
        ("deepseek-r1", {"qk_rope_head_dim": ...}, "qk_rope_head_dim", "missing"),
        ("gpt-oss-20b", {"layer_types": ["full_attention"]}, "layer_types", "names 1 layers of 24"),
        ("gpt-oss-20b", {"layer_types": "sliding"}, "layer_types", "must be a list"),
    ],
)
def test_wrong_fields_are_named(name: str, changes: dict[str, Any], field: str, says: str) -> None:
    reading = read(config(name, **changes))
    found = next(problem for problem in reading.problems if problem.field == field)
    assert says in f"{found.message} {found.help}"
    assert problems(reading)


def test_all_problems_come_at_once() -> None:
    broken = config("mixtral-8x7b", hidden_size=..., num_key_value_heads=64, num_experts_per_tok=9, vocab_size="many")
    assert set(problems(read(broken))) == {
        "hidden_size",
        "num_key_value_heads",
        "num_experts_per_tok",
        "vocab_size",
    }


def test_a_nested_field_is_named_with_its_place() -> None:
    broken = config("llama-4-scout")
    broken["text_config"]["num_key_value_heads"] = 64
    assert "text_config.num_key_value_heads" in problems(read(broken))


def test_files_of_another_model_are_refused() -> None:
    """The 70B's index beside the 8B's config."""
    assert (
        "141.1 GB of files against 16.1"
        in problems(read(config("llama-3.1-8b"), total_size=141_100_000_000))["metadata.total_size"]
    )


def test_formats_of_quantised_files() -> None:
    def format_of(**given: Any) -> str:
        reading = read(config("llama-3.1-8b", quantization_config=given))
        assert reading.card is not None, reading.problems
        return reading.card.checkpoint.format

    weights = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    assert format_of(quant_method="compressed-tensors", config_groups={"group_0": {"weights": weights}}) == "fp8"
    weights = {"num_bits": 4, "type": "int", "group_size": 128}
    assert format_of(quant_method="compressed-tensors", config_groups={"group_0": {"weights": weights}}) == "awq_int4"
    assert format_of(quant_method="modelopt", quant_algo="FP8") == "fp8"
    assert format_of(quant_method="fp8") == "fp8"
    assert format_of(quant_method="gptq", bits=4, group_size=128) == "awq_int4"
    assert (
        "nvfp4"
        in problems(
            read(config("llama-3.1-8b", quantization_config={"quant_method": "modelopt", "quant_algo": "nvfp4"}))
        )["quantization_config"]
    )


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**6), st.text(max_size=5), st.lists(st.integers(), max_size=3)
)


@given(name=st.sampled_from(sorted(PUBLISHED)), data=st.data())
def test_whatever_a_config_holds_there_is_a_card_or_a_reason(name: str, data: st.DataObject) -> None:
    given_config = config(name)
    keys = data.draw(st.lists(st.sampled_from(sorted(given_config)), min_size=1, max_size=3, unique=True))
    reading = read({**given_config, **{key: data.draw(VALUES) for key in keys}})
    assert (reading.card is None) == bool(reading.problems)
    for problem in reading.problems:
        assert problem.message
        assert problem.help
