"""The EFA gate of pods: an init container without which an engine that uses EFA does not start."""

from __future__ import annotations

from typing import Any

from components.serving.mounted_scripts import SCRIPTS_FOLDER, Scripts
from planner.naming import EFA_GATE_CONTAINER, EFA_GATE_STATE
from planner.plan import ContainerPlan, EfaGatePlan

_MOUNT = "/opt/efa-gate"
_STATE = "efa-gate-state"
_STATE_MOUNT = "/var/lib/efa-gate"


SCRIPTS = Scripts(
    name="efa-gate",
    files=tuple(sorted((SCRIPTS_FOLDER / "efa").glob("*.py"))),
    runs_for=lambda model: model.efa_gate is not None,
)


def volumes(gate: EfaGatePlan) -> list[dict[str, Any]]:
    """What the gate mounts and the engine does not.

    Its memory is a directory of the node: an annotation or a ConfigMap would need a token of the API server in a pod
    that has none.
    """
    found: list[dict[str, Any]] = [{"name": SCRIPTS.name, "configMap": {"name": SCRIPTS.name}}]
    if gate.cache_seconds:
        found.append({"name": _STATE, "hostPath": {"path": EFA_GATE_STATE, "type": "DirectoryOrCreate"}})
    return found


def container(
    gate: EfaGatePlan, plan: ContainerPlan, resources: dict[str, Any], security: dict[str, Any]
) -> dict[str, Any]:
    """The init container. It asks for what the engine asks for: kubelet gives both the same GPUs and EFA devices."""
    in_group = gate.mode == "all_reduce"
    mounts: list[dict[str, Any]] = [
        {"name": SCRIPTS.name, "mountPath": f"{_MOUNT}/efa", "readOnly": True},
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
