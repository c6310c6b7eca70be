"""Has the pinned engines configure themselves with our lines: what parses may still be refused at the start.

`python -m planner.engines.starts > starts.json`, then `python -m catalog.tools.engine_start starts.json`. The engines
are installed as for `catalog.tools.engine_flags` (same `--workspace`), a CPU will do. Each line's model is a folder
with a config.json, made from that of its family (`--configs`) and the numbers of its card, and a tokenizer of the few
words that parsers of reasoning look for. Writes catalog/engine_flags/started.json where nothing was refused.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.engine_flags import DIRECTORY, STARTED_FILE
from catalog.load import load
from catalog.model_card import ModelCard
from catalog.tools.engine_flags import package_of, prepare, run_probe

PROBE = Path(__file__).with_name("engine_start_probe.py")
CONFIGS = Path(__file__).parents[2] / "tests" / "catalog" / "configs"

# Beginning of a model's id -> the config.json of its architecture; the first that fits.
FAMILIES = {
    "hugging-quants/": "llama-3.1-70b-awq",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen": "qwen2.5-72b",
    "deepseek-ai/DeepSeek-R1-Distill-Llama": "llama-3.1-8b",
    "deepseek-ai/DeepSeek-V2": "deepseek-v2-lite",
    "deepseek-ai/": "deepseek-r1",
    "moonshotai/": "kimi-k2",
    "google/gemma-3": "gemma-3-27b",
    "zai-org/": "glm-4.5-air",
    "openai/": "gpt-oss-20b",
    "mistralai/Mixtral": "mixtral-8x7b",
    "Qwen/Qwen3-Next": "qwen3-next-80b-a3b",
    "Qwen/Qwen3": "qwen3-235b-a22b-fp8",
    "Qwen/Qwen2.5": "qwen2.5-72b",
    "": "llama-3.1-8b",
}
WORDS = (
    "<unk>", "<s>", "</s>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<|channel|>", "<|start|>",
    "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>", "final", "analysis", "assistant",
)  # fmt: skip


def config_of(card: ModelCard, configs: Path) -> dict[str, Any]:
    """The config.json of a model: its family's, with the numbers of its card."""
    family = next(name for beginning, name in FAMILIES.items() if card.name.startswith(beginning))
    found: dict[str, Any] = json.loads((configs / f"{family}.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = found.get("text_config", found)
    text.update(
        num_hidden_layers=card.layers,
        hidden_size=card.hidden,
        num_attention_heads=card.heads,
        num_key_value_heads=card.kv_heads,
        vocab_size=card.vocab,
        max_position_embeddings=card.max_context,
    )
    if card.mla is None:
        text["head_dim"] = card.head_dim
    if card.intermediate:
        text["intermediate_size"] = card.intermediate
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if card.moe is not None and key in text:
            text[key] = card.moe.experts
    if card.moe is not None and "moe_intermediate_size" in text:
        text["moe_intermediate_size"] = card.moe.intermediate
    if "layer_types" in text:
        text["layer_types"] = (text["layer_types"] * card.layers)[: card.layers]
    if card.checkpoint.format == "bf16":
        found.pop("quantization_config", None)
    elif card.checkpoint.format == "fp8":
        found["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    return found


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """Everything that an engine reads of a model before its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": list(WORDS[3:14]),
    }
    for name, content in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", settings)):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def localized(line: list[str], model: Path, draft: Path) -> list[str]:
    """A line that reads its model, and a draft where it has one, from folders of this machine."""
    first, *rest = line
    head, equals, _ = first.partition("=")
    found = [f"{head}={model}" if equals else str(model)]
    for token in rest:
        name, _, value = token.partition("=")
        if name == "--speculative-draft-model-path":
            found.append(f"{name}={draft}")
        elif name == "--speculative-config" and "model" in (speculation := json.loads(value)):
            found.append(f"{name}={json.dumps({**speculation, 'model': str(draft)})}")
        else:
            found.append(token)
    return found


def stand_in_driver(package: Path, folder: Path) -> None:
    """A libcuda.so.1 whose functions all fail, so that compiled modules load where no driver is. Wants cc and nm."""
    libraries = sorted(package.rglob("*.so"))
    listed = subprocess.run(["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=False)
    symbols = sorted({"cuInit", *re.findall(r" U (cu[A-Z]\w+)", listed.stdout)})
    folder.mkdir(exist_ok=True)
    source = folder / "driver.c"
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in symbols), encoding="utf-8")
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", source]
    subprocess.run(command, check=True)


def ask(engine: str, started: dict[str, Any], workspace: Path, configs: Path) -> dict[str, Any]:
    """The probe's answers, in the order of the starts."""
    models = load().models
    for start in started.values():
        write_model(workspace / "models" / start["model"], config_of(models[start["model"]], configs))
    draft = workspace / "models" / "meta-llama/Llama-3.1-8B-Instruct"
    write_model(draft, config_of(models["meta-llama/Llama-3.1-8B-Instruct"], configs))
    given = [
        {**start, "line": localized(start["line"], workspace / "models" / start["model"], draft)}
        for start in started.values()
    ]
    environment = prepare(engine, workspace)
    environment.pop("VLLM_TARGET_DEVICE")
    stand_in_driver(workspace / package_of(engine), workspace / "driver")
    environment["LD_LIBRARY_PATH"] = str(workspace / "driver")
    return run_probe([PROBE, engine], workspace, environment, given)


def judge(starts: dict[str, dict[str, Any]], workspace: Path, configs: Path) -> tuple[dict[str, Any], list[str]]:
    """What to record, and what was refused."""
    record: dict[str, Any] = {}
    refused: list[str] = []
    for engine, started in starts.items():
        asked = ask(engine, started, workspace, configs)
        for name, answer in zip(started, asked["answers"], strict=True):
            if answer is not None:
                refused.append(f"{engine} {asked['version']}: {name}: {answer}")
        record[engine] = {
            "version": asked["version"],
            "as_of": datetime.now(tz=UTC).date().isoformat(),
            "starts": len(started),
            "names": sorted(started),
        }
    return record, refused


def main(arguments: list[str]) -> int:
    """Configure the engines; 1 where one refuses."""
    parser = argparse.ArgumentParser(prog="python -m catalog.tools.engine_start", description=__doc__)
    parser.add_argument("starts", type=Path, help="as `python -m planner.engines.starts` prints them")
    parser.add_argument("--workspace", type=Path, help="keeps the engines here; else they are thrown away")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="config.json files by family")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="engines-") as throw_away:
        workspace = (given.workspace or Path(throw_away)).absolute()
        record, refused = judge(json.loads(given.starts.read_text(encoding="utf-8")), workspace, given.configs)
    sys.stderr.writelines(f"{one}\n" for one in refused)
    if not refused:
        (DIRECTORY / STARTED_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
