"""A small ladder and clusters on it, for the keeper's decisions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from components.scripts.ladder_actions import Cordon, Evict, Memory, Tell, Uncordon
from components.scripts.ladder_decisions import Decision, decide
from components.scripts.ladder_world import Group, Hold, Node, Orders, Pod, World, orders_of
from planner.naming import scaling_group_pattern

NOW = 1_800_000_000.0  # Friday, 15 January 2027, 08:00 UTC
STALL, CONFIRM, MOVE, RELEASE = 600.0, 30.0, 1200.0, 2400.0
BLOCK, SPOT, DEMAND = "big-block-9abcdef0", "big-spot", "big-on-demand"
ALWAYS = {"timezone": "UTC", "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "start": "00:00", "hours": 24}


def rung(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    known = {
        "name": name,
        "kind": kind,
        "scaling_group": scaling_group_pattern(name),
        "max_nodes": 4,
        "usd_per_node_hour": 10.0,
        "stall_seconds": STALL,
        "starts": None,
        "ends": None,
        "drain_lead_seconds": 2700 + MOVE,
    }
    return known | changes


def orders(
    *, window: dict[str, Any] | None = ALWAYS, rungs: list[dict[str, Any]] | None = None, nodes: int = 2
) -> Orders:
    """A pool `big` with three rungs, and a model of groups of two."""
    ladder = rungs or [rung(BLOCK, "capacity_block", max_nodes=2), rung(SPOT, "spot"), rung(DEMAND, "on_demand")]
    model = {"name": "r1", "namespace": "inference", "pool": "big", "nodes": nodes, "move_seconds": MOVE}
    return orders_of(
        json.dumps(
            {
                "interval_seconds": 10,
                "confirm_seconds": CONFIRM,
                "release_seconds": RELEASE,
                "forced_lead_seconds": 2700,
                "climb_backoff_seconds": 1800,
                "max_climb_backoff_seconds": 86400,
                "namespace": "ladder-keeper",
                "autoscaler_namespace": "kube-system",
                "port": 9109,
                "image": "python",
                "pools": [{"name": "big", "rungs": ladder, "window": window}],
                "models": [model],
            }
        )
    )


class Cluster:
    """A world that is built up and then changes with what the keeper does."""

    def __init__(self, given: Orders | None = None, *, now: float = NOW) -> None:
        self.orders = given or orders()
        self.now = now
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, Pod] = {}
        self.backing_off: frozenset[str] = frozenset()
        self.memory = Memory()
        self._serial = 0

    def node(self, name: str, rung_name: str, **changes: Any) -> str:
        known: dict[str, Any] = {"ready": True, "cordoned": False, "leaving": False, "hold": None}
        self.nodes[name] = Node(name=name, rung=rung_name, **(known | changes))
        return name

    def group(self, index: int, *places: str | None, age: float = 3600.0, ready: bool | None = None) -> str:
        """Pods of group `index`, each on its node; None for one that finds none."""
        key = f"inference/r1/{index}"
        whole = all(places)
        for worker, place in enumerate(places):
            self._serial += 1
            name = f"r1-{index}" + (f"-{worker}" if worker else "")
            self.pods[name] = Pod(
                namespace="inference",
                name=name,
                uid=f"uid-{self._serial}",
                model="r1",
                group=key,
                created=self.now - age,
                leader=worker == 0,
                node=place,
                bound_at=self.now - age if place else None,
                ready=whole if ready is None else ready,
                unschedulable=place is None,
            )
        return key

    def change_pod(self, name: str, **changes: Any) -> None:
        self.pods[name] = replace(self.pods[name], **changes)

    def world(self) -> World:
        model = self.orders.models[0]
        groups: dict[str, Group] = {}
        for pod in self.pods.values():
            known = groups.get(pod.group, Group(key=pod.group, model=model, pods=()))
            groups[pod.group] = replace(known, pods=(*known.pods, pod))
        return World(now=self.now, nodes=dict(self.nodes), groups=groups, backing_off=self.backing_off)

    def look(self, after: float = 0.0) -> Decision:
        """One round, and what it does happens: evicted pods begin to leave."""
        self.now += after
        decision = decide(self.world(), self.orders, self.memory)
        self.memory = decision.memory
        for action in decision.actions:
            if isinstance(action, Cordon):
                hold = Hold(why=action.why, group=action.group, at=self.now)
                self.nodes[action.node] = replace(self.nodes[action.node], cordoned=True, hold=hold)
            elif isinstance(action, Uncordon):
                self.nodes[action.node] = replace(self.nodes[action.node], cordoned=False, hold=None)
            elif isinstance(action, Evict):
                assert self.pods[action.pod].uid == action.uid
                self.change_pod(action.pod, deleted_at=self.now, disrupted=True, ready=False)
        return decision

    def gone(self, index: int) -> None:
        """A group's pods are gone."""
        self.pods = {name: pod for name, pod in self.pods.items() if pod.group != f"inference/r1/{index}"}


def evicted(decision: Decision) -> list[str]:
    return [action.pod for action in decision.actions if isinstance(action, Evict)]


def cordoned(decision: Decision) -> list[str]:
    return sorted(action.node for action in decision.actions if isinstance(action, Cordon))


def uncordoned(decision: Decision) -> list[str]:
    return sorted(action.node for action in decision.actions if isinstance(action, Uncordon))


def told(decision: Decision) -> list[str]:
    return [action.reason for action in decision.actions if isinstance(action, Tell)]


def as_json(memory: Memory) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(memory)))
