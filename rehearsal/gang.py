"""A stand-in for Volcano's gang scheduling: the pods of a group are let go together, when all of them fit.

It acts on pods with `schedulerName: volcano` that carry a scheduling gate and name a PodGroup. As with Volcano itself,
a pod that is held back is not `Unschedulable`, so no autoscaler adds nodes for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rehearsal.kube import NODES, POD_GROUPS, PODS, Caches, Json, Key, Kind, Kube, key_of
from rehearsal.quantities import add, amount, fits, requests_of

SCHEDULER: Final = "volcano"
GROUP_ANNOTATION: Final = "scheduling.k8s.io/group-name"


class Gang:
    """Releases the gates of a PodGroup's pods once `minMember` of them exist and the nodes have room for them all."""

    kinds: Sequence[Kind] = (PODS, POD_GROUPS, NODES)

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Release every group that fits now."""
        pods = caches.all(PODS)
        gated: dict[Key, list[Json]] = {}
        for pod in pods:
            if pod["spec"].get("schedulerName") == SCHEDULER and pod["spec"].get("schedulingGates"):
                group = pod["metadata"].get("annotations", {}).get(GROUP_ANNOTATION, "")
                gated.setdefault((pod["metadata"]["namespace"], group), []).append(pod)
        for key, members in gated.items():
            group = caches.get(POD_GROUPS, key)
            complete = group is not None and len(members) >= group["spec"].get("minMember", 1)
            if complete and _all_fit(members, caches.all(NODES), pods):
                for pod in members:
                    self._kube.patch(PODS, key_of(pod), {"spec": {"schedulingGates": None}})
        return None


def _all_fit(members: Sequence[Json], nodes: Sequence[Json], pods: Sequence[Json]) -> bool:
    """First fit of all members on what the nodes have left; each member's node selector is respected."""
    room = [(node["metadata"]["labels"], _room(node, pods)) for node in nodes]
    for pod in members:
        wanted = requests_of(pod)
        selector = pod["spec"].get("nodeSelector", {})
        home = next((left for labels, left in room if selector.items() <= labels.items() and fits(wanted, left)), None)
        if home is None:
            return False
        for name, value in wanted.items():
            home[name] = home.get(name, 0.0) - value
    return True


def _room(node: Json, pods: Sequence[Json]) -> dict[str, Any]:
    name = node["metadata"]["name"]
    used = add(requests_of(pod) for pod in pods if pod["spec"].get("nodeName") == name)
    return {
        resource: amount(offered) - used.get(resource, 0.0)
        for resource, offered in node["status"].get("allocatable", {}).items()
    }
