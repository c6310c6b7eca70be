"""A Job that mounts the cache and runs the keeper's script: how `models evict` looks and removes."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from components.scripts import cache_keeper
from ops.cluster import Json, Objects, Workbench, job_path, pods_path
from ops.errors import FindingsError, MissingError
from planner import Plan
from planner.naming import NO_GPU, PART_OF_LABEL, PROJECT, SERVING_NAMESPACE
from planner.plan import WarmupPlan

_JOB_LABEL: Final = "batch.kubernetes.io/job-name"
_POLL_SECONDS: Final = 3.0
_SCRIPT: Final = Path(cache_keeper.__file__)
_SCRIPT_MOUNT: Final = "/opt/cache-keeper"
_LABELS: Final = {PART_OF_LABEL: PROJECT}


def cache_claim(objects: Objects, plan: Plan) -> Json:
    """The claim of the cache. A file system's carries its id, so it is looked for: the newest where one is replaced.

    Raises:
        MissingError: there is none.
    """
    planned = plan.cache.claim_name
    found = [
        claim
        for claim in objects.list(f"/api/v1/namespaces/{SERVING_NAMESPACE}/persistentvolumeclaims")
        if claim["metadata"]["name"] == planned or claim["metadata"]["name"].startswith(f"{planned}-fs-")
    ]
    if not found:
        raise MissingError("the cluster has no volume of the model cache", help="`make up` makes it")
    return max(found, key=lambda claim: claim["metadata"].get("creationTimestamp", ""))


def run_keeper(
    bench: Workbench,
    plan: Plan,
    *,
    evict: Sequence[str] = (),
    keep: Sequence[str] = (),
    limit_seconds: int = 1800,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Json:
    """What the script printed; the Job and its script are gone when this returns, however it ends.

    Raises:
        MissingError: nothing mounts the cache, it is not there, or the Job did not end in time.
        FindingsError: the script refused.
    """
    if not plan.warmups:
        raise MissingError(f"stack {plan.stack} has no cache that pods mount")
    like = plan.warmups[0]
    name = f"cache-keeper-{secrets.token_hex(3)}"
    collection = f"/api/v1/namespaces/{SERVING_NAMESPACE}/configmaps"
    arguments = _arguments(plan, evict, keep)
    claim = cache_claim(bench, plan)["metadata"]["name"]
    try:
        bench.create(
            collection,
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": SERVING_NAMESPACE, "labels": _LABELS},
                "data": {_SCRIPT.name: _SCRIPT.read_text(encoding="utf-8")},
            },
        )
        bench.create(
            f"/apis/batch/v1/namespaces/{SERVING_NAMESPACE}/jobs",
            _job(name, plan, like, claim, arguments, limit_seconds),
        )
        return _ended(bench, name, clock() + limit_seconds, pause, clock)
    finally:
        bench.delete(job_path(SERVING_NAMESPACE, name))
        bench.delete(f"{collection}/{name}")


def _arguments(plan: Plan, evict: Sequence[str], keep: Sequence[str]) -> list[str]:
    return [
        f"--root={plan.cache.mount_path}",
        f"--models={plan.cache.data_repository_path.strip('/')}",
        *(f"--evict={path}" for path in evict),
        *(f"--keep={path}" for path in keep),
        *(["--release"] if plan.cache.fsx is not None else []),
    ]


def _job(
    name: str, plan: Plan, like: WarmupPlan, claim: str, arguments: list[str], limit_seconds: int
) -> dict[str, Any]:
    """It runs where the warm-up Jobs do: on nodes that mount the cache, and on no GPU."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": SERVING_NAMESPACE, "labels": _LABELS},
        "spec": {
            "backoffLimit": 0,
            # Should the verb be killed, Kubernetes ends the Job and forgets it.
            "activeDeadlineSeconds": limit_seconds,
            "ttlSecondsAfterFinished": 600,
            "template": {"metadata": {"labels": _LABELS}, "spec": _pod_spec(name, plan, like, claim, arguments)},
        },
    }


def _pod_spec(name: str, plan: Plan, like: WarmupPlan, claim: str, arguments: list[str]) -> dict[str, Any]:
    pool = plan.pool(like.pool) if like.pool else None
    taints = pool.taints if pool else ()
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "imagePullSecrets": [{"name": plan.pull_secret}] if plan.pull_secret else [],
        "nodeSelector": dict(pool.node_selector) if pool else {},
        "tolerations": [{"key": taint.key, "operator": "Exists", "effect": taint.effect} for taint in taints],
        "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "cache-keeper",
                "image": like.image,
                "command": ["python3", f"{_SCRIPT_MOUNT}/{_SCRIPT.name}"],
                "args": arguments,
                "env": [NO_GPU],
                "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "200m", "memory": "256Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    # What engines compiled belongs to their users: root itself may not remove it without this.
                    "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
                },
                "volumeMounts": [
                    {"name": "models", "mountPath": plan.cache.mount_path},
                    {"name": "script", "mountPath": _SCRIPT_MOUNT, "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "script", "configMap": {"name": name}},
        ],
    }


def _ended(
    bench: Workbench, name: str, until: float, pause: Callable[[float], None], clock: Callable[[], float]
) -> Json:
    while True:
        job = bench.get(job_path(SERVING_NAMESPACE, name)) or {}
        ended = {one["type"] for one in job.get("status", {}).get("conditions") or () if one["status"] == "True"}
        if ended & {"Complete", "Failed"}:
            break
        if clock() >= until:
            raise MissingError(
                f"Job {SERVING_NAMESPACE}/{name} did not end in time",
                help=f"kubectl --namespace {SERVING_NAMESPACE} describe job says what its pod waits for",
            )
        pause(_POLL_SECONDS)
    logs = [
        bench.text(f"{pods_path(SERVING_NAMESPACE)}/{pod['metadata']['name']}/log")
        for pod in bench.list(pods_path(SERVING_NAMESPACE), f"{_JOB_LABEL}={name}")
    ]
    lines = [line for log in logs for line in log.splitlines()]
    for line in lines:
        if line.startswith(cache_keeper.RESULT_MARK):
            return json.loads(line.removeprefix(cache_keeper.RESULT_MARK))
    raise FindingsError(f"the Job on the cache failed: {lines[-1] if lines else 'its pod said nothing'}")
