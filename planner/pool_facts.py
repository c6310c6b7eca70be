"""What the catalog says about a pool's hardware, and what stands against a pool that the stack file asks for."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.load import Catalog
from catalog.types import Gpu, Instance, Region
from planner.layout import Node, node_of
from planner.naming import NODE_GROUP_PREFIX_LIMIT, node_group_prefix
from planner.plan import SharingPlan
from planner.problems import Findings
from planner.sharing import node_of_slices, plan_sharing, slice_of
from settings.errors import did_you_mean
from settings.pools import (
    CapacityBlockRung,
    ExistingPool,
    KarpenterPool,
    NodeGroupPool,
    OnDemandRung,
    Pool,
    Rung,
    SpotRung,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What the catalog says about a pool's hardware."""

    pool: Pool
    gpu: Gpu
    """What a pod gets one of: the GPU, or a slice of it."""
    instance: Instance | None
    """None for nodes that exist."""
    sharing: SharingPlan | None = None

    def node(self) -> Node:
        """The node as layouts see it."""
        if self.instance is not None:
            return node_of_slices(node_of(self.instance, self.gpu), self.sharing)
        assert isinstance(self.pool, ExistingPool)  # noqa: S101 - the union has no third form
        whole = Node(
            gpu=self.gpu, gpus=self.pool.gpus_per_node, nvlink=self.pool.nvlink, gdr=False, name=self.pool.name
        )
        return node_of_slices(whole, self.sharing)


def look_up(
    index: int, pool: Pool, catalog: Catalog, region: Region | None, *, on_eks: bool, findings: Findings
) -> PoolFacts | None:
    """The catalog's facts about a pool; None (and a problem) where the stack file names something that is not there."""
    path = ("pools", index)
    if isinstance(pool, ExistingPool):
        if on_eks:
            findings.problem(
                (*path, "provisioner"), "an EKS target makes its own nodes", "use `provisioner: node_group`"
            )
            return None
        if pool.gpu not in catalog.gpus:
            findings.problem(
                (*path, "gpu"), f"`{pool.gpu}` is not in the catalog", did_you_mean(pool.gpu, catalog.gpus)
            )
            return None
        gpu = catalog.gpus[pool.gpu]
        sharing = plan_sharing(
            path,
            pool.sharing,
            gpu,
            gpus=pool.gpus_per_node,
            vcpus=pool.vcpus,
            memory_gib=pool.memory_gib,
            provisioner=pool.provisioner,
            findings=findings,
        )
        return PoolFacts(pool=pool, gpu=slice_of(gpu, sharing), instance=None, sharing=sharing)
    if not on_eks:
        findings.problem(
            (*path, "provisioner"),
            "an existing cluster brings its own nodes",
            "describe them with `provisioner: existing` (gpu, gpus_per_node, nodes, node_selector)",
        )
        return None
    assert isinstance(pool, NodeGroupPool)  # noqa: S101 - planner.karpenter looks up the third form
    return _look_up_instance(path, pool, catalog, region, findings)


def gpu_instance(
    path: tuple[str | int, ...], name: str, catalog: Catalog, findings: Findings
) -> tuple[Instance, Gpu] | None:
    """An instance type of the catalog and its GPU; None (and a problem at `path`) where it is unknown or has none."""
    instance = catalog.instances.get(name)
    if instance is None:
        with_gpus = [known for known, entry in catalog.instances.items() if entry.gpus]
        findings.problem(
            path,
            f"`{name}` is not in the catalog of GPU instances",
            did_you_mean(name, with_gpus) or "add it to catalog/instances.yaml with its source",
        )
        return None
    if not instance.gpu:
        findings.problem(path, f"{instance.name} has no GPU", "CPU nodes are `target.system_nodes`")
        return None
    return instance, catalog.gpus[instance.gpu]


def _look_up_instance(
    path: tuple[str | int, ...], pool: NodeGroupPool, catalog: Catalog, region: Region | None, findings: Findings
) -> PoolFacts | None:
    found = gpu_instance((*path, "instance_type"), pool.instance_type, catalog, findings)
    if region is not None:
        check_zone(path, pool, found[0] if found else None, region, findings)
    for position, rung in enumerate(pool.capacity):
        name = max((rung_name(pool, position, zone) for zone in zones_of_rungs(pool)), key=len)
        if len(name) > NODE_GROUP_PREFIX_LIMIT:
            findings.problem(
                (*path, "name"),
                f"`{name}` has {len(name)} characters, and a node group's name starts with {NODE_GROUP_PREFIX_LIMIT} "
                "at most",
                f"shorten the pool's name by {len(name) - NODE_GROUP_PREFIX_LIMIT}",
            )
        if isinstance(rung, SpotRung | OnDemandRung) and rung.nodes.min:
            findings.remark(
                f"pools[{path[1]}].capacity[{position}]",
                f"`up` waits for {rung.nodes.min} node(s) of `{name}`: EKS itself waits for a group's minimum",
            )
    if found is None:
        return None
    instance, gpu = found
    for position, rung in enumerate(pool.capacity):
        check_block(path, position, rung, instance, findings)
    sharing = sharing_on(path, pool, instance, gpu, findings)
    return PoolFacts(pool=pool, gpu=slice_of(gpu, sharing), instance=instance, sharing=sharing)


def sharing_on(
    path: tuple[str | int, ...],
    pool: NodeGroupPool | KarpenterPool,
    instance: Instance,
    gpu: Gpu,
    findings: Findings,
) -> SharingPlan | None:
    """How the GPUs of an EC2 type's nodes are cut."""
    return plan_sharing(
        path,
        pool.sharing,
        gpu,
        gpus=instance.gpus,
        vcpus=instance.vcpus,
        memory_gib=instance.memory_gib,
        provisioner=pool.provisioner,
        findings=findings,
    )


def check_block(path: tuple[str | int, ...], position: int, rung: Rung, instance: Instance, findings: Findings) -> None:
    """Refuses a capacity block of a type that none is sold for."""
    if isinstance(rung, CapacityBlockRung) and not instance.capacity_blocks:
        findings.problem(
            (*path, "capacity", position),
            f"capacity blocks are not sold for {instance.name}",
            "use spot or on_demand here; blocks exist for P types",
        )


def check_zone(
    path: tuple[str | int, ...],
    pool: NodeGroupPool | KarpenterPool,
    instance: Instance | None,
    region: Region,
    findings: Findings,
) -> None:
    """Refuses zones that are not there, or that do not offer the type (None: one that nobody knows)."""
    ids = {entry.name: entry.zone_id for entry in region.zones}
    names = tuple(ids)
    offered = region.offerings.get(instance.name, ()) if instance else ()
    for index, zone in enumerate(pool.zones):
        at = (*path, "availability_zones", index) if pool.availability_zones else (*path, "availability_zone")
        if zone not in names:
            findings.problem(
                at,
                f"`{zone}` is not a zone of {region.name}",
                did_you_mean(zone, names) or "zones: " + ", ".join(names),
            )
        elif instance is not None and zone not in offered:
            told = ", ".join(f"{name} ({ids[name]})" for name in offered)
            where = f"it is offered in {told}" if offered else f"no zone of {region.name} offers it"
            # The letters are each account's own, the ids are not.
            findings.problem(
                at, f"{zone} ({ids[zone]}) does not offer {instance.name}", f"{where} (catalog/offerings.yaml)"
            )


def zones_of_rungs(pool: NodeGroupPool) -> tuple[str | None, ...]:
    """A rung for each zone of a pool in several; else one, which need not say where it is."""
    return tuple(pool.availability_zones) or (None,)


def rung_name(pool: NodeGroupPool | KarpenterPool, position: int, zone: str | None = None) -> str:
    """Name of a rung, unique in the stack; `zone`: of a pool in several."""
    rung = pool.capacity[position]
    name = node_group_prefix(pool.name, rung.kind, getattr(rung, "reservation", None))
    return f"{name}-{zone.rpartition('-')[2]}" if zone else name
