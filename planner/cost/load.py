"""The load that money is counted at: how many requests, how many replicas, how their GPU time divides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.performance import Replica, Workload, decode_step_ms, performance, prefill_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one model is planned to serve."""

    basis: Literal["traffic", "full replicas"]
    requests_per_second: float
    """Of the whole model."""
    input_tokens: float
    """Mean of a request."""
    output_tokens: float
    replicas: int
    """That run at this load."""
    prefill_ms: float
    """GPU time of one request's prefill, on a whole replica."""
    decode_ms: float
    """GPU time of one request's decode: output tokens x step / requests in the step."""
    batch: float
    """Requests in a step."""
    source: str
    """Where rate and lengths come from."""

    @property
    def prefill_share(self) -> float:
        """Of GPU time."""
        return self.prefill_ms / (self.prefill_ms + self.decode_ms)


def load_of(
    replica: Replica, workload: Workload, *, replicas: int, basis: Literal["traffic", "full replicas"], source: str
) -> Load:
    """The load of a model whose requests spread evenly over its replicas."""
    each = Workload(
        requests_per_second=workload.requests_per_second / replicas,
        input=workload.input,
        output=workload.output,
        cached_share=workload.cached_share,
    )
    batch = max(1.0, performance(replica, each).concurrency)
    context = workload.input.mean + workload.output.mean / 2
    step = decode_step_ms(replica, batch=batch, context=context)
    cached = workload.input.mean * workload.cached_share
    return Load(
        basis=basis,
        requests_per_second=workload.requests_per_second,
        input_tokens=workload.input.mean,
        output_tokens=workload.output.mean,
        replicas=replicas,
        prefill_ms=prefill_ms(replica, tokens=max(1.0, workload.input.mean - cached), context=cached),
        decode_ms=workload.output.mean * step / batch,
        batch=batch,
        source=source,
    )
