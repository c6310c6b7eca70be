"""The KWOK Stages of a rehearsal: what the simulated kubelet does to pods, and when.

KWOK alone makes every pod Ready at once and every Job succeed. Here a pod with GPUs waits until `rehearsal.kubelet` has
decided when it would be Ready (or killed by its own probe) and written that on it; a Job ends as its outcome says; and
a deleted pod takes its grace period, in compressed time.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rehearsal.controlplane.stages import DEFAULT_POD_STAGES, container_statuses, ended, where
from rehearsal.kube import Json

READY_AT: Final = "rehearsal/ready-at"
"""Annotation: when the pod becomes Ready (RFC 3339)."""
KILLED_AT: Final = "rehearsal/killed-at"
"""Annotation: when the pod's startup probe has failed often enough (RFC 3339)."""

_GPU: Final = '.spec.containers.[].resources.limits["nvidia.com/gpu"]'
_JOB: Final = '.metadata.labels["batch.kubernetes.io/job-name"]'

_STARTUP_PROBE_FAILED: Final = """
{{ $now := Now }}
phase: Running
conditions:
- type: Ready
  status: "False"
  reason: ContainersNotReady
  lastTransitionTime: {{ $now | Quote }}
""" + container_statuses(
    "state: {waiting: {reason: CrashLoopBackOff, message: startup probe failed}}\n"
    "  lastState: {terminated: {exitCode: 137, reason: Error, finishedAt: {{ $now | Quote }}}}",
    ready=False,
    restarts=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """How a Job's pods end."""

    seconds: float
    """Planned run time."""
    exit_code: int = 0
    message: str = ""
    """Last words of a container that fails."""


def pod_stages(jobs: Mapping[str, JobOutcome], *, compression: float) -> list[Json]:
    """The Stages of one rehearsal.

    Args:
        jobs: outcome by the Job's name; any other Job succeeds at once.
        compression: how many planned seconds one rehearsed second stands for.
    """
    ready, completed, deleted = (copy.deepcopy(dict(stage)) for stage in DEFAULT_POD_STAGES)
    with_gpu = copy.deepcopy(ready)
    _and(ready, _GPU, "DoesNotExist")
    _and(with_gpu, _GPU, "Exists")
    with_gpu["metadata"]["name"] = "pod-with-gpu-ready"
    _at(with_gpu, READY_AT)
    killed = copy.deepcopy(with_gpu)
    killed["metadata"]["name"] = "pod-killed-by-startup-probe"
    _at(killed, KILLED_AT)
    killed["spec"]["next"] = {
        "statusTemplate": _STARTUP_PROBE_FAILED,
        "event": {"type": "Warning", "reason": "Unhealthy", "message": "Startup probe failed"},
    }
    own = [_job_stage(completed, name, outcome, compression) for name, outcome in jobs.items()]
    if jobs:
        _and(completed, _JOB, "NotIn", *jobs)
    deleted["spec"]["delay"] = {
        "durationFrom": {
            "expressionFrom": f'((.metadata.deletionGracePeriodSeconds // 0) / {compression} | tostring) + "s"'
        }
    }
    return [ready, with_gpu, killed, *own, completed, deleted]


def _job_stage(completed: Json, name: str, outcome: JobOutcome, compression: float) -> Json:
    stage = copy.deepcopy(completed)
    stage["metadata"]["name"] = f"job-{name}"
    _and(stage, _JOB, "In", name)
    stage["spec"]["delay"] = {"durationMilliseconds": int(outcome.seconds / compression * 1000)}
    if outcome.exit_code:
        status = ended("Failed", "Error", exit_code=outcome.exit_code, message=outcome.message)
        stage["spec"]["next"] = {"statusTemplate": status}
    return stage


def _and(stage: Json, key: str, operator: str, *values: str) -> None:
    conditions: Sequence[Any] = stage["spec"]["selector"]["matchExpressions"]
    stage["spec"]["selector"]["matchExpressions"] = [*conditions, where(key, operator, *values)]


def _at(stage: Json, annotation: str) -> None:
    expressions = stage["spec"]["selector"]["matchExpressions"]
    path = f'.metadata.annotations["{annotation}"]'
    stage["spec"]["selector"]["matchExpressions"] = [
        one for one in expressions if not one["key"].startswith(".metadata.annotations")
    ]
    _and(stage, path, "Exists")
    stage["spec"]["delay"] = {"durationFrom": {"expressionFrom": path}}
