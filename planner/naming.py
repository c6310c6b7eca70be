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
WARM_NAMESPACE = "warm-capacity"
"""Of the placeholder pods that keep nodes booted."""

IMAGE_PULL_NAMESPACE = "image-pull"
"""Of the pods that pull engine images onto nodes before a replica needs them."""

PART_OF_LABEL = "app.kubernetes.io/part-of"
POOL_LABEL = f"{PROJECT}/pool"
RUNG_LABEL = f"{PROJECT}/rung"
STEP_LABEL = f"{PROJECT}/step"
"""On nodes of pools in several zones: the same for the rungs of one step of the ladder, which differ by zone alone."""
GROUP_ROLE_LABEL = f"{PROJECT}/group-role"
"""`leader` or `worker` on the pods of a multi-node group."""
MODEL_LABEL = "app.kubernetes.io/instance"
CLIENT_LABEL = f"{PROJECT}/model-client"
"""`true` on pods of the serving namespace that may call the engines: gateway, router, smoke tests, load generators."""

SERVING_PRIORITY = "inference-serving"
CONTROLLER_PRIORITY = "inference-controllers"
"""Above serving: a Ray head or router on a full system node must not push out the controllers that scale it."""
WARM_PRIORITY = "inference-warm-capacity"
"""Below everything: placeholders give their nodes to whoever serves."""
GPU_TAINT = "nvidia.com/gpu"
NO_GPU = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
"""For containers of an engine's image that use no GPU: CUDA's images set `all`, and NVIDIA's container runtime would
give them every GPU of the node, those of other pods too. Source: NVIDIA container toolkit, "GPU enumeration"."""

EFA_GATE_CONTAINER = "efa-gate"
WEIGHTS_CONTAINER = "wait-for-weights"
"""Init container without which no engine starts before its weights are there."""
SHARDS_CONTAINER = "save-shards"
"""Init container without which vLLM does not start before what its ranks hold is there."""
EFA_GATE_STATE = f"/var/lib/{PROJECT}/efa-gate"
"""Directory of the node in which the gate remembers its proofs."""

CLUSTER_AUTOSCALER_ACCOUNT = "cluster-autoscaler"
KARPENTER_ACCOUNT = "karpenter"
AUTOSCALER_STATUS = "cluster-autoscaler-status"
"""ConfigMap in which cluster-autoscaler tells which node groups it leaves alone, and why."""
LADDER_KEEPER = "ladder-keeper"
"""Namespace, Deployment, ServiceAccount and Lease of the keeper of the capacity ladder."""
HOLD_ANNOTATION = f"{PROJECT}/held-by-ladder-keeper"
"""On nodes that the keeper has cordoned: why, for which group, and when."""
LOAD_BALANCER_ACCOUNT = "aws-load-balancer-controller"

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


_RESERVED = {"capacity_block": "block", "capacity_reservation": "reserved"}


def node_group_prefix(pool: str, rung_kind: str, reservation: str | None = None) -> str:
    """Name of a rung, prefix of its node group; cluster-autoscaler's priority expander matches it.

    What is reserved is named by the end of its reservation: when an expired one leaves the stack file, the others keep
    their groups and nodes.
    """
    if reservation:
        return f"{pool}-{_RESERVED[rung_kind]}-{reservation[-8:]}"
    return f"{pool}-{rung_kind}".replace("_", "-")


def scaling_group_pattern(rung: str) -> str:
    """Regular expression of the Auto Scaling groups behind a rung's node group, and of no other rung's.

    EKS calls a node group's scaling group `eks-<node group>-<uuid>`, and a node group carries its rung's name and a
    hexadecimal suffix. What a rung's name adds to its pool's always holds a letter beyond `f`, so that the rung
    `h100-spot` does not catch one of a pool `h100-spot`.
    """
    return f"^eks-{rung}-[0-9a-f-]+$"
