"""GPU pools: hardware, network interfaces, and one rung for each kind of capacity."""

from __future__ import annotations

from collections.abc import Mapping

from catalog.assumptions import assumed
from catalog.load import Catalog
from catalog.types import Gpu, Instance, Price
from planner.efa import HUGEPAGES_NODE_MIB, efa_interfaces, max_pods
from planner.ladder import instant, schedule_of, window_of
from planner.naming import GPU_TAINT, POOL_LABEL, RUNG_LABEL, STEP_LABEL
from planner.plan import Hardware, PoolPlan, RungPlan, Taint
from planner.plan.pools import RepairPlan
from planner.pool_facts import PoolFacts, rung_name, zones_of_rungs
from planner.sharing import cut
from settings.calendar import MaintenanceWindow
from settings.pools import (
    CapacityBlockRung,
    CapacityReservationRung,
    ExistingPool,
    NodeGroupPool,
    SpotRung,
)

GPU_AMI = "AL2023_x86_64_NVIDIA"
# The root volume holds the OS only where instance-store NVMe takes images and pods; else images go there too.
_ROOT_GIB_WITH_NVME = 100
_ROOT_GIB_WITHOUT_NVME = 300
GPU_TAINTS = (Taint(key=GPU_TAINT, value="true", effect="NoSchedule"),)
"""Of every GPU node that this program makes: nothing but GPU pods and DaemonSets may fill it."""


GPU_REPAIRS = (
    # Fallen off the bus: no reboot brings it back.
    RepairPlan(reason="NvidiaXID79Error", action="Replace", wait_minutes=10),
    # A row of its memory that failed can no longer be remapped.
    RepairPlan(reason="NvidiaXID64Error", action="Replace", wait_minutes=10),
    # A row was remapped, which takes effect at the next reset: no reason to restart a replica that serves.
    RepairPlan(reason="NvidiaXID63Error", action="NoAction", wait_minutes=10),
)
"""Faults for which EKS's default (Reboot after 10 minutes for all that the agent calls fatal) is wrong for replicas
that serve. Source: EKS user guide, "Automatically repair nodes"; NVIDIA's catalog of Xid errors; the limits of the wait
from a public sample of such overrides, which saw other values refused on EKS 1.37."""


def plan_pool(
    facts: PoolFacts,
    catalog: Catalog,
    region: str | None,
    *,
    kubernetes_version: str,
    uses_efa: bool,
    window: MaintenanceWindow | None = None,
) -> PoolPlan:
    """A pool with its rungs. `uses_efa`: a model on it spans nodes. `window`: where the pool has none of its own."""
    pool = facts.pool
    if isinstance(pool, ExistingPool):
        return cut(_existing_pool(pool, facts.gpu), facts.sharing)
    assert isinstance(pool, NodeGroupPool)  # noqa: S101 - planner.karpenter plans the third form
    assert facts.instance is not None  # noqa: S101 - a node group pool has passed look_up
    instance = facts.instance
    ami = catalog.versions.amis[GPU_AMI]
    plan = PoolPlan(
        name=pool.name,
        zone=pool.availability_zone,
        hardware=hardware_of(instance, facts.gpu, uses_efa=uses_efa),
        network_interfaces=efa_interfaces(instance) if uses_efa else (),
        rungs=tuple(
            _rung(pool, position, zone, instance, facts.gpu, catalog, region or "", uses_efa=uses_efa)
            for position in range(len(pool.capacity))
            for zone in zones_of_rungs(pool)
        ),
        node_selector={POOL_LABEL: pool.name},
        taints=GPU_TAINTS,
        ami_type=ami.ami_type,
        release_version=ami.releases[kubernetes_version],
        root_volume_gib=root_volume_gib(instance.nvme_gb_total),
        maintenance_window=window_of(pool.maintenance_window or window),
        several_zones=tuple(pool.availability_zones),
        warm_nodes=pool.warm_nodes,
        repairs=GPU_REPAIRS,
    )
    return cut(plan, facts.sharing)


def root_volume_gib(nvme_gb: int) -> int:
    """Size of a node's root volume: the OS alone where instance-store NVMe takes images and pods, else all of it."""
    return _ROOT_GIB_WITH_NVME if nvme_gb else _ROOT_GIB_WITHOUT_NVME


def hardware_of(instance: Instance, gpu: Gpu, *, uses_efa: bool) -> Hardware:
    """What one node of an instance type is made of."""
    return Hardware(
        instance_type=instance.name,
        vcpus=instance.vcpus,
        memory_gib=instance.memory_gib,
        gpu=gpu.name,
        gpus=instance.gpus,
        fp8_hardware=gpu.fp8_hardware,
        nvlink=instance.nvlink,
        efa_devices=instance.efa_interfaces if uses_efa else 0,
        gdr=instance.gdr,
        hugepages_mib=HUGEPAGES_NODE_MIB if uses_efa else 0,
        network_gbps=instance.network_gbps,
        card0_gbps=instance.card0_gbps,
        nvme_gb=instance.nvme_gb_total,
        max_pods=max_pods(instance),
    )


def _rung(
    pool: NodeGroupPool,
    position: int,
    zone: str | None,
    instance: Instance,
    gpu: Gpu,
    catalog: Catalog,
    region: str,
    *,
    uses_efa: bool,
) -> RungPlan:
    rung = pool.capacity[position]
    prices = catalog.prices
    reserved = rung if isinstance(rung, CapacityBlockRung | CapacityReservationRung) else None
    if isinstance(rung, CapacityBlockRung | CapacityReservationRung):
        # Starts at 0: before a block begins, every launch would fail. It bills either way.
        low, high = 0, rung.nodes
    else:
        low, high = rung.nodes.min, rung.nodes.max
    if isinstance(rung, CapacityBlockRung):
        price = prices.capacity_block(instance.name, region)
    elif isinstance(rung, SpotRung):
        price = prices.spot(instance.name, region)
    else:  # A reservation costs as on demand.
        price = prices.on_demand(instance.name, region)
    name = rung_name(pool, position, zone)
    labels = rung_labels(pool.name, name, gpu, uses_efa=uses_efa)
    if zone:
        labels = {**labels, STEP_LABEL: rung_name(pool, position)}
    return RungPlan(
        name=name,
        kind=rung.kind,
        min_nodes=low,
        max_nodes=high,
        desired_nodes=low,
        priority=100 - 10 * position,
        reservation=reserved.reservation if reserved else None,
        # A new group beside a reservation would exclude its instances (terraform-aws-eks #3730); a block is one
        # placement already.
        placement_group=uses_efa and not reserved,
        placement_group_name=reserved.placement_group if reserved else None,
        labels=labels,
        usd_per_node_hour=price.usd if price else 0.0,
        price_note=price_note(price, instance.name, rung.kind),
        boot_seconds=int(assumed("boot_seconds_eight_gpu" if instance.gpus >= 8 else "boot_seconds_single_gpu")),
        starts=instant(rung.starts) if isinstance(rung, CapacityBlockRung) else None,
        ends=instant(rung.ends) if isinstance(rung, CapacityBlockRung) else None,
        schedule=schedule_of(pool, position),
        zone=zone,
    )


def rung_labels(pool: str, rung: str, gpu: Gpu, *, uses_efa: bool) -> Mapping[str, str]:
    """Node labels of a rung."""
    labels = {
        POOL_LABEL: pool,
        RUNG_LABEL: rung,
        # cluster-autoscaler waits for GPUs to appear on nodes with this label instead of adding a second node.
        "k8s.amazonaws.com/accelerator": gpu.name.lower().replace(" ", "-"),
        "nvidia.com/gpu.present": "true",
    }
    if uses_efa:
        labels["vpc.amazonaws.com/efa.present"] = "true"
    return labels


def price_note(price: Price | None, instance: str, kind: str) -> str:
    """How well a price is known, in words."""
    if price is None:
        return f"no {kind} price of {instance} in the catalog: counted as 0"
    words = f"{price.source}, {price.as_of}"
    if price.borrowed:
        words += f"; borrowed from {price.region}"
    if price.assumed:
        words += "; assumed"
    return words


def _existing_pool(pool: ExistingPool, gpu: Gpu) -> PoolPlan:
    hardware = Hardware(
        instance_type=None,
        vcpus=pool.vcpus,
        memory_gib=pool.memory_gib,
        gpu=gpu.name,
        gpus=pool.gpus_per_node,
        fp8_hardware=gpu.fp8_hardware,
        nvlink=pool.nvlink,
        efa_devices=0,
        gdr=False,
        network_gbps=0,
        card0_gbps=0,
        nvme_gb=0,
        max_pods=110,
    )
    rung = RungPlan(
        name=pool.name,
        kind="existing",
        min_nodes=pool.nodes,
        max_nodes=pool.nodes,
        desired_nodes=pool.nodes,
        priority=100,
        reservation=None,
        placement_group=False,
        labels=pool.node_selector,
        usd_per_node_hour=0.0,
        price_note="nodes that exist",
        boot_seconds=0,
    )
    return PoolPlan(
        name=pool.name,
        zone=None,
        provisioner="existing",
        hardware=hardware,
        network_interfaces=(),
        rungs=(rung,),
        node_selector=pool.node_selector,
        taints=(Taint(key=GPU_TAINT, value="", effect="NoSchedule"),),
        ami_type=None,
        release_version=None,
        root_volume_gib=0,
    )
