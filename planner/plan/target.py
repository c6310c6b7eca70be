"""The Plan: the cluster and its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class AddonPlan:
    """An EKS managed add-on."""

    name: str
    version: str | None
    """Pinned build; None: the newest build that EKS offers for the cluster's version, looked up at deploy time."""
    minimum_version: str | None
    phase: Literal["before_nodes", "after_nodes"]
    namespace: str
    configuration: Mapping[str, Any]
    service_account: str | None = None
    policy_arn_names: tuple[str, ...] = ()
    """AWS managed policies that its pod identity carries, by the part of the ARN after `policy/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemGroupPlan:
    """The CPU node group that controllers run on."""

    zones: tuple[str, ...]
    """No more zones than nodes at least: a volume binds its pod to a zone, which then always has a node."""
    instance_type: str
    min_nodes: int
    max_nodes: int
    vcpus: int
    memory_gib: float
    max_pods: int
    ami_type: str
    release_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EksPlan:
    """The cluster that this stack makes."""

    kind: Literal["eks"] = "eks"
    cluster_name: str
    account_id: str | None = None
    """The one account that may be deployed to; None: any."""
    kubernetes_version: str
    admins: tuple[str, ...]
    public_cidrs: tuple[str, ...]
    """Empty: the API server has no public endpoint."""
    private_cidrs: tuple[str, ...] = ()
    """Ranges that reach the private endpoint besides the nodes: EKS lets only members of its security group in."""
    service_cidr: str = "172.20.0.0/16"
    log_retention_days: int
    addons: tuple[AddonPlan, ...]
    system: SystemGroupPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingClusterPlan:
    """A cluster that exists; nothing of AWS is made."""

    kind: Literal["existing_cluster"] = "existing_cluster"
    kubeconfig: str
    context: str | None
    kubernetes_version: str
    gpu_driver: Literal["operator", "preinstalled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonePlan:
    """One availability zone of a created VPC."""

    zone: str
    private_cidr: str
    public_cidr: str | None
    """None where the VPC has no internet."""
    nat_gateway: bool
    control_plane: bool = True
    """Whether control-plane interfaces and system nodes are in this zone; GPU nodes may run in it either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedNetworkPlan:
    """The VPC that this stack makes."""

    kind: Literal["create"] = "create"
    cidr: str
    zones: tuple[ZonePlan, ...]
    interface_endpoints: tuple[str, ...]
    """Service names without the `com.amazonaws.<region>.` prefix; the S3 gateway endpoint is always there."""
    transit_gateway: str | None
    connection_cidrs: tuple[str, ...]
    flow_log_retention_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingSubnetPlan:
    """A private subnet that exists."""

    subnet_id: str
    zone: str
    control_plane: bool = True
    """Whether EKS places control-plane interfaces in this zone; nodes may run in it either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingNetworkPlan:
    """A VPC that exists."""

    kind: Literal["existing"] = "existing"
    vpc_id: str
    subnets: tuple[ExistingSubnetPlan, ...]
