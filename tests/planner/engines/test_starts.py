"""What the pinned engines said when they configured themselves with our lines, and the lines that they are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalog.engine_flags import started
from catalog.load import load
from catalog.tools.engine_start import CONFIGS, config_of, localized
from planner.engines.matrix import MODELS
from planner.engines.starts import starts


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_pinned_engines_configured_themselves_with_the_matrix(engine: str) -> None:
    record = started()[engine]
    assert record["version"] == load().engines[engine].engine_version
    assert record["starts"] == len(record["names"]) >= 40
    # Cases may have come since; what was tried must be most of what there is.
    assert len(set(record["names"]) & set(starts()[engine])) > 0.9 * len(starts()[engine])


def test_a_start_knows_its_gpu_and_leaves_nothing_to_the_kubelet() -> None:
    start = starts()["sglang"]["deepseek-ai/DeepSeek-R1-0528 on p5.48xlarge with sglang"]
    assert (start["gpus"], start["gpu"]["compute_capability"]) == (8, "9.0")
    assert "--nnodes=2" in start["line"]
    assert not [token for token in start["line"] if "$(" in token]


@pytest.mark.parametrize("name", MODELS)
def test_a_config_has_the_numbers_of_its_card(name: str) -> None:
    card = load().models[name]
    config = config_of(card, CONFIGS)
    text = config.get("text_config", config)
    assert (text["num_hidden_layers"], text["num_attention_heads"]) == (card.layers, card.heads)
    assert ("quantization_config" in config) == (card.checkpoint.format != "bf16")


def test_models_are_read_from_this_machine() -> None:
    draft = json.dumps({"method": "eagle3", "model": "/cache/models/acme/head"})
    line = ["/cache/models/m", f"--speculative-config={draft}", "--port=8000"]
    found = localized(line, Path("/here/m"), Path("/here/d"))
    assert found[0] == "/here/m"
    assert json.loads(found[1].partition("=")[2])["model"] == "/here/d"
    assert localized(["--model-path=/cache/m"], Path("/here/m"), Path("/d")) == ["--model-path=/here/m"]
