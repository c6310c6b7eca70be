"""The matrix's command lines with the GPU that each is for. `python -m planner.engines.starts` prints them.

They are for `python -m catalog.tools.engine_start FILE`, which has the pinned engines configure themselves with them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from catalog.load import load
from planner.engines.checks import SAMPLE_VALUES
from planner.engines.matrix import matrix


def starts() -> dict[str, dict[str, Any]]:
    """Engine -> case -> line, model and GPU. Ray's document has no line, and its vLLM is another."""
    catalog = load()
    found: dict[str, dict[str, Any]] = {"vllm": {}, "sglang": {}}
    for row in matrix():
        if row.plan is None or row.plan.ray is not None:
            continue
        instance = catalog.instances[row.case.instance]
        gpu = catalog.gpus[instance.gpu or ""]
        filled = {**SAMPLE_VALUES, "LWS_WORKER_INDEX": "0", "LWS_GROUP_SIZE": str(row.plan.layout.nodes)}
        line = list(row.plan.container.args)
        for name, value in filled.items():
            line = [token.replace(f"$({name})", value) for token in line]
        found[row.case.engine][row.case.name] = {
            "line": line,
            "model": row.case.model,
            "gpus": instance.gpus,
            "gpu": {"name": gpu.name, "compute_capability": gpu.compute_capability, "memory_mib": gpu.memory_mib},
        }
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(starts(), indent=1) + "\n")
