"""Warm capacity: placeholder pods that hold nodes or parts of them, and give way to whoever serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components._pods import confined, idle_pod, pulls_with
from components.serving.pods import SKIP_AWAIT, tolerations
from planner import naming
from planner.plan.warm import WarmPlan

_NAME = "warm"


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmCapacityArgs:
    """Placeholders of all pools, and what must exist before."""

    plans: tuple[WarmPlan, ...]
    after: tuple[pulumi.Resource, ...] = ()
    pull_secret: str | None = None


def labels(plan: WarmPlan) -> dict[str, str]:
    """Of one set of placeholders; nothing else carries all three."""
    return {
        "app.kubernetes.io/name": _NAME,
        "app.kubernetes.io/instance": plan.name,
        naming.POOL_LABEL: plan.pool,
    }


def deployment_spec(plan: WarmPlan, pull_secret: str | None = None) -> dict[str, Any]:
    """Pods that ask for the GPUs of a node or of a replica's pod: cluster-autoscaler and Karpenter keep their nodes."""
    extended = {"nvidia.com/gpu": str(plan.gpus)}
    pod: dict[str, Any] = {
        "priorityClassName": plan.priority_class,
        **idle_pod(),
        **pulls_with(pull_secret),
        "nodeSelector": dict(plan.node_selector),
        "tolerations": tolerations(plan.taints),
        "containers": [
            {
                "name": "placeholder",
                "image": plan.image,
                "resources": {
                    "requests": {"cpu": "10m", "memory": "16Mi", **extended},
                    "limits": {"memory": "16Mi", **extended},
                },
                "securityContext": confined(),
            }
        ],
    }
    if len(plan.zones) > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels(plan)},
            }
        ]
    if plan.one_rung:
        pod["affinity"] = _one_rung(plan)
    return {
        "replicas": plan.pods,
        "selector": {"matchLabels": labels(plan)},
        # A second set of placeholders would boot a second set of nodes.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "template": {"metadata": {"labels": {**labels(plan), naming.PART_OF_LABEL: naming.PROJECT}}, "spec": pod},
    }


def _one_rung(plan: WarmPlan) -> dict[str, Any]:
    """Keeps a group's placeholders where a group can take their places: on one rung, each on a node of its own."""
    same = {"labelSelector": {"matchLabels": labels(plan)}}
    return {
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{**same, "topologyKey": naming.RUNG_LABEL}]},
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{**same, "topologyKey": "kubernetes.io/hostname"}]
        },
    }


class WarmCapacity(pulumi.ComponentResource):
    """A Deployment for each set of placeholders; nobody waits for their nodes."""

    def __init__(self, name: str, args: WarmCapacityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:WarmCapacity", name, None, opts)
        for plan in args.plans:
            spec: Any = deployment_spec(plan, args.pull_secret)
            kubernetes.apps.v1.Deployment(
                f"{name}-{plan.name}",
                metadata=kubernetes.meta.v1.ObjectMetaArgs(
                    name=plan.name,
                    namespace=plan.namespace,
                    labels={**labels(plan), naming.PART_OF_LABEL: naming.PROJECT},
                    annotations=SKIP_AWAIT,
                ),
                spec=spec,
                opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
            )
        self.register_outputs({})
