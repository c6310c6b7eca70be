"""Nodes launched one by one: Karpenter, with a NodePool for each rung of each of its pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components._charts import release
from components._objects import custom_resource
from components.karpenter_resources import Ec2NodeClass, NodeOverlay, NodePool
from planner import naming
from planner.images import mirrored
from planner.plan import ChartPlan, KarpenterPlan, KarpenterPoolPlan, PoolPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class KarpenterNodes:
    """The AWS side of Karpenter and its nodes."""

    endpoint: pulumi.Input[str]
    """Of the API server."""
    queue_name: pulumi.Input[str]
    instance_profile: pulumi.Input[str]
    subnet_ids: Mapping[str, tuple[pulumi.Input[str], ...]]
    """By pool."""
    security_group_ids: Mapping[str, Sequence[pulumi.Input[str]]]
    """By pool."""
    volume_key_arn: pulumi.Input[str]
    ready: tuple[pulumi.Resource, ...] = ()
    """Permissions, queue and network: they outlive the last node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControllerArgs:
    """What the controller's chart is told."""

    chart: ChartPlan
    image_mirror: str | None
    plan: KarpenterPlan
    cluster_name: str
    endpoint: pulumi.Input[str]
    region: str
    queue_name: pulumi.Input[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class KarpenterArgs:
    """The controller, the pools and the AWS side of both."""

    controller: ControllerArgs
    definitions: ChartPlan
    """The chart of the custom resource definitions."""
    nodes: KarpenterNodes
    pools: tuple[PoolPlan, ...]
    tags: Mapping[str, str]
    after: tuple[pulumi.Resource, ...] = ()
    """What the controller and its nodes need: on destroy both are gone before any of it."""


def values(args: ControllerArgs) -> dict[str, Any]:
    """Chart values. Its pods run on system nodes: they refuse nodes of NodePools and tolerate no GPU taint."""
    return {
        "fullnameOverride": "karpenter",
        "replicas": args.plan.replicas,
        "serviceAccount": {"create": True, "name": naming.KARPENTER_ACCOUNT},
        "serviceMonitor": {"enabled": True},
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "controller": {
            "image": {"repository": mirrored("public.ecr.aws/karpenter/controller", args.image_mirror)},
            # Pods cannot ask the metadata service for it.
            "env": [{"name": "AWS_REGION", "value": args.region}],
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        },
        "settings": {
            "clusterName": args.cluster_name,
            "clusterEndpoint": args.endpoint,
            "interruptionQueue": args.queue_name,
            "isolatedVPC": args.plan.isolated,
            "featureGates": {
                # Tells how many slices a node will have whose GPUs are cut; an alpha feature, on only where needed.
                **({"nodeOverlay": True} if args.plan.overlays else {}),
                "reservedCapacity": True,
                # As in the node groups: a node whose GPU fails is replaced. The node monitoring agent tells which.
                "nodeRepair": True,
                # What a model runs on is never exchanged to save money.
                "spotToSpotConsolidation": False,
            },
        },
    }


class Karpenter(pulumi.ComponentResource):
    """Definitions, controller, node classes and node pools. Produces `release` and `node_pools`.

    On destroy the other way round. A NodePool that goes takes its nodes along, and an EC2NodeClass stays until the last
    of them is gone, so that the controller, its permissions and the network outlive every node.
    """

    release: pulumi.Resource
    node_pools: Mapping[str, tuple[pulumi.Resource, ...]]
    """By pool: models wait for them, and so are gone before their nodes are."""

    def __init__(self, name: str, args: KarpenterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Karpenter", name, None, opts)
        self._name = name
        self._args = args
        definitions = release(f"{name}-definitions", args.definitions, {}, parent=self, after=args.after)
        self.release = release(
            f"{name}-controller",
            args.controller.chart,
            values(args.controller),
            parent=self,
            after=[*args.after, definitions],
            # The chart carries a copy of the definitions, which Helm would never upgrade.
            skip_crds=True,
        )
        self.node_pools = {pool.name: self._pool(pool, pool.karpenter) for pool in args.pools if pool.karpenter}
        self.register_outputs({})

    def _pool(self, pool: PoolPlan, plan: KarpenterPoolPlan) -> tuple[pulumi.Resource, ...]:
        before = [*self._args.after, self.release]
        classes = {
            item.name: custom_resource(
                f"{self._name}-class-{item.name}",
                item,
                parent=self,
                after=before,
                delete_minutes=plan.leave_minutes,
            )
            for item in node_classes(pool, plan, self._args.nodes, self._args.tags)
        }
        # Before the first node is launched: without them Karpenter counts whole GPUs.
        told = [
            custom_resource(f"{self._name}-overlay-{item.name}", item, parent=self, after=before)
            for item in node_overlays(pool, plan)
        ]
        return tuple(
            custom_resource(
                f"{self._name}-pool-{item.name}", item, parent=self, after=[*before, *told, classes[item.node_class]]
            )
            for item in node_pools(pool, plan)
        )


def node_classes(
    pool: PoolPlan, plan: KarpenterPoolPlan, nodes: KarpenterNodes, tags: Mapping[str, str]
) -> tuple[Ec2NodeClass, ...]:
    """How the pool's instances are made."""
    return tuple(
        Ec2NodeClass(
            name=item.name,
            ami_alias=plan.ami_alias,
            instance_profile=nodes.instance_profile,
            subnet_ids=nodes.subnet_ids[pool.name],
            security_group_ids=tuple(nodes.security_group_ids[pool.name]),
            network_interfaces=pool.network_interfaces,
            max_pods=pool.hardware.max_pods,
            root_volume_gib=pool.root_volume_gib,
            volume_key_arn=nodes.volume_key_arn,
            instance_store=pool.hardware.nvme_gb > 0,
            reservations=item.reservations,
            placement_group=item.placement_group,
            tags={**tags, "Name": item.name},
        )
        for item in plan.node_classes
    )


def node_overlays(pool: PoolPlan, plan: KarpenterPoolPlan) -> tuple[NodeOverlay, ...]:
    """Slices in place of GPUs, where the pool's are cut."""
    if pool.sharing is None:
        return ()
    return (
        NodeOverlay(
            name=pool.name,
            node_pools=tuple(item.name for item in plan.node_pools),
            capacity={"nvidia.com/gpu": str(pool.hardware.gpus)},
        ),
    )


def node_pools(pool: PoolPlan, plan: KarpenterPoolPlan) -> tuple[NodePool, ...]:
    """One for each rung, with the labels and taints that the pool's pods look for."""
    labels = {rung.name: rung.labels for rung in pool.rungs}
    return tuple(
        NodePool(
            name=item.name,
            node_class=item.node_class,
            weight=item.weight,
            instance_types=plan.instance_types,
            zones=pool.zones,
            capacity_type=item.capacity_type,
            reservation=item.reservation,
            labels=labels[item.name],
            taints=pool.taints,
            max_nodes=item.max_nodes,
            max_gpus=item.max_gpus,
            consolidate_after_seconds=plan.consolidate_after_seconds,
            expire_after_seconds=plan.expire_after_seconds,
            termination_grace_seconds=plan.termination_grace_seconds,
            nodes_at_once=plan.nodes_at_once,
        )
        for item in plan.node_pools
    )
