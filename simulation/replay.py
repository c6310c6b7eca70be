"""Replays traffic on one or more variants of a Plan, in time steps, all variants side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planner.plan import ModelPlan, Plan, RungPlan
from simulation.calendar import minimums_of, seconds_until
from simulation.capacity import PoolState, ReplicaState, RungConditions
from simulation.latency import BINS, LatencySampler, quantile
from simulation.queues import Hold, Queues, StepRecord
from simulation.recorder import ModelRecorder, RungRecorder
from simulation.replicas import ReplicaTable
from simulation.results import Replayed
from simulation.scaling import Observation, Scaler, floor_at, floor_windows, scaler_of
from simulation.subjects import Hazard
from simulation.traffic import ModelTraffic, Traffic

TICK_SECONDS = 15
"""How often autoscalers look, replicas are placed and nodes change: the HPA's own period."""
_STEPS = (1, 3, 5, 15)
_TTFT_WINDOW_TICKS = 20
"""The five minutes over which the TTFT trigger's query looks."""
_PEAK_TICKS = 4
"""The minute over which the activator keeps its peak (components/scripts/activator.py)."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that gets traffic: one of its replicas, and what it is held to."""

    table: ReplicaTable
    ttft_objective_ms: float
    tpot_objective_ms: float


@dataclass(slots=True)
class _ModelState:
    """One model in all variants."""

    traffic: ModelTraffic
    served: Served
    plans: list[ModelPlan]
    table: ReplicaTable
    queues: Queues
    sampler: LatencySampler
    scalers: list[Scaler]
    recorder: ModelRecorder
    steps: npt.NDArray[np.int64]
    """Requests of each time step."""
    per_tick: int
    free_slots: list[list[int]]
    triggers: frozenset[str]
    """That any variant has."""
    window: npt.NDArray[np.float64]
    """TTFT histograms of the last ticks: tick x variant x bin."""
    peaks: npt.NDArray[np.int64]
    """Most requests at once in each of the last ticks: tick x variant."""
    wanted: list[int] = field(default_factory=list[int])


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


def step_seconds(table: ReplicaTable) -> int:
    """The longest step that is no longer than a request stays in a half-full batch."""
    stay = table.tokens * float(table.step_ms[table.limit // 2]) / 1e3
    return max((step for step in _STEPS if step <= stay), default=_STEPS[0])


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
        self.models = [self._model(index, asked, served[asked.model]) for index, asked in enumerate(traffic.models)]
        numbers = {asked.model: index for index, asked in enumerate(traffic.models)}
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

    def _model(self, index: int, asked: ModelTraffic, served: Served) -> _ModelState:
        table = served.table
        plans = [next(m for m in plan.models if m.name == asked.model) for plan in self.plans]
        most = max(plan.scaling.max_replicas for plan in plans)
        slots = most + most // 2 + 2  # those that drain keep theirs
        seconds = step_seconds(table)
        padded = np.zeros(math.ceil(self.traffic.seconds / TICK_SECONDS) * TICK_SECONDS, dtype=np.int64)
        padded[: self.traffic.seconds] = asked.counts[: self.traffic.seconds]
        seed = self.conditions.seed * 1000 + index
        start, length = self.traffic.start, self.traffic.seconds
        triggers = frozenset(t.name for plan in plans for t in plan.scaling.triggers)
        return _ModelState(
            traffic=asked,
            served=served,
            plans=plans,
            table=table,
            queues=Queues(
                table,
                variants=len(plans),
                slots=slots,
                seconds=seconds,
                seed=seed,
                holds=[_hold(plan) for plan in plans],
            ),
            sampler=LatencySampler(table, variants=len(plans), seconds=seconds, seed=seed),
            scalers=[scaler_of(plan, floor_windows(plan.scaling.floors, start, length)) for plan in plans],
            recorder=ModelRecorder(len(plans), length, keep=self.conditions.series),
            steps=padded.reshape(-1, seconds).sum(axis=1),
            per_tick=TICK_SECONDS // seconds,
            free_slots=[list(range(slots - 1, -1, -1)) for _ in plans],
            triggers=triggers,
            window=np.zeros((_TTFT_WINDOW_TICKS if "ttft" in triggers else 1, len(plans), BINS)),
            peaks=np.zeros((_PEAK_TICKS, len(plans)), dtype=np.int64),
        )

    def _begin(self) -> None:
        """As the autoscaler would have it for the first quarter of an hour, everything started."""
        for index, state in enumerate(self.models):
            rate = float(state.traffic.counts[:900].mean()) if len(state.traffic.counts) else 0.0
            for variant, plan in enumerate(state.plans):
                scaling = plan.scaling
                need = state.table.replicas_for(rate, scaling.target_concurrency)
                windows = floor_windows(scaling.floors, self.traffic.start, 1) if scaling.owner == "keda" else ()
                replicas = min(scaling.max_replicas, max(scaling.min_replicas, need, floor_at(windows, 0)))
                replicas = scaling.min_replicas if scaling.owner == "none" else replicas
                state.wanted.append(replicas)
                self._resize(index, variant, 0.0)
        for pools in self.pools:
            for pool in pools:
                pool.place(0.0)
                pool.start_at_once()
        for index in range(len(self.models)):
            self._open(index)

    def tick(self, tick: int) -> None:
        """A quarter of a minute: requests first, then everybody who decides looks at what they left."""
        now = float(tick * TICK_SECONDS)
        for recorders in self.rungs:
            for recorder in recorders:
                recorder.add(tick * TICK_SECONDS, TICK_SECONDS)
        observations = [self._serve(state, tick) for state in self.models]
        later = now + TICK_SECONDS
        forced = tuple(rung for second, rung in self.conditions.losses if now <= second < later)
        for variant, pools in enumerate(self.pools):
            for pool in pools:
                self._pool_events(variant, pool, later, forced)
            for index, state in enumerate(self.models):
                if (later % state.plans[variant].scaling.polling_seconds) == 0:
                    state.wanted[variant] = state.scalers[variant].wanted(
                        self._seen(index, variant, observations, later)
                    )
                self._resize(index, variant, later)
            for pool in pools:
                pool.place(later)
                pool.settle(later)
        for index in range(len(self.models)):
            self._open(index)

    def _serve(self, state: _ModelState, tick: int) -> npt.NDArray[np.float64]:
        """All steps of one tick; returns the p99 TTFT in seconds of each variant where a trigger asks for it."""
        first = tick * state.per_tick
        records: list[StepRecord] = []
        peaks = np.zeros(len(self.plans), dtype=np.int64)
        for count in state.steps[first : first + state.per_tick]:
            records.append(state.queues.step(int(count)))
            if "router" in state.triggers:
                # Those that came and went within the step were there as well.
                gone = records[-1].finished.sum(axis=1)
                peaks = np.maximum(peaks, state.queues.in_flight + np.minimum(gone, 1))
        state.peaks[tick % _PEAK_TICKS] = peaks
        ttft, tpot = state.sampler.histograms(records)
        ready = np.array([self._ready(state, variant) for variant in range(len(self.plans))])
        state.recorder.add(
            tick * TICK_SECONDS, TICK_SECONDS, state.queues, ttft, tpot, ready=ready, wanted=np.array(state.wanted)
        )
        if "ttft" not in state.triggers:
            return np.zeros(len(self.plans))
        state.window[tick % _TTFT_WINDOW_TICKS] = ttft
        recent = state.window.sum(axis=0)
        seconds = np.array([quantile(row, 0.99) for row in recent]) / 1e3
        return np.nan_to_num(seconds, nan=0.0)

    @staticmethod
    def _ready(state: _ModelState, variant: int) -> int:
        return int(state.queues.accepts[variant].sum())

    def _seen(self, index: int, variant: int, ttft: list[npt.NDArray[np.float64]], now: float) -> Observation:
        state = self.models[index]
        queues = state.queues
        ready = self._ready(state, variant)
        used = 0.0
        if ready and "kv" in state.triggers:
            shares = queues.running[variant][queues.accepts[variant]] * state.table.kv_share
            used = float(np.minimum(1.0, shares).mean())
        return Observation(
            second=now,
            waiting=int(queues.waiting[variant].sum()),
            running=int(queues.running[variant].sum()),
            ttft_p99_seconds=float(ttft[index][variant]),
            replicas=state.wanted[variant],
            ready=ready,
            kv_usage=used,
            asked_peak=int(state.peaks[:, variant].max()),
        )

    def _pool_events(self, variant: int, pool: PoolState, now: float, forced: tuple[str, ...]) -> None:
        for replica in list(pool.replicas):
            queues = self.models[replica.model].queues
            if replica.state == "starting" and replica.ready_at <= now:
                replica.state = "ready"
            elif replica.state == "draining":
                idle = not (queues.running[variant, replica.slot] or queues.waiting[variant, replica.slot])
                if idle or now >= replica.leaves_at:
                    self._gone(variant, pool, replica, now)
        for replica in pool.lose(now, TICK_SECONDS, forced):
            doomed = min(node.doomed_at for node in replica.nodes if node.doomed_at is not None)
            if replica.state in {"pending", "starting"}:
                self._gone(variant, pool, replica, now)
            else:
                pool.drain(replica, now, by=doomed)

    def _resize(self, index: int, variant: int, now: float) -> None:
        """Add and remove replicas until there are as many as wanted; those that drain do not count."""
        state = self.models[index]
        pool = self._pool_of(state, variant)
        # The last first: among replicas of one age the highest number goes.
        staying = [replica for replica in reversed(pool.of(index)) if replica.state != "draining"]
        missing = state.wanted[variant] - len(staying)
        for _ in range(min(missing, len(state.free_slots[variant]))):
            pool.add(index, state.free_slots[variant].pop())
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
        state = self.models[replica.model]
        state.queues.release(variant, replica.slot)
        state.free_slots[variant].append(replica.slot)
        pool.remove(replica, now)

    def _open(self, index: int) -> None:
        state = self.models[index]
        accepts = np.zeros_like(state.queues.accepts)
        for variant in range(len(self.plans)):
            for replica in self._pool_of(state, variant).of(index):
                accepts[variant, replica.slot] = replica.state == "ready"
        if not np.array_equal(accepts, state.queues.accepts):
            state.queues.set_accepting(accepts)

    def _pool_of(self, state: _ModelState, variant: int) -> PoolState:
        name = state.plans[variant].pool
        return next(pool for pool in self.pools[variant] if pool.pool.name == name)

    def results(self) -> list[Replayed]:
        """What was found, by variant."""
        hours = self.traffic.seconds / 3600
        return [
            Replayed(
                variant=self.names[variant],
                seconds=self.traffic.seconds,
                models=tuple(
                    state.recorder.result(variant, state.plans[variant].name, state.queues, self._objectives(state))
                    for state in self.models
                ),
                rungs=tuple(rung for recorder in self.rungs[variant] for rung in recorder.results()),
                base_usd=hours * base_usd_per_hour(plan),
                losses=sum(pool.losses for pool in self.pools[variant]),
            )
            for variant, plan in enumerate(self.plans)
        ]

    @staticmethod
    def _objectives(state: _ModelState) -> tuple[float, float]:
        return state.served.ttft_objective_ms, state.served.tpot_objective_ms


def _hold(model: ModelPlan) -> Hold | None:
    """What the pods of a model's router hold; those of a standby alone do not wait."""
    router = model.router
    if router is None or router.activator is None or model.scaling.min_replicas > 0:
        return None
    held = router.activator
    return Hold(seconds=held.hold_seconds, requests=held.held_requests * router.replicas)


def base_usd_per_hour(plan: Plan) -> float:
    """What bills whatever the GPU nodes do."""
    return sum(line.idle_usd_per_hour for line in plan.cost.lines if not line.item.startswith("Pool "))
