"""The capacity ladder: which nodes come when, how long a rung is tried, and who keeps groups whole on it.

"No capacity" and "slow to boot" are told apart, since a P instance may take longer to boot than anyone wants to wait
for one that does not exist. A lack of capacity is a failed scaling activity of the Auto Scaling group, which
cluster-autoscaler sees in its next loop: it leaves the rung alone with no regard to its provision time
(cluster-autoscaler 1.35, cloudprovider/aws/auto_scaling_groups.go, isNodeGroupAvailable). The provision time bounds
what was launched and never became a node, so it follows the boot. Only then would a rung take longer than
`RUNG_SECONDS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from planner.naming import LADDER_KEEPER, SYSTEM_NAMESPACE, scaling_group_pattern
from planner.plan import AlertPlan, ModelPlan, PoolPlan, RungPlan
from planner.plan.ladder import (
    AutoscalerTimesPlan,
    KeeperModelPlan,
    KeeperPlan,
    KeeperPoolPlan,
    KeeperRungPlan,
    LadderPlan,
)
from planner.plan.pools import MaintenanceWindowPlan, ScheduledSizePlan
from planner.problems import Findings
from settings.calendar import MaintenanceWindow
from settings.pools import NodeGroupPool, OnDemandRung, Rung, SpotRung
from settings.root import Settings

RUNG_SECONDS: Final = 360
"""The longest that a rung without capacity may hold up the next one."""
_BOOT_MARGIN: Final = 1.5
"""A boot that takes half as long again as planned is late; what takes longer has failed."""
_SHORTEST_BACKOFF: Final = 300
"""cluster-autoscaler's own default."""
_LONGEST_BACKOFF: Final = 1800
"""cluster-autoscaler's own default: capacity that comes back is asked for within half an hour."""

# EKS scales a capacity block's group to zero 40 minutes before the end, and EC2 terminates from 30 minutes on.
_EKS_DRAIN_LEAD: Final = 40 * 60
_FORCED_LEAD: Final = _EKS_DRAIN_LEAD + 5 * 60
_LONGEST_LEAD: Final = 4 * 3600
"""Prepaid nodes stand idle after their groups have left: no longer than this, however many groups there are."""

_INTERVAL_SECONDS: Final = 10
_CONFIRM_SECONDS: Final = 30
# cluster-autoscaler takes a node after 10 minutes unneeded, 10 minutes after it last added one; twice that is late.
_RELEASE_SECONDS: Final = 40 * 60
_CLIMB_BACKOFF: Final = 30 * 60
_LONGEST_CLIMB_BACKOFF: Final = 24 * 3600
_PORT: Final = 9109


def instant(moment: datetime | None) -> str | None:
    """A moment in UTC, as ISO 8601."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def window_of(window: MaintenanceWindow | None) -> MaintenanceWindowPlan | None:
    """A maintenance window, planned."""
    if window is None:
        return None
    return MaintenanceWindowPlan(
        timezone=window.timezone, days=tuple(window.days), start=window.start, hours=window.hours
    )


def schedule_of(pool: NodeGroupPool, position: int) -> tuple[ScheduledSizePlan, ...]:
    """What a pool's calendar means for one of its rungs: they are filled from the top, reserved ones left out.

    Only the minimum moves: at an entry's start nodes that are there beyond it stay, at its end those that pods use.
    """
    rung = pool.capacity[position]
    if not isinstance(rung, SpotRung | OnDemandRung):
        return ()
    above = sum(r.nodes.max for r in pool.capacity[:position] if isinstance(r, SpotRung | OnDemandRung))
    steps: list[ScheduledSizePlan] = []
    for index, entry in enumerate(pool.calendar):
        nodes = min(rung.nodes.max, entry.nodes - above)
        if nodes <= rung.nodes.min:
            continue
        for name, recurrence, least in (("start", entry.start, nodes), ("end", entry.end, rung.nodes.min)):
            steps.append(
                ScheduledSizePlan(
                    name=f"calendar-{index + 1}-{name}",
                    timezone=entry.timezone,
                    recurrence=recurrence,
                    min_nodes=least,
                    # The new minimum starts what is missing. A desired number would end nodes in use beyond it, and
                    # Auto Scaling asks no disruption budget (EC2 Auto Scaling API, UpdateAutoScalingGroup).
                    desired_nodes=None,
                )
            )
    return tuple(steps)


def check_ladders(settings: Settings, pools: Sequence[PoolPlan], findings: Findings) -> None:
    """Refuses a reservation on two pools; tells what a calendar costs and does not promise."""
    planned = {pool.name: pool for pool in pools}
    owner: dict[str, str] = {}
    for index, pool in enumerate(settings.pools):
        capacity: Sequence[Rung] = getattr(pool, "capacity", ())
        for position, rung in enumerate(capacity):
            reservation = getattr(rung, "reservation", None)
            if reservation is None:
                continue
            if rung.kind == "capacity_block" and rung.ends is None:
                findings.remark(
                    f"pools[{index}].capacity[{position}]",
                    "no `ends`: nobody leaves the block before EKS takes its nodes, 40 minutes before its end, under "
                    "running requests",
                )
            if owner.setdefault(reservation, pool.name) != pool.name:
                findings.problem(
                    ("pools", index, "capacity", position, "reservation"),
                    f"{reservation} is a rung of pool `{owner[reservation]}` already",
                    "a reservation has one instance type: keep it in the pool of that type",
                )
        if isinstance(pool, NodeGroupPool) and pool.name in planned:
            _remark_on_calendar(index, pool, planned[pool.name], findings)


def _remark_on_calendar(index: int, pool: NodeGroupPool, plan: PoolPlan, findings: Findings) -> None:
    for number, entry in enumerate(pool.calendar):
        name = f"calendar-{number + 1}-start"
        mine = [(rung, step) for rung in plan.rungs for step in rung.schedule if step.name == name]
        monthly = sum(
            rung.usd_per_node_hour * (step.min_nodes - rung.min_nodes) * entry.hours_per_week * 730 / 168
            for rung, step in mine
        )
        where = ", ".join(f"{step.min_nodes} on {rung.name}" for rung, step in mine) or "no more than the floor"
        findings.remark(
            f"pools[{index}].calendar[{number}]",
            f"{where}, {entry.hours_per_week:g} h a week: up to {monthly:,.0f} $ a month at list prices; where a rung "
            "has no capacity then, nodes come from the next one only when pods wait for them",
        )


def plan_ladder(pools: Sequence[PoolPlan], models: Sequence[ModelPlan], image: str) -> LadderPlan | None:
    """The ladder of all pools of node groups; None where there are none.

    Args:
        pools: all pools.
        models: all models.
        image: of a plain Python, which runs the keeper.
    """
    mine = [pool for pool in pools if pool.provisioner == "node_group"]
    if not mine:
        return None
    return LadderPlan(autoscaler=autoscaler_times(mine), keeper=_keeper(mine, models, image))


def autoscaler_times(pools: Sequence[PoolPlan]) -> AutoscalerTimesPlan:
    """Times of cluster-autoscaler, each with its reason."""
    boot = max(rung.boot_seconds for pool in pools for rung in pool.rungs)
    rungs = max(len(pool.rungs) for pool in pools)
    provision = _minutes(max(RUNG_SECONDS, _BOOT_MARGIN * boot))
    first = max(_SHORTEST_BACKOFF, (rungs - 1) * RUNG_SECONDS)
    longest = max(_LONGEST_BACKOFF, first)
    return AutoscalerTimesPlan(
        max_node_provision_seconds=provision,
        initial_backoff_seconds=first,
        max_backoff_seconds=longest,
        backoff_reset_seconds=2 * longest,
        why={
            "max_node_provision_seconds": (
                f"{_BOOT_MARGIN:g} x the slowest planned boot of {boot} s, for machines that were launched; a lack of "
                "capacity is a failed scaling activity, seen within a minute or two"
            ),
            "initial_backoff_seconds": (
                f"the {rungs - 1} other rungs of the longest ladder, at most {RUNG_SECONDS} s each, are tried before "
                "the first is asked again"
            ),
            "max_backoff_seconds": "capacity that comes back is asked for within half an hour",
            "backoff_reset_seconds": "a rung that had capacity for twice the longest back-off starts afresh",
        },
    )


def _keeper(pools: Sequence[PoolPlan], models: Sequence[ModelPlan], image: str) -> KeeperPlan | None:
    kept = [
        pool
        for pool in pools
        if len({rung.priority for rung in pool.rungs}) > 1
        or any(rung.ends for rung in pool.rungs)
        or any(model.layout.nodes > 1 for model in models if model.pool == pool.name)
    ]
    return keeper_orders(kept, models, image) if kept else None


def keeper_orders(kept: Sequence[PoolPlan], models: Sequence[ModelPlan], image: str) -> KeeperPlan:
    """What a keeper of these pools is told; `ops ladder` looks at pools with the same eyes."""
    names = {pool.name for pool in kept}
    moved = tuple(
        KeeperModelPlan(
            name=model.name,
            namespace=model.namespace,
            pool=model.pool,
            nodes=model.layout.nodes,
            move_seconds=_move_seconds(next(pool for pool in kept if pool.name == model.pool), model),
        )
        for model in models
        if model.pool in names
    )
    return KeeperPlan(
        namespace=LADDER_KEEPER,
        image=image,
        port=_PORT,
        interval_seconds=_INTERVAL_SECONDS,
        confirm_seconds=_CONFIRM_SECONDS,
        release_seconds=_RELEASE_SECONDS,
        forced_lead_seconds=_FORCED_LEAD,
        climb_backoff_seconds=_CLIMB_BACKOFF,
        max_climb_backoff_seconds=_LONGEST_CLIMB_BACKOFF,
        autoscaler_namespace=SYSTEM_NAMESPACE,
        pools=tuple(
            KeeperPoolPlan(
                name=pool.name,
                rungs=tuple(_keeper_rung(rung, [m for m in moved if m.pool == pool.name]) for rung in pool.rungs),
                window=pool.maintenance_window,
            )
            for pool in kept
        ),
        models=moved,
    )


def _keeper_rung(rung: RungPlan, models: Sequence[KeeperModelPlan]) -> KeeperRungPlan:
    groups = rung.max_nodes // max((model.nodes for model in models), default=1)
    move = max((model.move_seconds for model in models), default=0)
    return KeeperRungPlan(
        name=rung.name,
        kind=rung.kind,
        scaling_group=scaling_group_pattern(rung.name),
        max_nodes=rung.max_nodes,
        usd_per_node_hour=rung.usd_per_node_hour,
        stall_seconds=_minutes(max(RUNG_SECONDS, _BOOT_MARGIN * rung.boot_seconds)),
        starts=rung.starts,
        ends=rung.ends,
        # One group at a time, each whole again before the next leaves.
        drain_lead_seconds=min(_LONGEST_LEAD, _FORCED_LEAD + max(0, groups - 1) * move),
    )


def _move_seconds(pool: PoolPlan, model: ModelPlan) -> int:
    return max(rung.boot_seconds for rung in pool.rungs) + model.drain.grace_seconds + model.startup_seconds


def _minutes(seconds: float) -> int:
    """Rounded up to whole minutes, in seconds."""
    return math.ceil(seconds / 60) * 60


def ladder_alerts(ladder: LadderPlan | None) -> tuple[AlertPlan, ...]:
    """Alerts on the ends of capacity blocks, on stalled groups, and on the keeper itself."""
    if ladder is None or ladder.keeper is None:
        return ()
    left = "ladder_keeper_rung_ends_timestamp_seconds - time()"
    alerts = [
        AlertPlan(
            name="LadderKeeperSilent",
            expression="time() - max(ladder_keeper_last_loop_timestamp_seconds) > 300 "
            "or absent(ladder_keeper_last_loop_timestamp_seconds)",
            for_minutes=10,
            summary="the keeper of the capacity ladder does not look: stalled groups hold GPUs, blocks end undrained",
        ),
        AlertPlan(
            name="GroupStalled",
            expression="ladder_keeper_stalled_groups > 0",
            for_minutes=30,
            summary="groups of {{ $labels.pool }} have had only part of their nodes for half an hour",
        ),
    ]
    if any(rung.ends for pool in ladder.keeper.pools for rung in pool.rungs):
        alerts += [
            AlertPlan(
                name="CapacityBlockEndsTomorrow",
                expression=f"{left} < 86400 and {left} > 0",
                summary="capacity block {{ $labels.rung }} ends within a day",
                heading="CapacityBlockEnds",
            ),
            AlertPlan(
                name="CapacityBlockEnds",
                expression=f"{left} < {_EKS_DRAIN_LEAD} and {left} > 0",
                severity="critical",
                summary="capacity block {{ $labels.rung }} ends: EKS takes its nodes now, EC2 in ten minutes",
            ),
        ]
    return tuple(alerts)
