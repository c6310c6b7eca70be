"""Continuous batching as a queue: what arrives at random runs together until it is done.

Each mean number of running requests B fixes the step time T(B), and with it the rate that keeps B running (Little's
law): rate = B / (output tokens x T(B)). Prefill of what arrives is part of the steps. See
docs/explanation/performance.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

from catalog.assumptions import assumed
from planner.performance.replica import Replica
from planner.performance.step import known_factors
from planner.performance.workload import Z99, Band, Performance, Quantiles, TokenLengths, Workload

_GRID = 24
_RESERVED_SHARE = 0.75
"""Of an answer, in the cache: half is there on average, all is kept free by engines that never evict."""
_EXPONENTIAL_Z99 = math.log(100) - 1
"""Standard deviations from mean to 99th percentile where bursts make a tail like the exponential's."""
_POWER = 1.5
"""Of the norm that joins waits of different causes: 1 if they always came together, 2 if all were normal."""
_MEDIAN_SHARE = 0.7
"""Of a mean wait, in the median: ln 2 of an exponential one."""
_NEVER = Quantiles(p50=math.inf, p99=math.inf)


class Waits(NamedTuple):
    """Milliseconds that a latency is made of; `*_more` is what the 99th percentile lies above the mean."""

    running: float
    """Requests that decode on average, without those in their prefill."""
    step: float
    """Between two tokens, on average."""
    crowd: float
    """Longer steps while many run at once: 99th percentile above the mean."""
    burst: float
    """Prefills that interrupt an answer: 99th percentile above the mean."""
    flight: float
    """Rest of the step under way."""
    flight_more: float
    own_p50: float
    """Prefill of the median prompt, beside what decodes."""
    own: float
    """Prefill of the mean prompt."""
    own_more: float
    prompts: float
    """Prompts that came before."""
    prompts_more: float
    room: float
    """Until batch and cache have room."""
    room_more: float


class Curve:
    """Everything about a replica and its lengths that does not depend on the rate."""

    def __init__(
        self,
        replica: Replica,
        input: TokenLengths,  # noqa: A002 - the field's own name
        output: TokenLengths,
        cached_share: float,
        *,
        prefilled: bool = False,
    ) -> None:
        self.replica, self.costs = replica, replica.costs
        self.input, self.output = input, output
        self.fresh = 1.0 if prefilled else max(1.0, input.mean * (1 - cached_share))
        """Tokens of a prompt that must be computed; of one that comes with its cache, the last."""
        self.prefix = input.mean - 1 if prefilled else input.mean * cached_share
        self.tokens = max(1.0, output.mean)
        self.context = input.mean + output.mean * (1 + output.cv2) / 2
        """Of a running sequence at a random time: long answers run longer."""
        prompt = input.mean if prefilled else self.fresh
        held = prompt + _RESERVED_SHARE * output.mean * (1 + output.cv2)
        self.memory_limit = replica.memory.kv_tokens / held
        held_cv2 = (prompt**2 * input.cv2 + (held - prompt) ** 2 * output.cv2) / held**2
        self.chunk_limit = self.costs.chunk * self.costs.stages / (1 + self.fresh / self.tokens)
        """More running requests would need more prompt tokens a step than it takes."""
        self.limit = max(1.0, min(replica.max_running, self.memory_limit, self.chunk_limit))
        self.uneven = held_cv2 if self.limit == self.memory_limit else 0.0
        """Spread of what one holds of the cache, where the cache is what fills first."""
        wide = math.exp(input.sigma**2)  # E[u^k] = mean^k wide^(k (k - 1) / 2) for log-normal lengths
        linear = self.costs.attention_ms(1.0, self.prefix)
        square = max(0.0, self.costs.attention_ms(self.fresh, self.prefix) / self.fresh - linear) / self.fresh
        self.attention_ms = linear * self.fresh + square * self.fresh**2 * wide
        """Attention of one prompt on one stage, on average over prompts."""
        self._wide, self._linear, self._square = wide, linear, square
        self._grid()

    def _grid(self) -> None:
        """Rate, step times and spread at some mean numbers of running requests, each made to grow with it."""
        low = min(0.2, self.limit / 2)
        growth = (self.limit / low) ** (1 / (_GRID - 1))
        first = self.step_ms(0.0)
        self.batches, self.rates, self.steps = [0.0], [0.0], [first]
        self.felt_steps, self.spreads, self.bursts = [first], [0.0], [0.0]
        batch = low
        for index in range(_GRID):
            batch = self.limit if index == _GRID - 1 else batch
            step = max(self.steps[-1], self.step_ms(batch))
            slope = (step - self.steps[-1]) / (batch - self.batches[-1])
            # Birth and death around the mean: variance = batch x step / (step - batch x slope), and more running.
            excess = step / max(step * 0.02, step - batch * slope)
            felt = step * (1 + (excess - 1) / batch)
            plain = self.costs.decode_ms(max(1.0, batch), self.context)
            prefill = max(0.0, step - plain) * self.tokens / batch
            # Delay busy period of an answer that prefills interrupt, over its tokens.
            burst = batch * (1 + self.output.cv2) * self._wide * (prefill * step / plain) ** 2 / self.tokens**2
            self.batches.append(batch)
            self.rates.append(max(self.rates[-1] * (1 + 1e-9), 1e3 * batch / (self.tokens * step)))
            self.steps.append(step)
            self.felt_steps.append(max(self.felt_steps[-1], felt))
            self.spreads.append(max(self.spreads[-1], math.sqrt(batch * excess)))
            self.bursts.append(max(self.bursts[-1], math.sqrt(burst)))
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
        batch / output tokens requests, which come in lumps of at least a prompt or a chunk. Where even one request
        brings more than a chunk for each of its tokens, as prompts without an answer do, a token takes several steps.
        """
        costs = self.costs
        part = max(1.0, batch / costs.stages)
        arriving = part / self.tokens * replaced
        fresh = arriving * self.fresh
        lump = min(costs.chunk, max(self.fresh, fresh))
        often = fresh / lump
        steps = max(1.0, often) if costs.mixed else 1.0
        plain = costs.matrices_ms(part, part)
        if costs.mixed:
            matrices = steps * plain + often * (costs.matrices_ms(part + lump, part) - plain)
            matrices += often * (costs.prefill_layers_ms - costs.decode_layers_ms)
        else:
            matrices = plain + often * (
                costs.matrices_ms(lump, 1) + costs.prefill_layers_ms + costs.sum_ms + costs.engine_ms
            )
        stage = matrices + steps * costs.cache_ms(part, self.context) + costs.sum_row_ms * (steps * part + fresh)
        stage += arriving * self.attention_ms + steps * (part * costs.sequence_ms + costs.step_ms)
        return costs.stages * stage

    def at_rate(self, rate: float) -> float:
        """Mean number of running requests at a rate up to the largest, before chance is added.

        batch = rate x tokens x step, and between two points the step is a straight line.
        """
        right = min(bisect_right(self.rates, rate), len(self.rates) - 1)
        low, high = self.batches[right - 1], self.batches[right]
        slope = (self.steps[right] - self.steps[right - 1]) / (high - low)
        tokens = rate / 1e3 * self.tokens
        if tokens * slope >= 1:
            return high
        return min(high, max(low, tokens * (self.steps[right - 1] - slope * low) / (1 - tokens * slope)))

    def _prompts_ahead(self, batch: float, per_ms: float) -> tuple[float, float]:
        """(share of time that prompts are being worked on, mean wait of who finds it so): M/G/1, in full chunks."""
        costs = self.costs
        full = costs.prefill_ms(costs.chunk, 0.0, beside=batch, beside_context=self.context) / costs.stages
        one = max(0.0, full - costs.attention_ms(costs.chunk, 0.0)) / costs.chunk + self._linear
        mean, wide, square = self.fresh, self._wide, self._square
        work = one * mean + square * mean**2 * wide
        second = one**2 * mean**2 * wide + 2 * one * square * mean**3 * wide**3 + square**2 * mean**4 * wide**6
        busy = min(0.999, per_ms * work)
        return busy, second / (2 * work) / (1 - busy)

    def _place(self, batch: float, rate: float) -> tuple[float, float]:
        """(chance to find batch or cache full, mean wait of who does): tail of the number in the system."""
        spread = math.sqrt(_interpolate(self.batches, self.spreads, batch) ** 2 + batch * self.uneven + 1e-12)
        room = (self.limit - batch) / spread
        beyond = 0.5 * math.erfc(-room / math.sqrt(2))
        chance = 1 / (1 + math.sqrt(2 * math.pi) * room * beyond * math.exp(min(700.0, room**2 / 2)))
        left = max(1e-9, self.largest_rate - rate) / 1e3
        return chance, (1 + self.output.cv2) / 2 / left

    def latencies(self, rate: float) -> tuple[Quantiles, Quantiles, float, float]:
        """TTFT and TPOT in ms, and the mean numbers running and waiting, at `rate` requests a second."""
        waits = self.waits(rate)
        tpot = Quantiles(p50=waits.step, p99=waits.step + math.hypot(waits.crowd, waits.burst))
        others = waits.prompts + waits.room
        p99 = waits.flight + waits.own + others
        p99 += _together(waits.own_more, waits.prompts_more, waits.room_more, waits.flight_more)
        p50 = waits.flight + waits.own_p50 + _MEDIAN_SHARE * others
        filling = min(self.limit, waits.running + rate / 1e3 * waits.own)
        return Quantiles(p50=min(p50, p99), p99=p99), tpot, filling, rate / 1e3 * others

    def waits(self, rate: float) -> Waits:
        """What the latencies at `rate` requests a second are made of."""
        costs = self.costs
        batch, per_ms = self.at_rate(rate), rate / 1e3
        step = _interpolate(self.batches, self.felt_steps, batch)
        spread = _interpolate(self.batches, self.spreads, batch)
        running = min(self.limit, per_ms * self.tokens * step)
        many = min(self.limit, running + Z99 * spread)
        crowded = max(step, _interpolate(self.batches, self.steps, many))
        burst = _EXPONENTIAL_Z99 * _interpolate(self.batches, self.bursts, batch)
        share = self.fresh / self.input.mean
        own_p50, own, own_p99 = (
            costs.prefill_ms(
                max(1.0, tokens * share), tokens * (1 - share), beside=running, beside_context=self.context
            )
            for tokens in (self.input.median, self.input.mean, self.input.p99)
        )
        busy, ahead = self._prompts_ahead(running, per_ms)
        chance, place = self._place(batch, rate)
        flight = _interpolate(self.batches, self.steps, batch) / 2
        crowd = self._prompts_ahead(many, per_ms)
        late = _late(*crowd) * (1 + crowd[0])  # what decodes beside grows while prompts wait: seen in simulation
        return Waits(
            running=running,
            step=step,
            crowd=crowded - step,
            burst=burst,
            flight=flight,
            flight_more=2 * flight,
            own_p50=own_p50,
            own=own,
            own_more=own_p99 - own,
            prompts=busy * ahead,
            prompts_more=late,
            room=chance * place,
            room_more=_late(chance, place),
        )

    def performance(self, rate: float) -> Performance:
        """The replica at a rate."""
        stable = rate < self.largest_rate
        served = min(rate, self.largest_rate)
        ttft, tpot, batch, queue = self.latencies(served)
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
            why=self._why(served, batch, tpot.p50),
        )

    def _why(self, rate: float, batch: float, step: float) -> tuple[str, ...]:
        known = known_factors(self.replica.gpu)
        return (
            f"running = rate x (output x step + prefill), step = {step:.2f} ms: {batch:.1f} at {rate:.3g} /s (Little)",
            f"at most {self.limit:.0f} run: {self.replica.max_running} that the engine is given, "
            f"{self.memory_limit:.0f} that the cache of {self.replica.memory.kv_tokens} tokens holds, "
            f"{self.chunk_limit:.0f} whose prompts fit the {self.costs.chunk} tokens of a step",
            f"most = {self.limit:.0f} / (output x step) = {self.largest_rate:.3g} requests/s",
            f"step times: roofline with factors of {self.replica.gpu.name} ({known.evidence}: {known.source})",
        )


def band_of(replica: Replica) -> Band:
    """Where a throughput may lie: what engines were seen to make of it, and the GPU's own band where that is wider."""
    known = known_factors(replica.gpu)
    low = assumed("engine_band_low_moe" if replica.card.moe else "engine_band_low")
    return Band(
        low=min(low, 1 / known.band_high),
        high=max(assumed("engine_band_high"), 1 / known.band_low),
        evidence=known.evidence,
    )


def performance(replica: Replica, workload: Workload) -> Performance:
    """One replica that gets this workload."""
    curve = Curve(replica, workload.input, workload.output, workload.cached_share, prefilled=workload.prefilled)
    return curve.performance(workload.requests_per_second)


def _late(chance: float, wait: float) -> float:
    """What the 99th percentile of a wait lies above its mean: with this chance exponential of this mean, else none."""
    return wait * max(0.0, math.log(100 * chance) - chance) if chance > 0.01 else 0.0


def _together(*parts: float) -> float:
    return sum(max(0.0, part) ** _POWER for part in parts) ** (1 / _POWER)


def _interpolate(xs: list[float], ys: list[float], x: float) -> float:
    """Linear between the points, the last value beyond them."""
    if x >= xs[-1]:
        return ys[-1]
    right = bisect_right(xs, x)
    x0, y0 = xs[right - 1], ys[right - 1]
    return y0 + (ys[right] - y0) * (x - x0) / (xs[right] - x0)
