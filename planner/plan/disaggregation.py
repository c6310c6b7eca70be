"""The Plan: one of the two groups of a model whose prefill and decode run on GPUs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggregationPlan:
    """What a group is to the other one. The decode group carries the endpoint: its name, Service, key and router."""

    role: Role
    serves: str
    """The model that clients ask for; both groups answer to it."""
    peer: str
    """Name of the other group."""
    transport: Literal["ucx", "libfabric"]
    port: int
    """Where a prefill pod tells decode pods how to read its memory."""
    transfer_ms: float
    """Of the KV cache of a long prompt (p99), alone on the network."""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the group's pods: what the router must know of them."""
