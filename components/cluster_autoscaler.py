"""Nodes when pods wait for them: cluster-autoscaler, which climbs each pool's capacity ladder from the top."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes
import yaml

from components._charts import release
from infra.identity import PodIdentity, PodIdentityArgs, Statement
from planner import naming
from planner.images import mirrored
from planner.plan import AutoscalerTimesPlan, ChartPlan, PoolPlan

PRIORITY_CONFIG_MAP = "cluster-autoscaler-priority-expander"
"""The name and the key `priorities` are fixed in cluster-autoscaler's priority expander."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterAutoscalerArgs:
    """The cluster, its pools and what the controller may do in AWS."""

    chart: ChartPlan
    image_mirror: str | None
    cluster_name: str
    cluster_arn: pulumi.Input[str]
    region: str
    pools: tuple[PoolPlan, ...]
    times: AutoscalerTimesPlan | None
    """None where every pool has another provisioner: it then scales the system nodes alone."""
    grace_seconds: int
    """Longest termination grace period of a model pod: a drained node waits that long."""
    statements: tuple[Statement, ...]
    after: tuple[pulumi.Resource, ...] = ()


def priorities(pools: tuple[PoolPlan, ...]) -> dict[int, list[str]]:
    """Priority -> patterns of scaling group names; the highest with a match is scaled up.

    Groups that are no rung, such as that of the system nodes, come last.
    """
    found: dict[int, list[str]] = defaultdict(list)
    for pool in pools:
        if pool.provisioner != "node_group":
            continue
        for rung in pool.rungs:
            found[rung.priority].append(naming.scaling_group_pattern(rung.name))
    found[0].append(".*")
    return {priority: sorted(found[priority]) for priority in sorted(found)}


def values(args: ClusterAutoscalerArgs) -> dict[str, Any]:
    """Chart values."""
    return {
        "fullnameOverride": "cluster-autoscaler",
        "image": {"repository": mirrored("registry.k8s.io/autoscaling/cluster-autoscaler", args.image_mirror)},
        "cloudProvider": "aws",
        "awsRegion": args.region,
        "autoDiscovery": {"clusterName": args.cluster_name},
        "rbac": {"serviceAccount": {"create": True, "name": naming.CLUSTER_AUTOSCALER_ACCOUNT}},
        "extraArgs": {
            # Rungs of one pool first by the ladder; among equals the group that leaves least unused.
            "expander": "priority,least-waste",
            **_balancing(args.pools),
            # Model pods have a memory-backed /dev/shm, and CoreDNS may land anywhere: with the defaults, no node would
            # ever be given back.
            "skip-nodes-with-local-storage": "false",
            "skip-nodes-with-system-pods": "false",
            **({} if args.times is None else _times(args.times)),
            "max-graceful-termination-sec": str(args.grace_seconds),
            # A model that scales down and up again within this time finds its node still there.
            "scale-down-unneeded-time": "10m",
            "scale-down-delay-after-add": "10m",
        },
        "resources": {"requests": {"cpu": "100m", "memory": "300Mi"}, "limits": {"memory": "1Gi"}},
        "serviceMonitor": {"enabled": True, "namespace": naming.MONITORING_NAMESPACE},
    }


def _balancing(pools: tuple[PoolPlan, ...]) -> dict[str, str]:
    """Nodes of one step are spread over the zones of a pool; over rungs of different price they would undo the ladder.

    With a label given, groups that carry the same value of it are alike, and nothing else of them is compared
    (cluster-autoscaler, processors/nodegroupset/label_nodegroups.go).
    """
    if not any(pool.several_zones for pool in pools):
        return {"balance-similar-node-groups": "false"}
    return {"balance-similar-node-groups": "true", "balancing-label": naming.STEP_LABEL}


def _times(times: AutoscalerTimesPlan) -> dict[str, str]:
    """How long a rung is waited for, and left alone; durations as Go writes them."""
    return {
        "max-node-provision-time": f"{times.max_node_provision_seconds}s",
        "initial-node-group-backoff-duration": f"{times.initial_backoff_seconds}s",
        "max-node-group-backoff-duration": f"{times.max_backoff_seconds}s",
        "node-group-backoff-reset-timeout": f"{times.backoff_reset_seconds}s",
    }


class ClusterAutoscaler(pulumi.ComponentResource):
    """cluster-autoscaler with its pod identity and the ladder. Produces `release`."""

    release: pulumi.Resource

    def __init__(self, name: str, args: ClusterAutoscalerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:ClusterAutoscaler", name, None, opts)
        identity = PodIdentity(
            f"{name}-identity",
            PodIdentityArgs(
                cluster_name=args.cluster_name,
                cluster_arn=args.cluster_arn,
                namespace=args.chart.namespace,
                service_account=naming.CLUSTER_AUTOSCALER_ACCOUNT,
                statements=args.statements,
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        ladder = kubernetes.core.v1.ConfigMap(
            f"{name}-ladder",
            metadata=kubernetes.meta.v1.ObjectMetaArgs(name=PRIORITY_CONFIG_MAP, namespace=args.chart.namespace),
            data={"priorities": yaml.safe_dump(priorities(args.pools), sort_keys=True)},
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.release = release(
            f"{name}-controller",
            args.chart,
            values(args),
            parent=self,
            # Pods read their AWS credentials when they start.
            after=[*args.after, identity, ladder],
        )
        self.register_outputs({})
