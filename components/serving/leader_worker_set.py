"""A model that needs more nodes than one: a LeaderWorkerSet, one group of pods a replica."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.serving.custom_resources import LeaderWorkerSet
from components.serving.pods import SKIP_AWAIT, PodContext, group_affinity, object_labels, pod_template
from components.serving.scaling import fields_of_the_scaler

GROUP_LABEL = "leaderworkerset.sigs.k8s.io/group-key"
"""One value a group. Leaders get it from the webhook, which runs before the API server merges `matchLabelKeys`;
workers from their StatefulSet's template. Source: LeaderWorkerSet v0.10, pkg/webhooks/pod_webhook.go and
pkg/controllers/pod_controller.go."""


def workload(context: PodContext) -> LeaderWorkerSet:
    """Groups of `layout.nodes` pods; leader and workers take the same GPUs, memory and network devices."""
    model = context.model
    affinity = group_affinity(context, GROUP_LABEL)
    return LeaderWorkerSet(
        name=model.name,
        namespace=model.namespace,
        labels=object_labels(model),
        annotations=SKIP_AWAIT,
        replicas=model.scaling.min_replicas,
        size=model.layout.nodes,
        leader_template=pod_template(context, model.container, "leader", affinity=affinity),
        worker_template=pod_template(context, model.worker or model.container, "worker", affinity=affinity),
    )


def declare(
    name: str, context: PodContext, *, parent: pulumi.Resource, after: Sequence[pulumi.Resource]
) -> k8s.apiextensions.CustomResource:
    """The LeaderWorkerSet; KEDA, where it scales it, owns `replicas`."""
    groups = workload(context)
    return k8s.apiextensions.CustomResource(
        name,
        api_version=groups.api_version,
        kind=groups.kind,
        metadata=groups.metadata(),
        spec=groups.spec(),
        opts=pulumi.ResourceOptions(
            parent=parent, depends_on=list(after), ignore_changes=fields_of_the_scaler(context.model)
        ),
    )
