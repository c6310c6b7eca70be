"""Latencies of requests from what the queues saw, counted in logarithmic histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulation.queues import Counts, Released, StepRecord
from simulation.replicas import ReplicaTable

Floats = npt.NDArray[np.float64]
Where = tuple[npt.NDArray[np.intp], ...]

_LOWEST_MS = 0.5
_GROWTH = 1.02
BINS = 800
"""From half a millisecond to an hour in steps of 2 %."""
_LOG_GROWTH = float(np.log(_GROWTH))
_SAMPLES = 4
"""Requests that stand for those of one replica and step; a day has thousands of steps."""
_HELD_SHARES = (np.arange(64) + 0.5) / 64
"""Requests that stand for those which an activator held."""
_BUSIEST = 0.98
"""Above this share of time in prefill, waiting is what the steps count, no longer what M/G/1 says."""


class LatencySampler:
    """Draws TTFT and TPOT of the requests of some steps, from the same random numbers in every variant.

    TTFT = time that an activator held it, where one did + wait for a place in the batch (both counted by the queues) +
    prompts before it (M/G/1: mean work x (1 + cv^2) / 2 / (1 - busy), exponential) + the rest of the step that runs +
    its own prefill beside what decodes. TPOT = a decode step + the prompts that came meanwhile / its tokens.
    Formulas and sources: docs/explanation/performance.md; how near they are to single requests:
    tests/simulation/test_against_requests.py.
    """

    def __init__(self, table: ReplicaTable, *, variants: int, seconds: float, seed: int) -> None:
        self._table, self._seconds = table, seconds
        self._random = np.random.default_rng([seed, 2])
        self._own = [np.random.default_rng([seed, 3]) for _ in range(variants)]
        self._drain = table.requests_per_second
        self._prompts = table.prompts_ms / table.prompts_ms.mean() - 1

    def histograms(self, records: Sequence[StepRecord]) -> tuple[Floats, Floats]:
        """(TTFT, TPOT) of these steps: variant x bin, weighted by requests."""
        seen = _seen(records)
        return self._ttft(seen), self._tpot(seen)

    def histograms_after(self, records: Sequence[StepRecord], before: Before) -> tuple[Floats, Floats, Floats]:
        """(TTFT with what was `before`, TTFT from then on, TPOT) of these steps."""
        seen = _seen(records)
        where, times, weights = self._first_tokens(seen)
        steps, variants, slots = seen.entered.shape
        chances = self._random.random((steps, slots, _SAMPLES))[where[0], where[2]]
        whole, own = np.zeros((variants, BINS)), np.zeros((variants, BINS))
        _count(own, where[1], times, weights)
        _count(whole, where[1], times + before.draw(where, chances), weights)
        return whole, own, self._tpot(seen)

    def _ttft(self, seen: _Seen) -> Floats:
        found = np.zeros((seen.entered.shape[1], BINS))
        where, times, weights = self._first_tokens(seen)
        for (step, variant), released in seen.released.items():
            rows = (where[0] == step) & (where[1] == variant)
            before_ms = np.quantile(released.waited_seconds, _HELD_SHARES) * 1e3
            late = (times[rows][:, :, None] + before_ms).reshape(int(rows.sum()), -1)
            _count(found, where[1][rows], late, weights[rows])
            weights = np.where(rows, 0.0, weights)
        _count(found, where[1], times, weights)
        return found

    def _first_tokens(self, seen: _Seen) -> tuple[Where, Floats, Floats]:
        """((step, variant, replica) of those that got requests, some TTFT of each in ms, its requests)."""
        table = self._table
        steps, _, slots = seen.entered.shape
        shape = (steps, slots, _SAMPLES)
        draws = self._random.random((4, *shape))
        lengths = self._random.integers(0, len(table.prompts_ms), shape)
        where = np.nonzero(seen.entered)
        place = (where[0], where[2])
        at, idle, rest, aside = draws[(slice(None), *place)]
        number = seen.entered[where].astype(np.float64)[:, None]
        batch, step_ms, rate = seen.running[where], seen.step_ms[where][:, None], seen.rate[where]
        # Places become free during the step, too.
        left = np.minimum(self._drain, batch * 1e3 / (table.tokens * step_ms[:, 0])) * self._seconds
        position = seen.ahead[where][:, None] + number * at - left[:, None] * at
        waits = np.maximum(0.0, position) / self._drain * 1e3
        beside = table.beside_ms[batch][:, None]
        work = table.chunks_per_request * (table.chunk_ms + beside)
        busy = np.clip(np.minimum(rate, self._drain)[:, None] / 1e3 * work, 1e-9, _BUSIEST)
        scale = work * (1 + table.prompt_cv2) / 2 / (1 - busy)
        # No wait with the chance of an idle moment, else exponential.
        before = np.where(idle < busy, -scale * np.log(np.maximum(aside, 1e-12)), 0.0)
        before += rest * np.where(batch > 0, 1, 0)[:, None] * step_ms
        prompt = lengths[place]
        own = table.prompts_ms[prompt] + table.prompts_chunks[prompt] * beside
        # About half of the prompts that come while it waits find room in its own last chunk.
        own += before * (1 + busy / 2)
        return where, waits + own, number[:, 0]

    def _tpot(self, seen: _Seen) -> Floats:
        table = self._table
        steps, variants, slots = seen.finished.shape
        found = np.zeros((variants, BINS))
        lengths = self._random.integers(0, len(table.prompts_ms), (2, steps, slots, _SAMPLES))
        for variant, stream in enumerate(self._own):
            where = np.nonzero(seen.finished[:, variant])
            batch = seen.running[:, variant][where]
            answers = table.answers[lengths[0][where]]
            step_ms, rate = seen.step_ms[:, variant][where], seen.rate[:, variant][where]
            number = stream.poisson((rate * step_ms / 1e3)[:, None] * answers)
            # A sum of prompts is their mean and one draw, which counts less the more there are.
            prompts = np.maximum(0.0, number + np.sqrt(number) * self._prompts[lengths[1][where]])
            times = table.decode_ms[batch][:, None] + prompts * table.prompt_ms[batch][:, None] / answers
            weights = seen.finished[:, variant][where].astype(np.float64)
            _count(found, np.full(len(batch), variant), times, weights)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What some steps saw: step x variant x replica (`StepRecord`)."""

    entered: Counts
    finished: Counts
    running: Counts
    ahead: Counts
    rate: Floats
    step_ms: Floats
    released: Mapping[tuple[int, int], Released]
    """(step, variant) -> requests that were held until then."""


def _seen(records: Sequence[StepRecord]) -> _Seen:
    return _Seen(
        entered=np.stack([record.entered for record in records]),
        finished=np.stack([record.finished for record in records]),
        running=np.stack([record.running for record in records]),
        ahead=np.stack([record.ahead for record in records]),
        rate=np.stack([record.rate for record in records]),
        step_ms=np.stack([record.step_ms for record in records]),
        released={
            (step, variant): found for step, record in enumerate(records) for variant, found in record.released.items()
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What requests waited before they came to these replicas, each its own."""

    milliseconds: Floats
    """Of all requests of some steps, those of a step, variant and replica beside each other."""
    first: Counts
    """Position of the first of each step, variant and replica."""
    number: Counts
    """How many each of them got."""

    def draw(self, where: Where, chances: Floats) -> Floats:
        """One of its own requests for each chance from 0 to 1 (place x draw)."""
        first, number = self.first[where][:, None], self.number[where][:, None]
        return self.milliseconds[first + (chances * number).astype(np.int64)]


def count(into: Floats, variant: Counts, milliseconds: Floats) -> None:
    """Add single requests to a histogram (variant x bin)."""
    _count(into, variant, milliseconds[:, None], np.ones(len(milliseconds)))


def _count(into: Floats, variant: Counts, milliseconds: Floats, weights: Floats) -> None:
    """Add samples (request x draw), each draw with its share of the request's weight."""
    draws = milliseconds.shape[1]
    above = np.maximum(milliseconds, _LOWEST_MS) / _LOWEST_MS
    bins = np.minimum((np.log(above) / _LOG_GROWTH).astype(np.int64), BINS - 1)
    shares = np.repeat(weights / draws, draws)
    flat = np.bincount((variant[:, None] * BINS + bins).ravel(), weights=shares, minlength=into.size)
    into += flat.reshape(into.shape)


def quantile(histogram: Floats, share: float) -> float:
    """Milliseconds below which `share` of the requests lie; NaN where there is none."""
    total = histogram.sum()
    if total <= 0:
        return float("nan")
    below: Floats = np.cumsum(histogram)
    wanted = share * total
    index = min(int(np.count_nonzero(below < wanted)), BINS - 1)
    inside = (wanted - (float(below[index - 1]) if index else 0.0)) / max(float(histogram[index]), 1e-12)
    return float(_LOWEST_MS * _GROWTH ** (index + min(1.0, max(0.0, inside))))
