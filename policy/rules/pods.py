"""Pods: images, privileges, and the network between nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from catalog.load import load
from planner.naming import EFA_GATE_CONTAINER, EFA_GATE_STATE
from policy.pods import EFA_RESOURCE, GPU_RESOURCE, PodTemplate, pod_templates
from policy.records import UNKNOWN, Report, Resource, ResourceRule, Rule, StackReport, StackRule, at, listed, mapping
from policy.rules.nodes import POOL_LABEL, instance_types, pool_of

FLOATING_TAGS = frozenset({"latest", "main", "master", "nightly", "dev", "edge", "stable", "canary", "head"})
_TAG = re.compile(r":([\w][\w.-]{0,127})$")


def floats(image: str) -> str | None:
    """Why the image of a reference may change, in words; None for a pinned one."""
    if "@sha256:" in image:
        return None
    tag = _TAG.search(image.rsplit("/", 1)[-1])
    if tag is None:
        return "has no tag"
    return f"has the tag `{tag[1]}`, which moves" if tag[1].lower() in FLOATING_TAGS else None


def images_pinned(resource: Resource, report: Report) -> None:
    """What runs changes by a change here, or not at all."""
    for template in pod_templates(resource):
        for container in template.all_containers:
            image = container.get("image")
            reason = floats(image) if isinstance(image, str) else None
            if reason:
                report(f"{template.role}: image {image} {reason}: name a release or a digest")


def pods_confined(resource: Resource, report: Report) -> None:
    """Pods of ours need nothing of the host; drivers and device plugins come from charts."""
    for template in pod_templates(resource):
        for flag in ("hostNetwork", "hostPID", "hostIPC"):
            if template.spec.get(flag) is True:
                report(f"{template.role}: {flag} gives the pod the host's: leave it out")
        if _opens_the_host(template):
            report(f"{template.role}: a hostPath volume opens the host's files: use a claim or an emptyDir")
        for container in template.all_containers:
            security = container.get("securityContext")
            if at(security, "privileged") is True:
                report(f"{template.role}: container {container.get('name')} is privileged")
            if at(security, "allowPrivilegeEscalation") not in {False, UNKNOWN}:
                report(f"{template.role}: container {container.get('name')} may gain privileges")


def _opens_the_host(template: PodTemplate) -> bool:
    """Whether a volume shows the host's files; the EFA gate's own directory may be seen by the gate alone."""
    for volume in listed(template.spec.get("volumes")):
        if at(volume, "hostPath") is None:
            continue
        name = at(volume, "name")
        readers = {
            container.get("name")
            for container in template.all_containers
            if any(at(mount, "name") == name for mount in listed(container.get("volumeMounts")))
        }
        if at(volume, "hostPath.path") != EFA_GATE_STATE or readers - {EFA_GATE_CONTAINER}:
            return True
    return False


def groups_alike(resources: Sequence[Resource], report: StackReport) -> None:
    """Ranks of a group are equals: one with less memory or shared memory fails under load, and takes all down."""
    for workload in resources:
        groups = [template for template in pod_templates(workload) if template.group_size > 1]
        for what, asked in _asked(groups).items():
            if len(set(asked.values())) > 1:
                told = ", ".join(f"{role} {amount or 'none'}" for role, amount in asked.items())
                report(f"pods of one group ask for different amounts of {what} ({told})", workload)


def _asked(groups: Sequence[PodTemplate]) -> dict[str, dict[str, str]]:
    """By resource and role: what the engine's container may use, and the size of /dev/shm."""
    found: dict[str, dict[str, str]] = {}
    for template in groups:
        for container in template.containers:
            for resource, amount in mapping(at(container, "resources.limits")).items():
                found.setdefault(str(resource), {})[template.role] = str(amount)
        for volume in listed(template.spec.get("volumes")):
            if at(volume, "emptyDir.medium") == "Memory":
                found.setdefault("shared memory", {})[template.role] = str(at(volume, "emptyDir.sizeLimit"))
    roles = [template.role for template in groups]
    return {what: {role: asked.get(role, "") for role in roles} for what, asked in found.items()}


def groups_use_efa(resources: Sequence[Resource], report: StackReport) -> None:
    """A group over several nodes without EFA talks TCP, ten times slower, and says so nowhere."""
    fast = _pools_with_efa(resources)
    for workload in resources:
        groups = [template for template in pod_templates(workload) if template.group_size > 1]
        for template in groups:
            pool = mapping(template.spec.get("nodeSelector")).get(POOL_LABEL)
            if pool in fast and template.requested(GPU_RESOURCE) and not template.requested(EFA_RESOURCE):
                report(f"{template.role}: no {EFA_RESOURCE}, though nodes of pool {pool} have it", workload)


def _pools_with_efa(resources: Sequence[Resource]) -> set[str]:
    instances = load().instances
    found: set[str] = set()
    for group in resources:
        name = pool_of(group)
        types = instance_types(group, resources) if name else ()
        if name and any(kind in instances and instances[kind].efa_interfaces for kind in types):
            found.add(name)
    return found


RULES: tuple[Rule, ...] = (
    ResourceRule(
        name="images-pinned",
        description="Every image of a pod names a release or a digest.",
        check=images_pinned,
    ),
    ResourceRule(
        name="pods-confined",
        description="Pods take no privilege, and nothing of the host.",
        check=pods_confined,
    ),
    StackRule(
        name="groups-use-efa",
        description="Pods of a group over several nodes ask for EFA where their nodes have it.",
        check=groups_use_efa,
    ),
    StackRule(
        name="groups-alike",
        description="Leader and workers of a group ask for the same GPUs, EFA devices, memory and shared memory.",
        check=groups_alike,
    ),
)
