"""Pods wait for their weights: an init container without which no engine starts, and no probe of it runs.

On a mounted cache a shell looks for what warm-up Jobs make. Streaming from S3, `components/scripts/staged.py` looks
into the bucket with the service account that the engine streams as: what it may see is what the engine may read. Both
run in the engine's image, which is pulled anyway, and pulled while the weights are still on their way.
"""

from __future__ import annotations

import posixpath
from typing import Any

from components._pods import confined
from components.serving import kept_kernels
from components.serving.mounted_scripts import SCRIPTS_FOLDER, Scripts
from planner.engines.request import BUCKET_VARIABLE
from planner.naming import NO_GPU, WEIGHTS_CONTAINER
from planner.plan import ContainerPlan, ModelPlan
from planner.router import COMPONENT_LABEL

SCRIPTS = Scripts(
    name="staged-weights",
    files=(SCRIPTS_FOLDER / "staged.py", SCRIPTS_FOLDER / "warm_up.py"),
    runs_for=lambda model: model.weights.medium == "s3_stream",
)
_MOUNT = "/opt/staged-weights"

WARMUP_COMPONENT = "warm-up"

_WAIT_FOR_WEIGHTS = """\
deadline=$(( $(date +%s) + LIMIT_SECONDS ))
for marker in $READY_MARKERS $READY_DIRECTORIES; do
  until [ -e "$marker" ]; do
    if [ "$(date +%s)" -ge "$deadline" ]; then
      echo "No $marker after ${LIMIT_SECONDS} s: the warm-up Job of this revision has not finished." \
"Its log says why: kubectl -n $NAMESPACE logs -l $WARMUP_SELECTOR --tail=20" |
        tee "${TERMINATION_LOG:-/dev/termination-log}" >&2
      exit 1
    fi
    echo "waiting for $marker"
    sleep 10
  done
done
"""


def on_cache(model: ModelPlan, plan: ContainerPlan, mount_path: str, limit_seconds: int) -> dict[str, Any]:
    """Waits for the markers of a model's revisions and for the directories that it writes."""
    kept = kept_kernels.directory_of(model)
    return {
        **_container(plan),
        "command": ["/bin/sh", "-c", _WAIT_FOR_WEIGHTS + kept_kernels.SEED],
        "env": [
            NO_GPU,
            # Paths of hub ids and commits: none has a space.
            {"name": "READY_MARKERS", "value": " ".join(one.ready_marker for one in model.weights.read)},
            # Missing, the kubelet would make them: for root alone, and the engine may not be root. Here as the
            # read-only mount sees them.
            {
                "name": "READY_DIRECTORIES",
                "value": " ".join(posixpath.join(mount_path, one.sub_path) for one in model.weights.directories),
            },
            {"name": "KERNELS_READ", "value": posixpath.join(mount_path, kept.sub_path) if kept else ""},
            {"name": "LIMIT_SECONDS", "value": str(limit_seconds)},
            {"name": "NAMESPACE", "value": model.namespace},
            {"name": "WARMUP_SELECTOR", "value": f"{COMPONENT_LABEL}={WARMUP_COMPONENT}"},
        ],
        "resources": {"limits": {"memory": "128Mi"}, "requests": {"cpu": "50m", "memory": "128Mi"}},
        "volumeMounts": [
            {"name": "models", "mountPath": mount_path, "readOnly": True},
            kept_kernels.seed_mount(),
        ],
    }


def in_bucket(
    model: ModelPlan, plan: ContainerPlan, env: list[dict[str, Any]], stack: str, limit_seconds: int
) -> dict[str, Any]:
    """Waits for a model's revisions in the bucket; `env` names it and its region."""
    revisions = [
        text for one in model.weights.read for text in ("--revision", one.hub_id, one.revision, one.object_prefix)
    ]
    return {
        **_container(plan),
        "workingDir": _MOUNT,
        "command": ["python3", "-m", "components.scripts.staged"],
        "args": [
            f"--stack={stack}",
            f"--bucket=$({BUCKET_VARIABLE})",
            f"--limit-seconds={limit_seconds}",
            *revisions,
        ],
        "env": [NO_GPU, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}, *env],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "50m", "memory": "256Mi"}},
        "volumeMounts": [{"name": SCRIPTS.name, "mountPath": _MOUNT, "readOnly": True}],
    }


def _container(plan: ContainerPlan) -> dict[str, Any]:
    return {"name": WEIGHTS_CONTAINER, "image": plan.image, "securityContext": confined()}
