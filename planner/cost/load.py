"""The load that money is counted at: how many requests, how many replicas, how their GPU time divides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.plan import ModelPlan


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


def load_of(model: ModelPlan) -> Load | None:
    """What a model is planned to serve: its traffic, else what its minimum replicas serve within their objectives.

    None where not even one request is served within them.
    """
    predicted, scaling = model.performance, model.scaling
    if predicted is None or predicted.capacity.requests_per_second <= 0:
        return None
    if predicted.requests_per_second is not None:
        wanted = max(predicted.replicas_needed or 1, scaling.min_replicas)
        basis, rate, replicas = "traffic", predicted.requests_per_second, min(wanted, scaling.max_replicas)
        source = f"models[].traffic of {model.name} in the stack file"
    else:
        # One that may have none bills by what one replica serves, in the hours that it is there.
        replicas = max(1, scaling.min_replicas)
        basis, rate = "full replicas", predicted.capacity.requests_per_second * replicas
        source = f"no traffic of {model.name} in the stack file: what {replicas} replica(s) serve within the objectives"
    return Load(
        basis=basis,
        requests_per_second=rate,
        input_tokens=predicted.input_tokens.mean,
        output_tokens=predicted.output_tokens.mean,
        replicas=replicas,
        prefill_ms=predicted.gpu_time.prefill_ms,
        decode_ms=predicted.gpu_time.decode_ms,
        batch=predicted.gpu_time.batch,
        source=source,
    )
