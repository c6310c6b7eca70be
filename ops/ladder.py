"""`ladder`: on which rung of capacity each group runs, what that costs, and what keeps it from a better one."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from components.scripts.ladder_actions import Memory, memory_of
from components.scripts.ladder_decisions import blocked
from components.scripts.ladder_keeper import MEMORY_ANNOTATION
from components.scripts.ladder_world import Group, Orders, Rung, World, orders_of, world_of
from ops.cluster import Json, Objects, connect, pods_path
from ops.console import FINDINGS, OK, out, print_json, table
from ops.errors import UsageError
from ops.project import plan_of
from planner import Plan
from planner.ladder import keeper_orders
from planner.naming import AUTOSCALER_STATUS, LADDER_KEEPER
from planner.plan import PoolPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderOptions:
    """What the command line says."""

    kubeconfig: Path | None
    context: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOnLadder:
    """A replica and its place."""

    group: str
    """`<namespace>/<model>/<index or pod>`."""
    pool: str
    rung: str | None
    """None while it has no node."""
    nodes: tuple[str, ...]
    since_seconds: int | None
    """How long its last pod has had its node."""
    serves: bool
    usd_per_hour: float
    """Of its nodes, at list price."""
    over_cheapest_usd_per_hour: float
    """More than the same nodes would cost on the pool's cheapest rung."""
    blocked: str
    """Why it does not climb; empty on the best rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RungInUse:
    """A rung and its nodes."""

    pool: str
    rung: str
    kind: str
    nodes: int
    """Nodes that are there."""
    most: int
    idle: int
    """Without a pod of a model, cordoned ones included."""
    held: int
    """Cordoned by the keeper."""
    usd_per_node_hour: float
    state: str
    """`no capacity`, `ends ...`, `begins ...`, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """All pools."""

    rungs: tuple[RungInUse, ...]
    groups: tuple[GroupOnLadder, ...]
    move: str
    """What the keeper is doing; empty where it does nothing."""
    keeper_missing: bool
    """Whether there should be a keeper that has never written its Lease."""

    @property
    def over_cheapest_usd_per_hour(self) -> float:
        """Over all groups."""
        return sum(group.over_cheapest_usd_per_hour for group in self.groups)


def show_ladder(stack: str, options: LadderOptions, *, as_json: bool) -> int:
    """Print the ladder; 1 where a group waits for nodes."""
    plan = plan_of(stack)
    if all(pool.provisioner == "existing" for pool in plan.pools):
        raise UsageError(f"stack {stack} has no ladder: its nodes exist, and nobody adds any")
    with connect(plan, kubeconfig=options.kubeconfig, context=options.context) as cluster:
        found = ladder_of(cluster, plan, now=time.time())
    if as_json:
        over = round(found.over_cheapest_usd_per_hour, 4)
        print_json({"stack": stack, "over_cheapest_usd_per_hour": over, **asdict(found)})
    else:
        _print(found)
    return FINDINGS if any(group.rung is None for group in found.groups) else OK


def ladder_of(objects: Objects, plan: Plan, *, now: float) -> Ladder:
    """The ladder as the cluster has it now, in the keeper's own words; also of pools that it does not keep."""
    made = [pool for pool in plan.pools if pool.provisioner != "existing"]
    keeper = keeper_orders(made, plan.models, "")
    orders = orders_of(json.dumps(asdict(keeper)))
    namespaces = sorted({model.namespace for model in keeper.models})
    pods = [pod for namespace in namespaces for pod in objects.list(pods_path(namespace))]
    status = objects.get(f"/api/v1/namespaces/{keeper.autoscaler_namespace}/configmaps/{AUTOSCALER_STATUS}")
    lease = objects.get(f"/apis/coordination.k8s.io/v1/namespaces/{keeper.namespace}/leases/{LADDER_KEEPER}")
    world = world_of(orders, now, objects.list("/api/v1/nodes"), pods, _data(status))
    memory = _memory(lease)
    return Ladder(
        rungs=tuple(_rung(world, pool.name, rung) for pool in orders.pools for rung in pool.rungs),
        groups=tuple(_group(world, orders, memory, group, plan.pool(group.model.pool)) for group in _in_order(world)),
        move=f"{memory.move.kind}: {memory.move.group} from {memory.move.origin}" if memory.move else "",
        keeper_missing=lease is None and plan.ladder is not None and plan.ladder.keeper is not None,
    )


def _data(status: Json | None) -> str:
    return str((status or {}).get("data", {}).get("status", ""))


def _memory(lease: Json | None) -> Memory:
    annotations: dict[str, str] = (lease or {}).get("metadata", {}).get("annotations") or {}
    return memory_of(json.loads(annotations.get(MEMORY_ANNOTATION) or "{}"))


def _in_order(world: World) -> list[Group]:
    return sorted(world.groups.values(), key=lambda group: (group.model.pool, group.key))


def _rung(world: World, pool: str, rung: Rung) -> RungInUse:
    there = world.on(rung.name)
    states = ["no capacity"] if rung.name in world.backing_off else []
    if rung.starts is not None and world.now < rung.starts:
        states.append(f"begins in {_span(rung.starts - world.now)}")
    elif rung.ends is not None:
        states.append(f"ends in {_span(rung.ends - world.now)}" if world.now < rung.ends else "has ended")
    return RungInUse(
        pool=pool,
        rung=rung.name,
        kind=rung.kind,
        nodes=len(there),
        most=rung.max_nodes,
        idle=sum(not world.users(node.name) for node in there),
        held=sum(node.hold is not None for node in there),
        usd_per_node_hour=rung.usd_per_node_hour,
        state=", ".join(states),
    )


def _group(world: World, orders: Orders, memory: Memory, group: Group, pool: PoolPlan) -> GroupOnLadder:
    name = world.rung_of(group)
    rung = orders.rung(name)
    bound = [pod.bound_at for pod in group.pods if pod.bound_at is not None and pod.node]
    price = rung.usd_per_node_hour if rung else 0.0
    cheapest = min(one.usd_per_node_hour for one in pool.rungs)
    nodes = tuple(sorted(group.nodes))
    share = sum(1 / max(1, len(world.users(node))) for node in nodes)
    return GroupOnLadder(
        group=group.key,
        pool=pool.name,
        rung=name,
        nodes=nodes,
        since_seconds=int(world.now - max(bound)) if bound else None,
        serves=group.healthy,
        usd_per_hour=round(price * share, 4),
        over_cheapest_usd_per_hour=round(max(0.0, price - cheapest) * share, 4),
        blocked=_blocked(world, orders, memory, group, pool),
    )


def _blocked(world: World, orders: Orders, memory: Memory, group: Group, pool: PoolPlan) -> str:
    rung = world.rung_of(group)
    if rung is None:
        return "waits for nodes"
    if orders.pool(pool.name).position(rung) == 0:
        return ""
    if pool.provisioner == "karpenter":
        return "Karpenter moves no pod that runs"
    return blocked(world, orders, memory, group) or "it climbs next"


def _span(seconds: float) -> str:
    """A time in its two largest units."""
    minutes = int(seconds // 60)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _print(ladder: Ladder) -> None:
    rows = [
        (
            one.pool,
            one.rung,
            f"{one.nodes} of {one.most}",
            str(one.idle),
            str(one.held),
            f"{one.usd_per_node_hour:.2f}",
            one.state,
        )
        for one in ladder.rungs
    ]
    columns = ("pool", "rung", "nodes", "idle", "held", "$/h a node", "")
    out.print(table("Rungs, the best first", columns, rows, right=(2, 3, 4, 5)))
    out.print()
    rows = [
        (
            one.group,
            one.rung or "none",
            str(len(one.nodes)),
            _span(one.since_seconds) if one.since_seconds is not None else "",
            "yes" if one.serves else "no",
            f"{one.usd_per_hour:.2f}",
            f"{one.over_cheapest_usd_per_hour:.2f}",
            one.blocked,
        )
        for one in ladder.groups
    ]
    columns = ("group", "rung", "nodes", "since", "serves", "$/h", "over cheapest", "does not climb because")
    out.print(table("Groups", columns, rows, right=(2, 5, 6)))
    out.print(f"{ladder.over_cheapest_usd_per_hour:.2f} $/h over the cheapest rungs, at list prices", markup=False)
    if ladder.move:
        out.print(f"under way: {ladder.move}", markup=False)
    if ladder.keeper_missing:
        out.print("no keeper has looked yet: `kubectl -n ladder-keeper get pods`", markup=False)
