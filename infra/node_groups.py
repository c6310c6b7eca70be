"""EKS managed node groups: the CPU nodes of the platform, and one group for each rung of each GPU pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra import launch_template
from infra.efa import efa_security_group
from infra.identity import Statement, document, service_trust
from infra.providers import Account
from planner.plan import PoolPlan, RungPlan, SystemGroupPlan

_CAPACITY_TYPE = {
    "spot": "SPOT",
    "on_demand": "ON_DEMAND",
    "capacity_reservation": "ON_DEMAND",  # which reservation it fills is the template's word
    "capacity_block": "CAPACITY_BLOCK",
}
_TAINT_EFFECT = {"NoSchedule": "NO_SCHEDULE", "NoExecute": "NO_EXECUTE", "PreferNoSchedule": "PREFER_NO_SCHEDULE"}
# cluster-autoscaler owns the number of nodes from the first start on.
# https://github.com/kubernetes/autoscaler/tree/master/cluster-autoscaler/cloudprovider/aws
_OWNED_BY_AUTOSCALER = ["scalingConfig.desiredSize"]
# A calendar's scheduled actions move the minimum as well; its last `end` puts it back to the rung's own.
_OWNED_BY_CALENDAR = ["scalingConfig.minSize"]
_SYSTEM_ROOT_GIB = 100


class NodeRole(pulumi.ComponentResource):
    """A role of nodes: join, pull images, be reached through Session Manager (nodes have no SSH key)."""

    arn: pulumi.Output[str]
    name: pulumi.Output[str]
    permissions: tuple[pulumi.Resource, ...]
    """Node groups wait for them, and are gone before them: a node without them can neither join nor leave."""

    def __init__(
        self,
        name: str,
        account: Account,
        opts: pulumi.ResourceOptions | None = None,
        *,
        statements: tuple[Statement, ...] = (),
    ) -> None:
        super().__init__("inference:index:NodeRole", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            f"{name}-role",
            description="EKS nodes",
            assume_role_policy=service_trust("ec2.amazonaws.com"),
            opts=child,
        )
        own = (
            [aws.iam.RolePolicy(f"{name}-policy", role=role.name, policy=document(statements), opts=child)]
            if statements
            else []
        )
        attached = (
            aws.iam.RolePolicyAttachment(
                f"{name}-{policy}",
                role=role.name,
                policy_arn=account.global_arn("iam", f"policy/{policy}", owner="aws"),
                opts=child,
            )
            for policy in (
                "AmazonEKSWorkerNodePolicy",
                "AmazonEC2ContainerRegistryPullOnly",
                "AmazonSSMManagedInstanceCore",
            )
        )
        self.permissions = (*attached, *own)
        self.arn = role.arn
        self.name = role.name
        self.register_outputs({"arn": self.arn})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHome:
    """What every node group of a cluster shares."""

    cluster_name: pulumi.Input[str]
    kubernetes_version: str
    cluster_security_group_id: pulumi.Input[str]
    vpc_id: pulumi.Input[str]
    node_role_arn: pulumi.Input[str]
    tags: Mapping[str, str]
    after: tuple[pulumi.Resource, ...]
    """Permissions, network and CNI: what a node needs to become ready, and to leave in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemNodesArgs:
    """The planned CPU nodes and their subnets."""

    plan: SystemGroupPlan
    home: NodeHome
    subnet_ids: Sequence[pulumi.Input[str]]


class SystemNodes(pulumi.ComponentResource):
    """Untainted CPU nodes over the zones of the control plane for controllers, routers, Ray heads and monitoring."""

    group: aws.eks.NodeGroup

    def __init__(self, name: str, args: SystemNodesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:SystemNodes", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        plan, home = args.plan, args.home
        template = aws.ec2.LaunchTemplate(
            f"{name}-template",
            update_default_version=True,
            metadata_options=launch_template.instance_metadata(),
            block_device_mappings=[launch_template.root_volume(_SYSTEM_ROOT_GIB)],
            vpc_security_group_ids=[home.cluster_security_group_id],
            tag_specifications=launch_template.tag_specifications({**home.tags, "Name": name}),
            opts=child,
        )
        self.group = aws.eks.NodeGroup(
            f"{name}-nodes",
            cluster_name=home.cluster_name,
            node_group_name_prefix=f"{name}-",
            node_role_arn=home.node_role_arn,
            subnet_ids=args.subnet_ids,
            version=home.kubernetes_version,
            ami_type=plan.ami_type,
            release_version=plan.release_version,
            capacity_type="ON_DEMAND",
            instance_types=[plan.instance_type],
            launch_template=aws.eks.NodeGroupLaunchTemplateArgs(
                id=template.id, version=launch_template.version_of(template)
            ),
            scaling_config=aws.eks.NodeGroupScalingConfigArgs(
                min_size=plan.min_nodes, max_size=plan.max_nodes, desired_size=plan.min_nodes
            ),
            update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable=1),
            node_repair_config=aws.eks.NodeGroupNodeRepairConfigArgs(enabled=True),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(home.after), ignore_changes=_OWNED_BY_AUTOSCALER),
        )
        self.register_outputs({})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPoolArgs:
    """The planned pool and the subnets of its zones."""

    plan: PoolPlan
    home: NodeHome
    subnet_ids: Mapping[str, pulumi.Input[str]]
    """By zone."""


class GpuPool(pulumi.ComponentResource):
    """GPU nodes of one instance type: a launch template and a managed node group, in one zone, for each rung."""

    groups: tuple[aws.eks.NodeGroup, ...]

    def __init__(self, name: str, args: GpuPoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:GpuPool", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        groups: list[pulumi.Input[str]] = [args.home.cluster_security_group_id]
        edges: tuple[pulumi.Resource, ...] = ()
        if args.plan.hardware.efa_devices:
            efa, edges = efa_security_group(name, args.plan.name, vpc_id=args.home.vpc_id, opts=self._child)
            groups.append(efa.id)
        self.groups = tuple(self._rung(rung, groups, edges) for rung in args.plan.rungs)
        self.register_outputs({})

    def _rung(
        self, rung: RungPlan, security_groups: Sequence[pulumi.Input[str]], edges: tuple[pulumi.Resource, ...]
    ) -> aws.eks.NodeGroup:
        # The pool's name is in the component's already.
        base = f"{self._name}-{rung.name.removeprefix(f'{self._args.plan.name}-')}"
        plan, home = self._args.plan, self._args.home
        template = self._template(base, rung, security_groups)
        in_block = rung.kind == "capacity_block"
        group = aws.eks.NodeGroup(
            f"{base}-nodes",
            cluster_name=home.cluster_name,
            node_group_name_prefix=f"{rung.name}-",
            node_role_arn=home.node_role_arn,
            subnet_ids=[self._args.subnet_ids[rung.zone or str(plan.zone)]],
            version=home.kubernetes_version,
            ami_type=plan.ami_type,
            release_version=plan.release_version,
            capacity_type=_CAPACITY_TYPE[rung.kind],
            # In a block's template instead: EKS takes it from one place only, and for blocks from there.
            instance_types=None if in_block or plan.hardware.instance_type is None else [plan.hardware.instance_type],
            launch_template=aws.eks.NodeGroupLaunchTemplateArgs(
                id=template.id, version=launch_template.version_of(template)
            ),
            scaling_config=aws.eks.NodeGroupScalingConfigArgs(
                min_size=rung.min_nodes, max_size=rung.max_nodes, desired_size=rung.desired_nodes
            ),
            # DEFAULT starts new nodes before it drains old ones: with scarce GPUs the upgrade would wait for nodes that
            # nobody sells. MINIMAL takes one away first.
            update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable=1, update_strategy="MINIMAL"),
            node_repair_config=_repairs(plan),
            labels=dict(rung.labels),
            taints=[
                aws.eks.NodeGroupTaintArgs(key=taint.key, value=taint.value, effect=_TAINT_EFFECT[taint.effect])
                for taint in plan.taints
            ],
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[*home.after, *edges],
                ignore_changes=_OWNED_BY_AUTOSCALER + (_OWNED_BY_CALENDAR if rung.schedule else []),
            ),
        )
        self._scaling_hints(base, group)
        self._scheduled_sizes(base, rung, group)
        return group

    def _template(
        self, base: str, rung: RungPlan, security_groups: Sequence[pulumi.Input[str]]
    ) -> aws.ec2.LaunchTemplate:
        plan, home = self._args.plan, self._args.home
        placement = None
        if rung.placement_group:
            cluster = aws.ec2.PlacementGroup(f"{base}-placement", strategy="cluster", opts=self._child)
            placement = aws.ec2.LaunchTemplatePlacementArgs(group_name=cluster.name)
        elif rung.placement_group_name is not None:
            placement = aws.ec2.LaunchTemplatePlacementArgs(group_name=rung.placement_group_name)
        interfaces = launch_template.network_interfaces(plan.network_interfaces, security_groups)
        market, instance_type = None, None
        if rung.kind == "capacity_block":
            market = aws.ec2.LaunchTemplateInstanceMarketOptionsArgs(market_type="capacity-block")
            instance_type = plan.hardware.instance_type
        return aws.ec2.LaunchTemplate(
            f"{base}-template",
            update_default_version=True,
            instance_type=instance_type,
            instance_market_options=market,
            capacity_reservation_specification=(
                launch_template.reserved(rung.reservation) if rung.reservation is not None else None
            ),
            placement=placement,
            network_interfaces=interfaces or None,
            # EC2 takes security groups on the interfaces or on the template, not both.
            vpc_security_group_ids=None if interfaces else list(security_groups),
            metadata_options=launch_template.instance_metadata(),
            block_device_mappings=[launch_template.root_volume(plan.root_volume_gib)],
            user_data=launch_template.instance_store_user_data() if plan.hardware.nvme_gb else None,
            tag_specifications=launch_template.tag_specifications({**home.tags, "Name": rung.name}),
            opts=self._child,
        )

    def _scheduled_sizes(self, base: str, rung: RungPlan, group: aws.eks.NodeGroup) -> None:
        """The calendar, as scheduled actions of the scaling group: it asks this rung alone, whoever waits."""
        for step in rung.schedule:
            aws.autoscaling.Schedule(
                f"{base}-{step.name}",
                scheduled_action_name=step.name,
                autoscaling_group_name=group.resources.apply(scaling_group_of),
                time_zone=step.timezone,
                recurrence=step.recurrence,
                min_size=step.min_nodes,
                # -1: as it is then.
                max_size=-1,
                desired_capacity=-1 if step.desired_nodes is None else step.desired_nodes,
                # An update repeats the start time that EC2 once answered with, and EC2 refuses one that has passed
                # (terraform-provider-aws, internal/service/autoscaling/schedule.go). Made anew it has none.
                opts=pulumi.ResourceOptions(
                    parent=self,
                    replace_on_changes=["recurrence", "time_zone", "min_size", "desired_capacity"],
                    delete_before_replace=True,
                ),
            )

    def _scaling_hints(self, base: str, group: aws.eks.NodeGroup) -> None:
        """Tags that tell cluster-autoscaler what a node of an empty group will offer beyond what EC2 says of its type.

        Labels and taints it reads from EKS. On every rung: one that has nodes now may have none after a reclaim.
        """
        hardware = self._args.plan.hardware
        offers = {
            "nvidia.com/gpu": str(hardware.gpus),
            "ephemeral-storage": f"{hardware.nvme_gb}G" if hardware.nvme_gb else f"{self._args.plan.root_volume_gib}Gi",
        }
        if hardware.efa_devices:
            offers["vpc.amazonaws.com/efa"] = str(hardware.efa_devices)
        if hardware.hugepages_mib:
            offers["hugepages-2Mi"] = f"{hardware.hugepages_mib}Mi"
        scaling_group = group.resources.apply(scaling_group_of)
        for resource, quantity in offers.items():
            self._scaling_hint(
                f"{base}-offers-{resource.rpartition('/')[2]}", scaling_group, f"resources/{resource}", quantity
            )
        for label, value in self._args.plan.later_labels.items():
            self._scaling_hint(f"{base}-label-{label.rpartition('/')[2]}", scaling_group, f"label/{label}", value)

    def _scaling_hint(self, name: str, scaling_group: pulumi.Input[str], key: str, value: str) -> None:
        aws.autoscaling.Tag(
            name,
            autoscaling_group_name=scaling_group,
            tag=aws.autoscaling.TagTagArgs(
                key=f"k8s.io/cluster-autoscaler/node-template/{key}", value=value, propagate_at_launch=False
            ),
            opts=self._child,
        )


def _repairs(plan: PoolPlan) -> aws.eks.NodeGroupNodeRepairConfigArgs:
    """One node at a time, by what the monitoring agent says of its GPUs."""
    return aws.eks.NodeGroupNodeRepairConfigArgs(
        enabled=True,
        max_parallel_nodes_repaired_count=1,
        node_repair_config_overrides=[
            aws.eks.NodeGroupNodeRepairConfigNodeRepairConfigOverrideArgs(
                node_monitoring_condition="AcceleratedHardwareReady",
                node_unhealthy_reason=repair.reason,
                min_repair_wait_time_mins=repair.wait_minutes,
                repair_action=repair.action,
            )
            for repair in plan.repairs
        ]
        or None,
    )


def scaling_group_of(resources: Sequence[aws.eks.outputs.NodeGroupResource]) -> str:
    """The Auto Scaling group behind a managed node group; there is exactly one."""
    for resource in resources:
        for group in resource.autoscaling_groups or ():
            if group.name:
                return group.name
    raise ValueError("EKS answered without an Auto Scaling group for the node group")
