"""MIG: which slices each GPU can be cut into, and what one slice has."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from catalog.records import build
from catalog.types import Evidence, Sourced

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True, slots=True)
class MigProfile:
    """One kind of slice."""

    instances: int
    """Slices of this kind that one GPU gives."""
    memory_gib: float
    memory_eighths: int
    """Memory slices, of eight: the share of bandwidth."""
    sms: int
    """Streaming multiprocessors: against those of the GPU, the share of its arithmetic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MigGpu(Sourced):
    """One GPU model that can be cut."""

    name: str
    """Key into the catalog's GPUs."""
    sms: int
    resets: bool = False
    """Whether turning MIG on takes a reset of the GPU (Ampere), in a virtual machine a reboot."""
    profiles: Mapping[str, MigProfile]
    evidence: Evidence


@functools.cache
def mig_gpus() -> Mapping[str, MigGpu]:
    """All GPUs that can be cut, by name."""
    with (Path(__file__).parent / "mig.yaml").open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=_LOADER)  # noqa: S506 - both choices are safe loaders
    return MappingProxyType(
        {
            name: build(MigGpu, {**document["defaults"], "name": name, **entry}, f"mig.yaml: gpus.{name}")
            for name, entry in document["gpus"].items()
        }
    )
