"""What the stand-ins of operators have in common: pods made of templates, their owners and their state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rehearsal.kube import Json, Kind


def new_pod(
    template: Mapping[str, Any],
    *,
    namespace: str,
    name: str,
    owner: Json,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> Json:
    """A pod of a template; `owner` is what `owner_of` returned."""
    metadata = template.get("metadata", {})
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**metadata.get("labels", {}), **labels},
            "annotations": {**metadata.get("annotations", {}), **(annotations or {})},
            "ownerReferences": [owner],
        },
        "spec": copy.deepcopy(dict(template["spec"])),
    }


def owner_of(kind: Kind, owner: Mapping[str, Any]) -> Json:
    """The owner reference with which an object goes away with its owner."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def of_daemon_set(pod: Mapping[str, Any]) -> bool:
    """Whether a pod stays with its node: autoscalers and drains leave those of DaemonSets alone."""
    return any(owner.get("kind") == "DaemonSet" for owner in pod["metadata"].get("ownerReferences", ()))


def owned_by(item: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether `owner` made the item."""
    uid = owner["metadata"]["uid"]
    return any(reference["uid"] == uid for reference in item["metadata"].get("ownerReferences", ()))


def add_environment(pod: Json, variables: Mapping[str, str]) -> None:
    """Put variables before a pod's own, so that `$(NAME)` expands in them and in the arguments."""
    first = [{"name": name, "value": value} for name, value in variables.items()]
    for group in ("initContainers", "containers"):
        for container in pod["spec"].get(group, ()):
            container["env"] = [*first, *container.get("env", ())]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod takes traffic."""
    return "deletionTimestamp" not in pod["metadata"] and any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", ())
    )


def restarts(pod: Mapping[str, Any]) -> int:
    """How often the pod's containers were started again."""
    return sum(status.get("restartCount", 0) for status in pod.get("status", {}).get("containerStatuses", ()))


def condition(kind: str, *, met: bool, reason: str, message: str = "") -> Json:
    """A status condition as of now."""
    return {
        "type": kind,
        "status": "True" if met else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
