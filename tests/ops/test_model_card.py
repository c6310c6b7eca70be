"""`model-card` as people meet it: YAML that loads, JSON, and every problem at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from catalog import load
from catalog.hub_config import Origin, read_config
from catalog.records import build
from catalog.types import ModelCard
from ops.__main__ import main
from ops.console import OK, USAGE
from ops.model_card import inline_of
from planner.inline_cards import card_of, contradiction
from settings.inline_card import InlineCard

CONFIGS = Path(__file__).parent.parent / "catalog" / "configs"
CARDS = load().models


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["model-card", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_catalogs_yaml_loads_as_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, said = run(capsys, CONFIGS / "deepseek-r1.json", "--name", "my-org/r1", "--license", "mit")
    assert (code, said) == (OK, "")
    name, entry = next(iter(yaml.safe_load(out).items()))
    card = build(ModelCard, {"gated": False, **entry, "name": name}, "printed")
    assert card.mla == CARDS["deepseek-ai/DeepSeek-R1"].mla
    assert card.checkpoint.format == "fp8_block128"
    assert card.license == "mit"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_an_inline_card_is_the_same_card(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What --inline prints goes through the stack file's rules and comes out as the model that was read."""
    code, out, _ = run(capsys, CONFIGS / f"{name}.json", "--name", "my-org/model", "--inline")
    assert code == OK
    inline = InlineCard(**yaml.safe_load(out)["model"])
    made = card_of(inline, load().models["deepseek-ai/DeepSeek-R1"].as_of)
    values = json.loads((CONFIGS / f"{name}.json").read_text())
    read = read_config(values, Origin(name="my-org/model", as_of=made.as_of)).card
    assert read is not None
    told = ("license", "source")
    assert {key: getattr(made, key) for key in ModelCard.__dataclass_fields__ if key not in told} == {
        key: getattr(read, key) for key in ModelCard.__dataclass_fields__ if key not in told
    }
    assert contradiction(made) is None


@pytest.mark.parametrize("name", sorted(CARDS))
def test_every_card_of_the_catalog_can_be_said_inline(name: str) -> None:
    card = CARDS[name]
    made = card_of(InlineCard(**inline_of(card)), card.as_of)
    assert made.kv_bytes_per_token() == card.kv_bytes_per_token()
    assert (made.moe, made.mla, made.linear, made.checkpoint) == (card.moe, card.mla, card.linear, card.checkpoint)
    assert (made.sliding_window, made.sliding_layers) == (card.sliding_window, card.sliding_layers)


def test_a_folder_gives_the_size_of_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes((CONFIGS / "gemma-3-27b.json").read_bytes())
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"metadata": {"total_size": 54864000000}, "weight_map": {}}'
    )
    code, out, said = run(capsys, tmp_path, "--name", "google/gemma-3-27b-it", "--json")
    assert (code, said) == (OK, "")
    told = json.loads(out)
    card = told["card"]["google/gemma-3-27b-it"]
    assert card["checkpoint"] == {"format": "bf16", "gigabytes": 54.86}
    assert card["vision_params_billion"] == pytest.approx(0.42, abs=0.01)
    assert told["read_gb_per_decode_step"] < told["resident_gb"]
    assert any("image encoder" in remark for remark in told["remarks"])


def test_modelopt_tells_its_format_beside_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes((CONFIGS / "llama-3.1-8b.json").read_bytes())
    (tmp_path / "hf_quant_config.json").write_text(
        '{"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}'
    )
    code, out, _ = run(capsys, tmp_path, "--name", "nvidia/Llama-3.1-8B-Instruct-FP8", "--json")
    assert code == OK
    card = json.loads(out)["card"]["nvidia/Llama-3.1-8B-Instruct-FP8"]
    assert card["checkpoint"]["format"] == "fp8"
    assert card["checkpoint"]["gigabytes"] == pytest.approx(9.08, rel=0.005)


def test_problems_are_told_together_with_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = json.loads((CONFIGS / "llama-3.1-8b.json").read_text()) | {"num_key_value_heads": 64, "vocab_size": None}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(broken))
    code, out, said = run(capsys, path, "--name", "my-org/model")
    assert (code, out) == (USAGE, "")
    assert "has 2 problems" in said
    assert "num_key_value_heads: 64 is more than the 32 attention heads" in said
    assert "vocab_size: is missing" in said
    assert said.count("help: ") == 2
    code, out, _ = run(capsys, path, "--name", "my-org/model", "--json")
    assert code == USAGE
    assert json.loads(out)["card"] is None
    assert len(json.loads(out)["problems"]) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not there"),
        ("{", "is no JSON"),
        ("[]", "holds no JSON object"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "does not say which model it is of"),
    ],
)
def test_what_is_no_config(content: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    code, out, said = run(capsys, path)
    assert (code, out) == (USAGE, "")
    assert says in said
    assert "Traceback" not in said


def test_a_name_that_is_no_hub_id_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, said = run(capsys, CONFIGS / "phi-4.json", "--name", "foo bar")
    assert (code, out) == (USAGE, "")
    assert "--name foo bar is no hub id" in said


def test_an_index_without_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes((CONFIGS / "phi-4.json").read_bytes())
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": "much"}}')
    code, _, said = run(capsys, tmp_path, "--name", "microsoft/phi-4")
    assert code == USAGE
    assert "metadata.total_size is 'much'" in said
