"""Waiting until every model serves, or is known not to, and why."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from planner.naming import MODEL_LABEL
from planner.plan import ModelPlan, Plan
from rehearsal.findings import Finding
from rehearsal.kube import JOBS, PODS, RAY_SERVICES, Caches, Json, key_of
from rehearsal.kubelet import GROUP_KEY, NOT_STAGED, Killed
from rehearsal.nodes import GPU
from rehearsal.operators import Operators
from rehearsal.pods import is_ready
from rehearsal.quantities import requests_of

_POLL_SECONDS: Final = 0.25
# A state that holds this long will hold: every stand-in looks again after a change within milliseconds.
_STEADY_SECONDS: Final = 1.5

Cause = Literal["capacity", "startup", "other"]

_PLAIN: Final = (
    (r"Insufficient nvidia\.com/gpu", "not enough free GPUs"),
    (r"Insufficient vpc\.amazonaws\.com/efa", "not enough EFA devices"),
    (r"Insufficient hugepages-2Mi", "not enough huge pages"),
    (r"Insufficient (\S+)", r"not enough \1"),
    (r"node\(s\) had untolerated taint\(?s?\)?( \{[^}]*\})?", "reserved for other pods by a taint"),
    (r"node\(s\) didn't match Pod's node affinity/selector", "of another pool"),
    (r"node\(s\) didn't match pod affinity rules", "not on the rung of its group"),
    (r"node\(s\) didn't match pod anti-affinity rules", "already with a pod of its group"),
    (r"node\(s\) had volume node affinity conflict", "in another zone than its volume"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """How far a model came."""

    model: str
    pods_wanted: int
    pods_ready: int
    ready: bool
    waits_for: tuple[str, ...]
    """Why it does not serve; empty where it does."""
    cause: Cause | None
    scheduler: str
    """What the scheduler says of a pod without a node, in plain words."""


def settle(
    plan: Plan, caches: Caches, operators: Operators, *, limit_seconds: float, alive: Callable[[], None]
) -> tuple[ModelState, ...]:
    """Wait until all models are ready or stuck, at most `limit_seconds`.

    Args:
        plan: what should run.
        caches: the live objects.
        operators: the stand-ins, which know why something waits.
        limit_seconds: of the clock on the wall.
        alive: raises if the control plane has ended.
    """
    until = time.monotonic() + limit_seconds
    steady_since: float | None = None
    while True:
        alive()
        states = tuple(_state(model, plan, caches, operators) for model in plan.models)
        now = time.monotonic()
        steady_since = (steady_since or now) if all(state.ready or state.cause for state in states) else None
        served = all(state.ready for state in states)
        if served or now > until or (steady_since and now - steady_since > _STEADY_SECONDS):
            return states
        time.sleep(_POLL_SECONDS)


def findings_of(states: Sequence[ModelState], *, capacity_withheld: bool) -> list[Finding]:
    """What is wrong with models that do not serve. Waiting for capacity that was withheld on purpose is not."""
    remedies = {
        "capacity": "wait until nodes can be had, or add a rung to the pool's capacity",
        "startup": "look at the planned load time: a faster cache, or more nodes at once reading it than planned",
    }
    return [
        Finding(
            check=state.cause if state.cause in remedies else "model",
            subject=f"model {state.model}",
            field="",
            problem=f"{state.pods_ready} of {state.pods_wanted} pods are ready: "
            + ("; ".join(filter(None, (*state.waits_for, state.scheduler))) or "still starting when the time was over"),
            remedy=remedies.get(state.cause or "", "mend what it waits for"),
        )
        for state in states
        if not state.ready and not (capacity_withheld and state.cause == "capacity")
    ]


def _state(model: ModelPlan, plan: Plan, caches: Caches, operators: Operators) -> ModelState:
    pods = [pod for pod in caches.all(PODS) if _is_of(pod, model)]
    wanted = model.scaling.min_replicas * model.pods_per_replica
    ready = sum(map(is_ready, pods))
    serves = ready >= wanted and (model.runtime != "ray_service" or _ray_ready(model, caches))
    waits, cause = ((), None) if serves else _why(model, plan, pods, caches, operators)
    return ModelState(
        model=model.name,
        pods_wanted=wanted,
        pods_ready=ready,
        ready=serves,
        waits_for=waits,
        cause=cause,
        scheduler="" if serves else next((words for pod in pods if (words := _scheduler_words(pod))), ""),
    )


def _why(
    model: ModelPlan, plan: Plan, pods: Sequence[Json], caches: Caches, operators: Operators
) -> tuple[tuple[str, ...], Cause | None]:
    """What a model waits for; the cause is None while that may change by itself."""
    if killed := [one for one in (*operators.kubelet.killed, *operators.ray.killed) if one.model == model.name]:
        return (_killed_words(killed[0]),), "startup"
    autoscaler = operators.autoscaler
    keys = [key_of(pod) for pod in pods if not is_ready(pod)]
    jobs = {warmup.name for warmup in plan.warmups_of(model.name)}
    warmup_pods = [
        key_of(pod)
        for pod in caches.all(PODS)
        if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") in jobs
    ]
    no_node = {reason for key in (*keys, *warmup_pods) if (reason := autoscaler.waiting.get(key))}
    held = {reason for key in keys if (reason := operators.kubelet.held.get(key))}
    if no_node:
        if operators.keeper is not None and _partly_placed(pods):
            return tuple(sorted(no_node)), None  # the ladder keeper gives the rung up
        lacks = any(f"{group} has no capacity" in reason for reason in no_node for group in autoscaler.no_capacity)
        return tuple(sorted(no_node)), "capacity" if lacks else "other"
    if failed := sorted(job for job in jobs if _failed(caches.get(JOBS, (model.namespace, job)))):
        return (*(f"the warm-up Job {job} failed" for job in failed), *sorted(held)), "other"
    # Companions and weights come by themselves; what does not exist will not.
    final = any(word in reason for reason in held for word in ("does not exist", "has no key", NOT_STAGED))
    return tuple(sorted(held)), "other" if final else None


def _partly_placed(pods: Sequence[Json]) -> bool:
    """Whether some group has a node for one pod and none for another."""
    placed: dict[str, set[bool]] = {}
    for pod in pods:
        if key := pod["metadata"]["labels"].get(GROUP_KEY):
            placed.setdefault(key, set()).add(bool(pod["spec"].get("nodeName")))
    return any(len(both) == 2 for both in placed.values())


def _killed_words(killed: Killed) -> str:
    return (
        f"{'/'.join(killed.pod)} needs {killed.needs_seconds:.0f} s to start, "
        f"but is given up after {killed.allows_seconds:.0f} s"
    )


def _is_of(pod: Json, model: ModelPlan) -> bool:
    metadata = pod["metadata"]
    return (
        metadata["namespace"] == model.namespace
        and metadata.get("labels", {}).get(MODEL_LABEL) == model.name
        and "deletionTimestamp" not in metadata
        and bool(requests_of(pod).get(GPU))
    )


def _ray_ready(model: ModelPlan, caches: Caches) -> bool:
    service = caches.get(RAY_SERVICES, (model.namespace, model.name)) or {}
    conditions = service.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _failed(job: Json | None) -> bool:
    status = (job or {}).get("status", {})
    return bool(status.get("failed")) or any(one["type"] == "Failed" for one in status.get("conditions", ()))


def _scheduler_words(pod: Json) -> str:
    """The scheduler's message about a pod in plain words."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            words = re.split(r" (?:preemption:|no new claims)", str(condition.get("message", "")))[0]
            for pattern, plain in _PLAIN:
                words = re.sub(pattern, plain, words)
            return words
    return ""
