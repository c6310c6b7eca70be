"""Replicas by engine metrics: KEDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components._charts import release
from planner import naming
from planner.images import registry
from planner.plan import ChartPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class KedaArgs:
    """Where KEDA comes from."""

    chart: ChartPlan
    image_mirror: str | None
    after: tuple[pulumi.Resource, ...] = ()


def values(args: KedaArgs) -> dict[str, Any]:
    """Chart values; its default rights cover every kind with a scale subresource, LeaderWorkerSets too."""
    image = {"registry": registry("ghcr.io", args.image_mirror)}
    return {
        "image": {"keda": image, "metricsApiServer": image, "webhooks": image, "pullPolicy": "IfNotPresent"},
        "priorityClassName": naming.CONTROLLER_PRIORITY,
        # Two operators (one leads) and two metrics servers: while none answers, no HPA moves.
        "operator": {"replicaCount": 2},
        "metricsServer": {"replicaCount": 2},
        "prometheus": {
            "operator": {"enabled": True, "serviceMonitor": {"enabled": True}},
            "metricServer": {"enabled": True, "serviceMonitor": {"enabled": True}},
        },
    }


class Keda(pulumi.ComponentResource):
    """KEDA with its metrics server. Produces `release`, which brings ScaledObject."""

    release: pulumi.Resource

    def __init__(self, name: str, args: KedaArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Keda", name, None, opts)
        # Its definitions are templates and follow the release.
        self.release = release(f"{name}-keda", args.chart, values(args), parent=self, after=args.after)
        self.register_outputs({})
