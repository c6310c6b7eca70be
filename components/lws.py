"""Groups of pods that live and die together: the LeaderWorkerSet controller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components._charts import release
from planner import naming
from planner.images import mirrored
from planner.plan import ChartPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderWorkerSetsArgs:
    """Where the controller comes from."""

    chart: ChartPlan
    image_mirror: str | None
    after: tuple[pulumi.Resource, ...] = ()


def values(args: LeaderWorkerSetsArgs) -> dict[str, Any]:
    """Chart values.

    `enablePrometheus` stays off: the chart grants its metrics to a ServiceAccount `prometheus-k8s`, which
    kube-prometheus-stack does not have, so every scrape would be refused.
    """
    return {
        # Its pod webhook refuses group pods while no replica answers; one eviction must not stop recovery.
        "replicaCount": 2,
        "image": {
            "manager": {
                "repository": mirrored("registry.k8s.io/lws/lws", args.image_mirror),
                # The chart's default is the moving tag `main`; releases of chart and image carry the same number.
                "tag": f"v{args.chart.version}",
                "pullPolicy": "IfNotPresent",
            }
        },
        "priorityClassName": naming.CONTROLLER_PRIORITY,
        # The seccomp profile is what the chart's default lacks for the `restricted` Pod Security Standard.
        "podSecurityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        # The chart asks for a whole CPU and a GiB; a handful of groups needs a fraction.
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    }


class LeaderWorkerSets(pulumi.ComponentResource):
    """The LeaderWorkerSet controller. Produces `release`, which brings LeaderWorkerSet."""

    release: pulumi.Resource

    def __init__(self, name: str, args: LeaderWorkerSetsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:LeaderWorkerSets", name, None, opts)
        self.release = release(f"{name}-controller", args.chart, values(args), parent=self, after=args.after)
        self.register_outputs({})
