"""vLLM's shards: an init container writes what a replica's ranks hold, where no earlier start has, and checks it else.

`components/scripts/save_shards.py` runs in the engine's image on the GPUs that the engine gets after it: kubelet gives
both the same, so a first start asks for no node beside the replica's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from planner.engines.request import SHARDS_DIRECTORY
from planner.naming import PART_OF_LABEL, PROJECT, SHARDS_CONTAINER
from planner.plan import ContainerPlan, ModelPlan

SCRIPT_NAME = "save-shards"
_SCRIPTS = Path(__file__).parents[1] / "scripts"
_MODULES = ("save_shards.py", "warm_up.py")
_MOUNT = "/opt/save-shards"


class SavedShards(pulumi.ComponentResource):
    """The script that pods write shards with. Produces `script`."""

    script: k8s.core.v1.ConfigMap

    def __init__(
        self,
        name: str,
        namespace: str,
        after: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("inference:index:SavedShards", name, None, opts)
        self.script = k8s.core.v1.ConfigMap(
            f"{name}-script",
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name=SCRIPT_NAME,
                namespace=namespace,
                labels={PART_OF_LABEL: PROJECT, "app.kubernetes.io/managed-by": "pulumi"},
            ),
            data={name: (_SCRIPTS / name).read_text(encoding="utf-8") for name in _MODULES},
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(after)),
        )
        self.register_outputs({})


def script_volume() -> dict[str, Any]:
    """The script as a package, so that it runs as it is tested."""
    items = [{"key": name, "path": f"components/scripts/{name}"} for name in _MODULES]
    return {"name": SCRIPT_NAME, "configMap": {"name": SCRIPT_NAME, "items": items}}


def container(model: ModelPlan, plan: ContainerPlan, engine: Mapping[str, Any]) -> dict[str, Any]:
    """The init container: in everything that ranks need like `engine`, the pod's own, but for its secrets.

    Of the cache it may write the model's shards alone.
    """
    shards = model.weights.shards
    if shards is None:
        raise ValueError(f"model {model.name}: shards to write that are not planned")
    group = ["--nodes=$(LWS_GROUP_SIZE)", "--node=$(LWS_WORKER_INDEX)"] if model.layout.nodes > 1 else []
    return {
        "name": SHARDS_CONTAINER,
        "image": plan.image,
        "workingDir": _MOUNT,
        "command": ["python3", "-m", "components.scripts.save_shards"],
        "args": [
            f"--model={model.weights.hub_id}",
            f"--revision={model.weights.revision}",
            f"--checkpoint={model.weights.directory}",
            f"--shards={SHARDS_DIRECTORY}",
            f"--ranks={model.layout.gpus}",
            *group,
            f"--limit-seconds={shards.limit_seconds}",
            "--",
            *plan.saving_args,
        ],
        "env": [
            *(one for one in engine["env"] if "secretKeyRef" not in one.get("valueFrom", {})),
            {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
        ],
        "resources": engine["resources"],
        "securityContext": engine["securityContext"],
        "volumeMounts": [
            *(_writable(mount) for mount in engine["volumeMounts"]),
            {"name": SCRIPT_NAME, "mountPath": _MOUNT, "readOnly": True},
        ],
    }


def _writable(mount: Mapping[str, Any]) -> dict[str, Any]:
    """A mount of the engine's; the shards' for who writes them."""
    ours = mount["mountPath"] == SHARDS_DIRECTORY
    return {key: value for key, value in mount.items() if not (ours and key == "readOnly")}
