"""Kernels that an engine compiled, from one pod to the next: unpacked before a start, packed once there are more.

Compilers write thousands of files, and several of them fail when two nodes compile into one directory (DeepGEMM
deepseek-ai/DeepGEMM#301, TVM's kernels sgl-project/sglang#31347). So each pod compiles on its own node, and the cache
holds one archive for each rank of a group, which is only ever replaced as a whole.
"""

from __future__ import annotations

from typing import Any

from planner.engines.request import CACHE_DIRECTORY, COMPILED_DIRECTORY
from planner.plan import ModelPlan, SharedDirectoryPlan

_QUIET_MINUTES = 3
"""An engine that has written nothing for so long compiles no more."""

_ABANDONED_MINUTES = 60
"""Packing takes a minute or two: an older draft is of a pod that ended meanwhile."""

_ARCHIVE = "kernels-${LWS_WORKER_INDEX:-0}.tar"

SEED = f"""\
archive="$KERNELS_READ/{_ARCHIVE}"
if [ -n "$KERNELS_READ" ] && [ -f "$archive" ]; then
  mkdir -p {COMPILED_DIRECTORY}
  if tar -xf "$archive" -C {COMPILED_DIRECTORY}; then
    echo "kernels of an earlier start are unpacked"
  else
    echo "kernels of an earlier start cannot be unpacked: they are compiled again"
    rm -rf {COMPILED_DIRECTORY}
  fi
fi
"""
"""Runs in the init container; compiling again is slower, never wrong, so nothing here fails a pod."""

# In the background: the kubelet calls a container running only once its hook has ended.
_KEEP = f"""\
(
  compiled="$KERNELS_FROM" archive="$KERNELS_TO/{_ARCHIVE}"
  started="$compiled/.started"
  mkdir -p "$compiled" && touch "$started"
  sleep "$KERNELS_AFTER"
  while [ -n "$(find "$compiled" -type f -mmin -{_QUIET_MINUTES} | head -n 1)" ]; do sleep "$KERNELS_PAUSE"; done
  [ -n "$(find "$compiled" -type f -newer "$started" | head -n 1)" ] || exit 0
  draft="$archive.$HOSTNAME.part"
  find "$KERNELS_TO" -name '*.part' -mmin +{_ABANDONED_MINUTES} -exec rm -f {{}} +
  tar -cf "$draft" -C "$compiled" --exclude=.started . || {{ rm -f "$draft"; exit 0; }}
  had=$(stat -c %s "$archive" 2>/dev/null || echo 0)
  if [ "$(stat -c %s "$draft")" -gt "$had" ]; then mv -f "$draft" "$archive"; else rm -f "$draft"; fi
) >/dev/null 2>&1 &
"""


def directory_of(model: ModelPlan) -> SharedDirectoryPlan | None:
    """Where a model's archives lie; None where kernels go with the pod."""
    return next((one for one in model.weights.directories if one.name == "compiled"), None)


def post_start(model: ModelPlan) -> dict[str, Any]:
    """The engine container's hook that keeps what it compiles; empty where nothing is kept."""
    kept = directory_of(model)
    if kept is None:
        return {}
    given = {
        "KERNELS_FROM": COMPILED_DIRECTORY,
        "KERNELS_TO": kept.mount_path,
        # Not the planned start, which moves with other models: pods would restart for it.
        "KERNELS_AFTER": str(model.start_limit_seconds // 2),
        "KERNELS_PAUSE": "60",
    }
    assignments = "".join(f"{name}={value}\n" for name, value in given.items())
    return {"postStart": {"exec": {"command": ["/bin/sh", "-c", assignments + _KEEP]}}}


def seed_mount() -> dict[str, Any]:
    """Where the init container unpacks to: the engine's own directory on the node."""
    return {"name": "engine-cache", "mountPath": CACHE_DIRECTORY}
