"""Karpenter's custom resources as small frozen typed specs, with the rules that its CRDs hold by CEL.

Source: CRDs of Karpenter 1.14 (karpenter.sh/v1 NodePool, karpenter.k8s.aws/v1 EC2NodeClass).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pulumi

from components._objects import object_metadata
from planner.plan import CapacityType, NetworkInterfacePlan, Taint

ROOT_DEVICE: Final = "/dev/xvda"  # of the AL2023 AMIs
_RESERVED_TAGS: Final = ("kubernetes.io/cluster", "karpenter.sh/", "karpenter.k8s.aws/", "eks:eks-cluster-name")
_PINNED_ALIAS: Final = re.compile(r"^al2023@v[0-9]{8}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ec2NodeClass:
    """How instances are made. It has no word for public addresses: nodes take the subnet's, and ours give none.

    Raises:
        ValueError: an interface layout, image or tag that Karpenter or EC2 would refuse.
    """

    name: str
    ami_alias: str
    instance_profile: pulumi.Input[str]
    subnet_ids: tuple[pulumi.Input[str], ...]
    security_group_ids: tuple[pulumi.Input[str], ...]
    network_interfaces: tuple[NetworkInterfacePlan, ...]
    max_pods: int
    root_volume_gib: int
    volume_key_arn: pulumi.Input[str]
    instance_store: bool
    """Whether all NVMe disks become one array for images, pods and emptyDirs."""
    reservations: tuple[str, ...]
    placement_group: str | None
    tags: Mapping[str, str]
    api_version: str = field(default="karpenter.k8s.aws/v1", init=False)
    kind: str = field(default="EC2NodeClass", init=False)

    def __post_init__(self) -> None:
        if not _PINNED_ALIAS.match(self.ami_alias):
            raise ValueError(f"node class {self.name}: `{self.ami_alias}` is no image of one release date")
        places = [(card.card_index, card.device_index) for card in self.network_interfaces]
        if len(set(places)) < len(places):
            raise ValueError(f"node class {self.name}: two interfaces in one place")
        if not any(place == (0, 0) for place in places) or any(
            card.interface_type not in {"interface", "efa-only"}
            or ((card.card_index, card.device_index) == (0, 0) and card.interface_type != "interface")
            for card in self.network_interfaces
        ):
            raise ValueError(f"node class {self.name}: the first interface is plain, all are plain or efa-only")
        efa = [card.card_index for card in self.network_interfaces if card.interface_type == "efa-only"]
        if len(set(efa)) < len(efa):
            raise ValueError(f"node class {self.name}: two EFA interfaces on one card")
        reserved = [key for key in self.tags if key.startswith(_RESERVED_TAGS)]
        if reserved:
            raise ValueError(f"node class {self.name}: {', '.join(reserved)} are Karpenter's own tags")

    def metadata(self) -> dict[str, Any]:
        """Cluster-scoped."""
        return object_metadata(self.name)

    def spec(self) -> dict[str, Any]:
        """With everything that a default of Karpenter's or the account's could change said in words."""
        rendered: dict[str, Any] = {
            "amiSelectorTerms": [{"alias": self.ami_alias}],
            # Not `role`: Karpenter would make profiles, and IAM is out of reach without internet.
            "instanceProfile": self.instance_profile,
            "subnetSelectorTerms": [{"id": subnet} for subnet in self.subnet_ids],
            "securityGroupSelectorTerms": [{"id": group} for group in self.security_group_ids],
            "networkInterfaces": [
                {
                    "networkCardIndex": card.card_index,
                    "deviceIndex": card.device_index,
                    "interfaceType": card.interface_type,
                }
                for card in self.network_interfaces
            ],
            # One hop: it does not leave the host's network, so pods cannot take the node's role.
            "metadataOptions": {"httpEndpoint": "enabled", "httpTokens": "required", "httpPutResponseHopLimit": 1},
            "blockDeviceMappings": [
                {
                    "deviceName": ROOT_DEVICE,
                    "rootVolume": True,
                    "ebs": {
                        "volumeSize": f"{self.root_volume_gib}Gi",
                        "volumeType": "gp3",
                        "encrypted": True,
                        "kmsKeyID": self.volume_key_arn,
                        "deleteOnTermination": True,
                    },
                }
            ],
            "kubelet": {"maxPods": self.max_pods},
            "tags": dict(self.tags),
        }
        if self.instance_store:
            rendered["instanceStorePolicy"] = "RAID0"
        if self.reservations:
            rendered["capacityReservationSelectorTerms"] = [{"id": name} for name in self.reservations]
        if self.placement_group:
            rendered["placementGroupSelector"] = {"name": self.placement_group}
        return rendered


@dataclass(frozen=True, kw_only=True, slots=True)
class NodePool:
    """Nodes of one rung: which, how many, and when they go.

    Raises:
        ValueError: a weight or limit that Karpenter would refuse, or reserved capacity without its reservation.
    """

    name: str
    node_class: str
    weight: int
    instance_types: tuple[str, ...]
    zones: tuple[str, ...]
    capacity_type: CapacityType
    reservation: str | None
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    max_nodes: int
    max_gpus: int
    consolidate_after_seconds: int
    expire_after_seconds: int | None
    termination_grace_seconds: int
    nodes_at_once: int
    api_version: str = field(default="karpenter.sh/v1", init=False)
    kind: str = field(default="NodePool", init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= 100:
            raise ValueError(f"node pool {self.name}: a weight is between 1 and 100, not {self.weight}")
        if (self.capacity_type == "reserved") != (self.reservation is not None):
            raise ValueError(f"node pool {self.name}: reserved capacity names its reservation, other capacity none")
        if not self.instance_types or self.max_nodes < 1:
            raise ValueError(f"node pool {self.name}: it has no instance type or no node")

    def metadata(self) -> dict[str, Any]:
        """Cluster-scoped."""
        return object_metadata(self.name)

    def spec(self) -> dict[str, Any]:
        """Nodes go when they are empty, replaced one after another when they drift, and never to pack pods."""
        requirements: dict[str, tuple[str, ...]] = {
            "node.kubernetes.io/instance-type": self.instance_types,
            "topology.kubernetes.io/zone": self.zones,
            "kubernetes.io/arch": ("amd64",),
            "kubernetes.io/os": ("linux",),
            "karpenter.sh/capacity-type": (self.capacity_type,),
        }
        if self.reservation:
            requirements["karpenter.k8s.aws/capacity-reservation-id"] = (self.reservation,)
        return {
            "weight": self.weight,
            "limits": {"nodes": str(self.max_nodes), "nvidia.com/gpu": str(self.max_gpus)},
            "disruption": {
                "consolidationPolicy": "WhenEmpty",
                "consolidateAfter": f"{self.consolidate_after_seconds}s",
                # For drift alone: empty nodes cost money and may all go at once.
                "budgets": [{"nodes": str(self.nodes_at_once), "reasons": ["Drifted"]}],
            },
            "template": {
                "metadata": {"labels": dict(self.labels)},
                "spec": {
                    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": self.node_class},
                    "requirements": [
                        {"key": key, "operator": "In", "values": list(values)} for key, values in requirements.items()
                    ],
                    "taints": [
                        {"key": taint.key, "value": taint.value, "effect": taint.effect} for taint in self.taints
                    ],
                    # Karpenter's own default is 720h.
                    "expireAfter": f"{self.expire_after_seconds}s" if self.expire_after_seconds else "Never",
                    "terminationGracePeriod": f"{self.termination_grace_seconds}s",
                },
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOverlay:
    """What nodes of some NodePools offer in place of what EC2 says of their types.

    Karpenter puts the capacity over the type's own (`InstanceType.ApplyCapacityOverlay`), where its feature gate
    `NodeOverlay` is on.

    Raises:
        ValueError: no NodePool, or a resource that Karpenter lets nobody change.
    """

    name: str
    node_pools: tuple[str, ...]
    capacity: Mapping[str, str]
    api_version: str = field(default="karpenter.sh/v1alpha1", init=False)
    kind: str = field(default="NodeOverlay", init=False)

    def __post_init__(self) -> None:
        if not self.node_pools:
            raise ValueError(f"node overlay {self.name}: it matches every node of the cluster")
        fixed = {"cpu", "memory", "ephemeral-storage", "pods"} & self.capacity.keys()
        if fixed:
            raise ValueError(f"node overlay {self.name}: {', '.join(sorted(fixed))} cannot be overlaid")

    def metadata(self) -> dict[str, Any]:
        """Cluster-scoped."""
        return object_metadata(self.name)

    def spec(self) -> dict[str, Any]:
        """The spec, as the API has it."""
        return {
            "requirements": [{"key": "karpenter.sh/nodepool", "operator": "In", "values": list(self.node_pools)}],
            "capacity": dict(self.capacity),
        }
