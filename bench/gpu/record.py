"""Results of `measure` as catalog data: `python -m bench.gpu.record results.json H100 h100`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.measurements import DIRECTORY

_HEAD = """# One run of the script named as source, written by bench/gpu/record.py: measured, not edited. No engine.
# What the fields mean: catalog/measurements.py. How the run was made: docs/explanation/calibration.md.
"""
_PARTS = ("reads", "matrices", "all_reduce", "decode", "prefill", "experts")


def as_yaml(results: Mapping[str, Any], gpu: str) -> str:
    """The file's text: a few facts of the machine, then one point a line."""
    machine = results["machine"]
    facts = {
        "source": "bench/gpu/experts.py" if "experts" in results else "bench/gpu/measure.py",
        "as_of": machine["date"],
        "gpu": gpu,
        "gpus": machine["gpus"],
        "product": machine["gpu"],
        "memory_mib": machine["memory_mib"],
        "driver": machine["nvidia_smi"].split(", ")[1],
        "torch": machine["torch"],
        "cuda": machine["cuda"],
        "cudnn": str(machine["cudnn"]),
        "nccl": machine["nccl"],
    }
    quoted = {"driver", "torch", "cuda", "cudnn", "nccl"}
    lines = [f"{key}: {json.dumps(value) if key in quoted else value}" for key, value in facts.items()]
    if "launches" in results:
        lines.append(f"launches: {_flow(results['launches'][0])}")
    reads = [row for row in results.get("bandwidth", ()) if row["kind"] == "read"]
    parts = {"reads": [{key: row[key] for key in row if key != "kind"} for row in reads], **results}
    for part in _PARTS:
        if rows := parts.get(part):
            lines += [f"{part}:", *(f"  - {_flow(row)}" for row in rows)]
    return _HEAD + "\n".join(lines) + "\n"


def _flow(row: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}"


if __name__ == "__main__":
    source, name, stem = sys.argv[1:]
    text = as_yaml(json.loads(Path(source).read_text(encoding="utf-8")), name)
    (DIRECTORY / f"{stem}.yaml").write_text(text, encoding="utf-8")
