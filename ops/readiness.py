"""How far a model is on its way from a workload to a ready endpoint, from what the API server says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ops.cluster import Json, Objects, job_path, pods_path, serving_pods, workload_path
from planner import Plan
from planner.naming import EFA_GATE_CONTAINER, SHARDS_CONTAINER, WEIGHTS_CONTAINER
from planner.plan import ModelPlan, WarmupPlan

Step = Literal["not deployed", "no pods", "pending", "waiting for weights", "starting", "failing", "failed", "ready"]
_ORDER: Final[tuple[Step, ...]] = (
    "failed",
    "not deployed",
    "no pods",
    "pending",
    "failing",
    "waiting for weights",
    "starting",
    "ready",
)
_SCHEDULING: Final = ("TriggeredScaleUp", "NotTriggerScaleUp", "FailedScaleUp")
"""Events of cluster-autoscaler: what it does about a pod."""
_PASSING: Final = {"ContainerCreating", "PodInitializing"}
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One model."""

    model: str
    step: Step
    """Of the pod that is least far."""
    detail: str
    """Why it is there, in the cluster's words; empty where there is nothing to say."""
    ready: int
    """Pods with GPUs that are ready."""
    wanted: int
    """Pods that the minimum of replicas takes."""

    @property
    def done(self) -> bool:
        """Whether all is well."""
        return self.step == "ready"


def progress_of(objects: Objects, plan: Plan, model: ModelPlan) -> Progress:
    """Where a model is now."""
    wanted = model.scaling.min_replicas * model.pods_per_replica

    def at(step: Step, detail: str, ready: int = 0) -> Progress:
        return Progress(model=model.name, step=step, detail=detail[:_SHOWN], ready=ready, wanted=wanted)

    if objects.get(workload_path(model)) is None:
        return at("not deployed", f"there is no {model.runtime.replace('_', ' ')} of it; `make up` makes it")
    pods = [
        pod
        for pod in objects.list(pods_path(model.namespace), serving_pods(model))
        if not pod["metadata"].get("deletionTimestamp")
    ]
    ready = sum(is_ready(pod) for pod in pods)
    if ready >= wanted:
        return at("ready", "", ready)
    warmups = plan.warmups_of(model.name)
    broken = next((said for one in warmups if (said := _broken_warm_up(objects, one))), "")
    if broken:
        return at("failed", broken, ready)
    if not pods:
        return at("no pods", "its controller has made none yet", ready)
    scheduling = _scheduling_events(objects, model.namespace)
    weights = _weights_awaited(plan, model)
    steps = [_step_of(pod, scheduling.get(pod["metadata"]["name"]), weights) for pod in pods if not is_ready(pod)]
    if not steps:
        return at("no pods", f"{wanted - ready} more are to come", ready)
    step, detail = min(steps, key=lambda one: _ORDER.index(one[0]))
    if step == "starting":
        detail = f"planned: {model.startup_seconds} s{f'; {detail}' if detail else ''}"
    return at(step, detail, ready)


def is_ready(pod: Json) -> bool:
    """Whether a pod may be asked."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in _conditions(pod))


def _conditions(item: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return item.get("status", {}).get("conditions") or ()


def _weights_awaited(plan: Plan, model: ModelPlan) -> str:
    """What a pod waits for that waits for its weights."""
    if model.weights.medium != "s3_stream":
        return (
            "the warm-up Job has not finished this revision: `ops models list` tells whether it is staged, "
            "`ops models warm` how far the Job is"
        )
    wanted = ", ".join(f"{one.hub_id} at {one.revision[:12]}" for one in model.weights.read)
    return (
        f"the bucket has no whole {wanted}: `python -m ops models stage --stack {plan.stack} --model {model.name}` "
        "brings it, `ops models list` tells what is there"
    )


def _step_of(pod: Json, event: str | None, weights_awaited: str) -> tuple[Step, str]:
    """How far one pod is."""
    status = pod.get("status", {})
    if not pod["spec"].get("nodeName"):
        said = next((one.get("message", "") for one in _conditions(pod) if one["type"] == "PodScheduled"), "")
        return "pending", "; ".join(part for part in (said, event) if part)
    if status.get("phase") == "Failed":
        return "failing", f"{status.get('reason', 'Failed')}: {status.get('message', '')}"
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        trouble = _trouble(one)
        if trouble:
            return "failing", trouble
    for one in status.get("initContainerStatuses") or ():
        if one["name"] == WEIGHTS_CONTAINER and not one.get("ready") and "running" in one["state"]:
            return "waiting for weights", weights_awaited
        if one["name"] == EFA_GATE_CONTAINER and not one.get("ready") and "running" in one["state"]:
            return "starting", "the EFA gate waits for the group's other pods, or measures"
        if one["name"] == SHARDS_CONTAINER and not one.get("ready") and "running" in one["state"]:
            return "starting", "its shards are written, the first time, or read and checked"
    return "starting", ""


def _trouble(container: Mapping[str, Any]) -> str:
    """Why a container does not run, where it should."""
    waiting: Json = container.get("state", {}).get("waiting") or {}
    reason = str(waiting.get("reason", ""))
    if reason and reason not in _PASSING:
        last: Json = container.get("lastState", {}).get("terminated") or {}
        why = str(waiting.get("message") or "")
        if last:
            # The last line that it said before it ended tells more than "back-off".
            said = str(last.get("message") or last.get("reason") or "").strip().splitlines()
            why = f"ended with {last.get('exitCode')}{f': {said[-1]}' if said else ''}"
        return f"{container['name']}: {reason}{f' ({why})' if why else ''}"
    return ""


def _broken_warm_up(objects: Objects, warmup: WarmupPlan) -> str:
    """What to say of a warm-up Job that has given up."""
    job = objects.get(job_path(warmup.namespace, warmup.name))
    for one in _conditions(job or {}):
        if one["type"] == "Failed" and one["status"] == "True":
            return (
                f"warm-up Job {warmup.name} has failed ({one.get('reason')}); its log says why: "
                f"kubectl --namespace {warmup.namespace} logs job/{warmup.name}; "
                "`python -m ops models warm` starts it again"
            )
    return ""


def _scheduling_events(objects: Objects, namespace: str) -> dict[str, str]:
    """The last word of the autoscaler on each pod."""
    found: dict[str, tuple[str, str]] = {}
    for event in objects.list(f"/api/v1/namespaces/{namespace}/events"):
        if event.get("reason") not in _SCHEDULING and not _of_karpenter(event):
            continue
        when = str(event.get("lastTimestamp") or event.get("eventTime") or "")
        pod = event["involvedObject"].get("name", "")
        if when >= found.get(pod, ("", ""))[0]:
            found[pod] = (when, f"{event['reason']}: {event.get('message', '')}")
    return {pod: text for pod, (_, text) in found.items()}


def _of_karpenter(event: Mapping[str, Any]) -> bool:
    """`Nominated` and `FailedScheduling`; the scheduler has a `FailedScheduling` of its own."""
    return "karpenter" in {event.get("reportingComponent"), event.get("source", {}).get("component")}
