"""Karpenter: nodes that no launch template or node group of ours describes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from policy.records import UNKNOWN, Report, Resource, ResourceRule, Rule, StackReport, StackRule, at, is_true, listed
from policy.rules.nodes import GPU_TAINT, POOL_LABEL

_PINNED = re.compile(r"@v[0-9]+(\.[0-9]+)*$")


def node_classes_closed(resource: Resource, report: Report) -> None:
    """What a launch template is held to, an EC2NodeClass is."""
    if resource.kind != "EC2NodeClass":
        return
    spec = resource.props.get("spec")
    if spec is UNKNOWN:
        return
    options = at(spec, "metadataOptions")
    if options is not None and at(options, "httpTokens") not in {None, "required", UNKNOWN}:
        report('instance metadata without tokens: set metadataOptions.httpTokens to "required" (IMDSv2)')
    if options is not None and at(options, "httpPutResponseHopLimit") not in {None, 1, UNKNOWN}:
        report("instance metadata reaches into pods: set metadataOptions.httpPutResponseHopLimit to 1")
    disks = at(spec, "blockDeviceMappings")
    if disks is None:
        report("the root volume is as the AMI has it: give a block device mapping with ebs.encrypted")
    for disk in listed(disks):
        if not is_true(at(disk, "ebs.encrypted")):
            report(f"volume {at(disk, 'deviceName')} is not encrypted: set ebs.encrypted")
    if is_true(at(spec, "associatePublicIPAddress")) and at(spec, "associatePublicIPAddress") is not UNKNOWN:
        report("nodes ask for public addresses, which EC2 refuses with EFA: leave associatePublicIPAddress out")


def node_images_pinned(resource: Resource, report: Report) -> None:
    """`@latest` replaces every node on the day that AWS publishes an image."""
    if resource.kind != "EC2NodeClass":
        return
    for term in listed(at(resource.props, "spec.amiSelectorTerms")):
        alias = at(term, "alias")
        if isinstance(alias, str) and not _PINNED.search(alias):
            report(f"image `{alias}` moves: name a release, as in al2023@v20260903")
        if at(term, "name") is not None or at(term, "tags") is not None:
            report("an image by name or tags moves with whatever matches next: name a release by alias, or an id")


def node_pools_safe(resource: Resource, report: Report) -> None:
    """GPU nodes that Karpenter makes: tainted, bounded, and never taken from under a model to save money."""
    if resource.kind != "NodePool":
        return
    spec = resource.props.get("spec")
    if spec is UNKNOWN:
        return
    taints = at(spec, "template.spec.taints")
    keys = {at(taint, "key") for taint in listed(taints) if at(taint, "effect") in {"NoSchedule", "NoExecute"}}
    if taints is not UNKNOWN and GPU_TAINT not in keys:
        report(f"nodes without the taint {GPU_TAINT}: add it with the effect NoSchedule")
    if at(spec, "limits") is None:
        report("no limits: whoever can make pods can make any number of GPU nodes; set limits")
    if at(spec, "disruption.consolidationPolicy") not in {"WhenEmpty", UNKNOWN}:
        report("nodes are exchanged while models run on them: set disruption.consolidationPolicy to WhenEmpty")
    if at(spec, "template.spec.expireAfter") is None:
        report('nodes end after 30 days, Karpenter\'s default: set expireAfter ("Never", or an age that is meant)')


def karpenter_spot_has_fallback(resources: Sequence[Resource], report: StackReport) -> None:
    """As for node groups: a pool of spot nodes alone has no node while AWS has none to spare."""
    pools: defaultdict[str, list[Resource]] = defaultdict(list)
    for item in resources:
        labels = at(item.props, "spec.template.metadata.labels") if item.kind == "NodePool" else None
        if isinstance(labels, dict) and isinstance(name := labels.get(POOL_LABEL), str):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            pools[name].append(item)
    for name, found in pools.items():
        if {kind for item in found for kind in _capacity_types(item)} == {"spot"}:
            report(f"pool {name} has spot capacity alone: add an on_demand rung if its models must answer", found[0])


def _capacity_types(node_pool: Resource) -> set[str]:
    """What a NodePool may launch; everything where it does not say."""
    for requirement in listed(at(node_pool.props, "spec.template.spec.requirements")):
        if at(requirement, "key") == "karpenter.sh/capacity-type":
            return {str(value) for value in listed(at(requirement, "values"))}
    return {"reserved", "spot", "on-demand"}


RULES: tuple[Rule, ...] = (
    ResourceRule(
        name="node-classes-closed",
        description="Karpenter's nodes have IMDSv2 with one hop, encrypted disks and no public address.",
        check=node_classes_closed,
    ),
    ResourceRule(
        name="node-images-pinned",
        description="Karpenter's nodes start from an image of one release.",
        check=node_images_pinned,
    ),
    ResourceRule(
        name="node-pools-safe",
        description="NodePools are tainted and limited, and take no node that models run on.",
        check=node_pools_safe,
    ),
    StackRule(
        name="karpenter-spot-has-fallback",
        description="A pool of Karpenter's spot nodes has another rung below.",
        check=karpenter_spot_has_fallback,
        level="advisory",
    ),
)
