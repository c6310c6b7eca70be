"""Continuous batching as a queue: what arrives at random runs together until it is done.

Each mean number of running requests B fixes the step time T(B), and with it the rate that keeps B running (Little's law):
rate = B / (output tokens x T(B)). Prefill of what arrives is part of the steps. See docs/explanation/performance.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from planner.performance.replica import Replica
from planner.performance.step import known_factors
from planner.performance.workload import Z99, Band, Performance, Quantiles, TokenLengths, Workload

_GRID = 24
_RESERVED_SHARE = 0.75
"""Of an answer, in the cache: half is there on average, all is kept free by engines that never evict."""
_NEVER = Quantiles(p50=math.inf, p99=math.inf)


class Curve:
    """Everything about a replica and its lengths that does not depend on the rate."""

    def __init__(self, replica: Replica, input: TokenLengths, output: TokenLengths, cached_share: float) -> None:  # noqa: A002
        self.replica, self.costs = replica, replica.costs
        self.input, self.output, self.cached_share = input, output, cached_share
        self.fresh = max(1.0, input.mean * (1 - cached_share))
        self.fresh_p99 = max(1.0, input.p99 * (1 - cached_share))
        self.prefix = input.mean * cached_share
        self.tokens = max(1.0, output.mean)
        self.context = input.mean + output.mean * (1 + output.cv2) / 2
        """Of a running sequence at a random time: long answers run longer."""
        held = self.fresh + _RESERVED_SHARE * output.mean * (1 + output.cv2)
        self.memory_limit = replica.memory.kv_tokens / held
        chunk_limit = self.costs.chunk / (1 + self.fresh / self.tokens)
        self.limit = max(1.0, min(replica.max_running, self.memory_limit, chunk_limit * self.costs.stages))
        fresh = self.fresh
        self.burst_ms = (
            (self.costs.dense_row_ms + self.costs.routed_row_ms + self.costs.sum_row_ms) * fresh
            + self.costs.attention_ms(fresh, self.prefix)
        ) * self.costs.stages
        self._grid()

    def _grid(self) -> None:
        low = 0.02
        growth = (self.limit / low) ** (1 / (_GRID - 1))
        self.batches = [0.0]
        self.rates = [0.0]
        self.steps = [self.step_ms(0.0)]
        self.spreads = [1.0]
        batch = low
        for index in range(_GRID):
            batch = self.limit if index == _GRID - 1 else batch
            step = max(self.steps[-1], self.step_ms(batch))
            rate = max(self.rates[-1] * (1 + 1e-9), 1e3 * batch / (self.tokens * step))
            slope = (step - self.steps[-1]) / (batch - self.batches[-1])
            spread = step / max(step * 0.05, step - batch * slope)
            self.batches.append(batch)
            self.rates.append(rate)
            self.steps.append(step)
            self.spreads.append(max(self.spreads[-1], spread))
            batch *= growth

    @property
    def largest_rate(self) -> float:
        """Requests a second that the replica keeps up with."""
        return self.rates[-1]

    def step_ms(self, mean_batch: float) -> float:
        """Mean time of the steps that a request runs in while `mean_batch` requests run on average.

        Steps with nobody running are none, so few requests still see themselves: batch = mean / (1 - exp(-mean)).
        """
        batch = mean_batch / -math.expm1(-mean_batch) if mean_batch > 1e-9 else 1.0
        return self.closed_step_ms(batch, mean_batch / batch)

    def closed_step_ms(self, batch: float, replaced: float = 1.0) -> float:
        """Mean step time while `batch` requests run, each that ends replaced by another with this probability.

        What replaces them is prefilled in the same steps (vLLM) or in steps between (SGLang): in each step
        batch / output tokens requests, which come in lumps of at least a prompt or a chunk.
        """
        costs = self.costs
        part = max(1.0, batch / costs.stages)
        arriving = part / self.tokens * replaced
        fresh = arriving * self.fresh
        lump = min(costs.chunk, max(self.fresh, fresh))
        often = min(1.0, fresh / lump)
        plain = costs.matrices_ms(part)
        if costs.mixed:
            matrices = plain + often * (costs.matrices_ms(part + lump) - plain)
            matrices += often * (costs.prefill_layers_ms - costs.decode_layers_ms)
        else:
            matrices = plain + often * (
                costs.matrices_ms(lump) + costs.prefill_layers_ms + costs.sum_ms + costs.engine_ms
            )
        stage = matrices + costs.cache_ms(part, self.context) + costs.sum_row_ms * (part + fresh)
        stage += arriving * costs.attention_ms(self.fresh, self.prefix) + part * costs.sequence_ms + costs.step_ms
        return costs.stages * stage

    def at_rate(self, rate: float) -> float:
        """Mean number of running requests at a rate below the largest."""
        return _interpolate(self.rates, self.batches, rate)

    def rate_of(self, batch: float) -> float:
        """The rate that keeps `batch` requests running."""
        return _interpolate(self.batches, self.rates, batch)

    def latencies(self, batch: float, rate: float) -> tuple[Quantiles, Quantiles, float]:
        """TTFT, TPOT (ms) and the mean number waiting, with `batch` running on average at `rate` a second."""
        costs = self.costs
        per_ms = rate / 1e3
        step = _interpolate(self.batches, self.steps, batch)
        spread = math.sqrt(max(batch, 1e-9) * _interpolate(self.batches, self.spreads, batch))
        crowded = _interpolate(self.batches, self.steps, min(self.limit, batch + Z99 * spread))
        burst = Z99 * math.sqrt(batch / self.tokens * (1 + self.output.cv2) / self.tokens) * self.burst_ms
        tpot = Quantiles(p50=step, p99=step + math.hypot(crowded - step, burst))
        # Own prefill, beside what decodes.
        own_p50 = costs.prefill_ms(
            self.fresh * self.input.median / self.input.mean, self.prefix, beside=batch, beside_context=self.context
        )
        own = costs.prefill_ms(self.fresh, self.prefix, beside=batch, beside_context=self.context)
        own_p99 = costs.prefill_ms(self.fresh_p99, self.prefix, beside=batch, beside_context=self.context)
        # Prompts before it, served in full chunks: M/G/1.
        full = costs.prefill_ms(costs.chunk, 0.0, beside=batch, beside_context=self.context) / costs.stages
        work = self.fresh / costs.chunk * full
        busy = min(0.999999, per_ms * work)
        scale = work * (1 + self.input.cv2) / 2 / (1 - busy)
        ahead = busy * scale
        ahead_p99 = scale * max(0.0, math.log(100 * busy) - busy) if busy > 0.01 else 0.0
        # A free place in the batch and the cache: the tail of the number in the system.
        room = (self.limit - batch) / spread
        phi = 0.5 * math.erfc(-room / math.sqrt(2))
        waits = 1 / (1 + math.sqrt(2 * math.pi) * room * phi * math.exp(min(700.0, room**2 / 2)))
        left = max(1e-9, self.largest_rate - rate) / 1e3
        place = (1 + self.output.cv2) / 2 / left
        place_p99 = place * max(0.0, math.log(100 * waits) - waits) if waits > 0.01 else 0.0
        mean = step / 2 + own + ahead + waits * place
        p99 = mean + math.sqrt((own_p99 - own) ** 2 + ahead_p99**2 + place_p99**2 + (step / 2) ** 2)
        p50 = step / 2 + own_p50 + scale * math.log(max(1.0, 2 * busy)) + place * math.log(max(1.0, 2 * waits))
        return Quantiles(p50=min(p50, p99), p99=p99), tpot, per_ms * (ahead + waits * place)

    def performance(self, rate: float) -> Performance:
        """The replica at a rate."""
        stable = rate < self.largest_rate
        batch = self.at_rate(rate) if stable else self.limit
        ttft, tpot, queue = self.latencies(batch, min(rate, self.largest_rate))
        served = min(rate, self.largest_rate)
        return Performance(
            stable=stable,
            utilization=rate / self.largest_rate,
            concurrency=batch,
            queue=queue if stable else math.inf,
            ttft_ms=ttft if stable else _NEVER,
            tpot_ms=tpot,
            output_tokens_per_second=served * self.output.mean,
            input_tokens_per_second=served * self.input.mean,
            band=band_of(self.replica),
            why=self._why(rate, batch),
        )

    def _why(self, rate: float, batch: float) -> tuple[str, ...]:
        return (f"{rate:.3g} requests/s keep {batch:.1f} of at most {self.limit:.0f} running",)


def band_of(replica: Replica) -> Band:
    """How far off the throughput may be: of the GPU's factors, and of what an engine adds."""
    known = known_factors(replica.gpu)
    return Band(low=0.85 / known.band_high, high=1.15 / known.band_low, evidence=known.evidence)


def performance(replica: Replica, workload: Workload) -> Performance:
    """One replica that gets this workload."""
    curve = Curve(replica, workload.input, workload.output, workload.cached_share)
    return curve.performance(workload.requests_per_second)


def _interpolate(xs: list[float], ys: list[float], x: float) -> float:
    """Linear between the points, the last value beyond them."""
    if x >= xs[-1]:
        return ys[-1]
    right = bisect_right(xs, x)
    x0, y0 = xs[right - 1], ys[right - 1]
    return y0 + (ys[right] - y0) * (x - x0) / (xs[right] - x0)
