"""A stand-in for cluster-autoscaler: adds simulated nodes for pods that the scheduler cannot place.

It follows what the platform relies on: it acts only on pods that the scheduler marked `Unschedulable`, tries a pool's
rungs by priority, waits out a machine's boot, backs off from a rung that has no capacity as planned and says so in its
status, and hands back cordoned nodes that are empty. Other idle nodes it keeps. All pods that must share a rung get
their nodes from one rung.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from planner.naming import AUTOSCALER_STATUS, RUNG_LABEL, SYSTEM_NAMESPACE
from planner.plan import AutoscalerTimesPlan
from rehearsal.karpenter import as_declared
from rehearsal.kube import CONFIG_MAPS, NODE_POOLS, NODES, PODS, Caches, Json, Key, Kind, Kube, key_of
from rehearsal.nodes import GPU, GROUP_ANNOTATION, NodeGroup
from rehearsal.pods import of_daemon_set
from rehearsal.quantities import Amounts, add, amount, fits, requests_of

UNNEEDED_SECONDS: Final = 600.0
"""How long a cordoned node is empty before it is taken away: the chart's `scale-down-unneeded-time`."""
BACKOFF_SECONDS: Final = 300.0
"""The first pause after a failure where none is planned: cluster-autoscaler's own."""
_LONGEST_BACKOFF: Final = 1800.0
FAILURE_SECONDS: Final = 60.0
"""How long until the lack of capacity is noticed: a few loops of cluster-autoscaler (assumed)."""
# A node that is Ready is seen by the scheduler a moment later; its pods are not counted again before that.
_BIND_GRACE_SECONDS: Final = 3.0


@dataclass(kw_only=True)
class _Booking:
    """A machine that was asked for."""

    group: NodeGroup
    index: int
    since: float
    due: float
    comes: bool
    pods: dict[str, Amounts] = field(default_factory=dict[str, Amounts])
    arrived: bool = False


class Autoscaler:
    """Makes nodes on demand.

    Args:
        kube: where the nodes are made.
        groups: what can be made.
        capacity: machines that can be had by group; a group that is not named has its maximum.
        times: how long it leaves a group alone that had no machine.
        compression: how many planned seconds one rehearsed second stands for.
    """

    kinds: Sequence[Kind] = (PODS, NODES, NODE_POOLS)

    def __init__(
        self,
        kube: Kube,
        groups: Sequence[NodeGroup],
        *,
        capacity: Mapping[str, int] | None = None,
        times: AutoscalerTimesPlan | None = None,
        compression: float,
    ) -> None:
        self.waiting: dict[Key, str] = {}
        """Pods that get no node now, and why."""
        self.no_capacity: dict[str, int] = {}
        """Groups that had no machine when asked -> how many times."""
        self._kube = kube
        self._groups = sorted(groups, key=lambda group: -group.priority)
        self._capacity = dict(capacity or {})
        self._lost_zones: frozenset[str] = frozenset()
        self._compression = compression
        self._bookings: list[_Booking] = []
        self._backoff: dict[str, float] = {}
        self._pauses = (BACKOFF_SECONDS, _LONGEST_BACKOFF)
        if times:
            self._pauses = (times.initial_backoff_seconds, times.max_backoff_seconds)
        self._failures: dict[str, int] = {}
        self._empty_since: dict[str, float] = {}
        self._status: str | None = None
        self._indexes: dict[str, set[int]] = {}
        self._offered: Sequence[NodeGroup] = ()
        self._lock = threading.Lock()

    def make_minimum(self) -> int:
        """Make every group's minimum of nodes at once; returns how many."""
        made = [
            group.new_node(index + 1)
            for group in self._groups
            for index in range(min(group.min_nodes, self._available(group)))
        ]
        for node in made:
            self._kube.create(NODES, node)
        self._report(0.0)
        return len(made)

    def set_capacity(self, capacity: Mapping[str, int], *, lost_zones: frozenset[str] = frozenset()) -> None:
        """Change what can be had from now on, and where nothing can; forgets every back-off, and why pods waited: that
        may hold no longer."""
        with self._lock:
            self._capacity = dict(capacity)
            self._lost_zones = lost_zones
            self._backoff.clear()
            self._failures.clear()
            self.waiting = {}

    @property
    def groups(self) -> Sequence[NodeGroup]:
        """What can be made, the best first."""
        return self._groups

    def machine_wait(self, pod: Json) -> tuple[float, float] | None:
        """From when until when a pod waits for the machine that is on its way for it, by `time.monotonic`; for ever
        where the group that it could come from is left alone for now, and None where it waits for no machine."""
        uid = pod["metadata"]["uid"]
        waits = [(one.since, one.due) for one in list(self._bookings) if uid in one.pods and not one.arrived]
        return max(waits) if waits else (math.inf, math.inf) if key_of(pod) in self.waiting else None

    def available(self, name: str) -> int:
        """Machines of a group that there can be now, those that are there included."""
        return self._available(next(group for group in self._groups if group.name == name))

    def add_nodes(self, name: str, count: int) -> int:
        """Nodes of a group that stand although nobody asks for them, as far as it has room; returns how many."""
        with self._lock:
            group = next(one for one in self._groups if one.name == name)
            taken = self._taken(group)
            room = min(count, self._available(group) - len(taken))
            free = [number for number in range(1, len(taken) + count + 1) if number not in taken][: max(0, room)]
            for number in free:
                self._kube.create(NODES, group.new_node(number))
            self._indexes = {**self._indexes, name: taken | set(free)}
            return len(free)

    def reconcile(self, caches: Caches, now: float) -> float | None:
        """Hand over machines that are due and ask for what pending pods need."""
        with self._lock:
            nodes = caches.all(NODES)
            self._indexes = _indexes(nodes)
            self._offered = as_declared(self._groups, caches.all(NODE_POOLS))
            pods = [pod for pod in caches.all(PODS) if "deletionTimestamp" not in pod["metadata"]]
            self._arrive(now)
            self._forget(pods, now)
            emptied = self._hand_back(nodes, pods, now)
            self._report(now)
            booked = {uid for booking in self._bookings for uid in booking.pods}
            waited, self.waiting = self.waiting, {}
            for together in _together([pod for pod in pods if _unschedulable(pod)]).values():
                rest = [pod for pod in together if pod["metadata"]["uid"] not in booked]
                if rest:
                    self._place(rest, self._bound_to(together[0], pods, nodes), now)
            # That a rung is asked once more is no news for a pod that waits: it may be in vain again.
            asked = {uid for booking in self._bookings if not booking.comes for uid in booking.pods}
            for pod in pods:
                if pod["metadata"]["uid"] in asked and key_of(pod) in waited:
                    self.waiting.setdefault(key_of(pod), waited[key_of(pod)])
            due = [booking.due for booking in self._bookings if not booking.arrived]
            return min((*due, *emptied, *(at for at in self._backoff.values() if at > now)), default=None)

    def _arrive(self, now: float) -> None:
        for booking in self._bookings:
            if booking.arrived or booking.due > now:
                continue
            booking.arrived = True
            if booking.comes:
                self._kube.create(NODES, booking.group.new_node(booking.index, lost_zones=self._lost_zones))
            else:
                self.no_capacity[booking.group.name] = self.no_capacity.get(booking.group.name, 0) + 1
                self._back_off(booking.group.name, now)

    def _back_off(self, group: str, now: float) -> None:
        """Each failure doubles the pause; several machines that were asked for together fail once."""
        if self._backoff.get(group, 0.0) > now:
            return
        first, longest = self._pauses
        self._failures[group] = self._failures.get(group, 0) + 1
        self._backoff[group] = now + min(longest, first * 2 ** (self._failures[group] - 1)) / self._compression

    def _hand_back(self, nodes: Sequence[Json], pods: Sequence[Json], now: float) -> list[float]:
        """Take cordoned nodes away that have been empty for long; returns when the next ones are due."""
        used = {pod["spec"].get("nodeName") for pod in pods if not of_daemon_set(pod)}
        spare = {group.name: len(self._indexes.get(group.name, ())) - group.min_nodes for group in self._groups}
        empty = [
            node["metadata"]["name"]
            for node in nodes
            if node["spec"].get("unschedulable")
            and node["metadata"]["name"] not in used
            and spare.get(node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION, ""), 0) > 0
        ]
        self._empty_since = {name: self._empty_since.get(name, now) for name in empty}
        due = {name: at + UNNEEDED_SECONDS / self._compression for name, at in self._empty_since.items()}
        for name in [name for name, at in due.items() if at <= now]:
            self._kube.delete(NODES, ("", name))
        return [at for at in due.values() if at > now]

    def _report(self, now: float) -> None:
        """Its status, as the real one writes it; the keeper of the ladder reads it."""
        lines = ["autoscalerStatus: Running", "nodeGroups:"]
        for group in self._groups:
            state = "Backoff" if self._backoff.get(group.name, 0.0) > now else "NoActivity"
            name = f"eks-{group.name}-{'0' * 26}-00000000-0000-4000-8000-000000000000"
            lines += [f"- name: {name}", "  scaleUp:", f"    status: {state}"]
        status = "\n".join([*lines, ""])
        if status != self._status:
            self._status = status
            key = (SYSTEM_NAMESPACE, AUTOSCALER_STATUS)
            body: Json = {"metadata": {"namespace": key[0], "name": key[1]}, "data": {"status": status}}
            if not self._kube.create(CONFIG_MAPS, body):
                self._kube.patch(CONFIG_MAPS, key, {"data": body["data"]})

    def _forget(self, pods: Sequence[Json], now: float) -> None:
        pending = {pod["metadata"]["uid"] for pod in pods if _unschedulable(pod)}
        for booking in self._bookings:
            booking.pods = {uid: wanted for uid, wanted in booking.pods.items() if uid in pending}
        self._bookings = [
            booking
            for booking in self._bookings
            if not booking.arrived or (booking.comes and booking.pods and now < booking.due + _BIND_GRACE_SECONDS)
        ]

    def _bound_to(self, pod: Json, pods: Sequence[Json], nodes: Sequence[Json]) -> str | None:
        """The group that a pod's companions already have nodes (or machines on their way) in."""
        mine = _companions(pod)
        if mine is None:
            return None
        companions = [other for other in pods if _companions(other) == mine]
        group_of = {
            node["metadata"]["name"]: node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION) for node in nodes
        }
        for other in companions:
            if group := group_of.get(other["spec"].get("nodeName", "")):
                return group
        uids = {other["metadata"]["uid"] for other in companions}
        return next((booking.group.name for booking in self._bookings if uids & booking.pods.keys()), None)

    def _place(self, pods: Sequence[Json], bound_to: str | None, now: float) -> None:
        """Book machines for pods that must stay together, all in one group of nodes."""
        suitable = [group for group in self._offered if all(_accepts(group.node, pod) for pod in pods)]
        # Zones of one step have the same priority, and are balanced.
        suitable.sort(key=lambda group: (-group.priority, len(self._taken(group))))
        refused: list[str] = []
        for group in suitable:
            if bound_to not in {None, group.name}:
                continue
            if self._backoff.get(group.name, 0.0) > now:
                refused.append(f"{group.name} has no capacity")
                continue
            homes = _pack(group, pods, self._open(group))
            fresh = max(0, max(home for home, _ in homes.values()) + 1 - len(self._open(group)))
            if len(self._taken(group)) + fresh > group.max_nodes:
                refused.append(f"{group.name} is at its maximum of {group.max_nodes}")
                continue
            self._book(group, homes, fresh, now)
            return
        reason = "; ".join(refused) or "no node group has a node that this pod fits"
        for pod in pods:
            self.waiting[key_of(pod)] = reason

    def _book(self, group: NodeGroup, homes: Mapping[str, tuple[int, Amounts]], fresh: int, now: float) -> None:
        machines = self._open(group)
        for _ in range(fresh):
            taken = self._taken(group)
            index = next(number for number in range(1, len(taken) + 2) if number not in taken)
            comes = len(taken) < self._available(group)
            due = now + (group.boot_seconds if comes else FAILURE_SECONDS) / self._compression
            machines.append(_Booking(group=group, index=index, since=now, due=due, comes=comes))
            self._bookings.append(machines[-1])
        for uid, (home, wanted) in homes.items():
            machines[home].pods[uid] = wanted

    def _open(self, group: NodeGroup) -> list[_Booking]:
        return [booking for booking in self._bookings if booking.group.name == group.name and not booking.arrived]

    def _taken(self, group: NodeGroup) -> set[int]:
        """Numbers of a group's machines, those on their way included."""
        return self._indexes.get(group.name, set()) | {
            booking.index for booking in self._bookings if booking.group.name == group.name
        }

    def _available(self, group: NodeGroup) -> int:
        if group.zones and self._lost_zones.issuperset(group.zones):
            return 0
        return min(group.max_nodes, self._capacity.get(group.name, group.max_nodes))


def _pack(group: NodeGroup, pods: Sequence[Json], machines: Sequence[_Booking]) -> dict[str, tuple[int, Amounts]]:
    """Put pods on machines, first fit, those on their way first: pod -> (its machine's number, what it takes)."""
    offered = group.node["status"]["allocatable"]
    loads = [add(machine.pods.values()) for machine in machines]
    homes: dict[str, tuple[int, Amounts]] = {}
    for pod in sorted(pods, key=lambda pod: -requests_of(pod).get(GPU, 0.0)):
        wanted = requests_of(pod)
        home = next((number for number, load in enumerate(loads) if fits(add((wanted, load)), offered)), len(loads))
        if home == len(loads):
            loads.append({})
        loads[home] = add((wanted, loads[home]))
        homes[pod["metadata"]["uid"]] = (home, wanted)
    return homes


def _indexes(nodes: Sequence[Json]) -> dict[str, set[int]]:
    """Numbers of the machines that are there, by group."""
    found: dict[str, set[int]] = {}
    for node in nodes:
        if group := node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION):
            found.setdefault(group, set()).add(int(node["metadata"]["name"].rsplit("-", 1)[1]))
    return found


def _unschedulable(pod: Mapping[str, Any]) -> bool:
    if pod["spec"].get("nodeName") or of_daemon_set(pod):
        return False
    return any(
        condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable"
        for condition in pod.get("status", {}).get("conditions", ())
    )


def _companions(pod: Mapping[str, Any]) -> str | None:
    """What the pods of one group have in common: the required affinity on the rung label."""
    affinity = pod["spec"].get("affinity", {}).get("podAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", ())
    mine = [term["labelSelector"] for term in terms if term.get("topologyKey") == RUNG_LABEL]
    return pod["metadata"].get("namespace", "") + json.dumps(mine, sort_keys=True) if mine else None


def _together(pods: Sequence[Json]) -> dict[str, list[Json]]:
    groups: dict[str, list[Json]] = {}
    for pod in pods:
        groups.setdefault(_companions(pod) or pod["metadata"]["uid"], []).append(pod)
    return groups


def _accepts(node: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether a pod could run on an empty node of this shape: selector, node affinity, taints and size."""
    labels = node["metadata"]["labels"]
    spec = pod["spec"]
    selected = all(labels.get(name) == value for name, value in spec.get("nodeSelector", {}).items())
    required = (
        spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    )
    terms = required.get("nodeSelectorTerms", ())
    return (
        selected
        and (not terms or any(_term_matches(term, labels) for term in terms))
        and all(_tolerated(taint, spec.get("tolerations", ())) for taint in node["spec"].get("taints", ()))
        and fits(requests_of(pod), node["status"]["allocatable"])
    )


def _term_matches(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return all(_expression_matches(expression, labels) for expression in term.get("matchExpressions", ()))


def _expression_matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    values = expression.get("values", ())
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and amount(value) > amount(values[0])
        case _:
            return value is not None and amount(value) < amount(values[0])


def _tolerated(taint: Mapping[str, str], tolerations: Sequence[Mapping[str, str]]) -> bool:
    if taint["effect"] == "PreferNoSchedule":
        return True
    return any(
        toleration.get("key", taint["key"]) == taint["key"]
        and toleration.get("effect", taint["effect"]) in {taint["effect"], ""}
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
        for toleration in tolerations
    )
