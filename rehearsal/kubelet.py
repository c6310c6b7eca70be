"""The part of a kubelet that KWOK leaves out: whether and when a pod with GPUs would start.

A pod waits for what it names, for its companions, and for its model's weights. Then its planned start-up time runs; if
its own startup probe allows less than that, the pod is killed instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from planner.naming import IMAGE_PULL_NAMESPACE, MODEL_LABEL, WEIGHTS_CONTAINER
from rehearsal.kube import CONFIG_MAPS, JOBS, PODS, SECRETS, Caches, Json, Key, Kind, Kube, key_of
from rehearsal.nodes import GPU
from rehearsal.references import references
from rehearsal.stages import KILLED_AT, READY_AT

GROUP_KEY: Final = "leaderworkerset.sigs.k8s.io/group-key"
GROUP_SIZE: Final = "leaderworkerset.sigs.k8s.io/size"
RAY_NODE: Final = "ray.io/node-type"

NOT_STAGED: Final = "is not staged: `python -m ops models stage` brings it into the bucket"

RAY_START_SECONDS: Final = 60.0
"""From a pulled image to a Ready Ray container, which loads no model yet (assumed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup:
    """What a model needs before it serves."""

    seconds: float
    """Image, weights, compilation and graph capture."""
    pull_seconds: float = 0.0
    """Of these: its image, where the node does not have it yet."""
    shards_seconds: float = 0.0
    """Of these: shards that an init container writes, until a first pod has started; no probe runs meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A pod whose own startup probe gave up on it."""

    pod: Key
    model: str
    needs_seconds: float
    allows_seconds: float


class Kubelet:
    """Decides when pods with GPUs become Ready, and writes it on them for KWOK's Stages.

    Args:
        kube: where the pods are.
        startups: by the model's name.
        compression: how many planned seconds one rehearsed second stands for.
        unstaged: prefixes of revisions that the bucket of weights does not have.
    """

    kinds: Sequence[Kind] = (PODS, JOBS, SECRETS, CONFIG_MAPS)

    def __init__(
        self,
        kube: Kube,
        startups: Mapping[str, Startup],
        *,
        compression: float,
        unstaged: frozenset[str] = frozenset(),
    ) -> None:
        self.held: dict[Key, str] = {}
        """Scheduled pods that do not start, and why."""
        self.killed: list[Killed] = []
        self._kube = kube
        self._startups = startups
        self._compression = compression
        self._unstaged = unstaged

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Start every pod that can start."""
        held: dict[Key, str] = {}
        pods = [pod for pod in caches.all(PODS) if "deletionTimestamp" not in pod["metadata"]]
        for pod in pods:
            if not _waits(pod):
                continue
            if reason := self._holds(pod, pods, caches):
                held[key_of(pod)] = reason
            else:
                self._start(pod, pods)
        self.held = held
        return None

    def _holds(self, pod: Json, pods: Sequence[Json], caches: Caches) -> str | None:
        namespace = pod["metadata"]["namespace"]
        for reference in references(pod["spec"]):
            if reference.kind == "PersistentVolumeClaim":
                continue  # the scheduler has waited for it
            kind = SECRETS if reference.kind == "Secret" else CONFIG_MAPS
            found = caches.get(kind, (namespace, reference.name))
            if found is None:
                return f"{reference.kind} {namespace}/{reference.name} does not exist"
            if reference.key and reference.key not in {**found.get("data", {}), **found.get("binaryData", {})}:
                return f"{reference.kind} {namespace}/{reference.name} has no key {reference.key}"
        if group := pod["metadata"].get("labels", {}).get(GROUP_KEY):
            started = [other for other in pods if other["metadata"].get("labels", {}).get(GROUP_KEY) == group]
            placed = sum(1 for other in started if other["spec"].get("nodeName"))
            size = int(pod["metadata"].get("annotations", {}).get(GROUP_SIZE, "1"))
            if placed < size:
                return f"{placed} of the {size} pods of its group have a node"
        return _weights_missing(pod, caches, self._unstaged)

    def _start(self, pod: Json, pods: Sequence[Json]) -> None:
        startup = self._startups.get(_model(pod))
        seconds = startup.seconds if startup else 0.0
        if startup and self._has_image(pod, pods, startup.pull_seconds):
            seconds -= startup.pull_seconds
        before = startup.shards_seconds if startup else 0.0
        if before and any(_model(other) == _model(pod) and _has_started(other) for other in pods):
            seconds, before = seconds - before, 0.0
        if RAY_NODE in pod["metadata"]["labels"]:
            seconds = min(seconds, RAY_START_SECONDS)
        allowed = _startup_budget(pod)
        annotation = READY_AT
        if allowed is not None and allowed < seconds - before:
            annotation = KILLED_AT
            self.killed.append(
                Killed(pod=key_of(pod), model=_model(pod), needs_seconds=seconds - before, allows_seconds=allowed)
            )
            seconds = before + allowed
        at = datetime.now(UTC) + timedelta(seconds=seconds / self._compression)
        self._kube.patch(PODS, key_of(pod), {"metadata": {"annotations": {annotation: at.isoformat()}}})

    def _has_image(self, pod: Json, pods: Sequence[Json], pull_seconds: float) -> bool:
        """Whether what pulls images has been on the pod's node for long enough."""
        image = pod["spec"]["containers"][0].get("image")
        for puller in pods:
            there = puller["metadata"]["namespace"] == IMAGE_PULL_NAMESPACE
            if there and puller["spec"].get("nodeName") == pod["spec"]["nodeName"]:
                needs = _seconds_until_pulled(puller, image, pull_seconds)
                created = datetime.fromisoformat(puller["metadata"]["creationTimestamp"])
                age = (datetime.now(UTC) - created).total_seconds() * self._compression
                return needs is not None and age >= needs
        return False


def _seconds_until_pulled(puller: Mapping[str, Any], image: str | None, pull_seconds: float) -> float | None:
    """Planned, from the puller's placement; None for an image that it does not pull."""
    seconds = 0.0
    for one in puller["spec"].get("initContainers", ()):
        command = one.get("command", ())
        seconds += float(command[1]) if command[:1] == ["sleep"] else pull_seconds
        if one["image"] == image:
            return seconds
    return None


def _weights_missing(pod: Mapping[str, Any], caches: Caches, unstaged: frozenset[str]) -> str | None:
    """What the pod's own init container waits for: a revision in the bucket, or markers, each of which is made by the
    Job that names it, or by none."""
    for prefix in streamed(pod["spec"]):
        if prefix in unstaged:
            return f"{prefix} {NOT_STAGED}"
    for path, argument in awaited(pod["spec"]).items():
        if any(f"/{prefix}/" in path for prefix in unstaged):
            return f"{path} comes with a revision that {NOT_STAGED}"
        job = next((job for job in caches.all(JOBS) if argument in _job_arguments(job)), None)
        if job is None:
            return f"what makes {path} does not exist"
        if not _complete(job):
            return f"the warm-up Job {job['metadata']['name']} has not made {path}"
    return None


_MADE_BY: Final = {"READY_MARKERS": "--marker", "READY_DIRECTORIES": "--shared-directory"}


def awaited(spec: Mapping[str, Any]) -> dict[str, str]:
    """Paths of the cache that a pod waits for (markers of its weights, draft model and adapters, and what it writes),
    each with the argument by which a warm-up Job makes it."""
    return {
        path: f"{_MADE_BY[variable['name']]}={path}"
        for one in spec.get("initContainers", ())
        for variable in one.get("env", ())
        if variable["name"] in _MADE_BY
        for path in variable["value"].split()
    }


def streamed(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Prefixes of the bucket that a pod waits for (components/scripts/staged.py)."""
    return tuple(
        arguments[at + 3]
        for one in spec.get("initContainers", ())
        if one["name"] == WEIGHTS_CONTAINER
        for arguments in (one.get("args", ()),)
        for at, text in enumerate(arguments)
        if text == "--revision"
    )


def _job_arguments(job: Mapping[str, Any]) -> Sequence[str]:
    return [text for one in job["spec"]["template"]["spec"]["containers"] for text in one.get("args", ())]


def _waits(pod: Mapping[str, Any]) -> bool:
    annotations = pod["metadata"].get("annotations", {})
    return (
        bool(pod["spec"].get("nodeName"))
        and pod.get("status", {}).get("phase", "Pending") == "Pending"
        and READY_AT not in annotations
        and KILLED_AT not in annotations
        and any(GPU in one.get("resources", {}).get("limits", {}) for one in pod["spec"]["containers"])
    )


def _model(pod: Mapping[str, Any]) -> str:
    return pod["metadata"].get("labels", {}).get(MODEL_LABEL, "")


def _has_started(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _startup_budget(pod: Mapping[str, Any]) -> float | None:
    """The least that a startup probe of the pod allows, in seconds; None where no container has one."""
    probes = [container["startupProbe"] for container in pod["spec"]["containers"] if "startupProbe" in container]
    return min(
        (
            probe.get("initialDelaySeconds", 0) + probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
            for probe in probes
        ),
        default=None,
    )


def _complete(job: Mapping[str, Any] | None) -> bool:
    conditions = (job or {}).get("status", {}).get("conditions", ())
    return any(condition["type"] == "Complete" and condition["status"] == "True" for condition in conditions)
