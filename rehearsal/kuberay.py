"""A stand-in for the KubeRay operator: makes the pods and Services of RayServices and reports when they serve.

Names, labels and conditions follow KubeRay v1.7.0. The RayCluster between a RayService and its pods is left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from planner.naming import MODEL_LABEL
from rehearsal.kube import PODS, RAY_SERVICES, SERVICES, Caches, Json, Kind, Kube, key_of
from rehearsal.kubelet import RAY_NODE, Killed
from rehearsal.pods import condition, is_ready, new_pod, owned_by, owner_of

CLUSTER: Final = "ray.io/cluster"
SERVE: Final = "ray.io/serve"
SERVE_PORT: Final = 8000
REPLICA: Final = "ray.io/worker-group-replica-name"
"""One value for the hosts of a worker replica."""

_TIMEOUT: Final = "ray.io/initializing-timeout"
# What may change without a new cluster.
_IN_PLACE: Final = ("replicas", "minReplicas", "maxReplicas", "workersToDelete")


class RayServices:
    """Makes, replaces and counts the pods of RayServices.

    Args:
        kube: where the objects are.
        seconds: planned time in which a model loads once its workers run, by the model's name.
        compression: how many planned seconds one rehearsed second stands for.
    """

    kinds: Sequence[Kind] = (RAY_SERVICES, PODS)

    def __init__(self, kube: Kube, seconds: Mapping[str, float], *, compression: float) -> None:
        self.killed: list[Killed] = []
        """Services that gave up before their model was loaded."""
        self._kube = kube
        self._seconds = seconds
        self._compression = compression
        self._running_since: dict[str, float] = {}
        self._served: dict[str, str] = {}

    def reconcile(self, caches: Caches, now: float) -> float | None:
        """Bring every service's pods to what its specification says."""
        pods = caches.all(PODS)
        due = [
            self._sync(item, [pod for pod in pods if owned_by(pod, item)], now)
            for item in caches.all(RAY_SERVICES)
            if "deletionTimestamp" not in item["metadata"]
        ]
        return min((at for at in due if at > now), default=None)

    def _sync(self, item: Json, pods: Sequence[Json], now: float) -> float:
        uid = item["metadata"]["uid"]
        cluster = self._cluster(item)
        mine = {pod["metadata"]["name"]: pod for pod in pods if pod["metadata"]["labels"][CLUSTER] == cluster}
        wanted = {pod["metadata"]["name"]: pod for pod in _pods(item, cluster)}
        for name, pod in wanted.items():
            if name not in mine:
                self._kube.create(PODS, pod)
        for name, pod in mine.items():
            if name not in wanted and "deletionTimestamp" not in pod["metadata"]:
                self._kube.delete(PODS, key_of(pod))
        running = set(wanted) <= {name for name, pod in mine.items() if is_ready(pod)}
        since = self._running_since.setdefault(uid + cluster, now) if running else now
        ready, due, reason = self._readiness(item, since, now) if running else (False, now, "WaitingForPods")
        if ready and self._served.get(uid) != cluster:
            self._serve(item, cluster)
            self._served[uid] = cluster
            for pod in pods:
                if pod["metadata"]["labels"][CLUSTER] != cluster:
                    self._kube.delete(PODS, key_of(pod))
        self._report(item, cluster, ready=ready, reason=reason, endpoints=len(wanted) - 1)
        return due

    def _cluster(self, item: Json) -> str:
        """The name of the cluster that the specification asks for: another one after a change, unless that is off."""
        config = json.loads(json.dumps(item["spec"]["rayClusterConfig"]))
        for group in config.get("workerGroupSpecs", ()):
            for name in _IN_PLACE:
                group.pop(name, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:5]
        fresh = f"{item['metadata']['name']}-{digest}"
        if item["spec"].get("upgradeStrategy", {}).get("type") == "None":
            return item.get("status", {}).get("activeServiceStatus", {}).get("rayClusterName", fresh)
        return fresh

    def _readiness(self, item: Json, since: float, now: float) -> tuple[bool, float, str]:
        """(whether it serves, when that changes next, why)"""
        model = item["metadata"].get("labels", {}).get(MODEL_LABEL, item["metadata"]["name"])
        needs = self._seconds.get(model, 0.0)
        allows = _seconds(item["metadata"].get("annotations", {}).get(_TIMEOUT))
        if allows is not None and allows < needs:
            killed = Killed(pod=key_of(item), model=model, needs_seconds=needs, allows_seconds=allows)
            if killed not in self.killed:
                self.killed.append(killed)
            return False, since + allows / self._compression, "InitializingTimeout"
        due = since + needs / self._compression
        return now >= due, due, "NonZeroServeEndpoints" if now >= due else "ZeroServeEndpoints"

    def _serve(self, item: Json, cluster: str) -> None:
        """Point the service's two Services at a cluster."""
        name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
        services = {
            f"{name}-head-svc": ({CLUSTER: cluster, RAY_NODE: "head"}, [("dashboard", 8265), ("metrics", 8080)]),
            f"{name}-serve-svc": ({CLUSTER: cluster, SERVE: "true"}, [("serve", SERVE_PORT)]),
        }
        for service, (selector, ports) in services.items():
            spec = {"selector": selector, "ports": [{"name": port, "port": number} for port, number in ports]}
            metadata = {"name": service, "namespace": namespace, "ownerReferences": [owner_of(RAY_SERVICES, item)]}
            if not self._kube.create(SERVICES, {"metadata": metadata, "spec": spec}):
                self._kube.patch(SERVICES, (namespace, service), {"spec": spec})

    def _report(self, item: Json, cluster: str, *, ready: bool, reason: str, endpoints: int) -> None:
        old = item.get("status", {}).get("conditions", [])
        generation = item["metadata"]["generation"]
        same_generation = item.get("status", {}).get("observedGeneration") == generation
        if same_generation and old and (old[0]["status"] == "True", old[0]["reason"]) == (ready, reason):
            return
        status: dict[str, Any] = {
            "observedGeneration": generation,
            "numServeEndpoints": endpoints if ready else 0,
            "serviceStatus": "Running" if ready else "",
            "conditions": [condition("Ready", met=ready, reason=reason)],
        }
        if ready:
            status["activeServiceStatus"] = {"rayClusterName": cluster}
        self._kube.patch(RAY_SERVICES, key_of(item), {"status": status}, subresource="status")


def _pods(item: Json, cluster: str) -> Iterator[Json]:
    """The head's pod and every worker's."""
    namespace = item["metadata"]["namespace"]
    owner = owner_of(RAY_SERVICES, item)
    config = item["spec"]["rayClusterConfig"]
    yield new_pod(
        config["headGroupSpec"]["template"],
        namespace=namespace,
        name=f"{cluster}-head",
        owner=owner,
        labels=_labels(cluster, "head", "headgroup", serve=not item["spec"].get("excludeHeadPodFromServeSvc", False)),
    )
    for group in config.get("workerGroupSpecs", ()):
        name = group["groupName"]
        for replica in range(max(group.get("replicas", 1), group.get("minReplicas", 0))):
            for host in range(group.get("numOfHosts", 1)):
                labels = _labels(cluster, "worker", name, serve=True) | {
                    REPLICA: f"{name}-{replica}",
                    "ray.io/worker-group-replica-index": str(replica),
                    "ray.io/replica-host-index": str(host),
                }
                yield new_pod(
                    group["template"],
                    namespace=namespace,
                    name=f"{cluster}-{name}-worker-{replica}-{host}",
                    owner=owner,
                    labels=labels,
                )


def _labels(cluster: str, node_type: str, group: str, *, serve: bool) -> dict[str, str]:
    return {
        CLUSTER: cluster,
        RAY_NODE: node_type,
        "ray.io/group": group,
        "ray.io/is-ray-node": "yes",
        "ray.io/identifier": f"{cluster}-{node_type}",
        SERVE: "true" if serve else "false",
    }


def _seconds(duration: str | None) -> float | None:
    """Seconds of a Go duration such as `1h30m`."""
    if not duration:
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))
