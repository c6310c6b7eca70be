"""The Plan: tiers of the KV cache behind the GPUs' own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.plan.valkey import ValkeyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTiersPlan:
    """Where a model's KV blocks go when they leave the GPUs."""

    through: Literal["native", "lmcache"]
    cpu_gib: int
    """RAM of each pod that keeps blocks."""
    region_gib: int
    """Of `cpu_gib`, and more where a replica has several pods: what /dev/shm must offer beside the engine's own use."""
    tokens: int
    """That a replica's RAM keeps."""
    store: ValkeyPlan | None = None
    """What all replicas share behind that; None: nothing."""
    store_bytes_per_token: float = 0
    """A token's blocks as they lie in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPromptsPlan:
    """Prompts that a pod computes before it is ready."""

    prompts: tuple[str, ...]
    tokens: tuple[int, ...]
    """Of each, about."""
    saved_ms: tuple[float, ...]
    """Prefill of each: what the first request that begins with it waits less."""
    caches: int
    """Groups of ranks of a pod that each keep a cache of their own."""
    limit_seconds: int
    """For all of them; what is not done by then is left to the first requests."""
