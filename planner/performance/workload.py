"""What is asked of a replica, and what it answers: lengths, rates, latencies, throughput."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

Z99 = 2.3263478740408408
"""99th percentile of the standard normal distribution."""
_STEEPEST = math.exp(Z99**2 / 2)
"""Largest p99 / mean that a log-normal distribution has, about 15."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLengths:
    """Tokens of a request: log-normal with this mean and 99th percentile; raises ValueError where none has them."""

    mean: float
    p99: float

    def __post_init__(self) -> None:
        if self.mean <= 0 or not self.mean <= self.p99 <= self.mean * _STEEPEST:
            raise ValueError(
                f"no log-normal length has mean {self.mean:g} and 99th percentile {self.p99:g}: the percentile lies "
                f"between 1 and {_STEEPEST:.1f} times the mean"
            )

    @property
    def sigma(self) -> float:
        """Of the logarithm: mean = exp(mu + sigma^2 / 2), p99 = exp(mu + 2.326 sigma)."""
        return _sigma(self.p99 / self.mean)

    @property
    def cv2(self) -> float:
        """Squared coefficient of variation, exp(sigma^2) - 1."""
        return math.expm1(self.sigma**2)

    @property
    def median(self) -> float:
        """exp(mu)."""
        return self.mean * math.exp(-(self.sigma**2) / 2)


@functools.lru_cache(maxsize=4096)
def _sigma(ratio: float) -> float:
    return Z99 - math.sqrt(max(0.0, Z99**2 - 2 * math.log(ratio)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests as they arrive, at random (Poisson)."""

    requests_per_second: float
    input: TokenLengths
    output: TokenLengths
    cached_share: float = 0.0
    """Share of the input tokens that the prefix cache holds already."""
    prefilled: bool = False
    """Prompts come with their KV cache, computed by another replica: they fill memory and cost no prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Of a distribution."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Where the truth lies, as factors on a predicted throughput; on a predicted time, their inverses."""

    low: float
    high: float
    evidence: Literal["measured", "derived", "unverified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """One replica at a given rate. Where it is not stable its queue grows without end: TTFT is infinite."""

    stable: bool
    utilization: float
    """Rate over the largest rate that the replica keeps up with."""
    concurrency: float
    """Requests running on average."""
    queue: float
    """Requests waiting on average."""
    ttft_ms: Quantiles
    tpot_ms: Quantiles
    """Of a request: its time after the first token, over the tokens after the first."""
    output_tokens_per_second: float
    input_tokens_per_second: float
    band: Band
    why: tuple[str, ...]
    """Each formula with its inputs and source."""


Limit = Literal["tpot", "ttft", "memory", "compute", "nothing serves"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The most that one replica serves within objectives."""

    requests_per_second: float
    knee_concurrency: int
    """Requests that run at that rate; autoscaling aims below it."""
    limited_by: Limit
    """`nothing serves`: even one request alone is slower than an objective. `compute`: batch or token limits."""
    performance: Performance
    """At that rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What no load, however small, gets below on this replica: batch 1, nothing waiting."""

    ttft_ms: float
    """Prefill of an input at the 99th percentile."""
    tpot_ms: float
