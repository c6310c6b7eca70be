"""The Plan: gPU nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from planner.plan.karpenter import KarpenterPoolPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInterfacePlan:
    """One network interface of a launch template."""

    card_index: int
    device_index: int
    interface_type: Literal["interface", "efa", "efa-only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What one node of a pool is made of."""

    instance_type: str | None
    """None for nodes that exist."""
    vcpus: int
    memory_gib: float
    gpu: str
    """Key into the catalog's GPUs."""
    gpus: int
    """What the device plugin offers: GPUs, or slices of them where the pool's are cut."""
    fp8_hardware: bool
    nvlink: bool
    efa_devices: int
    """EFA devices that a node of this pool offers to pods; 0 where the pool does not use EFA."""
    gdr: bool
    network_gbps: float
    """What all network cards together sustain."""
    card0_gbps: float
    """What traffic without EFA (S3, Lustre over TCP, image pulls) can use."""
    nvme_gb: int
    max_pods: int
    hugepages_mib: int = 0
    """2-MiB huge pages that the AMI sets aside at boot: 10256 (5128 pages) where it finds EFA devices, else 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A node taint, in the API's own words (`NoSchedule`)."""

    key: str
    value: str
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What EKS does about one fault of a GPU, in place of its default: a reboot after ten minutes."""

    reason: str
    """As the node monitoring agent reports it."""
    action: Literal["Replace", "Reboot", "NoAction"]
    wait_minutes: int
    """The API takes 10 to 120, in steps of 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledSizePlan:
    """A change of a rung's size that repeats every week."""

    name: str
    """Of the scheduled action, unique on its scaling group."""
    timezone: str
    recurrence: str
    """Cron expression."""
    min_nodes: int
    desired_nodes: int | None
    """None: leave as many as there are; cluster-autoscaler hands back what nobody needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceWindowPlan:
    """When groups may be moved to better rungs."""

    timezone: str
    days: tuple[str, ...]
    """`mon` to `sun`."""
    start: str
    """Local time, `HH:MM`."""
    hours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RungPlan:
    """One kind of capacity of a pool; on EKS one managed node group."""

    name: str
    """`<pool>-<kind>`; unique in the stack, prefix of the node group's name."""
    kind: Literal["capacity_block", "capacity_reservation", "spot", "on_demand", "existing"]
    min_nodes: int
    max_nodes: int
    desired_nodes: int
    """Nodes at the first start; afterwards cluster-autoscaler owns the number."""
    priority: int
    """For cluster-autoscaler's priority expander: the highest is tried first."""
    reservation: str | None
    placement_group: bool
    labels: Mapping[str, str]
    usd_per_node_hour: float
    price_note: str
    """Where the price comes from, and whether it is borrowed from another region or assumed."""
    boot_seconds: int
    """Planned time from the request for a node to `Ready`."""
    starts: str | None = None
    """When a capacity block begins, ISO 8601 in UTC."""
    ends: str | None = None
    """When it ends."""
    placement_group_name: str | None = None
    """An existing cluster placement group, which the reservation is in."""
    schedule: tuple[ScheduledSizePlan, ...] = ()
    zone: str | None = None
    """Of a pool in several zones, which has a rung for each; None: the pool's one zone, or any of Karpenter's."""

    @property
    def always_bills(self) -> bool:
        """Whether all its nodes cost the same used or not: prepaid, or reserved."""
        return self.kind in {"capacity_block", "capacity_reservation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingPlan:
    """How each GPU of a pool's nodes is cut for several pods; the pool's `hardware` then counts slices."""

    kind: Literal["time_slicing", "mig"]
    slices_per_gpu: int
    gpus: int
    """Physical GPUs of a node."""
    profile: str | None
    """MIG's name of a slice."""
    config: str | None
    """Entry of the device plugin's ConfigMap."""
    node_labels: Mapping[str, str]
    """What tells the GPU operator to cut a node's GPUs so."""
    later_labels: Mapping[str, str]
    """What the GPU operator puts on a node once its GPUs are cut, and pods wait for."""
    reboots: bool = False
    """Whether a node reboots before its GPUs are cut."""

    @property
    def slices(self) -> int:
        """Slices of a node."""
        return self.gpus * self.slices_per_gpu

    @property
    def words(self) -> str:
        """For people."""
        kind = "time slices" if self.profile is None else f"slices {self.profile}"
        return f"{self.slices_per_gpu} {kind} a GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """GPU nodes of one shape, in one place or in several."""

    name: str
    zone: str | None
    """The one zone of all its nodes; None for a pool in several, and for nodes that exist."""
    hardware: Hardware
    network_interfaces: tuple[NetworkInterfacePlan, ...]
    """Empty: one plain interface, given by the subnet."""
    rungs: tuple[RungPlan, ...]
    node_selector: Mapping[str, str]
    """Labels that every node of the pool carries."""
    taints: tuple[Taint, ...]
    ami_type: str | None
    release_version: str | None
    root_volume_gib: int
    provisioner: Literal["node_group", "karpenter", "existing"] = "node_group"
    maintenance_window: MaintenanceWindowPlan | None = None
    """When groups may climb to better rungs; None: never by themselves."""
    karpenter: KarpenterPoolPlan | None = None
    """There where the provisioner is Karpenter."""
    several_zones: tuple[str, ...] = ()
    """Zones of a pool in more than one."""
    repairs: tuple[RepairPlan, ...] = ()
    """Of managed node groups; Karpenter replaces every node with a fault."""
    warm_nodes: int = 0
    """Booted nodes that placeholders keep for whoever needs one at once."""

    sharing: SharingPlan | None = None
    """There where GPUs are cut for several pods."""

    @property
    def gpus_per_node(self) -> int:
        """Physical GPUs of a node."""
        return self.sharing.gpus if self.sharing else self.hardware.gpus

    @property
    def later_labels(self) -> Mapping[str, str]:
        """Labels that pods ask for and nodes get only some time after they have joined."""
        return self.sharing.later_labels if self.sharing else {}

    @property
    def zones(self) -> tuple[str, ...]:
        """Zones that its nodes can lie in; none for nodes that exist."""
        return self.several_zones or ((self.zone,) if self.zone else ())

    @property
    def instance_types(self) -> tuple[str, ...]:
        """EC2 types that a node may have; none for nodes that exist."""
        if self.karpenter:
            return self.karpenter.instance_types
        return (self.hardware.instance_type,) if self.hardware.instance_type else ()

    @property
    def peak_vcpus_per_node(self) -> int:
        """vCPUs of the largest node that the pool may get; `hardware` is what every node has at least."""
        return self.karpenter.most_vcpus if self.karpenter else self.hardware.vcpus

    @property
    def min_nodes(self) -> int:
        """Nodes that always run."""
        return sum(rung.min_nodes for rung in self.rungs)

    @property
    def max_nodes(self) -> int:
        """Nodes at most, over all rungs."""
        return sum(rung.max_nodes for rung in self.rungs)
