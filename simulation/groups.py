"""A group of replicas in all variants: who scales it, where its replicas stand, and what the autoscalers see of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from planner.plan import ModelPlan
from simulation.latency import BINS, LatencySampler, quantile
from simulation.queues import Flags, Hold, Queues, StepRecord
from simulation.recorder import ModelRecorder
from simulation.replicas import ReplicaTable
from simulation.results import ModelResult
from simulation.scaling import Observation, Scaler, floor_windows, scaler_of
from simulation.served import Served
from simulation.traffic import ModelTraffic

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

TICK_SECONDS = 15
"""How often autoscalers look, replicas are placed and nodes change: the HPA's own period."""
_STEPS = (1, 3, 5, 15)
_TTFT_WINDOW_TICKS = 20
"""The five minutes over which the TTFT trigger's query looks."""
_PEAK_TICKS = 4
"""The minute over which the activator keeps its peak (components/scripts/activator.py)."""


class Line(Protocol):
    """What requests do at the replicas of a group; replicas are slots of a variant."""

    @property
    def accepts(self) -> Flags:
        """Which get new requests (variant x slot)."""
        ...

    def set_accepting(self, accepts: Flags) -> None:
        """Which get new requests from now on."""
        ...

    def release(self, variant: int, slot: int) -> None:
        """A replica is gone; what it had is asked again."""
        ...

    def idle(self, variant: int, slot: int) -> bool:
        """Whether a replica has nothing left to do."""
        ...


@dataclass(slots=True, eq=False)
class Group:
    """All replicas of a model, or those of one of its two phases."""

    plans: list[ModelPlan]
    """By variant."""
    table: ReplicaTable
    line: Line
    scalers: list[Scaler]
    free_slots: list[list[int]]
    triggers: frozenset[str]
    """That any variant has."""
    wanted: list[int] = field(default_factory=list[int])
    """Replicas, by variant."""
    ttft_p99_seconds: Floats = field(default_factory=lambda: np.zeros(0))
    """Of the last five minutes, where a trigger asks for it."""
    _window: Floats = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def ready(self) -> Counts:
        """Replicas that get requests, by variant."""
        return self.line.accepts.sum(axis=1)

    def watch(self, tick: int, ttft: Floats) -> None:
        """The histogram of a tick, for the trigger that looks at it."""
        if "ttft" not in self.triggers:
            return
        self._window[tick % _TTFT_WINDOW_TICKS] = ttft
        seconds = np.array([quantile(row, 0.99) for row in self._window.sum(axis=0)]) / 1e3
        self.ttft_p99_seconds = np.nan_to_num(seconds, nan=0.0)


def slots_of(plans: Sequence[ModelPlan]) -> int:
    """Replicas that a group has at once at most: those that drain keep their slot."""
    most = max(plan.scaling.max_replicas for plan in plans)
    return most + most // 2 + 2


def group_of(plans: Sequence[ModelPlan], table: ReplicaTable, line: Line, *, start: datetime, seconds: int) -> Group:
    """A group that nobody has scaled yet."""
    triggers = frozenset(trigger.name for plan in plans for trigger in plan.scaling.triggers)
    slots = slots_of(plans)
    return Group(
        plans=list(plans),
        table=table,
        line=line,
        scalers=[scaler_of(plan, floor_windows(plan.scaling.floors, start, seconds)) for plan in plans],
        free_slots=[list(range(slots - 1, -1, -1)) for _ in plans],
        triggers=triggers,
        ttft_p99_seconds=np.zeros(len(plans)),
        _window=np.zeros((_TTFT_WINDOW_TICKS if "ttft" in triggers else 0, len(plans), BINS)),
    )


class Service(Protocol):
    """A model that gets traffic, in all variants."""

    groups: tuple[Group, ...]

    def serve(self, tick: int) -> None:
        """The requests of a quarter of a minute."""
        ...

    def seen(self, group: Group, variant: int, now: float) -> Observation:
        """What the metrics say of a group."""
        ...

    def result(self, variant: int) -> ModelResult:
        """Everything about one variant."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """Of a replay, and whether its course is kept."""

    start: datetime
    seconds: int
    keep: bool


def step_seconds(table: ReplicaTable) -> int:
    """The longest step that is no longer than a request stays in a half-full batch."""
    stay = table.tokens * float(table.step_ms[table.limit // 2]) / 1e3
    return max((step for step in _STEPS if step <= stay), default=_STEPS[0])


class Together:
    """A model whose replicas compute prompts and write answers."""

    def __init__(
        self, asked: ModelTraffic, served: Served, plans: Sequence[ModelPlan], length: Length, *, seed: int
    ) -> None:
        table, seconds = served.table, step_seconds(served.table)
        self._served, self._name = served, asked.model
        self._queues = Queues(
            table,
            variants=len(plans),
            slots=slots_of(plans),
            seconds=seconds,
            seed=seed,
            holds=[_hold(plan) for plan in plans],
        )
        self._sampler = LatencySampler(table, variants=len(plans), seconds=seconds, seed=seed)
        self._recorder = ModelRecorder(len(plans), length.seconds, keep=length.keep)
        ticks = -(-length.seconds // TICK_SECONDS)
        padded = np.zeros(ticks * TICK_SECONDS, dtype=np.int64)
        padded[: length.seconds] = asked.counts[: length.seconds]
        self._steps = padded.reshape(-1, seconds).sum(axis=1)
        self._per_tick = TICK_SECONDS // seconds
        self._peaks: Counts = np.zeros((_PEAK_TICKS, len(plans)), dtype=np.int64)
        self._group = group_of(plans, table, self._queues, start=length.start, seconds=length.seconds)
        self.groups = (self._group,)

    def serve(self, tick: int) -> None:
        """All steps of one tick."""
        first = tick * self._per_tick
        records: list[StepRecord] = []
        peaks = np.zeros(self._peaks.shape[1], dtype=np.int64)
        for count in self._steps[first : first + self._per_tick]:
            records.append(self._queues.step(int(count)))
            if "router" in self._group.triggers:
                # Those that came and went within the step were there as well.
                gone = records[-1].finished.sum(axis=1)
                peaks = np.maximum(peaks, self._queues.in_flight + np.minimum(gone, 1))
        self._peaks[tick % _PEAK_TICKS] = peaks
        ttft, tpot = self._sampler.histograms(records)
        self._recorder.add(
            tick * TICK_SECONDS,
            TICK_SECONDS,
            self._queues.standing(),
            ttft,
            tpot,
            ready=self._group.ready(),
            wanted=np.array(self._group.wanted),
        )
        self._group.watch(tick, ttft)

    def seen(self, group: Group, variant: int, now: float) -> Observation:
        """What the metrics say."""
        return observed(group, self._queues, variant, now, asked_peak=int(self._peaks[:, variant].max()))

    def result(self, variant: int) -> ModelResult:
        """Everything about one variant."""
        objectives = (self._served.ttft_objective_ms, self._served.tpot_objective_ms)
        gpus = self._group.plans[variant].layout.gpus
        return self._recorder.result(variant, self._name, self._queues.standing(), objectives, gpus=gpus)


def observed(group: Group, queues: Queues, variant: int, now: float, *, asked_peak: int = 0) -> Observation:
    """What the metrics say of replicas that write answers."""
    ready = int(group.ready()[variant])
    used = 0.0
    if ready and "kv" in group.triggers:
        shares = queues.running[variant][queues.accepts[variant]] * group.table.kv_share
        used = float(np.minimum(1.0, shares).mean())
    return Observation(
        second=now,
        waiting=int(queues.waiting[variant].sum()),
        running=int(queues.running[variant].sum()),
        ttft_p99_seconds=float(group.ttft_p99_seconds[variant]),
        replicas=group.wanted[variant],
        ready=ready,
        kv_usage=used,
        asked_peak=asked_peak,
    )


def _hold(model: ModelPlan) -> Hold | None:
    """What the pods of a model's router hold; those of a standby alone do not wait."""
    router = model.router
    if router is None or router.activator is None or model.scaling.min_replicas > 0:
        return None
    held = router.activator
    return Hold(seconds=held.hold_seconds, requests=held.held_requests * router.replicas)
