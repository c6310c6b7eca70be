"""The EFA gate of pods: an init container without which an engine that uses EFA does not start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from planner.naming import EFA_GATE_CONTAINER, EFA_GATE_STATE, PART_OF_LABEL, PROJECT
from planner.plan import ContainerPlan, EfaGatePlan

SCRIPT_NAME = "efa-gate"
_SCRIPTS = Path(__file__).parents[1] / "scripts" / "efa"
_MOUNT = "/opt/efa-gate"
_STATE = "efa-gate-state"
_STATE_MOUNT = "/var/lib/efa-gate"


class EfaGate(pulumi.ComponentResource):
    """The gate's scripts, one ConfigMap for all models of a namespace. Produces `script`."""

    script: k8s.core.v1.ConfigMap

    def __init__(
        self,
        name: str,
        namespace: str,
        after: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("inference:index:EfaGate", name, None, opts)
        self.script = k8s.core.v1.ConfigMap(
            f"{name}-script",
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name=SCRIPT_NAME,
                namespace=namespace,
                labels={PART_OF_LABEL: PROJECT, "app.kubernetes.io/managed-by": "pulumi"},
            ),
            data=scripts(),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(after)),
        )
        self.register_outputs({})


def scripts() -> dict[str, str]:
    """The package, by file name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(_SCRIPTS.glob("*.py"))}


def volumes(gate: EfaGatePlan) -> list[dict[str, Any]]:
    """What the gate mounts and the engine does not.

    Its memory is a directory of the node: an annotation or a ConfigMap would need a token of the API server in a pod
    that has none.
    """
    found: list[dict[str, Any]] = [{"name": SCRIPT_NAME, "configMap": {"name": SCRIPT_NAME}}]
    if gate.cache_seconds:
        found.append({"name": _STATE, "hostPath": {"path": EFA_GATE_STATE, "type": "DirectoryOrCreate"}})
    return found


def container(
    gate: EfaGatePlan, plan: ContainerPlan, resources: dict[str, Any], security: dict[str, Any]
) -> dict[str, Any]:
    """The init container. It asks for what the engine asks for: kubelet gives both the same GPUs and EFA devices."""
    in_group = gate.mode == "all_reduce"
    mounts: list[dict[str, Any]] = [
        {"name": SCRIPT_NAME, "mountPath": f"{_MOUNT}/efa", "readOnly": True},
        *([{"name": _STATE, "mountPath": _STATE_MOUNT}] if gate.cache_seconds else []),
    ]
    if plan.shared_memory_gib:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108
    return {
        "name": EFA_GATE_CONTAINER,
        "image": plan.image,
        "workingDir": _MOUNT,
        "command": ["python3", "-m", "efa.gate"],
        "args": arguments(gate, plan.image, in_group=in_group),
        "env": [
            # What decides about the network, as the engine has it; and no secret.
            *(
                {"name": variable.name, "value": variable.value or ""}
                for variable in plan.env
                if variable.name.startswith(("FI_", "NCCL_"))
            ),
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "resources": resources,
        # Root: its memory is a directory of the node, and capabilities reach root's processes alone.
        "securityContext": {**security, "runAsUser": 0, "runAsNonRoot": False},
        "volumeMounts": mounts,
    }


def arguments(gate: EfaGatePlan, image: str, *, in_group: bool) -> list[str]:
    """The command line of `efa.gate`; LeaderWorkerSet's variables say who is who."""
    line = [
        f"--mode={gate.mode}",
        f"--devices={gate.devices}",
        f"--image={image}",
        *([f"--state={_STATE_MOUNT}", f"--keep={gate.cache_seconds}"] if gate.cache_seconds else []),
        f"--attempts={gate.attempts}",
        f"--hold={gate.hold_seconds}",
    ]
    if in_group:
        line += [
            f"--gpus={gate.gpus}",
            "--nodes=$(LWS_GROUP_SIZE)",
            "--rank=$(LWS_WORKER_INDEX)",
            "--leader=$(LWS_LEADER_ADDRESS)",
            f"--port={gate.port}",
            f"--timeout={gate.timeout_seconds}",
            f"--peers-timeout={gate.peers_timeout_seconds}",
        ]
        if gate.floor_gb_per_s is not None:
            line.append(f"--floor={gate.floor_gb_per_s:g}")
        if gate.gdr:
            line.append("--gdr")
    return line
