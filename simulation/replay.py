"""Replays traffic on one or more variants of a Plan, in time steps, all variants side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.plan import Plan, RungPlan
from simulation.calendar import minimums_of, seconds_until
from simulation.capacity import PoolState, ReplicaState, RungConditions
from simulation.groups import TICK_SECONDS, Group, Length, Service, Together
from simulation.recorder import RungRecorder
from simulation.results import Replayed
from simulation.scaling import floor_at, floor_windows
from simulation.served import Served
from simulation.subjects import Hazard
from simulation.traffic import ModelTraffic, Traffic
from simulation.two_groups import Apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What happens beside the traffic."""

    seed: int = 0
    hazards: Mapping[str, Hazard] = field(default_factory=dict[str, Hazard])
    """How rungs lose nodes, by name; a rung that is not here loses none."""
    losses: tuple[tuple[int, str], ...] = ()
    """(second, rung): a node of that rung is taken back then."""
    series: bool = True
    """Whether the course over time is kept, not only totals."""


def replay(
    variants: Sequence[tuple[str, Plan]],
    traffic: Traffic,
    served: Mapping[str, Served],
    conditions: Conditions,
    progress: Callable[[float], None] | None = None,
) -> list[Replayed]:
    """Replay `traffic` on every variant; variants differ in scaling and nodes, not in models and pools.

    `served` holds each model that gets traffic. `progress` hears of the share that is done.
    """
    day = _Day(variants, traffic, served, conditions)
    ticks = math.ceil(traffic.seconds / TICK_SECONDS)
    for tick in range(ticks):
        day.tick(tick)
        if progress is not None and tick % 100 == 0:
            progress(tick / ticks)
    return day.results()


class _Day:
    def __init__(
        self,
        variants: Sequence[tuple[str, Plan]],
        traffic: Traffic,
        served: Mapping[str, Served],
        conditions: Conditions,
    ) -> None:
        self.names = [name for name, _ in variants]
        self.plans = [plan for _, plan in variants]
        self.traffic, self.conditions = traffic, conditions
        self.services = [self._service(index, asked, served[asked.model]) for index, asked in enumerate(traffic.models)]
        self.groups = [group for service in self.services for group in service.groups]
        numbers = {group.plans[0].name: index for index, group in enumerate(self.groups)}
        self.pools = [
            [
                PoolState(
                    pool,
                    {numbers[m.name]: m for m in plan.models if m.pool == pool.name and m.name in numbers},
                    [self._rung(rung) for rung in pool.rungs],
                    seed=conditions.seed * 1000 + position,
                )
                for position, pool in enumerate(plan.pools)
                if any(m.pool == pool.name and m.name in numbers for m in plan.models)
            ]
            for plan in self.plans
        ]
        self.rungs = [[RungRecorder(pool, keep=conditions.series) for pool in pools] for pools in self.pools]
        self._begin()

    def _rung(self, rung: RungPlan) -> RungConditions:
        hazard = self.conditions.hazards.get(rung.name)
        start = self.traffic.start
        return RungConditions(
            minimums=minimums_of(rung, start, self.traffic.seconds),
            per_hour=hazard.per_hour if hazard else 0.0,
            notice_seconds=hazard.notice_seconds if hazard else 0.0,
            dry_seconds=hazard.dry_seconds if hazard else 0.0,
            opens=seconds_until(rung.starts, start, otherwise=-math.inf),
            closes=seconds_until(rung.ends, start, otherwise=math.inf),
        )

    def _service(self, index: int, asked: ModelTraffic, served: Served) -> Service:
        length = Length(start=self.traffic.start, seconds=self.traffic.seconds, keep=self.conditions.series)
        seed = self.conditions.seed * 1000 + index
        plans = [next(m for m in plan.models if m.name == asked.model) for plan in self.plans]
        apart = plans[0].disaggregation
        if apart is None:
            return Together(asked, served, plans, length, seed=seed)
        prefill = [next(m for m in plan.models if m.name == apart.peer) for plan in self.plans]
        return Apart(asked, served, (prefill, plans), length, seed=seed)

    def _begin(self) -> None:
        """As the autoscaler would have it for the first quarter of an hour, everything started."""
        for service, asked in zip(self.services, self.traffic.models, strict=True):
            rate = float(asked.counts[:900].mean()) if len(asked.counts) else 0.0
            for group in service.groups:
                for variant, plan in enumerate(group.plans):
                    scaling = plan.scaling
                    need = group.table.replicas_for(rate, scaling.target_concurrency)
                    windows = floor_windows(scaling.floors, self.traffic.start, 1) if scaling.owner == "keda" else ()
                    replicas = min(scaling.max_replicas, max(scaling.min_replicas, need, floor_at(windows, 0)))
                    group.wanted.append(replicas)
                    self._resize(self.groups.index(group), variant, 0.0)
        for pools in self.pools:
            for pool in pools:
                pool.place(0.0)
                pool.start_at_once()
        for index in range(len(self.groups)):
            self._open(index)

    def tick(self, tick: int) -> None:
        """A quarter of a minute: requests first, then everybody who decides looks at what they left."""
        now = float(tick * TICK_SECONDS)
        for recorders in self.rungs:
            for recorder in recorders:
                recorder.add(tick * TICK_SECONDS, TICK_SECONDS)
        for service in self.services:
            service.serve(tick)
        later = now + TICK_SECONDS
        forced = tuple(rung for second, rung in self.conditions.losses if now <= second < later)
        for variant, pools in enumerate(self.pools):
            for pool in pools:
                self._pool_events(variant, pool, later, forced)
            self._scale(variant, later)
            for pool in pools:
                pool.place(later)
                pool.settle(later)
        for index in range(len(self.groups)):
            self._open(index)

    def _scale(self, variant: int, now: float) -> None:
        for service in self.services:
            for group in service.groups:
                if (now % group.plans[variant].scaling.polling_seconds) == 0:
                    group.wanted[variant] = group.scalers[variant].wanted(service.seen(group, variant, now))
                self._resize(self.groups.index(group), variant, now)

    def _pool_events(self, variant: int, pool: PoolState, now: float, forced: tuple[str, ...]) -> None:
        for replica in list(pool.replicas):
            line = self.groups[replica.model].line
            if replica.state == "starting" and replica.ready_at <= now:
                replica.state = "ready"
            elif replica.state == "draining" and (line.idle(variant, replica.slot) or now >= replica.leaves_at):
                self._gone(variant, pool, replica, now)
        for replica in pool.lose(now, TICK_SECONDS, forced):
            doomed = min(node.doomed_at for node in replica.nodes if node.doomed_at is not None)
            if replica.state in {"pending", "starting"}:
                self._gone(variant, pool, replica, now)
            else:
                pool.drain(replica, now, by=doomed)

    def _resize(self, index: int, variant: int, now: float) -> None:
        """Add and remove replicas until there are as many as wanted; those that drain do not count."""
        group = self.groups[index]
        pool = self._pool_of(group, variant)
        # The last first: among replicas of one age the highest number goes.
        staying = [replica for replica in reversed(pool.of(index)) if replica.state != "draining"]
        missing = group.wanted[variant] - len(staying)
        for _ in range(min(missing, len(group.free_slots[variant]))):
            pool.add(index, group.free_slots[variant].pop())
        if missing < 0:
            # Those that do not serve yet first, then the youngest.
            order = {"pending": 0, "starting": 1, "ready": 2}
            staying.sort(key=lambda replica: (order[replica.state], -replica.ready_at))
            for replica in staying[:-missing]:
                if replica.state == "ready":
                    pool.drain(replica, now)
                else:
                    self._gone(variant, pool, replica, now)

    def _gone(self, variant: int, pool: PoolState, replica: ReplicaState, now: float) -> None:
        group = self.groups[replica.model]
        group.line.release(variant, replica.slot)
        group.free_slots[variant].append(replica.slot)
        pool.remove(replica, now)

    def _open(self, index: int) -> None:
        group = self.groups[index]
        accepts = np.zeros_like(group.line.accepts)
        for variant in range(len(self.plans)):
            for replica in self._pool_of(group, variant).of(index):
                accepts[variant, replica.slot] = replica.state == "ready"
        if not np.array_equal(accepts, group.line.accepts):
            group.line.set_accepting(accepts)

    def _pool_of(self, group: Group, variant: int) -> PoolState:
        name = group.plans[variant].pool
        return next(pool for pool in self.pools[variant] if pool.pool.name == name)

    def results(self) -> list[Replayed]:
        """What was found, by variant."""
        hours = self.traffic.seconds / 3600
        return [
            Replayed(
                variant=self.names[variant],
                seconds=self.traffic.seconds,
                models=tuple(service.result(variant) for service in self.services),
                rungs=tuple(rung for recorder in self.rungs[variant] for rung in recorder.results()),
                base_usd=hours * base_usd_per_hour(plan),
                losses=sum(pool.losses for pool in self.pools[variant]),
            )
            for variant, plan in enumerate(self.plans)
        ]


def base_usd_per_hour(plan: Plan) -> float:
    """What bills whatever the GPU nodes do."""
    return sum(line.idle_usd_per_hour for line in plan.cost.lines if not line.item.startswith("Pool "))
