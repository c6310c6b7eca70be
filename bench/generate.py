"""Stack files of any size: many models over many pools, of the shapes that the committed stacks have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MODELS_PER_POOL = 8
"""With it, 400 models need the 50 pools that a stack file may have."""

ZONE = "us-east-1a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model and the pool that it runs on."""

    pool: str
    instance_type: str
    nodes_per_replica: int
    model: dict[str, Any]


_EFA_IMAGE = {
    "repository": "111122223333.dkr.ecr.us-east-1.amazonaws.com/sglang-efa",
    "tag": "v0.5.23-efa.1",
    "carries_efa": True,
}
_SMALL = Shape(
    pool="l40s",
    instance_type="g6e.xlarge",
    nodes_per_replica=1,
    model={
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "revision": "0e9e39f249a16976918f6564b8830bc894c89659",
        "engine": "vllm",
        "context_tokens": 16384,
    },
)
_LARGE = Shape(
    pool="a100",
    instance_type="p4d.24xlarge",
    nodes_per_replica=1,
    model={
        "model": "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
        "revision": "b1c0b44b4369b597ad119a196caf79a9c40e141e",
        "engine": "vllm",
        "runtime": "ray_service",
        "context_tokens": 16384,
    },
)
_HUGE = Shape(
    pool="h100",
    instance_type="p5.48xlarge",
    nodes_per_replica=2,
    model={
        "model": "deepseek-ai/DeepSeek-R1",
        "revision": "56d4cbbb4d29f4355bab4b9a39ccb717a14ad5ad",
        "engine": "sglang",
        "runtime": "leader_worker_set",
        "layout": {"tensor": 16},
        "context_tokens": 32768,
        "image": _EFA_IMAGE,
    },
)
_SUBNETS = [
    {"id": f"subnet-0a1b2c3d4e5f6071{index}", "availability_zone": f"us-east-1{letter}"}
    for index, letter in enumerate("abc")
]
_PATTERN = (_SMALL, _LARGE, _SMALL, _SMALL, _HUGE, _SMALL, _SMALL, _LARGE, _SMALL, _SMALL)
"""Shapes of ten pools in a row: mostly small models, some over several GPUs, a few over several nodes."""


def document(models: int) -> dict[str, Any]:
    """A stack file with this many models, as data."""
    pools: list[dict[str, Any]] = []
    served: list[dict[str, Any]] = []
    for first in range(0, models, MODELS_PER_POOL):
        number = first // MODELS_PER_POOL
        shape = _PATTERN[number % len(_PATTERN)]
        pool = f"{shape.pool}-{number:02d}"
        count = min(MODELS_PER_POOL, models - first)
        pools.append(_pool(pool, shape, count))
        served += (
            {"name": f"model-{index:04d}", "pool": pool, "replicas": {"min": 1, "max": 3}, **shape.model}
            for index in range(first, first + count)
        )
    return {
        "config": {
            "aws:region": "us-east-1",
            "inference-platform:platform": {
                "environment": "bench",
                "target": {
                    "kind": "eks",
                    "admins": ["arn:aws:iam::111122223333:role/platform"],
                    "endpoint": {"access": "public_and_private", "admin_cidrs": ["203.0.113.0/24"]},
                    "system_nodes": {"instance_type": "m7i.2xlarge", "min": 3, "max": 50},
                },
                # Hundreds of models are more addresses in one zone than a VPC of ours gives it.
                "network": {"kind": "existing", "vpc": "vpc-0a1b2c3d4e5f60718", "subnets": _SUBNETS},
                "pools": pools,
                "cache": {
                    "kind": "fsx_lustre",
                    "storage_gib": 9600,
                    "throughput_mbps_per_tib": 1000,
                    "availability_zone": ZONE,
                },
                "models": served,
            },
        }
    }


def _pool(name: str, shape: Shape, models: int) -> dict[str, Any]:
    nodes = models * shape.nodes_per_replica
    return {
        "name": name,
        "instance_type": shape.instance_type,
        "availability_zone": ZONE,
        "capacity": [
            {"kind": "spot", "nodes": {"min": 0, "max": 2 * nodes}},
            {"kind": "on_demand", "nodes": {"min": 0, "max": nodes}},
        ],
    }


def stack_file(models: int, directory: Path) -> Path:
    """Writes `Pulumi.bench<n>.yaml` and returns its path."""
    path = directory / f"Pulumi.bench{models}.yaml"
    path.write_text(yaml.safe_dump(document(models), sort_keys=False), encoding="utf-8")
    return path


def busy_stack_file(directory: Path) -> Path:
    """A stack for 120 million requests a day: a small model with up to 200 replicas on 25 nodes of eight H100."""
    data = document(1)
    platform = data["config"]["inference-platform:platform"]
    platform["pools"] = [
        {
            "name": "h100",
            "instance_type": "p5.48xlarge",
            "availability_zone": ZONE,
            "capacity": [
                {"kind": "spot", "nodes": {"min": 0, "max": 15}},
                {"kind": "on_demand", "nodes": {"min": 0, "max": 10}},
            ],
        }
    ]
    platform["models"] = [
        {
            **_SMALL.model,
            "name": "busy",
            "pool": "h100",
            "replicas": {"min": 10, "max": 200},
            "traffic": {
                "requests_per_second": 1000,
                "input_tokens": {"mean": 800},
                "output_tokens": {"mean": 150},
            },
        }
    ]
    path = directory / "Pulumi.busy.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def trace_file(rows: int, directory: Path) -> Path:
    """A trace of single requests at a steady pace over two hours."""
    path = directory / f"trace-{rows}.csv"
    step = 7200 / rows
    with path.open("w", encoding="utf-8") as stream:
        stream.write("time,input_tokens,output_tokens\n")
        stream.writelines(f"{row * step:.4f},{200 + row % 1301},{20 + row % 301}\n" for row in range(rows))
    return path
