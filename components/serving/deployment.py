"""A model that fits one node: a Deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.serving.pods import (
    SKIP_AWAIT,
    PodContext,
    PodTemplate,
    object_labels,
    pod_template,
    selector_labels,
    spread,
)
from components.serving.scaling import fields_of_the_scaler

_PATIENCE_SECONDS = 24 * 3600
"""Waiting for scarce capacity is no failed rollout; the start itself is timed by the startup probe."""


def template(context: PodContext) -> PodTemplate:
    """The pod of a single-node replica."""
    pods = pod_template(context, context.model.container, "server")
    pods["spec"]["topologySpreadConstraints"] = spread(context, selector_labels(context.model))
    return pods


def declare(
    name: str, context: PodContext, *, parent: pulumi.Resource, after: Sequence[pulumi.Resource]
) -> k8s.apps.v1.Deployment:
    """The Deployment; KEDA, where it scales it, owns `replicas`."""
    model = context.model
    spec: Any = {
        "replicas": model.scaling.min_replicas,
        "selector": {"matchLabels": selector_labels(model)},
        # A surge pod needs GPUs that are not there: the rollout would wait for a node that the old pod holds.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        # Routers leave a pod at once and find its successor a moment later: the next of two must not end in between.
        "minReadySeconds": model.drain.pre_stop_seconds,
        "progressDeadlineSeconds": _PATIENCE_SECONDS,
        "template": template(context),
    }
    return k8s.apps.v1.Deployment(
        name,
        metadata=k8s.meta.v1.ObjectMetaArgs(
            name=model.name, namespace=model.namespace, labels=object_labels(model), annotations=SKIP_AWAIT
        ),
        spec=spec,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(after), ignore_changes=fields_of_the_scaler(model)),
    )
