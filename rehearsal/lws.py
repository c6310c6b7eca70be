"""A stand-in for the LeaderWorkerSet controller and its pod webhook: makes the pods of every group.

Names, labels, environment and restart rules follow LeaderWorkerSet v0.10.0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rehearsal.kube import LEADER_WORKER_SETS, PODS, SERVICES, Caches, Json, Kind, Kube, key_of
from rehearsal.kubelet import GROUP_KEY, GROUP_SIZE
from rehearsal.pods import add_environment, condition, is_ready, new_pod, owned_by, owner_of, restarts

_LABEL: Final = "leaderworkerset.sigs.k8s.io/"
NAME, GROUP, WORKER = _LABEL + "name", _LABEL + "group-index", _LABEL + "worker-index"
REVISION: Final = _LABEL + "template-revision-hash"

_Groups = dict[int, dict[int, Json]]


class LeaderWorkerSets:
    """Makes, replaces and counts the pods of LeaderWorkerSets."""

    kinds: Sequence[Kind] = (LEADER_WORKER_SETS, PODS)

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._services: set[tuple[str, str]] = set()

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Bring every set's pods to what its specification says."""
        pods = caches.all(PODS)
        for item in caches.all(LEADER_WORKER_SETS):
            if "deletionTimestamp" not in item["metadata"]:
                self._sync(item, _groups(item, pods))
        return None

    def _sync(self, item: Json, groups: _Groups) -> None:
        spec = item["spec"]
        size = spec["leaderWorkerTemplate"].get("size", 1)
        replicas = spec.get("replicas", 1)
        revision = _revision(spec["leaderWorkerTemplate"])
        unique = spec.get("networkConfig", {}).get("subdomainPolicy") == "UniquePerReplica"
        name = item["metadata"]["name"]
        for subdomain in [f"{name}-{index}" for index in range(replicas)] if unique else [name]:
            self._make_service(item, subdomain)
        self._delete(pod for index, group in groups.items() if index >= replicas for pod in group.values())
        policy = spec["leaderWorkerTemplate"].get("restartPolicy", "RecreateGroupOnPodRestart")
        broken = [index for index, group in groups.items() if _broken(group, size, policy)]
        for index in {*broken, *self._outdated(item, groups, size, revision)}:
            self._delete(groups[index].values())
        for index in range(replicas):
            group = groups.get(index, {})
            if index in broken or any("deletionTimestamp" in pod["metadata"] for pod in group.values()):
                continue
            for worker in sorted(set(range(size)) - set(group)):
                self._make_pod(item, index, worker, revision, unique=unique)
        self._report(item, groups, size, revision)

    def _outdated(self, item: Json, groups: _Groups, size: int, revision: str) -> list[int]:
        """Groups of an older revision that may go now: those that serve nobody, and what `maxUnavailable` leaves."""
        rolling = item["spec"].get("rolloutStrategy", {}).get("rollingUpdateConfiguration", {})
        replicas = item["spec"].get("replicas", 1)
        down = [index for index in range(replicas) if not _group_ready(groups.get(index, {}), size)]
        old = [
            index
            for index in sorted(groups, reverse=True)
            if any(_label(pod, REVISION) != revision for pod in groups[index].values())
        ]
        serving = [index for index in old if index not in down]
        spare = max(0, int(rolling.get("maxUnavailable", 1)) - len(down))
        return [index for index in old if index in down] + serving[:spare]

    def _make_pod(self, item: Json, group: int, worker: int, revision: str, *, unique: bool) -> None:
        templates = item["spec"]["leaderWorkerTemplate"]
        template = templates.get("leaderTemplate") if worker == 0 else None
        name = item["metadata"]["name"]
        namespace = item["metadata"]["namespace"]
        leader = f"{name}-{group}"
        subdomain = leader if unique else name
        labels = {
            NAME: name,
            GROUP: str(group),
            WORKER: str(worker),
            GROUP_KEY: hashlib.sha256(f"{namespace}/{leader}".encode()).hexdigest()[:40],
            REVISION: revision,
        }
        size = str(templates.get("size", 1))
        pod = new_pod(
            template or templates["workerTemplate"],
            namespace=namespace,
            name=leader if worker == 0 else f"{leader}-{worker}",
            owner=owner_of(LEADER_WORKER_SETS, item),
            labels=labels,
            annotations={GROUP_SIZE: size},
        )
        pod["spec"] |= {"hostname": pod["metadata"]["name"], "subdomain": subdomain}
        add_environment(
            pod,
            {
                "LWS_LEADER_ADDRESS": f"{leader}.{subdomain}.{namespace}",
                "LWS_GROUP_SIZE": size,
                "LWS_WORKER_INDEX": str(worker),
            },
        )
        self._kube.create(PODS, pod)

    def _make_service(self, item: Json, subdomain: str) -> None:
        """The headless Service by which the pods of a group find each other."""
        namespace = item["metadata"]["namespace"]
        if (item["metadata"]["uid"], subdomain) in self._services:
            return
        selector = {NAME: item["metadata"]["name"]}
        metadata = {
            "name": subdomain,
            "namespace": namespace,
            "ownerReferences": [owner_of(LEADER_WORKER_SETS, item)],
        }
        spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector}
        self._kube.create(SERVICES, {"metadata": metadata, "spec": spec})
        self._services.add((item["metadata"]["uid"], subdomain))

    def _report(self, item: Json, groups: _Groups, size: int, revision: str) -> None:
        ready = sum(_group_ready(group, size) for group in groups.values())
        wanted = item["spec"].get("replicas", 1)
        status: dict[str, Any] = {
            "replicas": len(groups),
            "readyReplicas": ready,
            "updatedReplicas": sum(
                all(_label(pod, REVISION) == revision for pod in group.values()) for group in groups.values()
            ),
            "hpaPodSelector": f"{NAME}={item['metadata']['name']},{WORKER}=0",
            "observedGeneration": item["metadata"]["generation"],
        }
        old = item.get("status", {})
        if {name: old.get(name) for name in status} != status:
            status["conditions"] = [
                condition(
                    "Available", met=ready >= wanted, reason="AllGroupsReady" if ready >= wanted else "GroupsNotReady"
                )
            ]
            self._kube.patch(LEADER_WORKER_SETS, key_of(item), {"status": status}, subresource="status")

    def _delete(self, pods: Iterable[Json]) -> None:
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                self._kube.delete(PODS, key_of(pod))


def _groups(item: Json, pods: Sequence[Json]) -> _Groups:
    found: _Groups = {}
    for pod in pods:
        if owned_by(pod, item):
            found.setdefault(int(_label(pod, GROUP)), {})[int(_label(pod, WORKER))] = pod
    return found


def _label(pod: Json, name: str) -> str:
    return pod["metadata"]["labels"].get(name, "")


def _group_ready(group: dict[int, Json], size: int) -> bool:
    return len(group) == size and all(is_ready(pod) for pod in group.values())


def _broken(group: dict[int, Json], size: int, policy: str) -> bool:
    """Whether the whole group must go, because a pod of it restarted, failed or went away."""
    if policy == "None":
        return False
    pods = list(group.values())
    if any("deletionTimestamp" in pod["metadata"] for pod in pods):
        return True
    phases = [pod.get("status", {}).get("phase") for pod in pods]
    if policy == "RecreateGroupAfterStart" and (len(pods) == size and "Pending" in phases):
        return False
    restarted = any(restarts(pod) for pod in pods) or "Failed" in phases
    return restarted or (len(pods) < size and "Running" in phases)


def _revision(templates: Json) -> str:
    return hashlib.sha256(json.dumps(templates, sort_keys=True).encode()).hexdigest()[:10]
