"""The Plan: what Karpenter is told, where a pool's nodes are its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CapacityType = Literal["reserved", "spot", "on-demand"]
"""Karpenter's words for how an instance is bought; capacity reservations and capacity blocks are `reserved`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeClassPlan:
    """One EC2NodeClass: how instances are made."""

    name: str
    reservations: tuple[str, ...]
    """Ids of the capacity reservations that its NodePools launch into; Karpenter matches no others."""
    placement_group: str | None
    """The existing cluster placement group that the reservation was made in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePoolPlan:
    """One NodePool: a rung of the ladder."""

    name: str
    """The rung's name."""
    node_class: str
    weight: int
    """1 to 100; the heaviest NodePool that has capacity launches the node."""
    capacity_type: CapacityType
    reservation: str | None
    """The one capacity reservation that it launches into."""
    max_nodes: int
    max_gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterPoolPlan:
    """NodePools and the EC2NodeClasses that they name. Pool, hardware and rungs carry the rest."""

    instance_types: tuple[str, ...]
    most_vcpus: int
    """vCPUs of the largest type: quotas count these."""
    ami_alias: str
    """EKS's AL2023 image by release date; Karpenter takes the NVIDIA variant for types with GPUs."""
    consolidate_after_seconds: int
    expire_after_seconds: int | None
    """None: never."""
    termination_grace_seconds: int
    """How long a node may take to leave. Karpenter deletes pods that must not be disrupted (all of ours) once no more
    than their own grace period is left of it, so that equal numbers start the drain at once."""
    leave_minutes: int
    """How long a destroy waits for the last node of a class."""
    nodes_at_once: int
    node_classes: tuple[NodeClassPlan, ...]
    node_pools: tuple[NodePoolPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterPlan:
    """The controller, where any pool is Karpenter's."""

    replicas: int
    isolated: bool
    """Whether the network has no internet, or may have none: IAM and the price list have no VPC endpoint."""
    overlays: bool = False
    """Whether NodeOverlays tell what nodes of a pool offer beyond what EC2 says of their types."""
