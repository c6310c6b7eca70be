"""Pod templates, wherever a kind keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.records import Resource, at, listed, mapping

GPU_RESOURCE = "nvidia.com/gpu"
EFA_RESOURCE = "vpc.amazonaws.com/efa"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTemplate:
    """The pods that one part of a workload makes."""

    role: str
    """Which part: `pod`, `leader`, `worker`, `head`, or the name of a Ray worker group."""
    labels: Mapping[str, Any]
    spec: Mapping[str, Any]
    group_size: int
    """Pods that work as one: more than one where a replica spans nodes."""

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """The long-running containers."""
        return [mapping(item) for item in listed(self.spec.get("containers"))]

    @property
    def all_containers(self) -> list[Mapping[str, Any]]:
        """Init containers too."""
        return [*(mapping(item) for item in listed(self.spec.get("initContainers"))), *self.containers]

    def requested(self, resource: str) -> int:
        """How many devices of a kind its containers ask for together."""
        limits = [mapping(at(container, "resources.limits")) for container in self.containers]
        return sum(_count(limit.get(resource), 0) for limit in limits)


def pod_templates(resource: Resource) -> list[PodTemplate]:
    """Every pod template of a workload; none for what makes no pods."""
    return [found for found in _templates(resource) if found.spec]


def _templates(resource: Resource) -> Iterator[PodTemplate]:
    spec = mapping(resource.props.get("spec"))
    kind = resource.kind
    if kind == "Pod":
        yield PodTemplate(role="pod", labels=mapping(at(resource.props, "metadata.labels")), spec=spec, group_size=1)
    elif kind in {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"}:
        yield _template("pod", spec.get("template"), 1)
    elif kind == "CronJob":
        yield _template("pod", at(spec, "jobTemplate.spec.template"), 1)
    elif kind == "LeaderWorkerSet":
        size = _count(at(spec, "leaderWorkerTemplate.size"), 1)
        worker = at(spec, "leaderWorkerTemplate.workerTemplate")
        yield _template("leader", at(spec, "leaderWorkerTemplate.leaderTemplate") or worker, size)
        if size > 1:
            yield _template("worker", worker, size)
    elif kind in {"RayCluster", "RayService", "RayJob"}:
        cluster = spec if kind == "RayCluster" else mapping(spec.get("rayClusterConfig") or spec.get("rayClusterSpec"))
        yield _template("head", at(cluster, "headGroupSpec.template"), 1)
        for group in listed(cluster.get("workerGroupSpecs")):
            hosts = _count(at(group, "numOfHosts"), 1)
            yield _template(str(at(group, "groupName") or "workers"), at(group, "template"), hosts)


def _template(role: str, value: Any, group_size: int) -> PodTemplate:
    return PodTemplate(
        role=role,
        labels=mapping(at(value, "metadata.labels")),
        spec=mapping(at(value, "spec")),
        group_size=group_size,
    )


def _count(value: Any, otherwise: int) -> int:
    """A number as Kubernetes and the engine write it: 2, 2.0 or "2"."""
    return int(float(value)) if isinstance(value, int | float | str) else otherwise
