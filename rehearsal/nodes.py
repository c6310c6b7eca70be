"""Simulated nodes shaped like the Plan's pools: what kwok, the scheduler and the checks see of a machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from planner.naming import RUNG_LABEL
from planner.plan import Plan, PoolPlan, RungPlan, SystemGroupPlan, Taint
from rehearsal.controlplane.components import FAKE_NODE_ANNOTATION, FAKE_NODE_VALUE
from rehearsal.kube import Json

GROUP_ANNOTATION: Final = "rehearsal/node-group"
"""On every simulated node: the rung (or system group) it belongs to."""
SYSTEM_GROUP: Final = "system"
EFA: Final = "vpc.amazonaws.com/efa"
GPU: Final = "nvidia.com/gpu"
ZONE: Final = "topology.kubernetes.io/zone"
NODE_POOL: Final = "karpenter.sh/nodepool"
"""Label of Karpenter's nodes."""

# An AMI with the EFA driver sets aside 5128 pages of 2 MiB (Amazon EKS user guide, "Run machine learning training with
# Elastic Fabric Adapter").
_EFA_HUGEPAGES_MIB: Final = 2 * 5128
# What the hypervisor and the kernel keep of an instance's nominal memory; Karpenter's default vmMemoryOverheadPercent.
_MEMORY_OVERHEAD: Final = 0.075
# nodeadm reserves 255 MiB + 11 MiB a pod for the kubelet, and evicts at 100 MiB free.
_RESERVED_BASE_MIB, _RESERVED_POD_MIB, _EVICTION_MIB = 255, 11, 100
# On a cluster that exists, somebody runs CPU nodes; this is what the rehearsal assumes of each.
_EXISTING_SYSTEM_NODES: Final = 2
_EXISTING_SYSTEM: Final = SystemGroupPlan(
    zones=(),
    instance_type="existing",
    min_nodes=_EXISTING_SYSTEM_NODES,
    max_nodes=_EXISTING_SYSTEM_NODES,
    vcpus=16,
    memory_gib=64,
    max_pods=110,
    ami_type="",
    release_version="",
)

_CAPACITY_TYPES: Final = {
    "spot": "SPOT",
    "on_demand": "ON_DEMAND",
    "capacity_reservation": "ON_DEMAND",
    "capacity_block": "CAPACITY_BLOCK",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Nodes of one shape that come and go together: a rung of a pool, or the system nodes."""

    name: str
    pool: str | None
    priority: int
    min_nodes: int
    max_nodes: int
    boot_seconds: float
    node: Json
    """A Node without a name, as planned: what an autoscaler expects."""
    absent: frozenset[str] = frozenset()
    """Devices that its machines lack all the same."""
    node_pool: bool = False
    """Karpenter's: there only with the NodePool of its name, which brings pool labels and taints."""
    zones: tuple[str, ...] = ()
    """Where its machines come from, in turn."""

    def new_node(self, index: int, *, lost_zones: frozenset[str] = frozenset()) -> Json:
        """The Node object of the group's `index`-th machine."""
        name = f"{self.name}-{index}"
        labels = {**self.node["metadata"]["labels"], "kubernetes.io/hostname": name}
        if zones := [zone for zone in self.zones if zone not in lost_zones]:
            labels[ZONE] = zones[(index - 1) % len(zones)]
        if self.pool is not None:
            labels |= _network_layers(labels, self.name, index)
        status = {
            **self.node["status"],
            **{
                field: {name: value for name, value in self.node["status"][field].items() if name not in self.absent}
                for field in ("capacity", "allocatable")
            },
        }
        return {
            **self.node,
            "metadata": {**self.node["metadata"], "name": name, "labels": labels},
            "status": status,
        }


def node_groups(plan: Plan, *, absent: frozenset[str] = frozenset()) -> tuple[NodeGroup, ...]:
    """Every node group of a plan, system nodes first; `absent` names devices that the nodes come without."""
    gpu_groups = (_gpu_group(plan, pool, rung, absent) for pool in plan.pools for rung in pool.rungs)
    return (_system_group(plan), *gpu_groups)


def _gpu_group(plan: Plan, pool: PoolPlan, rung: RungPlan, absent: frozenset[str]) -> NodeGroup:
    hardware = pool.hardware
    labels = {
        **({} if pool.karpenter else {**pool.node_selector, **rung.labels}),
        GPU + ".present": "true",
        GPU + ".product": hardware.gpu.replace(" ", "-"),
        GPU + ".count": str(hardware.gpus),
        **_place(plan.region, rung.zone or next(iter(pool.zones), None), hardware.instance_type),
    }
    if pool.karpenter:
        bought = next(item.capacity_type for item in pool.karpenter.node_pools if item.name == rung.name)
        labels |= {NODE_POOL: rung.name, "karpenter.sh/capacity-type": bought}
    elif rung.kind in _CAPACITY_TYPES:
        labels |= {
            "eks.amazonaws.com/capacityType": _CAPACITY_TYPES[rung.kind],
            "eks.amazonaws.com/nodegroup": rung.name,
        }
    offered = {GPU: str(hardware.gpus), **({EFA: str(hardware.efa_devices)} if hardware.efa_devices else {})}
    return NodeGroup(
        name=rung.name,
        pool=pool.name,
        priority=rung.priority,
        min_nodes=rung.desired_nodes,
        max_nodes=rung.max_nodes,
        boot_seconds=rung.boot_seconds,
        absent=absent,
        node_pool=pool.karpenter is not None,
        zones=(rung.zone,) if rung.zone else pool.zones,
        node=_node(
            group=rung.name,
            labels=labels,
            taints=() if pool.karpenter else pool.taints,
            vcpus=hardware.vcpus,
            memory_gib=hardware.memory_gib,
            max_pods=hardware.max_pods,
            disk_gb=hardware.nvme_gb or pool.root_volume_gib or 200,
            hugepages_mib=_EFA_HUGEPAGES_MIB if hardware.efa_devices else 0,
            devices=offered,
        ),
    )


def _system_group(plan: Plan) -> NodeGroup:
    system = plan.target.system if plan.target.kind == "eks" else _EXISTING_SYSTEM
    return NodeGroup(
        name=SYSTEM_GROUP,
        pool=None,
        priority=0,
        min_nodes=system.min_nodes,
        max_nodes=system.max_nodes,
        # An EKS CPU node is Ready in about two minutes; nothing of the plan depends on it.
        boot_seconds=120,
        zones=system.zones,
        node=_node(
            group=SYSTEM_GROUP,
            labels=_place(plan.region, next(iter(plan.zones), None), system.instance_type),
            taints=(),
            vcpus=system.vcpus,
            memory_gib=system.memory_gib,
            max_pods=system.max_pods,
            disk_gb=100,
            hugepages_mib=0,
            devices={},
        ),
    )


def _place(region: str | None, zone: str | None, instance_type: str | None) -> dict[str, str]:
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    labels |= {"topology.kubernetes.io/region": region} if region else {}
    labels |= {ZONE: zone} if zone else {}
    return labels | ({"node.kubernetes.io/instance-type": instance_type} if instance_type else {})


def _node(
    *,
    group: str,
    labels: Mapping[str, str],
    taints: tuple[Taint, ...],
    vcpus: int,
    memory_gib: float,
    max_pods: int,
    disk_gb: int,
    hugepages_mib: int,
    devices: Mapping[str, str],
) -> Json:
    memory_mib = int(memory_gib * 1024 * (1 - _MEMORY_OVERHEAD))
    reserved_mib = _RESERVED_BASE_MIB + _RESERVED_POD_MIB * max_pods + _EVICTION_MIB
    capacity = {
        "cpu": str(vcpus),
        "memory": f"{memory_mib}Mi",
        "ephemeral-storage": f"{disk_gb}G",
        "pods": str(max_pods),
        "hugepages-2Mi": f"{hugepages_mib}Mi",
        **devices,
    }
    allocatable = {
        **capacity,
        "cpu": f"{vcpus * 1000 - _reserved_millicores(vcpus)}m",
        "memory": f"{memory_mib - reserved_mib - hugepages_mib}Mi",
        "ephemeral-storage": f"{disk_gb * 0.9:.0f}G",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "labels": dict(labels),
            "annotations": {FAKE_NODE_ANNOTATION: FAKE_NODE_VALUE, GROUP_ANNOTATION: group},
        },
        "spec": {"taints": [{"key": taint.key, "value": taint.value, "effect": taint.effect} for taint in taints]},
        "status": {"capacity": capacity, "allocatable": allocatable, "nodeInfo": _node_info()},
    }


def _reserved_millicores(vcpus: int) -> int:
    """nodeadm's share: 6 % of the first core, 1 % of the second, 0.5 % of two more, 0.25 % of the rest."""
    first = (60, 70, 75, 80)[min(vcpus, 4) - 1]
    return first + int(2.5 * max(0, vcpus - 4))


def _node_info() -> dict[str, str]:
    return {
        "architecture": "amd64",
        "bootID": "",
        "containerRuntimeVersion": "containerd://simulated",
        "kernelVersion": "",
        "kubeProxyVersion": "",
        "kubeletVersion": "simulated",
        "machineID": "",
        "operatingSystem": "linux",
        "osImage": "Amazon Linux 2023 (simulated)",
        "systemUUID": "",
    }


def _network_layers(labels: Mapping[str, str], group: str, index: int) -> dict[str, str]:
    """EC2's network layers: one spine for a zone, one for a rung (its placement group), a leaf for four machines."""
    zone = labels.get(ZONE, "")
    parts = (zone, labels.get(RUNG_LABEL, group), str(index // 4))
    return {
        f"topology.k8s.aws/network-node-layer-{layer}": "nn-"
        + hashlib.sha256("/".join(parts[:layer]).encode()).hexdigest()[:17]
        for layer in (1, 2, 3)
    }
