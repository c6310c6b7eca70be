"""Latencies of requests from what the queues saw, counted in logarithmic histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from simulation.queues import Counts, StepRecord
from simulation.replicas import ReplicaTable

Floats = npt.NDArray[np.float64]

_LOWEST_MS = 0.5
_GROWTH = 1.02
BINS = 800
"""From half a millisecond to an hour in steps of 2 %."""
_LOG_GROWTH = float(np.log(_GROWTH))
_SAMPLES = 4
"""Requests that stand for those of one replica and step; a day has thousands of steps."""
_BUSIEST = 0.98
"""Above this share of time in prefill, waiting is what the steps count, no longer what M/G/1 says."""


class LatencySampler:
    """Draws TTFT and TPOT of the requests of some steps.

    TTFT = wait for a place in the batch (counted by the queues) + prompts before it (M/G/1: mean work x (1 + cv^2) /
    2 / (1 - busy), exponential) + the rest of the step that runs + its own prefill beside what decodes. TPOT = the time
    of a step. The formulas, and where they come from: docs/explanation/performance.md.
    """

    def __init__(self, table: ReplicaTable, *, seconds: float, seed: int) -> None:
        self._table, self._seconds = table, seconds
        self._random = np.random.default_rng([seed, 2])
        self._drain = table.requests_per_second

    def histograms(self, records: Sequence[StepRecord]) -> tuple[Floats, Floats]:
        """(TTFT, TPOT) of these steps: variant x bin, weighted by requests."""
        table, random = self._table, self._random
        entered = np.stack([record.entered for record in records])
        finished = np.stack([record.finished for record in records])
        running = np.stack([record.running for record in records])
        ahead = np.stack([record.ahead for record in records])
        rate = np.stack([record.rate for record in records])
        step_ms = np.stack([record.step_ms for record in records])
        variants = entered.shape[1]
        tpot = self._tpot(finished, running, rate, step_ms)
        ttft = np.zeros((variants, BINS))
        where = np.nonzero(entered)
        number = entered[where].astype(np.float64)[:, None]
        batch = running[where]
        shape = (len(batch), _SAMPLES)
        # Places become free during the step, too.
        left = np.minimum(self._drain, batch * 1e3 / (table.tokens * step_ms[where])) * self._seconds
        position = ahead[where][:, None] + (number - left[:, None]) * random.random(shape)
        waits = np.maximum(0.0, position) / self._drain * 1e3
        beside = table.beside_ms[batch]
        work = table.chunks_per_request * (table.chunk_ms + beside)
        busy = np.minimum(_BUSIEST, np.minimum(rate[where], self._drain) / 1e3 * work)
        scale = work * (1 + table.prompt_cv2) / 2 / (1 - busy)
        draw = random.random(shape)
        # The wait is 0 with the chance of an idle moment, else exponential: one uniform number gives both.
        prompts = np.where(draw < busy[:, None], -scale[:, None] * np.log(draw / np.maximum(busy, 1e-12)[:, None]), 0.0)
        prompts += random.random(shape) * np.where(batch > 0, step_ms[where], 0.0)[:, None]
        prompt = random.integers(0, len(table.prompts_ms), shape)
        own = table.prompts_ms[prompt] + table.prompts_chunks[prompt] * beside[:, None]
        # About half of the prompts that come while it waits find room in its own last chunk.
        own += prompts * (1 + busy / 2)[:, None]
        _count(
            ttft,
            np.repeat(where[1], _SAMPLES),
            (waits + own).ravel(),
            np.repeat(number[:, 0] / _SAMPLES, _SAMPLES),
        )
        return ttft, tpot

    def _tpot(self, finished: Counts, running: Counts, rate: Floats, step_ms: Floats) -> Floats:
        """A request's time a token: the decode step, and its share of the prompts that happened to come meanwhile."""
        table, random = self._table, self._random
        found = np.zeros((finished.shape[1], BINS))
        where = np.nonzero(finished)
        batch, shape = running[where], (len(where[0]), _SAMPLES)
        answers = table.answers[random.integers(0, len(table.answers), shape)]
        expected = (rate[where] * step_ms[where] / 1e3)[:, None] * answers
        number = random.poisson(expected)
        # Prompts differ in length: a sum of them is their mean and one draw, which counts less the more there are.
        drawn = table.prompts_ms[random.integers(0, len(table.prompts_ms), shape)] / table.prompts_ms.mean() - 1
        prompts = np.maximum(0.0, number + np.sqrt(number) * drawn)
        times = table.decode_ms[batch][:, None] + prompts * table.prompt_ms[batch][:, None] / answers
        weights = np.repeat(finished[where] / _SAMPLES, _SAMPLES)
        _count(found, np.repeat(where[1], _SAMPLES), times.ravel(), weights)
        return found


def _count(into: Floats, variant: npt.NDArray[np.int64], milliseconds: Floats, weights: Floats) -> None:
    bins = np.clip((np.log(milliseconds / _LOWEST_MS) / _LOG_GROWTH).astype(np.int64), 0, BINS - 1)
    flat = np.bincount(variant * BINS + bins, weights=weights, minlength=into.size)
    into += flat.reshape(into.shape)


def quantile(histogram: Floats, share: float) -> float:
    """Milliseconds below which `share` of the requests lie; NaN where there is none."""
    total = histogram.sum()
    if total <= 0:
        return float("nan")
    below = np.cumsum(histogram)
    wanted = share * total
    index = min(int(np.searchsorted(below, wanted)), BINS - 1)
    inside = (wanted - (below[index - 1] if index else 0.0)) / max(float(histogram[index]), 1e-12)
    return float(_LOWEST_MS * _GROWTH ** (index + min(1.0, max(0.0, inside))))


def quantiles(histograms: Floats, share: float) -> Floats:
    """The same for each row of many histograms."""
    return np.array([quantile(row, share) for row in histograms.reshape(-1, BINS)]).reshape(histograms.shape[:-1])
