"""What one replica of each model does, tabulated from the performance model so that a day replays in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from planner.engines.request import queue_limit
from planner.performance import (
    Replica,
    TokenLengths,
    Workload,
    capacity,
    decode_step_ms,
    performance,
    prefill_ms,
)

Floats = npt.NDArray[np.float64]
_RATES = 64
"""Rates at which the performance model is asked."""
_SAMPLES = 512
"""Equally likely lengths that stand for a distribution; the last ones carry its 99th percentile."""
_PROMPTS = 8192
"""Where each prompt waits for all of the one before it, the rare long ones make the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTable:
    """One replica of a model under one mix of lengths. Arrays are indexed by the number of running requests."""

    limit: int
    """Requests that run at once: of the engine, of the KV cache and of the steps' token budget."""
    queue_limit: int
    """Requests that may wait before the engine refuses more."""
    tokens: float
    """Mean output tokens of a request."""
    answers: Floats
    """Equally likely output tokens of a request, in ascending order."""
    decode_ms: Floats
    """A step that carries no prompt."""
    prompt_ms: Floats
    """What the prompt of one request adds to the steps beside it, so that at the rate which keeps this many running the
    step is the performance model's: step = decode / (1 - rate x prompt)."""
    step_ms: Floats
    """A step at that rate."""
    beside_ms: Floats
    """What running requests add to each chunk of another's prefill."""
    prompts_ms: Floats
    """Prefill of a request alone, equally likely lengths in ascending order."""
    prompts_chunks: Floats
    """Steps that each of these prefills takes."""
    chunk_ms: float
    """A full chunk alone."""
    chunks_per_request: float
    """Mean share of a full chunk that one request's prompt is."""
    prompt_cv2: float
    """Squared coefficient of variation of prompts."""
    requests_per_second: float
    """The most that the replica keeps up with."""
    kv_share: float
    """Of the KV cache that a running request takes, in the mean."""
    running: Floats
    """Mean number running at the rates of `rates`."""
    rates: Floats

    def replicas_for(self, rate: float, target: float) -> int:
        """Fewest replicas that share `rate` so that each runs `target` requests or fewer."""
        if rate <= 0:
            return 0
        most = float(np.interp(min(target, self.running[-1]), self.running, self.rates))
        return math.ceil(rate / most) if most > 0 else 1


def tabulate(
    replica: Replica,
    *,
    input: TokenLengths,  # noqa: A002 - its name
    output: TokenLengths,
    cached_share: float = 0.0,
    prefilled: bool = False,
) -> ReplicaTable:
    """Ask the performance model once for everything that a replay needs; `prefilled`: prompts come with their cache."""
    free = capacity(
        replica,
        input=input,
        output=output,
        cached_share=cached_share,
        ttft_p99_ms=None,
        tpot_p99_ms=None,
        prefilled=prefilled,
    )
    largest = free.requests_per_second / free.performance.utilization
    rates = largest * np.concatenate((np.geomspace(1e-4, 0.3, _RATES // 2), np.linspace(0.32, 1.0, _RATES // 2)))
    points = [
        performance(
            replica,
            Workload(
                requests_per_second=float(rate),
                input=input,
                output=output,
                cached_share=cached_share,
                prefilled=prefilled,
            ),
        )
        for rate in rates
    ]
    running = np.array([point.concurrency for point in points])
    steps = np.array([point.tpot_ms.p50 for point in points])
    limit = max(1, int(running[-1]))
    # The model's step times are of a mean number running; a step that carries any carries at least one.
    carried = running / -np.expm1(-np.maximum(running, 1e-9))
    batches = np.arange(limit + 1, dtype=np.float64)
    step_ms = np.interp(batches, carried, steps)
    context = input.mean + output.mean * (1 + output.cv2) / 2
    decode = np.array([decode_step_ms(replica, batch=max(1.0, float(b)), context=context) for b in batches])
    decode = np.minimum(decode, step_ms)
    kept = np.maximum(np.interp(batches, carried, rates), rates[0])
    chunk = float(replica.costs.chunk)
    prompts = _log_normal(input, _SAMPLES)
    # Of a prompt that comes with its cache, the last token is computed, and all of it fills memory.
    fresh = np.ones(_SAMPLES) if prefilled else np.maximum(1.0, prompts * (1 - cached_share))
    prefix = input.mean - 1 if prefilled else input.mean * cached_share
    shared = 0.0 if prefilled else prefix
    return ReplicaTable(
        limit=limit,
        queue_limit=queue_limit(replica.max_running),
        tokens=max(1.0, output.mean),
        answers=np.maximum(1.0, _log_normal(output, _SAMPLES)),
        decode_ms=decode,
        prompt_ms=(1 - decode / step_ms) / kept * 1e3,
        step_ms=step_ms,
        beside_ms=np.maximum(0.0, decode - decode[1]),
        prompts_ms=np.array([prefill_ms(replica, tokens=float(length), context=prefix) for length in fresh]),
        prompts_chunks=np.ceil(fresh / chunk),
        chunk_ms=prefill_ms(replica, tokens=chunk),
        chunks_per_request=(1.0 if prefilled else max(1.0, input.mean * (1 - cached_share))) / chunk,
        prompt_cv2=0.0 if prefilled else input.cv2,
        requests_per_second=float(rates[-1]),
        kv_share=(context - shared) / replica.memory.kv_tokens,
        running=running,
        rates=rates,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTable:
    """Prompts of a disaggregated model, equally likely lengths in ascending order: what each takes of a prefill replica
    and of the network."""

    replica: ReplicaTable
    """A prefill replica."""
    tokens: Floats
    alone_ms: Floats
    """From the first of its tokens that is computed to the last, with nobody else there."""
    work_ms: Floats
    """That it adds to what the replica has to do: short prompts share a step, so it may be less than it takes alone."""
    transfer_ms: Floats
    """Of its KV cache, alone on the network."""
    gigabytes: Floats
    """Of its KV cache."""


def tabulate_prompts(
    replica: Replica,
    *,
    input: TokenLengths,  # noqa: A002 - its name
    cached_share: float,
    transfer_ms: Callable[[float], float],
    bytes_per_token: float,
) -> PromptTable:
    """The prompts of a mix of lengths; `transfer_ms` is that of a KV cache of so many tokens."""
    table = tabulate(replica, input=input, output=TokenLengths(mean=1, p99=1), cached_share=cached_share)
    tokens, chunk = np.maximum(1.0, _log_normal(input, _PROMPTS)), float(replica.costs.chunk)
    matrices_ms = (table.chunk_ms - replica.costs.attention_ms(chunk, 0.0)) / chunk
    prefix = input.mean * cached_share
    fresh = np.maximum(1.0, tokens * (1 - cached_share))
    alone = np.array([prefill_ms(replica, tokens=float(each), context=prefix) for each in fresh])
    work = np.array([matrices_ms * each + replica.costs.attention_ms(float(each), prefix) for each in fresh])
    return PromptTable(
        replica=table,
        tokens=tokens,
        alone_ms=alone,
        work_ms=np.minimum(work, alone),
        transfer_ms=np.array([transfer_ms(float(each)) for each in tokens]),
        gigabytes=tokens * bytes_per_token / 1e9,
    )


def _log_normal(lengths: TokenLengths, count: int) -> Floats:
    """Equally likely lengths in ascending order."""
    shares = (np.arange(count) + 0.5) / count
    return lengths.median * np.exp(lengths.sigma * _normal_quantiles(shares))


def _normal_quantiles(shares: Floats) -> Floats:
    """Of the standard normal distribution."""
    normal = NormalDist()
    return np.array([normal.inv_cdf(float(share)) for share in shares])
