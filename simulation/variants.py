"""What pre-scaling and warm capacity would change: the same day on variants of the stack."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from planner import Plan, PlanError
from planner.plan import ModelPlan, PoolPlan
from settings.root import Settings
from simulation.policy import Floor, ModelPolicy, Policy, applied
from simulation.replay import Served
from simulation.traffic import ModelTraffic, Traffic

AS_PLANNED = "as planned"
_PACE_SECONDS = 300
"""Over how long the busiest pace is taken."""


def variants_of(
    settings: Settings, plan: Plan, traffic: Traffic, served: Mapping[str, Served]
) -> list[tuple[str, Plan]]:
    """The stack as it is, without what it has of floors and warm nodes, and with what it lacks."""
    asked = {model.model: model for model in traffic.models}
    models = serving(plan, asked)
    # A floor is one number, which two groups cannot share: the stack file has none for them.
    scaled = [
        model
        for model in models
        if model.scaling.owner == "keda" and model.scaling.varies and model.disaggregation is None
    ]
    with_floors = [model for model in scaled if model.scaling.floors]
    wanted: list[tuple[str, Policy]] = []
    if with_floors:
        wanted.append(
            ("without scheduled floors", Policy(models={m.name: ModelPolicy(floors=()) for m in with_floors}))
        )
    floors = {
        model.name: ModelPolicy(floors=(floor,))
        for model in scaled
        if not model.scaling.floors
        and (floor := busy_hours(model, asked[model.name], served[model.name], traffic.start))
    }
    if floors:
        wanted.append(("with pre-scaling", Policy(models=floors)))
    pools = [pool for pool in plan.pools if any(model.pool == pool.name for model in models)]
    cold = {
        (pool.name, position): 0
        for pool in pools
        for position, rung in enumerate(pool.rungs)
        if rung.kind in {"spot", "on_demand"} and rung.min_nodes
    }
    if cold:
        wanted.append(("without warm nodes", Policy(rungs=cold)))
    warm = {key: nodes for pool in pools for key, nodes in warm_nodes(pool, models, groups=1).items()}
    if warm:
        wanted.append(("with a warm node a pool", Policy(rungs=warm)))
    if floors and warm:
        wanted.append(("with both", Policy(models=floors, rungs=warm)))
    found = [(AS_PLANNED, plan)]
    for name, policy in wanted:
        try:
            found.append((name, applied(settings, plan, policy)))
        except PlanError:  # the stack has no room for this one
            continue
    return found


def serving(plan: Plan, asked: Collection[str]) -> list[ModelPlan]:
    """What serves the models that are asked: each, and of a disaggregated one its prefill group too."""
    return [m for m in plan.models if (m.disaggregation.serves if m.disaggregation else m.name) in asked]


def busy_hours(model: ModelPlan, asked: ModelTraffic, served: Served, start: datetime) -> Floor | None:
    """A floor over the busiest stretch of the day, from so early on that its replicas are ready; None on a flat day."""
    per_hour = needs(model, asked, served)
    if not per_hour or max(per_hour) <= max(model.scaling.min_replicas, min(per_hour)):
        return None
    middle = (max(per_hour) + min(per_hour)) / 2
    busy = [need > middle for need in per_hour]
    first, length = longest_run(busy)
    replicas = round(float(np.mean([per_hour[(first + hour) % len(per_hour)] for hour in range(length)])))
    begin = start + timedelta(hours=first) - timedelta(seconds=model.scaling.initial_delay_seconds)
    end = start + timedelta(hours=first + length)
    return Floor(
        timezone=zone_name(start),
        start=f"{begin.minute} {begin.hour} * * *",
        end=f"{end.minute} {end.hour} * * *",
        replicas=max(1, min(model.scaling.max_replicas, replicas)),
    )


def needs(model: ModelPlan, asked: ModelTraffic, served: Served) -> list[int]:
    """Replicas that each hour's busiest five minutes need, at the concurrency that scaling aims at."""
    found: list[int] = []
    for first in range(0, len(asked.counts) // 3600 * 3600, 3600):
        paces = asked.counts[first : first + 3600].reshape(-1, _PACE_SECONDS).sum(axis=1) / _PACE_SECONDS
        need = served.table.replicas_for(float(paces.max()), model.scaling.target_concurrency)
        found.append(min(model.scaling.max_replicas, max(model.scaling.min_replicas, need)))
    return found


def longest_run(flags: Sequence[bool]) -> tuple[int, int]:
    """(first, length) of the longest stretch of true, over midnight too."""
    best = (0, 0)
    for first in range(len(flags)):
        length = 0
        while length < len(flags) and flags[(first + length) % len(flags)]:
            length += 1
        if length > best[1]:
            best = (first, length)
    return best


def warm_nodes(pool: PoolPlan, models: Sequence[ModelPlan], *, groups: int) -> dict[tuple[str, int], int]:
    """Minimum nodes of the first rung with room that keep `groups` replicas' nodes more than the minimum needs."""
    own = [model for model in models if model.pool == pool.name]
    if not own or groups == 0:
        return {}
    used = _at_start(pool, own)
    extra = groups * max(model.layout.nodes for model in own)
    for position, rung in enumerate(pool.rungs):
        least = max(rung.min_nodes, used[position])
        if rung.kind in {"spot", "on_demand"} and least + extra <= rung.max_nodes:
            return {(pool.name, position): least + extra}
    return {}


def _at_start(pool: PoolPlan, models: Sequence[ModelPlan]) -> list[int]:
    """Nodes of each rung that the minimum replicas fill, from the top."""
    used = [0] * len(pool.rungs)
    for model in models:
        layout, count = model.layout, model.scaling.min_replicas
        per_node = pool.hardware.gpus // layout.gpus_per_node
        nodes = layout.nodes if layout.nodes > 1 else 1
        for _ in range(count if layout.nodes > 1 else math.ceil(count / per_node)):
            room = (p for p, rung in enumerate(pool.rungs) if used[p] + nodes <= rung.max_nodes)
            position = next(room, None)
            if position is None:
                break
            used[position] += nodes
    return used


def zone_name(moment: datetime) -> str:
    """IANA name of a time's zone; UTC where it has none."""
    return moment.tzinfo.key if isinstance(moment.tzinfo, ZoneInfo) else "UTC"


def shortfalls(plan: Plan, traffic: Traffic, served: Mapping[str, Served]) -> list[str]:
    """Groups whose busiest five minutes need more replicas than they may have, with how many would do."""
    found: list[str] = []
    for asked in traffic.models:
        whole = asked.counts[: len(asked.counts) // _PACE_SECONDS * _PACE_SECONDS].reshape(-1, _PACE_SECONDS)
        pace = float(whole.sum(axis=1).max(initial=0)) / _PACE_SECONDS
        for model in serving(plan, {asked.model}):
            role = model.disaggregation.role if model.disaggregation else None
            table = served[asked.model].table_of(role)
            need = table.replicas_for(pace, model.scaling.target_concurrency)
            if need > model.scaling.max_replicas:
                found.append(
                    f"{asked.model}: its busiest five minutes ({pace:,.1f} requests/s) need {need} replicas"
                    f"{f' of {role}' if role else ''}, `{f'disaggregated.{role}.' if role else ''}replicas.max` is "
                    f"{model.scaling.max_replicas}"
                )
    return found
