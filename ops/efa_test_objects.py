"""What `efa-test` makes in the cluster: scripts, names for the pods, and the Job."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from components.scripts import efa
from planner.efa import GATE_PORT, reference_floor
from planner.naming import PART_OF_LABEL, PROJECT, RUNG_LABEL
from planner.plan import ModelPlan, PoolPlan

JOB_LABEL: Final = "batch.kubernetes.io/job-name"
TEST_SECONDS: Final = 600
"""What the all-reduces together may take once all pods are there."""
_SIZES: Final = tuple(1 << power for power in (10, 15, 20, 23, 26, 28, 30, 31, 33))  # bytes: latency, then bandwidth
_MOUNT: Final = "/opt/efa"


def objects_of(
    name: str, pool: PoolPlan, model: ModelPlan, *, nodes: int, limit_seconds: int, pull_secret: str | None = None
) -> dict[str, dict[str, Any]]:
    """The test's objects by their collection: scripts, names of the pods, and the Job."""
    namespace = model.namespace
    metadata = {"name": name, "namespace": namespace, "labels": {PART_OF_LABEL: PROJECT}}
    folder = Path(efa.__file__).parent
    scripts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    return {
        f"/api/v1/namespaces/{namespace}/configmaps": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": scripts,
        },
        f"/api/v1/namespaces/{namespace}/services": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            # The pods find each other before they are ready: none ever is.
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {JOB_LABEL: name}},
        },
        f"/apis/batch/v1/namespaces/{namespace}/jobs": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {
                "completionMode": "Indexed",
                "completions": nodes,
                "parallelism": nodes,
                "backoffLimit": 0,
                # Should this verb be killed, Kubernetes ends the test and forgets it.
                "activeDeadlineSeconds": limit_seconds,
                "ttlSecondsAfterFinished": 600,
                "template": {
                    "metadata": {
                        "labels": {PART_OF_LABEL: PROJECT},
                        "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
                    },
                    "spec": _pod_spec(name, pool, model, nodes, pull_secret),
                },
            },
        },
    }


def _pod_spec(name: str, pool: PoolPlan, model: ModelPlan, nodes: int, pull_secret: str | None) -> dict[str, Any]:
    together = {"labelSelector": {"matchLabels": {JOB_LABEL: name}}}
    affinity: dict[str, Any] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{**together, "topologyKey": "kubernetes.io/hostname"}]
        },
    }
    if all(rung.kind != "existing" for rung in pool.rungs):
        affinity["podAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": [{**together, "topologyKey": RUNG_LABEL}]
        }
    return {
        "restartPolicy": "Never",
        "subdomain": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": pull_secret}] if pull_secret else [],
        "nodeSelector": dict(pool.node_selector),
        "tolerations": [{"key": taint.key, "operator": "Exists", "effect": taint.effect} for taint in pool.taints],
        "affinity": affinity,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(name, pool, model, nodes)],
        "volumes": [
            {"name": "scripts", "configMap": {"name": name}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        ],
    }


def _container(name: str, pool: PoolPlan, model: ModelPlan, nodes: int) -> dict[str, Any]:
    plan, hardware = model.container, pool.hardware
    floor, _ = reference_floor(hardware.instance_type)
    limits = {
        "nvidia.com/gpu": str(hardware.gpus),
        "vpc.amazonaws.com/efa": str(hardware.efa_devices),
        "hugepages-2Mi": f"{plan.hugepages_mib}Mi",
        "memory": "64Gi",
    }
    return {
        "name": "efa-test",
        "image": plan.image,
        "workingDir": _MOUNT,
        "command": ["python3", "-m", "efa.gate"],
        "args": [
            f"--devices={hardware.efa_devices}",
            f"--gpus={hardware.gpus}",
            f"--nodes={nodes}",
            "--rank=$(JOB_COMPLETION_INDEX)",
            f"--leader={name}-0.{name}.{model.namespace}",
            f"--port={GATE_PORT}",
            f"--sizes={','.join(map(str, _SIZES))}",
            f"--timeout={TEST_SECONDS}",
            "--attempts=1",
            *([f"--floor={floor:g}"] if floor is not None else []),
            *(["--gdr"] if hardware.gdr else []),
        ],
        "env": [
            *(
                {"name": one.name, "value": one.value or ""}
                for one in plan.env
                if one.name.startswith(("FI_", "NCCL_"))
            ),
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "resources": {"limits": limits, "requests": {"cpu": "8", **limits}},
        "securityContext": {
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
        },
        "volumeMounts": [
            {"name": "scripts", "mountPath": f"{_MOUNT}/efa", "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
