"""Names that more than one part must agree on."""

from __future__ import annotations

import re

PROJECT = "inference-platform"

SERVING_NAMESPACE = "inference"
MONITORING_NAMESPACE = "monitoring"
SYSTEM_NAMESPACE = "kube-system"
GPU_NAMESPACE = "gpu-operator"
CERTIFICATES_NAMESPACE = "cert-manager"
RAY_NAMESPACE = "kuberay-system"
LWS_NAMESPACE = "lws-system"
KEDA_NAMESPACE = "keda"

PART_OF_LABEL = "app.kubernetes.io/part-of"
POOL_LABEL = f"{PROJECT}/pool"
RUNG_LABEL = f"{PROJECT}/rung"
GROUP_ROLE_LABEL = f"{PROJECT}/group-role"
"""`leader` or `worker` on the pods of a multi-node group."""
MODEL_LABEL = "app.kubernetes.io/instance"
CLIENT_LABEL = f"{PROJECT}/model-client"
"""`true` on pods of the serving namespace that may call the engines: gateway, router, smoke tests, load generators."""

SERVING_PRIORITY = "inference-serving"
CONTROLLER_PRIORITY = "inference-controllers"
"""Above serving: a Ray head or router on a full system node must not push out the controllers that scale it."""
GPU_TAINT = "nvidia.com/gpu"

CLUSTER_AUTOSCALER_ACCOUNT = "cluster-autoscaler"

STORAGE_CLASS = "gp3"
"""Default StorageClass on EKS: encrypted, deleted with its claim."""
RETAINED_STORAGE_CLASS = "gp3-retain"
"""As `gp3`, but the volume outlives its claim."""

PROMETHEUS_SERVICE = "prometheus-operated"


def kubernetes_name(text: str, *, limit: int = 63) -> str:
    """A DNS label made of `text`: lower case, other characters as `-`, at most `limit` long."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].rstrip("-")


NODE_GROUP_PREFIX_LIMIT = 36
"""Longest name of a rung: the provider takes 37 characters of prefix, `<rung>-`, and adds 26 of its own to EKS's 63."""


def node_group_prefix(pool: str, rung_kind: str, reservation: str | None = None) -> str:
    """Name of a rung, prefix of its node group; cluster-autoscaler's priority expander matches it.

    A capacity block is named by the end of its reservation: when an expired one leaves the stack file, the others keep
    their groups and nodes.
    """
    return f"{pool}-block-{reservation[-8:]}" if reservation else f"{pool}-{rung_kind}".replace("_", "-")
