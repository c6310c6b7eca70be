"""Nodes: taints, metadata service, disks, capacity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from catalog.load import load
from policy.records import (
    UNKNOWN,
    Report,
    Resource,
    ResourceRule,
    Rule,
    StackReport,
    StackRule,
    at,
    is_true,
    linked,
    listed,
    mapping,
)

NODE_GROUP = "aws:eks/nodeGroup:NodeGroup"
LAUNCH_TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
GPU_TAINT = "nvidia.com/gpu"
POOL_LABEL = "inference-platform/pool"


def instance_types(group: Resource, resources: Sequence[Resource]) -> set[str]:
    """Instance types of a node group: its own, or that of its launch template (capacity blocks)."""
    named = {str(item) for item in listed(group.props.get("instanceTypes"))}
    for template in resources:
        if template.type == LAUNCH_TEMPLATE and linked(group, "launchTemplate.id", template, "id"):
            named |= {str(item) for item in listed(template.props.get("instanceType"))}
    return named


def has_gpus(group: Resource) -> bool:
    """Whether nodes of the group carry GPUs, by what the group itself says."""
    if "NVIDIA" in str(group.props.get("amiType")):
        return True
    catalog = load().instances
    return any(str(name) in catalog and catalog[str(name)].gpus for name in listed(group.props.get("instanceTypes")))


def pool_of(group: Resource) -> str | None:
    """The pool that a node group's label names."""
    name = mapping(group.props.get("labels")).get(POOL_LABEL) if group.type == NODE_GROUP else None
    return name if isinstance(name, str) else None


def gpu_nodes_tainted(resource: Resource, report: Report) -> None:
    """Without the taint any pod may fill a GPU node, and the autoscaler cannot take it away."""
    if resource.type != NODE_GROUP or not has_gpus(resource):
        return
    taints = resource.props.get("taints")
    effects = {at(taint, "effect") for taint in listed(taints) if at(taint, "key") == GPU_TAINT}
    if taints is not UNKNOWN and not effects & {"NO_SCHEDULE", "NO_EXECUTE", UNKNOWN}:
        report(f"GPU nodes without the taint {GPU_TAINT}: add it with the effect NO_SCHEDULE")


def node_groups_have_launch_template(resource: Resource, report: Report) -> None:
    """EKS's own template leaves IMDSv1 on with two hops, and its disks to the account's default encryption."""
    if resource.type == NODE_GROUP and resource.props.get("launchTemplate") is None:
        report("a node group without launch template: metadata service and disks are then as EKS chooses")


def metadata_service_closed(resource: Resource, report: Report) -> None:
    """With IMDSv1 or a second hop a pod can take the node's role."""
    if resource.type != LAUNCH_TEMPLATE:
        return
    options = resource.props.get("metadataOptions")
    if at(options, "httpEndpoint") == "disabled":
        return
    if at(options, "httpTokens") not in {"required", UNKNOWN}:
        report('instance metadata without tokens: set metadataOptions.httpTokens to "required" (IMDSv2)')
    if at(options, "httpPutResponseHopLimit") not in {1, UNKNOWN}:
        report("instance metadata reaches into pods: set metadataOptions.httpPutResponseHopLimit to 1")


def disks_encrypted(resource: Resource, report: Report) -> None:
    """Volumes of nodes, of claims and alone."""
    if resource.type == LAUNCH_TEMPLATE:
        mappings = resource.props.get("blockDeviceMappings")
        if mappings is None:
            report("the root volume is as the AMI has it: give a block device mapping with ebs.encrypted")
        for item in listed(mappings):
            if at(item, "ebs") is not None and not is_true(at(item, "ebs.encrypted")):
                report(f"volume {at(item, 'deviceName')} is not encrypted: set ebs.encrypted")
    elif resource.type == "aws:ebs/volume:Volume" and not is_true(resource.props.get("encrypted")):
        report("the volume is not encrypted: set encrypted")
    elif _is_ebs_class(resource) and not is_true(at(resource.props, "parameters.encrypted")):
        report('volumes of this StorageClass are not encrypted: set parameters.encrypted to "true"')


def _is_ebs_class(resource: Resource) -> bool:
    return resource.kind == "StorageClass" and resource.props.get("provisioner") == "ebs.csi.aws.com"


def no_public_addresses(resource: Resource, report: Report) -> None:
    """Nodes live in private subnets."""
    if resource.type != LAUNCH_TEMPLATE:
        return
    for interface in listed(resource.props.get("networkInterfaces")):
        if at(interface, "associatePublicIpAddress") in {True, "true"}:
            report(f"network card {at(interface, 'networkCardIndex') or 0} asks for a public address: leave it out")


def no_placement_group_in_capacity_block(resource: Resource, report: Report) -> None:
    """A capacity block is placed already; with a placement group of ours its instances cannot start."""
    if resource.type != LAUNCH_TEMPLATE or at(resource.props, "instanceMarketOptions.marketType") != "capacity-block":
        return
    for key in ("groupName", "groupId"):
        if at(resource.props, f"placement.{key}") is not None:
            report("a capacity block with a placement group: leave `placement` out, the reservation is placed already")


def spot_has_fallback(resources: Sequence[Resource], report: StackReport) -> None:
    """A pool of spot nodes alone has no node while AWS has none to spare."""
    pools: defaultdict[str, list[Resource]] = defaultdict(list)
    for group in resources:
        if name := pool_of(group):
            pools[name].append(group)
    for name, groups in pools.items():
        if {group.props.get("capacityType") for group in groups} == {"SPOT"}:
            report(f"pool {name} has spot capacity alone: add an on_demand rung if its models must answer", groups[0])


RULES: tuple[Rule, ...] = (
    ResourceRule(
        name="gpu-nodes-tainted",
        description="GPU node groups carry the nvidia.com/gpu taint.",
        check=gpu_nodes_tainted,
    ),
    ResourceRule(
        name="node-groups-have-launch-template",
        description="Every node group starts from a launch template of ours.",
        check=node_groups_have_launch_template,
    ),
    ResourceRule(
        name="metadata-service-closed",
        description="IMDSv2 only, and one hop: pods cannot take the node's role.",
        check=metadata_service_closed,
    ),
    ResourceRule(
        name="disks-encrypted",
        description="Volumes of nodes and claims are encrypted.",
        check=disks_encrypted,
    ),
    ResourceRule(
        name="no-public-addresses",
        description="Nodes have no public address.",
        check=no_public_addresses,
    ),
    ResourceRule(
        name="no-placement-group-in-capacity-block",
        description="A capacity block comes without a placement group.",
        check=no_placement_group_in_capacity_block,
    ),
    StackRule(
        name="spot-has-fallback",
        description="A pool of spot nodes has another rung below.",
        check=spot_has_fallback,
        level="advisory",
    ),
)
