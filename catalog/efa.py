"""How fast NCCL is over EFA, by instance type: what a check of a group compares with."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from catalog.records import build
from catalog.types import Evidence, Sourced

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True, slots=True)
class EfaReference(Sourced):
    """An all-reduce of 1 GiB over all GPUs of two nodes."""

    all_reduce_gb_per_s: float
    """Bus bandwidth as nccl-tests counts it (`busbw`), in 10^9 bytes a second."""
    evidence: Evidence


@functools.cache
def references() -> Mapping[str, EfaReference]:
    """All of them, by instance type."""
    with (Path(__file__).parent / "efa.yaml").open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=_LOADER)  # noqa: S506 - both choices are safe loaders
    return {
        name: build(EfaReference, {**document["defaults"], **entry}, f"efa.yaml: {name}")
        for name, entry in document["types"].items()
    }


def reference(instance_type: str | None) -> EfaReference | None:
    """What is known of a type; None for one that no group of several nodes should run on, and for existing nodes."""
    return references().get(instance_type or "")
