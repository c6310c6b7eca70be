"""What the Pulumi Kubernetes provider waits for after it applied an object.

Source: pulumi/pulumi-kubernetes (July 2026), provider/pkg/await/*.go. Where the provider lets endpoints settle for
10 s, the rehearsal does not: its pods have no late stragglers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, cast

from rehearsal.engines import kubernetes_rules, paths
from rehearsal.kube import CLAIMS, PODS, STORAGE_CLASSES, Json, Kind, Kube, key_of

_ENDPOINT_SLICES: Final = Kind(api_version="discovery.k8s.io/v1", plural="endpointslices", kind="EndpointSlice")
_POLL_SECONDS: Final = 0.1
_SLOWEST_POLL_SECONDS: Final = 0.5


class NotReadyError(Exception):
    """The object failed, or was not ready in time; the message says what was missing."""


Check = Callable[[Kube, Json], str]
"""Says what is missing; empty text when the object is ready. Raises `NotReadyError` where waiting is of no use."""


def until_ready(kube: Kube, kind: Kind, live: Json, *, seconds: float, stopped: threading.Event) -> Json:
    """Polls the object until it is ready and returns it as it is then.

    Raises:
        NotReadyError: it failed, vanished, took longer than `seconds`, or the run was stopped.
    """
    check = _check_for(live)
    if check is None:
        return live
    key = key_of(live)
    deadline, pause = time.monotonic() + seconds, _POLL_SECONDS
    while missing := check(kube, live):
        if time.monotonic() > deadline:
            raise NotReadyError(f"not ready after {seconds:.0f} s: {missing}")
        if stopped.wait(pause):
            raise NotReadyError(f"the run was stopped: {missing}")
        pause = min(pause * 1.5, _SLOWEST_POLL_SECONDS)
        found = kube.get(kind, key)
        if found is None:
            raise NotReadyError("somebody deleted it while the engine waited for it")
        live = found
    return live


def condition(live: Json, name: str) -> Json:
    """The status condition of this type; empty where there is none."""
    conditions = cast(list[Json], live.get("status", {}).get("conditions") or [])
    return next((one for one in conditions if one.get("type") == name), Json())


def _check_for(live: Json) -> Check | None:
    wait_for = kubernetes_rules.annotation(live, "waitFor")
    if wait_for is not None:
        return lambda _kube, now: _custom(now, wait_for)
    return _CHECKS.get((kubernetes_rules.group_of(live["apiVersion"]), live["kind"]))


def _custom(live: Json, wait_for: str) -> str:
    """`pulumi.com/waitFor`: `condition=Type[=Status]` or `jsonpath={.path}[=value]`."""
    how, _, what = wait_for.partition("=")
    if how == "condition":
        name, _, status = what.partition("=")
        return "" if condition(live, name).get("status") == (status or "True") else f"condition {name}"
    if how == "jsonpath":
        path, _, wanted = what.partition("}")
        found = paths.get(live, paths.parse(path.lstrip("{").lstrip(".")))
        wanted = wanted.removeprefix("=")
        return "" if (str(found) == wanted if wanted else found is not None) else f"{path}}} is {found}"
    raise NotReadyError(f"pulumi.com/waitFor: {wait_for} is neither condition=... nor jsonpath=...")


def _deployment(kube: Kube, live: Json) -> str:
    status, wanted = live.get("status", {}), live["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < live["metadata"]["generation"]:
        return "the controller has not seen it"
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted or available < wanted or status.get("replicas", 0) > updated:
        return f"{available} of {wanted} replicas available{_pods(kube, live)}"
    return ""


def _stateful_set(kube: Kube, live: Json) -> str:
    status, wanted = live.get("status", {}), live["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < live["metadata"]["generation"]:
        return "the controller has not seen it"
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    return "" if ready >= wanted and updated >= wanted else f"{ready} of {wanted} replicas ready{_pods(kube, live)}"


def _daemon_set(kube: Kube, live: Json) -> str:
    status = live.get("status", {})
    if status.get("observedGeneration", 0) < live["metadata"]["generation"]:
        return "the controller has not seen it"
    wanted = status.get("desiredNumberScheduled", 0)
    available, updated = status.get("numberAvailable", 0), status.get("updatedNumberScheduled", 0)
    return "" if available >= wanted <= updated else f"{available} of {wanted} pods available{_pods(kube, live)}"


def _job(kube: Kube, live: Json) -> str:
    failed = condition(live, "Failed")
    if failed.get("status") == "True":
        raise NotReadyError(f"failed: {failed.get('reason')}: {failed.get('message')}")
    return "" if condition(live, "Complete").get("status") == "True" else f"not complete{_pods(kube, live)}"


def _pod(_kube: Kube, live: Json) -> str:
    if condition(live, "Ready").get("status") == "True" or live.get("status", {}).get("phase") == "Succeeded":
        return ""
    return _pod_state(live)


def _service(kube: Kube, live: Json) -> str:
    spec = live["spec"]
    if spec.get("type") == "LoadBalancer" and not live.get("status", {}).get("loadBalancer", {}).get("ingress"):
        return "no load balancer address"
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None" or not spec.get("selector"):
        return ""
    # No pods at all is fine for the provider; pods that are there must be ready.
    name, namespace = live["metadata"]["name"], live["metadata"]["namespace"]
    slices = [
        s
        for s in _in_namespace(kube, _ENDPOINT_SLICES, namespace)
        if s["metadata"].get("labels", {}).get("kubernetes.io/service-name") == name
    ]
    if not slices:
        return "no endpoints yet"
    endpoints = [one for s in slices for one in cast(list[Json], s.get("endpoints") or [])]
    waiting = [one for one in endpoints if not one.get("conditions", {}).get("ready", True)]
    return f"{len(waiting)} of its pods are not ready" if waiting else ""


def _claim(kube: Kube, live: Json) -> str:
    phase = live.get("status", {}).get("phase")
    name = live["spec"].get("storageClassName")
    storage_class = kube.get(STORAGE_CLASSES, ("", name)) if name else None
    late = storage_class is not None and storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"
    return "" if phase == "Bound" or (late and phase == "Pending") else f"phase {phase}"


def _volume(_kube: Kube, live: Json) -> str:
    phase = live.get("status", {}).get("phase")
    return "" if phase in {"Available", "Bound"} else f"phase {phase}"


def _quota(_kube: Kube, live: Json) -> str:
    return "" if live.get("status", {}).get("hard") == live["spec"].get("hard") else "not yet enforced"


def _ingress(_kube: Kube, live: Json) -> str:
    return "" if live.get("status", {}).get("loadBalancer", {}).get("ingress") else "no load balancer address"


def _definition(_kube: Kube, live: Json) -> str:
    return "" if condition(live, "Established").get("status") == "True" else "not established"


def _in_namespace(kube: Kube, kind: Kind, namespace: str) -> list[Json]:
    listed = kube.api.get(kind.path(namespace)) or {}
    return cast(list[Json], listed.get("items") or [])


def _pods(kube: Kube, owner: Json) -> str:
    """Why pods of the workload are not ready, each reason once."""
    wanted = owner["spec"].get("selector", {}).get("matchLabels", {})
    if not wanted:
        return ""
    pods = [
        pod
        for pod in _in_namespace(kube, PODS, owner["metadata"]["namespace"])
        if wanted.items() <= pod["metadata"].get("labels", {}).items()
    ]
    reasons = sorted({state for pod in pods if (state := _pod(kube, pod))})
    return "".join(f"; {reason}" for reason in reasons[:3])


def _pod_state(pod: Json) -> str:
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason')}: {scheduled.get('message')}"
    for container in pod.get("status", {}).get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return f"container {container['name']}: {waiting.get('reason')} {waiting.get('message', '')}".strip()
    return f"pod {pod.get('status', {}).get('phase', 'Pending')}, not ready"


_CHECKS: Final[Mapping[tuple[str, str], Check]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("batch", "Job"): _job,
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", CLAIMS.kind): _claim,
    ("", "PersistentVolume"): _volume,
    ("", "ResourceQuota"): _quota,
    ("networking.k8s.io", "Ingress"): _ingress,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
}
