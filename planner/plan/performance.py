"""The Plan: how fast a model is predicted to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a prompt or an answer."""

    mean: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """One replica at some load."""

    requests_per_second: float
    concurrency: float
    """Requests running on average."""
    queue: float
    """Requests waiting on average."""
    ttft_ms: Latency
    tpot_ms: Latency
    output_tokens_per_second: float
    input_tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBand:
    """Where the truth lies: factors on a predicted throughput; on a predicted time, their inverses."""

    low: float
    high: float
    evidence: Literal["measured", "derived", "unverified"]
    """How well the GPU is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTime:
    """What one mean request takes of a replica's time; money is divided over input and output by it."""

    prefill_ms: float
    """Of its prompt, what the prefix cache holds left out, alone on the replica."""
    decode_ms: float
    """Answer tokens x decode step / requests in the step."""
    batch: float
    """Requests in the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformancePlan:
    """What one replica serves, and how many the stated traffic needs."""

    lengths_given: bool
    """False: `traffic` is left out and the catalog's assumed lengths stand in."""
    input_tokens: Lengths
    output_tokens: Lengths
    cached_share: float
    capacity: LoadPoint
    """The most that one replica serves within the objectives."""
    limited_by: Literal["tpot", "ttft", "memory", "compute", "nothing serves"]
    knee_concurrency: int
    """Requests running on a replica at its capacity; scaling aims below it."""
    floor_ttft_ms: float
    """Prefill of a long prompt (p99) alone on the replica: no load, however small, is answered sooner."""
    floor_tpot_ms: float
    """A decode step of one request."""
    band: ErrorBand
    requests_per_second: float | None
    """Of the whole model, as the stack file states; None where it does not."""
    replicas_needed: int | None
    """For that traffic within the objectives."""
    at_traffic: LoadPoint | None
    """One of those replicas (or of the fewest that run) at its share of the traffic."""
    gpu_time: GpuTime
    """At that traffic, else at the replica's capacity."""
