"""What the ladder keeper knows: its orders, and the cluster as it is.

Plain data and the standard library alone: it runs in a bare Python image, in tests, and in `python -m ops ladder`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

RUNG_LABEL = "inference-platform/rung"
ROLE_LABEL = "inference-platform/group-role"
MODEL_LABEL = "app.kubernetes.io/instance"
HOLD_ANNOTATION = "inference-platform/held-by-ladder-keeper"
ROLES = frozenset({"server", "leader", "worker"})
"""Of pods with GPUs; a Ray head has none and may stay."""

_GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"
_RAY_REPLICA = "ray.io/worker-group-replica-name"
# Whoever sets one of these is about to drain the node.
_DRAIN_TAINTS = {"karpenter.sh/disrupted", "ToBeDeletedByClusterAutoscaler", "node.kubernetes.io/out-of-service"}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Json = Any
"""An object as the API writes it."""


@dataclass(frozen=True)
class Window:
    """When groups may climb."""

    timezone: str
    days: tuple[str, ...]
    start: str
    hours: float

    def is_open(self, now: float) -> bool:
        """Whether it is open; raises ZoneInfoNotFoundError where the image has no such zone."""
        here = datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        hour, _, minute = self.start.partition(":")
        for before in (0, 1):  # one that opened yesterday may still be open
            day = here - timedelta(days=before)
            opened = day.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
            if _DAYS[opened.weekday()] in self.days and 0 <= now - opened.timestamp() < self.hours * 3600:
                return True
        return False


@dataclass(frozen=True)
class Rung:
    """One kind of capacity. Times in seconds, moments in seconds since 1970."""

    name: str
    kind: str
    scaling_group: str
    max_nodes: int
    usd_per_node_hour: float
    stall_seconds: float
    starts: float | None
    ends: float | None
    drain_lead_seconds: float

    @property
    def step(self) -> str:
        """Of the ladder: what a pool in several zones buys in each is one step, as no zone is better."""
        return self.kind if self.kind in {"spot", "on_demand"} else self.name

    def usable(self, now: float) -> bool:
        """Whether groups may come here: a block has begun, and does not end soon."""
        begun = self.starts is None or now >= self.starts
        return begun and (self.ends is None or now < self.ends - self.drain_lead_seconds)


@dataclass(frozen=True)
class Pool:
    """Nodes of one shape; the best rung first."""

    name: str
    rungs: tuple[Rung, ...]
    window: Window | None

    def position(self, rung: str | None) -> int:
        """0 for the best rung; beyond the last for what is none of this pool."""
        steps = list(dict.fromkeys(one.step for one in self.rungs))
        return next((steps.index(one.step) for one in self.rungs if one.name == rung), len(self.rungs))

    def above(self, position: int) -> tuple[Rung, ...]:
        """Rungs that are better than a position."""
        return tuple(one for one in self.rungs if self.position(one.name) < position)


@dataclass(frozen=True)
class Model:
    """A model whose groups may be moved."""

    name: str
    namespace: str
    pool: str
    nodes: int
    move_seconds: float


@dataclass(frozen=True)
class Orders:
    """What the keeper is told: `planner.plan.ladder.KeeperPlan` as JSON."""

    interval_seconds: float
    confirm_seconds: float
    release_seconds: float
    forced_lead_seconds: float
    climb_backoff_seconds: float
    max_climb_backoff_seconds: float
    namespace: str
    autoscaler_namespace: str
    port: int
    pools: tuple[Pool, ...]
    models: tuple[Model, ...]

    def pool(self, name: str) -> Pool:
        """The pool of that name; raises KeyError."""
        return {pool.name: pool for pool in self.pools}[name]

    def rung(self, name: str | None) -> Rung | None:
        """The rung of that name, whichever pool it is of."""
        return next((rung for pool in self.pools for rung in pool.rungs if rung.name == name), None)


def orders_of(text: str, *, time_scale: float = 1.0) -> Orders:
    """Orders from their JSON; `time_scale` planned seconds pass in each real one (a rehearsal)."""
    raw: Json = _scaled(json.loads(text), time_scale)
    known: set[str] = {*Orders.__dataclass_fields__} - {"pools", "models"}
    return Orders(
        pools=tuple(_pool(pool) for pool in raw["pools"]),
        models=tuple(Model(**model) for model in raw["models"]),
        **{name: raw[name] for name in known},
    )


def without_clock(orders: Orders, *, windows_open: bool) -> Orders:
    """The same orders with windows that are always open or never, and blocks without start and end."""
    always = Window(timezone="UTC", days=_DAYS, start="00:00", hours=24) if windows_open else None
    return replace(
        orders,
        pools=tuple(
            replace(
                pool,
                window=always,
                rungs=tuple(replace(rung, starts=None, ends=None) for rung in pool.rungs),
            )
            for pool in orders.pools
        ),
    )


def _pool(raw: Json) -> Pool:
    moments = [{key: moment(rung[key]) for key in ("starts", "ends")} for rung in raw["rungs"]]
    rungs = (Rung(**dict(rung, **moments[index])) for index, rung in enumerate(raw["rungs"]))
    window: Json = raw["window"]
    return Pool(
        name=raw["name"],
        rungs=tuple(rungs),
        window=Window(**dict(window, days=tuple(window["days"]))) if window else None,
    )


def _scaled(value: Any, scale: float) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: one / scale if key.endswith("_seconds") else _scaled(one, scale) for key, one in items}
    if isinstance(value, list):
        return [_scaled(item, scale) for item in cast("list[Any]", value)]
    return value


@dataclass(frozen=True)
class Hold:
    """The keeper's mark on a node that it has cordoned."""

    why: str
    """`gave-up`, `climb` or `ends`."""
    group: str
    at: float

    def text(self) -> str:
        """As an annotation."""
        return json.dumps({"why": self.why, "group": self.group, "at": round(self.at, 3)})


@dataclass(frozen=True)
class Node:
    """A node of a pool."""

    name: str
    rung: str
    ready: bool
    cordoned: bool
    leaving: bool
    """Somebody drains it."""
    hold: Hold | None
    created: float = 0.0


@dataclass(frozen=True)
class Pod:
    """A pod that holds GPUs of a pool."""

    namespace: str
    name: str
    uid: str
    model: str
    group: str
    """Equal for the pods that serve only together."""
    created: float
    leader: bool = False
    node: str | None = None
    bound_at: float | None = None
    ready: bool = False
    unschedulable: bool = False
    deleted_at: float | None = None
    """When its deletion was asked for."""
    disrupted: bool = False
    """Somebody is evicting it."""

    @property
    def leaving(self) -> bool:
        """Whether it goes away."""
        return self.deleted_at is not None or self.disrupted


@dataclass(frozen=True)
class Group:
    """The pods of one replica."""

    key: str
    model: Model
    pods: tuple[Pod, ...]

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that its pods are on."""
        return frozenset(pod.node for pod in self.pods if pod.node)

    @property
    def whole(self) -> bool:
        """Whether all its pods are there, each has a node, and none goes away."""
        enough = len(self.pods) >= self.model.nodes
        return enough and all(pod.node and not pod.leaving for pod in self.pods)

    @property
    def healthy(self) -> bool:
        """Whether it serves."""
        return self.whole and all(pod.ready for pod in self.pods)


@dataclass(frozen=True)
class World:
    """The cluster at one moment."""

    now: float
    nodes: Mapping[str, Node]
    groups: Mapping[str, Group]
    backing_off: frozenset[str] = frozenset()
    """Rungs that cluster-autoscaler leaves alone, since they had no capacity."""

    def rung_of(self, group: Group) -> str | None:
        """The rung that a group's pods are on; None for one without a node."""
        rungs = sorted(self.nodes[name].rung for name in group.nodes if name in self.nodes)
        return rungs[0] if rungs else None

    def on(self, rung: str) -> list[Node]:
        """Nodes of a rung."""
        return [node for node in self.nodes.values() if node.rung == rung]

    def users(self, node: str) -> set[str]:
        """Groups with pods on a node."""
        return {key for key, group in self.groups.items() if node in group.nodes}


def world_of(orders: Orders, now: float, nodes: Iterable[Json], pods: Iterable[Json], status: str = "") -> World:
    """The world from what the API server answers: nodes, pods, and cluster-autoscaler's own status.

    Whatever is not of a pool or model of the orders is left out, so that nothing can be done to it.
    """
    rungs = {rung.name for pool in orders.pools for rung in pool.rungs}
    models = {(model.namespace, model.name): model for model in orders.models}
    seen = [found for node in nodes if (found := _node(node)).rung in rungs]
    groups: dict[str, Group] = {}
    for raw in pods:
        labels: Json = raw["metadata"].get("labels") or {}
        model = models.get((raw["metadata"]["namespace"], labels.get(MODEL_LABEL, "")))
        over = raw["status"].get("phase") in {"Succeeded", "Failed"}
        if model is None or over or labels.get(ROLE_LABEL) not in ROLES:
            continue
        pod = _pod(raw, labels, model)
        group = groups.get(pod.group, Group(key=pod.group, model=model, pods=()))
        groups[pod.group] = replace(group, pods=(*group.pods, pod))
    names = backing_off(status)
    patterns = {rung.name: re.compile(rung.scaling_group) for pool in orders.pools for rung in pool.rungs}
    return World(
        now=now,
        nodes={node.name: node for node in seen},
        groups=dict(sorted(groups.items())),
        backing_off=frozenset(rung for rung, pattern in patterns.items() if any(map(pattern.search, names))),
    )


def backing_off(status: str) -> list[str]:
    """Scaling groups that cluster-autoscaler's status (the YAML of its ConfigMap) says it backs off from.

    Reads the few lines that matter, since the standard library reads no YAML: `name` and `scaleUp.status` of each item
    of `nodeGroups`, in any order. Source: cluster-autoscaler 1.35, clusterstate/api/types.go.
    """
    _, _, groups = status.partition("\nnodeGroups:")
    found: list[str] = []
    for item in re.split(r"^\s*-(?:\s|$)", groups, flags=re.MULTILINE)[1:]:
        name = re.search(r"^\s*name:\s*\"?([^\s\"]+)", item, flags=re.MULTILINE)
        scale_up = re.search(r"^\s*scaleUp:\s*\n\s*(?:.*\n)*?\s*status:\s*\"?(\w+)", item, flags=re.MULTILINE)
        if name and scale_up and scale_up[1] == "Backoff":
            found.append(name[1])
    return found


def moment(text: str | None) -> float | None:
    """Seconds since 1970 of a moment as the API and the orders write it."""
    return datetime.fromisoformat(text).timestamp() if text else None


def _node(raw: Json) -> Node:
    metadata: Json = raw["metadata"]
    labels: Json = metadata.get("labels") or {}
    spec: Json = raw.get("spec") or {}
    taints: set[str] = {taint["key"] for taint in spec.get("taints") or ()}
    return Node(
        name=metadata["name"],
        rung=labels.get(RUNG_LABEL, ""),
        ready=_condition(raw, "Ready") is not None,
        cordoned=bool(spec.get("unschedulable")),
        leaving=bool(taints & _DRAIN_TAINTS) or "deletionTimestamp" in metadata,
        hold=hold_of(metadata.get("annotations") or {}),
        created=moment(metadata.get("creationTimestamp")) or 0.0,
    )


def hold_of(annotations: Mapping[str, str]) -> Hold | None:
    """The keeper's mark; None where there is none, or where somebody wrote something else there."""
    try:
        raw = json.loads(annotations[HOLD_ANNOTATION])
        return Hold(why=str(raw["why"]), group=str(raw["group"]), at=float(raw["at"]))
    except (KeyError, TypeError, ValueError):
        return None


def _pod(raw: Json, labels: Json, model: Model) -> Pod:
    metadata = raw["metadata"]
    within = labels.get(_GROUP_INDEX) or labels.get(_RAY_REPLICA) or metadata["name"]
    scheduled = _condition(raw, "PodScheduled")
    unscheduled: list[Json] = [c for c in raw["status"].get("conditions") or () if c["type"] == "PodScheduled"]
    deletion = moment(metadata.get("deletionTimestamp"))
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        model=model.name,
        group=f"{model.namespace}/{model.name}/{within}",
        created=moment(metadata["creationTimestamp"]) or 0.0,
        leader=labels.get(ROLE_LABEL) != "worker",
        node=raw["spec"].get("nodeName"),
        bound_at=moment(scheduled["lastTransitionTime"]) if scheduled else None,
        ready=_condition(raw, "Ready") is not None,
        unschedulable=any(c.get("reason") == "Unschedulable" for c in unscheduled) and not raw["spec"].get("nodeName"),
        # The API writes when the grace period will be over.
        deleted_at=None if deletion is None else deletion - float(metadata.get("deletionGracePeriodSeconds") or 0),
        disrupted=_condition(raw, "DisruptionTarget") is not None,
    )


def _condition(raw: Json, kind: str) -> Json | None:
    """The condition of that type where it is true."""
    status: Json = raw.get("status") or {}
    conditions: Sequence[Json] = status.get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)


def written(now: float) -> str:
    """A moment as the API writes it, to the microsecond."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
