"""Keeps what a replay sees: by interval for the course of the day, and in total."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from simulation.capacity import PoolState
from simulation.latency import BINS, quantile
from simulation.queues import Standing
from simulation.results import INTERVAL_SECONDS, ModelInterval, ModelResult, RungInterval, RungResult

Floats = npt.NDArray[np.float64]


class ModelRecorder:
    """One model in all variants. Without `keep`, totals alone."""

    def __init__(self, variants: int, seconds: int, *, keep: bool) -> None:
        self._intervals = math.ceil(seconds / INTERVAL_SECONDS) if keep else 1
        self._keep = keep
        shape = (variants, self._intervals)
        self._ttft: Floats = np.zeros((*shape, BINS), dtype=np.float64)
        self._tpot: Floats = np.zeros((*shape, BINS), dtype=np.float64)
        self._seconds: Floats = np.zeros(shape)
        self._sums = {name: np.zeros(shape) for name in ("ready", "wanted", "running", "waiting")}
        self._counts = {name: np.zeros(shape, dtype=np.int64) for name in ("arrived", "served", "refused")}
        self._before = {name: np.zeros(variants, dtype=np.int64) for name in self._counts}
        self._most_waiting = np.zeros(variants, dtype=np.int64)
        self._most_ready = np.zeros(variants, dtype=np.int64)

    def add(
        self,
        second: int,
        seconds: int,
        standing: Standing,
        ttft: Floats,
        tpot: Floats,
        *,
        ready: npt.NDArray[np.int64],
        wanted: npt.NDArray[np.int64],
    ) -> None:
        """What happened in the `seconds` from `second` on."""
        at = second // INTERVAL_SECONDS if self._keep else 0
        self._ttft[:, at] += ttft
        self._tpot[:, at] += tpot
        self._seconds[:, at] += seconds
        for name, value in (
            ("ready", ready),
            ("wanted", wanted),
            ("running", standing.running),
            ("waiting", standing.waiting),
        ):
            self._sums[name][:, at] += value * seconds
        totals = (("arrived", standing.arrived), ("served", standing.served), ("refused", standing.refused))
        for name, total in totals:
            self._counts[name][:, at] += total - self._before[name]
            self._before[name] = total.copy()
        self._most_waiting = np.maximum(self._most_waiting, standing.waiting)
        self._most_ready = np.maximum(self._most_ready, ready)

    def result(
        self, variant: int, model: str, standing: Standing, objectives: tuple[float, float], *, gpus: int
    ) -> ModelResult:
        """Everything about one variant, whose replicas have so many GPUs."""
        ttft, tpot = self._ttft[variant].sum(axis=0), self._tpot[variant].sum(axis=0)
        seconds, ready = float(self._seconds[variant].sum()), float(self._sums["ready"][variant].sum())
        return ModelResult(
            model=model,
            arrived=int(standing.arrived[variant]),
            served=int(standing.served[variant]),
            refused=int(standing.refused[variant]),
            in_flight=int(standing.in_flight[variant]),
            interrupted=int(standing.interrupted[variant]),
            held=int(standing.held[variant]),
            ttft_p50_ms=known(quantile(ttft, 0.5)),
            ttft_p99_ms=known(quantile(ttft, 0.99)),
            tpot_p50_ms=known(quantile(tpot, 0.5)),
            tpot_p99_ms=known(quantile(tpot, 0.99)),
            ttft_objective_ms=objectives[0],
            tpot_objective_ms=objectives[1],
            most_waiting=int(self._most_waiting[variant]),
            replicas_mean=ready / seconds,
            replicas_most=int(self._most_ready[variant]),
            gpu_hours=ready * gpus / 3600,
            series=tuple(self._interval(variant, at) for at in range(self._intervals)) if self._keep else (),
        )

    def _interval(self, variant: int, at: int) -> ModelInterval:
        seconds = max(1.0, float(self._seconds[variant, at]))
        means = {name: float(values[variant, at]) / seconds for name, values in self._sums.items()}
        counts = {name: int(values[variant, at]) for name, values in self._counts.items()}
        ttft, tpot = self._ttft[variant, at], self._tpot[variant, at]
        return ModelInterval(
            second=at * INTERVAL_SECONDS,
            arrived=counts["arrived"],
            served=counts["served"],
            refused=counts["refused"],
            replicas_ready=means["ready"],
            replicas_wanted=means["wanted"],
            running=means["running"],
            waiting=means["waiting"],
            ttft_p50_ms=known(quantile(ttft, 0.5)),
            ttft_p99_ms=known(quantile(ttft, 0.99)),
            tpot_p50_ms=known(quantile(tpot, 0.5)),
            tpot_p99_ms=known(quantile(tpot, 0.99)),
        )


class RungRecorder:
    """The rungs of one pool in one variant."""

    def __init__(self, pool: PoolState, *, keep: bool) -> None:
        self._pool, self._keep = pool, keep
        self._hours = [0.0] * len(pool.pool.rungs)
        self._series: list[list[list[float]]] = [[] for _ in pool.pool.rungs]

    def add(self, second: int, seconds: int) -> None:
        """What bills in the `seconds` from `second` on."""
        at = second // INTERVAL_SECONDS
        for index, series in enumerate(self._series):
            hours = self._pool.billed_nodes(index) * seconds / 3600
            self._hours[index] += hours
            if self._keep:
                while len(series) <= at:
                    series.append([0.0, 0.0])
                series[at][0] += hours
                series[at][1] += seconds / 3600

    def results(self) -> list[RungResult]:
        """All rungs."""
        pool = self._pool.pool
        return [
            RungResult(
                pool=pool.name,
                rung=rung.name,
                kind=rung.kind,
                node_hours=self._hours[index],
                usd=self._hours[index] * rung.usd_per_node_hour,
                series=tuple(
                    RungInterval(second=at * INTERVAL_SECONDS, nodes=hours / length, usd=hours * rung.usd_per_node_hour)
                    for at, (hours, length) in enumerate(self._series[index])
                ),
            )
            for index, rung in enumerate(pool.rungs)
        ]


def known(value: float) -> float | None:
    """A quantile; None where there was nothing to take it of."""
    return None if math.isnan(value) else value
