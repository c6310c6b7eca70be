"""Has the pinned vLLM save small dense models as shards and read them again: each tensor must come back as it was.

`engine_options.load: sharded` rests on that, and vLLM does not promise it: it reads what it saved as if it came from
the hub. `python -m catalog.tools.saved_shards` installs vLLM as `catalog.tools.engine_flags` does (same `--workspace`),
on a CPU, and writes catalog/engine_flags/saved_shards.json where nothing differs. It is asked again for every version.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.engine_flags import DIRECTORY, SAVED_SHARDS_FILE
from catalog.tools.engine_flags import prepare, run_probe

PROBE = Path(__file__).with_name("saved_shards_probe.py")

_SMALL: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 128,
}  # fmt: skip

# The dense architectures of the catalog: biases, norms of queries and keys, fused projections, tied embeddings.
MODELS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"config": "LlamaConfig", "with": _SMALL},
    "MistralForCausalLM": {"config": "MistralConfig", "with": _SMALL},
    "Qwen2ForCausalLM": {"config": "Qwen2Config", "with": _SMALL},
    "Qwen3ForCausalLM": {"config": "Qwen3Config", "with": {**_SMALL, "head_dim": 32}},
    "Gemma2ForCausalLM": {"config": "Gemma2Config", "with": {**_SMALL, "head_dim": 32}},
    "Gemma3ForCausalLM": {"config": "Gemma3TextConfig", "with": {**_SMALL, "head_dim": 32}},
    "Phi3ForCausalLM": {"config": "Phi3Config", "with": {**_SMALL, "pad_token_id": 0}},
}


def main(arguments: list[str]) -> int:
    """Ask vLLM; 1 where a tensor differs."""
    parser = argparse.ArgumentParser(prog="python -m catalog.tools.saved_shards", description=__doc__)
    parser.add_argument("--workspace", type=Path, help="keeps the engine here; else it is thrown away")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="engines-") as throw_away:
        workspace = (given.workspace or Path(throw_away)).absolute()
        asked = run_probe([PROBE], workspace, prepare("vllm", workspace), MODELS)
    different = [
        f"vllm {asked['version']}: {name}, {layout}: {', '.join(found['different'])}\n"
        for name, layouts in asked["models"].items()
        for layout, found in layouts.items()
        if found["different"]
    ]
    sys.stderr.writelines(different)
    if not different:
        record = {
            **asked,
            "source": "vLLM itself, two ranks on CPUs, tensor by tensor",
            "as_of": datetime.now(tz=UTC).date().isoformat(),
        }
        (DIRECTORY / SAVED_SHARDS_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
