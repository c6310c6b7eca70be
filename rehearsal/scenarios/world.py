"""The live cluster, as scenarios see and hurt it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from planner.naming import MODEL_LABEL, POOL_LABEL, WARM_NAMESPACE
from planner.plan import ModelPlan, Plan, PoolPlan
from rehearsal.controlplane.api import ApiError
from rehearsal.injections import World
from rehearsal.kube import NODES, PODS, Caches, Json, Key, Kind, Kube, key_of
from rehearsal.kubelet import GROUP_KEY
from rehearsal.nodes import GPU, GROUP_ANNOTATION, ZONE
from rehearsal.operators import Operators
from rehearsal.pods import is_ready, of_daemon_set
from rehearsal.quantities import requests_of

BUDGETS: Final = Kind(api_version="policy/v1", plural="poddisruptionbudgets", kind="PodDisruptionBudget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Theatre:
    """Everything that a scenario may look at and act on."""

    kube: Kube
    caches: Caches
    plan: Plan
    world: World
    operators: Operators
    compression: float
    """Planned seconds for each second on the wall."""
    alive: Callable[[], None]
    """Raises if the control plane has ended."""

    def nodes(self, pool: str | None = None) -> list[Json]:
        """Live nodes, of one pool or all."""
        rungs = None if pool is None else {rung.name for rung in self.plan.pool(pool).rungs}
        found = [node for node in self.caches.all(NODES) if "deletionTimestamp" not in node["metadata"]]
        found.sort(key=lambda node: node["metadata"]["name"])
        return [node for node in found if rungs is None or rung_of(node) in rungs]

    def pods(self, model: ModelPlan) -> list[Json]:
        """Pods of a model that hold GPUs, leaving ones included."""
        return [
            pod
            for pod in self.caches.all(PODS)
            if pod["metadata"]["namespace"] == model.namespace
            and pod["metadata"].get("labels", {}).get(MODEL_LABEL) == model.name
            and requests_of(pod).get(GPU)
        ]

    def pods_on(self, node: str) -> list[Json]:
        """Pods of a node that leave it when it is drained."""
        return [pod for pod in self.caches.all(PODS) if pod["spec"].get("nodeName") == node and not of_daemon_set(pod)]

    def models_on(self, nodes: Iterable[str]) -> list[ModelPlan]:
        """Models with a pod on one of the nodes."""
        names = set(nodes)
        return [
            model
            for model in self.plan.models
            if any(pod["spec"].get("nodeName") in names and not leaving(pod) for pod in self.pods(model))
        ]

    def balloons(self, pool: str) -> list[Json]:
        """Pods that keep a pool's nodes warm."""
        return [
            pod
            for pod in self.caches.all(PODS)
            if pod["metadata"]["namespace"] == WARM_NAMESPACE
            and pod["metadata"].get("labels", {}).get(POOL_LABEL) == pool
            and pod["spec"].get("nodeName")
        ]

    def existing(self) -> dict[str, int]:
        """Nodes of each rung."""
        count = {rung.name: 0 for pool in self.plan.pools for rung in pool.rungs}
        for node in self.nodes():
            if rung_of(node) in count:
                count[rung_of(node)] += 1
        return count

    def cordon(self, node: str) -> None:
        """Keep new pods off a node."""
        self.kube.patch(NODES, ("", node), {"spec": {"unschedulable": True}})

    def evict(self, pod: Json) -> bool:
        """Ask for a pod's eviction; False where a disruption budget forbids it now."""
        namespace, name = key_of(pod)
        body: Json = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name},
            "deleteOptions": {"preconditions": {"uid": pod["metadata"]["uid"]}},
        }
        try:
            self.kube.api.create(PODS.path(namespace, name, "eviction"), body)
        except ApiError as error:
            if error.status == 429:
                return False
            if error.status not in {404, 409}:
                raise
        return True

    def vanish(self, nodes: Sequence[str]) -> None:
        """Nodes and all their pods are gone at once, as the control plane sees it in the end."""
        for node in nodes:
            self.kube.delete(NODES, ("", node))
        for pod in self.caches.all(PODS):
            if pod["spec"].get("nodeName") in nodes:
                self.kube.api.delete(PODS.path(*key_of(pod)) + "?gracePeriodSeconds=0")

    def offer(self, capacity: Mapping[str, int], *, lost_zones: Sequence[str] = ()) -> None:
        """What can be had from now on; no further machine where the fault `nothing-comes` is injected."""
        if self.world.nothing_comes:
            capacity = dict.fromkeys(self.existing(), 0)
        self.operators.autoscaler.set_capacity(capacity, lost_zones=frozenset(lost_zones))

    def forbid_evictions(self) -> None:
        """The fault `no-evictions`: a budget of every model that lets nobody go."""
        for model in self.plan.models:
            change: Json = {
                "spec": {"maxUnavailable": 0, "minAvailable": None, "unhealthyPodEvictionPolicy": "IfHealthyBudget"}
            }
            self.kube.patch(BUDGETS, (model.namespace, model.name), change)

    def wait(self, planned_seconds: float) -> None:
        """Let planned time pass."""
        time.sleep(planned_seconds / self.compression)


def rung_of(node: Json) -> str:
    """The rung (or system group) of a node."""
    return str(node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION, ""))


def zone_of(node: Json) -> str:
    """The zone of a node; empty where it has none."""
    return str(node["metadata"]["labels"].get(ZONE, ""))


def name_of(item: Json) -> str:
    """An object's name."""
    return str(item["metadata"]["name"])


def leaving(pod: Json) -> bool:
    """Whether somebody has deleted the pod."""
    return "deletionTimestamp" in pod["metadata"]


def unschedulable(pod: Json) -> bool:
    """Whether the scheduler found no node for the pod."""
    return not pod["spec"].get("nodeName") and any(
        one["type"] == "PodScheduled" and one.get("reason") == "Unschedulable"
        for one in pod.get("status", {}).get("conditions", ())
    )


def replicas_of(model: ModelPlan, pods: Iterable[Json]) -> dict[str, list[Json]]:
    """Pods by replica: groups by their key, single pods each for itself."""
    found: dict[str, list[Json]] = {}
    for pod in pods:
        labels: dict[str, str] = pod["metadata"].get("labels", {})
        alone = str(pod["metadata"]["uid"])
        together = labels.get(GROUP_KEY) or labels.get(RAY_REPLICA) or alone
        key = alone if model.layout.nodes == 1 else together
        found.setdefault(key, []).append(pod)
    return found


RAY_REPLICA: Final = "ray.io/worker-group-replica-name"


def serving_replicas(model: ModelPlan, pods: Iterable[Json]) -> int:
    """Replicas of which every pod is Ready."""
    ready = [pod for pod in pods if not leaving(pod) and is_ready(pod)]
    return sum(len(group) == model.layout.nodes for group in replicas_of(model, ready).values())


def free_gpus(theatre: Theatre, node: Json, *, without: Iterable[Key] = ()) -> float:
    """GPUs of a node that nobody asks for; the pods `without` are not counted."""
    ignored = set(without)
    taken = sum(
        float(requests_of(pod).get(GPU, 0.0)) for pod in theatre.pods_on(name_of(node)) if key_of(pod) not in ignored
    )
    offered: Any = node["status"]["allocatable"].get(GPU, "0")
    return float(offered) - taken


def pool_of_rung(plan: Plan, rung: str) -> PoolPlan | None:
    """The pool that a rung belongs to."""
    return next((pool for pool in plan.pools if any(one.name == rung for one in pool.rungs)), None)
