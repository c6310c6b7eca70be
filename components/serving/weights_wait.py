"""Pods wait for their weights: an init container without which no engine starts, and no probe of it runs.

On a mounted cache a shell looks for what warm-up Jobs make. Streaming from S3, `components/scripts/staged.py` looks
into the bucket with the service account that the engine streams as: what it may see is what the engine may read. Both
run in the engine's image, which is pulled anyway, and pulled while the weights are still on their way.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components._pods import confined
from components.serving import kept_kernels
from planner.engines.request import BUCKET_VARIABLE
from planner.naming import NO_GPU, PART_OF_LABEL, PROJECT, WEIGHTS_CONTAINER
from planner.plan import ContainerPlan, ModelPlan
from planner.router import COMPONENT_LABEL

SCRIPT_NAME = "staged-weights"
_SCRIPTS = Path(__file__).parents[1] / "scripts"
_MODULES = ("staged.py", "warm_up.py")
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


class StagedWeights(pulumi.ComponentResource):
    """The script that pods wait with. Produces `script`."""

    script: k8s.core.v1.ConfigMap

    def __init__(
        self,
        name: str,
        namespace: str,
        after: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("inference:index:StagedWeights", name, None, opts)
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
        "volumeMounts": [{"name": SCRIPT_NAME, "mountPath": _MOUNT, "readOnly": True}],
    }


def _container(plan: ContainerPlan) -> dict[str, Any]:
    return {"name": WEIGHTS_CONTAINER, "image": plan.image, "securityContext": confined()}
