"""Load balancers for Services and Ingresses of the cluster: the AWS Load Balancer Controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components._charts import release
from infra.identity import PodIdentity, PodIdentityArgs, Statement
from planner import naming
from planner.images import mirrored
from planner.plan import ChartPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadBalancersArgs:
    """The cluster and what the controller may do in AWS."""

    chart: ChartPlan
    image_mirror: str | None
    cluster_name: str
    cluster_arn: pulumi.Input[str]
    region: str
    vpc_id: pulumi.Input[str]
    tags: Mapping[str, str]
    """On every load balancer, so that cost reports and the search for leftovers find it."""
    statements: tuple[Statement, ...]
    after: tuple[pulumi.Resource, ...] = ()


def values(args: LoadBalancersArgs) -> dict[str, Any]:
    """Chart values."""
    return {
        "fullnameOverride": "aws-load-balancer-controller",
        "image": {"repository": mirrored("public.ecr.aws/eks/aws-load-balancer-controller", args.image_mirror)},
        "replicaCount": 2,
        "clusterName": args.cluster_name,
        # Both else come from the instance metadata, which is closed to pods.
        "region": args.region,
        "vpcId": args.vpc_id,
        "serviceAccount": {"create": True, "name": naming.LOAD_BALANCER_ACCOUNT},
        # Straight to pods: node ports would add a hop, and a drained pod would get requests until its node notices.
        "defaultTargetType": "ip",
        "defaultTags": dict(args.tags),
        # It would stand in the way of every Service of the cluster while the controller is away.
        "enableServiceMutatorWebhook": False,
        # Each asks an API that a VPC without internet cannot reach, and that the role does not allow.
        "enableShield": False,
        "enableWaf": False,
        "enableWafv2": False,
        # The certificate of its webhooks is made by the chart: kept, or each upgrade would break calls under way.
        "keepTLSSecret": True,
        "podDisruptionBudget": {"maxUnavailable": 1},
        "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"memory": "500Mi"}},
    }


class LoadBalancers(pulumi.ComponentResource):
    """The controller with its pod identity. Produces `release`.

    It must outlive every Service and Ingress that it serves: their finalizers wait for it to delete what bills.
    """

    release: pulumi.Resource

    def __init__(self, name: str, args: LoadBalancersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:LoadBalancers", name, None, opts)
        identity = PodIdentity(
            f"{name}-identity",
            PodIdentityArgs(
                cluster_name=args.cluster_name,
                cluster_arn=args.cluster_arn,
                namespace=args.chart.namespace,
                service_account=naming.LOAD_BALANCER_ACCOUNT,
                statements=args.statements,
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.release = release(
            f"{name}-controller",
            args.chart,
            values(args),
            parent=self,
            # Pods read their AWS credentials when they start.
            after=[*args.after, identity],
        )
        self.register_outputs({})
