"""Namespaces, which several components share, and what pods in them may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pulumi
import pulumi_kubernetes as kubernetes

from planner import naming
from planner.plan import Plan

PodSecurity = Literal["privileged", "baseline", "restricted"]

CONTROLLER_SECURITY: Mapping[str, PodSecurity] = {
    # Drivers, device plugins and DCGM work on the host.
    naming.GPU_NAMESPACE: "privileged",
    # node-exporter reads the host's network, processes and disks.
    naming.MONITORING_NAMESPACE: "privileged",
    naming.CERTIFICATES_NAMESPACE: "restricted",
    naming.RAY_NAMESPACE: "restricted",
    naming.LWS_NAMESPACE: "restricted",
    naming.KEDA_NAMESPACE: "restricted",
    naming.LADDER_KEEPER: "restricted",
    naming.WARM_NAMESPACE: "restricted",
    naming.IMAGE_PULL_NAMESPACE: "restricted",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NamespacesArgs:
    """Which namespaces the platform owns."""

    levels: Mapping[str, PodSecurity]
    """Namespace -> Pod Security Standard that is enforced."""
    after: tuple[pulumi.Resource, ...] = ()


def levels(plan: Plan) -> dict[str, PodSecurity]:
    """The namespaces of a plan, by name, and what each enforces.

    Engines get what their pods need and no more: EFA's locked memory (IPC_LOCK) is refused by `baseline` already, and
    the engines' images run as root, which `restricted` refuses.
    """
    containers = [c for model in plan.models for c in (model.container, model.worker) if c is not None]
    serving: PodSecurity = "privileged" if any(c.capabilities for c in containers) else "baseline"
    found: dict[str, PodSecurity] = {model.namespace: serving for model in plan.models}
    found[naming.SERVING_NAMESPACE] = serving
    found[naming.MONITORING_NAMESPACE] = CONTROLLER_SECURITY[naming.MONITORING_NAMESPACE]
    for chart in plan.charts.values():
        if chart.namespace != naming.SYSTEM_NAMESPACE:  # there before us, on every cluster
            found.setdefault(chart.namespace, CONTROLLER_SECURITY.get(chart.namespace, "baseline"))
    if plan.ladder and plan.ladder.keeper:
        found[plan.ladder.keeper.namespace] = CONTROLLER_SECURITY[naming.LADDER_KEEPER]
    if plan.warm:
        found[naming.WARM_NAMESPACE] = CONTROLLER_SECURITY[naming.WARM_NAMESPACE]
    if plan.image_pulls:
        found[naming.IMAGE_PULL_NAMESPACE] = CONTROLLER_SECURITY[naming.IMAGE_PULL_NAMESPACE]
    return dict(sorted(found.items()))


def pod_security_labels(level: PodSecurity) -> dict[str, str]:
    """Labels of the Pod Security admission; where less than the strictest level is enforced, it still warns."""
    prefix = "pod-security.kubernetes.io"
    labels = {f"{prefix}/enforce": level}
    if level == "baseline":
        labels |= {f"{prefix}/warn": "restricted", f"{prefix}/audit": "restricted"}
    return labels


class Namespaces(pulumi.ComponentResource):
    """All namespaces of the platform. Produces `by_name`, for others to depend on."""

    by_name: Mapping[str, pulumi.Resource]

    def __init__(self, name: str, args: NamespacesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Namespaces", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, depends_on=list(args.after))
        self.by_name = {
            namespace: kubernetes.core.v1.Namespace(
                f"{name}-{namespace}",
                metadata=kubernetes.meta.v1.ObjectMetaArgs(
                    name=namespace, labels={naming.PART_OF_LABEL: naming.PROJECT} | pod_security_labels(level)
                ),
                opts=child,
            )
            for namespace, level in args.levels.items()
        }
        self.register_outputs({})
