"""Ray clusters and services: the KubeRay operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components._charts import release
from planner import naming
from planner.images import mirrored
from planner.plan import ChartPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class KubeRayArgs:
    """Where the operator comes from."""

    chart: ChartPlan
    image_mirror: str | None
    after: tuple[pulumi.Resource, ...] = ()


def values(args: KubeRayArgs) -> dict[str, Any]:
    """Chart values."""
    return {
        "image": {"repository": mirrored("quay.io/kuberay/operator", args.image_mirror)},
        "priorityClassName": naming.CONTROLLER_PRIORITY,
        "metrics": {"serviceMonitor": {"enabled": True}},
        # The chart's 100m and 512Mi throttle reconciles; 500 Ray pods take about 500 MB (values.yaml of the chart).
        "resources": {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
    }


class KubeRay(pulumi.ComponentResource):
    """The KubeRay operator. Produces `release`, which brings RayCluster and RayService."""

    release: pulumi.Resource

    def __init__(self, name: str, args: KubeRayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:KubeRay", name, None, opts)
        self.release = release(f"{name}-operator", args.chart, values(args), parent=self, after=args.after)
        self.register_outputs({})
