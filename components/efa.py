"""EFA devices as a resource that pods can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components._charts import release
from components.gpu import gpu_toleration
from planner.images import in_ecr, mirrored
from planner.plan import ChartPlan

EKS_IMAGE_ACCOUNT = "602401143452"
"""AWS account of EKS's images in the commercial regions (EKS user guide, "View Amazon container image registries");
the chart's default names the one in us-west-2."""

CHART_REGION = "us-west-2"


@dataclass(frozen=True, kw_only=True, slots=True)
class EfaArgs:
    """Where the plugin's image is pulled from."""

    chart: ChartPlan
    image_mirror: str | None
    region: str | None
    """Where the nodes are; the chart's own image (us-west-2) where it is not known."""
    after: tuple[pulumi.Resource, ...] = ()


def values(args: EfaArgs) -> dict[str, Any]:
    """Chart values; the chart already selects the instance types that have EFA."""
    image = f"{EKS_IMAGE_ACCOUNT}.dkr.ecr.{args.region or CHART_REGION}.amazonaws.com/eks/aws-efa-k8s-device-plugin"
    return {
        # From EKS's registry like the images of its add-ons; no pull-through rule fetches it into another one.
        "image": {"repository": image if in_ecr(args.image_mirror) else mirrored(image, args.image_mirror)},
        # Without this the plugin is not scheduled on GPU nodes and they offer no `vpc.amazonaws.com/efa`.
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}, gpu_toleration()],
    }


class Efa(pulumi.ComponentResource):
    """The EFA device plugin. Produces `release`."""

    release: pulumi.Resource

    def __init__(self, name: str, args: EfaArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Efa", name, None, opts)
        self.release = release(f"{name}-plugin", args.chart, values(args), parent=self, after=args.after)
        self.register_outputs({})
