"""What a replay found: totals, objectives, and how it went over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.plan import Role

INTERVAL_SECONDS = 300
"""One row of the time series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInterval:
    """One model in one interval."""

    second: int
    """Its beginning, since the start of the replay."""
    arrived: int
    served: int
    refused: int
    replicas_ready: float
    """Mean."""
    replicas_wanted: float
    running: float
    waiting: float
    ttft_p50_ms: float | None
    """None where nothing arrived."""
    ttft_p99_ms: float | None
    tpot_p50_ms: float | None
    tpot_p99_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RungInterval:
    """One rung of a pool in one interval."""

    second: int
    nodes: float
    """That bill, mean."""
    usd: float
    """In this interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """One of the two groups of a disaggregated model."""

    role: Role
    result: ModelResult
    """TTFT is its part: of prefill until the prompt is computed, of decode from the cache's arrival to the first token;
    the objective is its part of the promise. What prefill has served went to decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferResult:
    """KV caches that went from prefill to decode."""

    p50_ms: float | None
    """With the wait for others on the same network; None where none went."""
    p99_ms: float | None
    caches: int
    tokens: float
    gigabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResult:
    """One model over the whole replay. arrived = served + refused + in_flight."""

    model: str
    arrived: int
    served: int
    refused: int
    in_flight: int
    """At the end."""
    interrupted: int
    """Requests whose replica went away under them; their clients asked again."""
    held: int
    """Requests that an activator held because there was no replica."""
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    tpot_p50_ms: float | None
    tpot_p99_ms: float | None
    ttft_objective_ms: float
    tpot_objective_ms: float
    most_waiting: int
    replicas_mean: float
    replicas_most: int
    gpu_hours: float
    """Of replicas that were ready."""
    series: tuple[ModelInterval, ...]
    groups: tuple[GroupResult, ...] = ()
    """Of a disaggregated model: prefill, then decode; its own replicas and GPU hours are those of both."""
    transfer: TransferResult | None = None
    """Of a disaggregated model: the KV cache on its way between them."""

    @property
    def refused_share(self) -> float:
        """Of what arrived."""
        return self.refused / self.arrived if self.arrived else 0.0

    def excesses(self, refused_share: float) -> dict[str, float]:
        """How far each objective is missed, 0 or less where it is met: latencies by the logarithm of their ratio, since
        a queue that grows has no bound, and refused requests by their share."""
        found = {"refused": self.refused_share - refused_share}
        for name, value, objective in (
            ("ttft", self.ttft_p99_ms, self.ttft_objective_ms),
            ("tpot", self.tpot_p99_ms, self.tpot_objective_ms),
        ):
            found[name] = math.log(value / objective) if value else -1.0
        return found

    def excess(self, refused_share: float) -> float:
        """The worst of them."""
        return max(self.excesses(refused_share).values())

    def misses(self, refused_share: float) -> list[str]:
        """What is missed, in words."""
        found: list[str] = []
        if self.refused_share > refused_share:
            found.append(f"{self.refused_share:.2%} refused")
        if (self.ttft_p99_ms or 0.0) > self.ttft_objective_ms:
            found.append(f"TTFT p99 {self.ttft_p99_ms:,.0f} of {self.ttft_objective_ms:,.0f} ms")
        if (self.tpot_p99_ms or 0.0) > self.tpot_objective_ms:
            found.append(f"TPOT p99 {self.tpot_p99_ms:,.0f} of {self.tpot_objective_ms:,.0f} ms")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RungResult:
    """What one rung cost."""

    pool: str
    rung: str
    kind: str
    node_hours: float
    usd: float
    series: tuple[RungInterval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One variant of a stack under one traffic."""

    variant: str
    seconds: int
    models: tuple[ModelResult, ...]
    rungs: tuple[RungResult, ...]
    base_usd: float
    """What bills beside the GPU nodes: control plane, system nodes, network, storage."""
    losses: int
    """Nodes that were taken back or failed."""

    @property
    def usd(self) -> float:
        """All that bills, over the whole replay."""
        return self.base_usd + sum(rung.usd for rung in self.rungs)

    def model(self, name: str) -> ModelResult:
        """One model's result; raises KeyError."""
        for found in self.models:
            if found.model == name:
                return found
        raise KeyError(name)

    def objectives_met(self, refused_share: float) -> bool:
        """Whether every model kept its latencies and refused no more than this share."""
        return all(model.excess(refused_share) <= 0 for model in self.models)
