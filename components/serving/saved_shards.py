"""vLLM's shards: an init container writes what a replica's ranks hold, where no earlier start has, and checks it else.

`components/scripts/save_shards.py` runs in the engine's image on the GPUs that the engine gets after it: kubelet gives
both the same, so a first start asks for no node beside the replica's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.serving.mounted_scripts import SCRIPTS_FOLDER, Scripts
from planner.engines.request import saved_shards
from planner.naming import SHARDS_CONTAINER
from planner.plan import ContainerPlan, ModelPlan

SCRIPTS = Scripts(
    name="save-shards",
    files=(SCRIPTS_FOLDER / "save_shards.py", SCRIPTS_FOLDER / "warm_up.py"),
    runs_for=lambda model: bool(model.container.saving_args),
)
_MOUNT = "/opt/save-shards"


def container(model: ModelPlan, plan: ContainerPlan, engine: Mapping[str, Any]) -> dict[str, Any]:
    """The init container: in everything that ranks need like `engine`, the pod's own, but for its secrets.

    Of the cache it may write the model's shards alone.
    """
    shards = model.weights.shards
    if shards is None:
        raise ValueError(f"model {model.name}: shards to write that are not planned")
    directory = saved_shards(model.weights)
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
            f"--shards={directory}",
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
            *(_writable(mount, directory) for mount in engine["volumeMounts"]),
            {"name": SCRIPTS.name, "mountPath": _MOUNT, "readOnly": True},
        ],
    }


def _writable(mount: Mapping[str, Any], directory: str) -> dict[str, Any]:
    """A mount of the engine's; the shards' for who writes them."""
    ours = mount["mountPath"] == directory
    return {key: value for key, value in mount.items() if not (ours and key == "readOnly")}
