"""`models warm`: how far the warm-up Jobs are, and another try for those that have given up.

`pulumi up` makes a Job once. One that failed stays, so that its reason can be read, and is not tried again by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ops.cluster import Json, Workbench, connect, job_path
from ops.console import FINDINGS, OK, out, print_json, table
from ops.errors import MissingError, UsageError
from ops.project import models_of, plan_of
from planner import Plan
from planner.plan import ModelPlan, WarmupPlan

_POLL_SECONDS: Final = 1.0
_GONE_SECONDS: Final = 60.0
_OWN: Final = ("controller-uid", "job-name", "batch.kubernetes.io/")
"""How labels begin that the API server gives a Job's pods: those of the old Job would be refused."""

State = Literal["ready", "running", "failed", "started again", "not there"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warming:
    """One warm-up Job."""

    job: str
    repository: str
    revision: str
    state: State
    detail: str


def show_warm(
    stack: str, models: list[str] | None, *, kubeconfig: Path | None, context: str | None, as_json: bool
) -> int:
    """Tell how far each Job is; those that failed are started again. 1 where one is not there."""
    plan = plan_of(stack)
    if not plan.warmups:
        raise UsageError(f"stack {stack} streams its weights from the bucket: nothing is warmed up")
    with connect(plan, kubeconfig=kubeconfig, context=context) as cluster:
        found = tuple(warm(cluster, plan, models_of(plan, models)))
    if as_json:
        print_json({"stack": stack, "jobs": found})
    else:
        rows = [(one.job, one.repository, one.revision[:12], one.state, one.detail) for one in found]
        out.print(table(f"{stack}: warm-up Jobs", ("Job", "repository", "revision", "state", ""), rows))
    return FINDINGS if any(one.state == "not there" for one in found) else OK


def warm(
    bench: Workbench, plan: Plan, models: Sequence[ModelPlan], *, pause: Callable[[float], None] = time.sleep
) -> Iterator[Warming]:
    """Each Job of these models, what comes next included; one that has failed is replaced by itself."""
    prefixes = {one.object_prefix for model in models for one in model.weights.held}
    for warmup in plan.warmups:
        if warmup.weights.object_prefix in prefixes:
            state, detail = _warm(bench, warmup, pause)
            weights = warmup.weights
            yield Warming(
                job=warmup.name, repository=weights.hub_id, revision=weights.revision, state=state, detail=detail
            )


def _warm(bench: Workbench, warmup: WarmupPlan, pause: Callable[[float], None]) -> tuple[State, str]:
    path = job_path(warmup.namespace, warmup.name)
    job = bench.get(path)
    if job is None:
        return "not there", "`make up` makes it; deleted by hand, `pulumi up --refresh` does"
    ended = {one["type"]: one for one in job.get("status", {}).get("conditions") or () if one["status"] == "True"}
    if "Complete" in ended:
        return "ready", ""
    if "Failed" not in ended:
        return "running", f"kubectl --namespace {warmup.namespace} logs job/{warmup.name} says what it waits for"
    bench.delete(path)
    waited = 0.0
    while bench.get(path) is not None:
        if waited >= _GONE_SECONDS:
            raise MissingError(f"Job {warmup.namespace}/{warmup.name} is not gone yet", help="run this again")
        pause(_POLL_SECONDS)
        waited += _POLL_SECONDS
    bench.create(path.rpartition("/")[0], anew(job))
    failed = ended["Failed"]
    return "started again", f"it had failed: {failed.get('message') or failed.get('reason')}"


def anew(job: Json) -> dict[str, Any]:
    """The same Job, without what the API server has added to it."""
    metadata, spec = job["metadata"], dict(job["spec"])
    spec.pop("selector", None)
    template = spec["template"]
    labels = {key: value for key, value in _labels(template).items() if not key.startswith(_OWN)}
    spec["template"] = {**template, "metadata": {**template["metadata"], "labels": labels}}
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "annotations") if key in metadata}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": kept, "spec": spec}


def _labels(item: Json) -> dict[str, str]:
    return item["metadata"].get("labels") or {}
