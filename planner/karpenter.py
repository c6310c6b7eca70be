"""Pools whose nodes Karpenter launches: facts, rungs as NodePools, and how nodes leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from catalog.assumptions import assumed
from catalog.load import Catalog
from catalog.types import Gpu, Instance, Price, Region
from planner.ladder import instant
from planner.life import plan_drain
from planner.naming import POOL_LABEL
from planner.plan import (
    CapacityType,
    CreatedNetworkPlan,
    EksPlan,
    ExistingClusterPlan,
    ExistingNetworkPlan,
    Hardware,
    KarpenterPlan,
    KarpenterPoolPlan,
    NetworkInterfacePlan,
    NodeClassPlan,
    NodePoolPlan,
    PoolPlan,
    RungPlan,
)
from planner.pool_facts import PoolFacts, check_block, check_zone, gpu_instance, rung_name, sharing_on
from planner.pools import GPU_AMI, GPU_TAINTS, hardware_of, price_note, root_volume_gib, rung_labels
from planner.problems import Findings
from planner.sharing import cut, slice_of
from settings.pools import CapacityBlockRung, CapacityReservationRung, KarpenterPool, Rung

_MAX_PODS = 110
"""Kubernetes' own limit for a node (kubernetes.io, "Considerations for large clusters"). Given to Karpenter in so many
words, since it would derive fewer from the interfaces and does not know that the CNI hands out prefixes."""
_CAPACITY_TYPES: dict[str, CapacityType] = {"spot": "spot", "on_demand": "on-demand"}
_REPLICAS = 2
_SECONDS_A_DAY = 24 * 3600
_BOOT_AND_END_MINUTES = 20
"""A node that is being launched when a destroy begins first comes up, then ends: EC2 takes minutes for either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterFacts(PoolFacts):
    """A pool of several types; `instance` is the smallest, by which models are sized."""

    instances: tuple[Instance, ...]


def look_up(
    index: int, pool: KarpenterPool, catalog: Catalog, region: Region | None, *, on_eks: bool, findings: Findings
) -> PoolFacts | None:
    """The catalog's facts about a pool; None (and a problem) where the stack file names something that is not there."""
    path = ("pools", index)
    if not on_eks:
        findings.problem(
            (*path, "provisioner"),
            "Karpenter comes with a cluster that this program makes, and an existing cluster brings its own nodes",
            "describe them with `provisioner: existing` (gpu, gpus_per_node, nodes, node_selector)",
        )
        return None
    found = [
        gpu_instance((*path, "instance_types", position), name, catalog, findings)
        for position, name in enumerate(pool.instance_types)
    ]
    types = [entry for entry in found if entry is not None]
    for instance, _ in types:
        if region is not None:
            check_zone(path, pool, instance, region, findings)
        for position, rung in enumerate(pool.capacity):
            check_block(path, position, rung, instance, findings)
    if len(types) < len(found) or not _alike(path, types, findings):
        return None
    instances = tuple(instance for instance, _ in types)
    _check_capacity(path, pool, instances, findings)
    smallest = min(instances, key=lambda instance: (instance.memory_gib, instance.vcpus))
    gpu = types[0][1]
    sharing = sharing_on(path, pool, smallest, gpu, findings)
    return KarpenterFacts(
        pool=pool, gpu=slice_of(gpu, sharing), instance=smallest, instances=instances, sharing=sharing
    )


def _alike(path: tuple[str | int, ...], types: Sequence[tuple[Instance, Gpu]], findings: Findings) -> bool:
    """An engine is laid out for one number of one GPU; what else a node has may be more, never less."""
    first, gpu = types[0]
    alike = True
    for position, (instance, other) in enumerate(types):
        if (other.name, instance.gpus) != (gpu.name, first.gpus):
            alike = False
            findings.problem(
                (*path, "instance_types", position),
                f"{instance.name} has {instance.gpus} x {other.name}, {first.name} has {first.gpus} x {gpu.name}: a "
                "model is laid out for one of them",
                "give each its own pool",
            )
    return alike


def _check_capacity(
    path: tuple[str | int, ...], pool: KarpenterPool, instances: tuple[Instance, ...], findings: Findings
) -> None:
    if pool.efa and not instances[0].efa_interfaces:
        findings.problem(
            (*path, "efa"), f"{instances[0].name} has no EFA", "leave `efa` out, or use a type that has it"
        )
    if len(instances) > 1:
        for position, rung in enumerate(pool.capacity):
            if _reservation(rung):
                findings.problem(
                    (*path, "capacity", position),
                    "a capacity reservation is of one instance type, and the pool has several",
                    "give the reservation a pool of its own",
                )
    if any(rung.kind == "spot" for rung in pool.capacity):
        findings.remark(
            f"pools[{path[1]}]",
            "Karpenter may not make the account's service-linked role for spot: where nobody ever used spot, run `aws "
            "iam create-service-linked-role --aws-service-name spot.amazonaws.com` once",
        )


def plan_pool(facts: PoolFacts, catalog: Catalog, region: str | None, *, kubernetes_version: str) -> PoolPlan:
    """A pool with its rungs and what Karpenter is told."""
    assert isinstance(facts, KarpenterFacts)  # noqa: S101 - look_up made them
    pool = facts.pool
    assert isinstance(pool, KarpenterPool)  # noqa: S101 - look_up made them
    ami = catalog.versions.amis[GPU_AMI]
    release = ami.releases[kubernetes_version]
    hardware = _smallest([hardware_of(instance, facts.gpu, uses_efa=pool.efa) for instance in facts.instances])
    plan = PoolPlan(
        name=pool.name,
        zone=pool.availability_zone,
        several_zones=tuple(pool.availability_zones),
        warm_nodes=pool.warm_nodes,
        provisioner="karpenter",
        hardware=hardware,
        network_interfaces=network_interfaces(facts.instances[0], efa=pool.efa),
        rungs=tuple(_rung(pool, position, facts, catalog, region or "") for position in range(len(pool.capacity))),
        node_selector={POOL_LABEL: pool.name},
        taints=GPU_TAINTS,
        ami_type=ami.ami_type,
        release_version=release,
        root_volume_gib=root_volume_gib(hardware.nvme_gb),
    )
    plan = cut(plan, facts.sharing)
    return replace(plan, karpenter=_karpenter(pool, facts, plan, release))


def plan_controller(
    target: EksPlan | ExistingClusterPlan,
    network: CreatedNetworkPlan | ExistingNetworkPlan | None,
    pools: Sequence[PoolPlan],
) -> KarpenterPlan | None:
    """The controller; None where no pool is Karpenter's."""
    if not isinstance(target, EksPlan) or not any(pool.karpenter for pool in pools):
        return None
    return KarpenterPlan(
        # Its pods refuse to share a node.
        replicas=min(_REPLICAS, target.system.min_nodes),
        # Somebody else's network may have no internet: asked for in vain, IAM would hold up every destroy, while not
        # asking costs no more than the order of prices that the release carries.
        isolated=not isinstance(network, CreatedNetworkPlan) or bool(network.interface_endpoints),
        overlays=any(pool.karpenter and pool.sharing for pool in pools),
    )


def network_interfaces(instance: Instance, *, efa: bool) -> tuple[NetworkInterfacePlan, ...]:
    """Interfaces of a node, all in so many words: for a pod that asks for EFA, Karpenter would else attach every EFA
    interface with an address of its own (32 on p5.48xlarge).

    Karpenter knows no `efa` type, so card 0 has a plain interface and, where it takes EFA, an `efa-only` one beside it;
    the others have one `efa-only` each. Source: EC2NodeClass v1 of Karpenter 1.14; per-card limits of
    DescribeInstanceTypes.
    """
    first = NetworkInterfacePlan(card_index=0, device_index=0, interface_type="interface")
    if not efa:
        return (first,)
    cards = range(1 if instance.card0_is_ena_only else 0, instance.network_cards)
    others = (NetworkInterfacePlan(card_index=card, device_index=1, interface_type="efa-only") for card in cards)
    return (first, *others)


def _smallest(types: Sequence[Hardware]) -> Hardware:
    """What a pod can count on, whichever type its node is."""
    least = min(types, key=lambda hardware: (hardware.memory_gib, hardware.vcpus))
    return replace(
        least,
        vcpus=min(hardware.vcpus for hardware in types),
        nvlink=all(hardware.nvlink for hardware in types),
        network_gbps=min(hardware.network_gbps for hardware in types),
        card0_gbps=min(hardware.card0_gbps for hardware in types),
        nvme_gb=min(hardware.nvme_gb for hardware in types),
        max_pods=min(_MAX_PODS, *(hardware.max_pods for hardware in types)),
    )


def _rung(pool: KarpenterPool, position: int, facts: KarpenterFacts, catalog: Catalog, region: str) -> RungPlan:
    rung = pool.capacity[position]
    name = rung_name(pool, position)
    # The dearest type: Karpenter takes the cheapest that is there, and a budget must hold for any.
    instance, price = max(
        ((instance, _price(rung, instance, catalog, region)) for instance in facts.instances),
        key=lambda offer: offer[1].usd if offer[1] else 0.0,
    )
    return RungPlan(
        name=name,
        kind=rung.kind,
        min_nodes=0,
        max_nodes=_most(rung),
        desired_nodes=0,
        priority=100 - 10 * position,
        reservation=_reservation(rung),
        placement_group=False,
        placement_group_name=rung.placement_group if isinstance(rung, CapacityReservationRung) else None,
        labels=rung_labels(pool.name, name, facts.gpu, uses_efa=pool.efa),
        usd_per_node_hour=price.usd if price else 0.0,
        price_note=price_note(price, instance.name, rung.kind)
        + (f"; {instance.name}, the dearest type" if len(facts.instances) > 1 else ""),
        boot_seconds=int(assumed("boot_seconds_eight_gpu" if instance.gpus >= 8 else "boot_seconds_single_gpu")),
        starts=instant(rung.starts) if isinstance(rung, CapacityBlockRung) else None,
        ends=instant(rung.ends) if isinstance(rung, CapacityBlockRung) else None,
    )


def _price(rung: Rung, instance: Instance, catalog: Catalog, region: str) -> Price | None:
    """A reservation that is no block costs as on demand, used or not."""
    if rung.kind == "capacity_block":
        return catalog.prices.capacity_block(instance.name, region)
    return (catalog.prices.spot if rung.kind == "spot" else catalog.prices.on_demand)(instance.name, region)


def _reservation(rung: Rung) -> str | None:
    return rung.reservation if isinstance(rung, CapacityBlockRung | CapacityReservationRung) else None


def _most(rung: Rung) -> int:
    """Nodes of a rung at most; a capacity block has a fixed number."""
    return rung.nodes if isinstance(rung.nodes, int) else rung.nodes.max


def _node_classes(plan: PoolPlan) -> tuple[NodeClassPlan, ...]:
    """One for the pool, and one for each rung in a placement group: a class has one group for all its instances."""
    free = [rung for rung in plan.rungs if not rung.placement_group_name]
    shared = NodeClassPlan(
        name=plan.name,
        reservations=tuple(rung.reservation for rung in free if rung.reservation),
        placement_group=None,
    )
    own = (
        NodeClassPlan(name=rung.name, reservations=(rung.reservation,), placement_group=rung.placement_group_name)
        for rung in plan.rungs
        if rung.reservation and rung.placement_group_name
    )
    return (*([shared] if free else []), *own)


def _karpenter(pool: KarpenterPool, facts: KarpenterFacts, plan: PoolPlan, release: str) -> KarpenterPoolPlan:
    disruption = pool.disruption
    days = disruption.expire_after_days
    grace = plan_drain(plan).grace_seconds
    return KarpenterPoolPlan(
        instance_types=tuple(instance.name for instance in facts.instances),
        most_vcpus=max(instance.vcpus for instance in facts.instances),
        ami_alias=f"al2023@v{release.rpartition('-')[2]}",
        consolidate_after_seconds=disruption.empty_minutes * 60,
        expire_after_seconds=days * _SECONDS_A_DAY if days else None,
        termination_grace_seconds=grace,
        leave_minutes=_BOOT_AND_END_MINUTES + math.ceil(grace / 60),
        nodes_at_once=disruption.nodes_at_once,
        node_classes=_node_classes(plan),
        node_pools=tuple(
            NodePoolPlan(
                name=rung.name,
                node_class=rung.name if rung.placement_group_name else plan.name,
                weight=rung.priority,
                capacity_type=_CAPACITY_TYPES.get(rung.kind, "reserved"),
                reservation=rung.reservation,
                max_nodes=rung.max_nodes,
                max_gpus=rung.max_nodes * plan.hardware.gpus,
            )
            for rung in plan.rungs
        ),
    )
