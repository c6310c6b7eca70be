"""The Plan: what stands between clients and the replicas of a model."""

from __future__ import annotations

from dataclasses import dataclass

from planner.plan.secrets import SecretPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyPlan:
    """Another model that answers while this one cannot."""

    model: str
    """What it is called there: requests are sent on under this name."""
    host: str
    """Its Service."""
    port: int
    api_key: SecretPlan
    replicas: int
    gpus: int
    """That its replicas take."""
    usd_per_month: float | None
    """Of those GPUs at the first rung that has a price; None where nothing on its pool has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivatorPlan:
    """The proxy before the router of a model that may have no replica: it holds requests and sends them elsewhere.

    It answers who lacks the key at once, so that only clients wake GPUs.
    """

    port: int
    metrics_port: int
    hold_seconds: int
    """How long a request waits for a replica before it is answered with 503."""
    held_requests: int
    """Requests that wait at once in one pod; one beyond is answered with 503 at once."""
    held_bytes: int
    """Bodies that wait at once in one pod."""
    check_seconds: int
    """Between two looks at the router."""
    failures: int
    """Looks in a row that find no replica before requests are held or go to the standby."""
    standby: StandbyPlan | None

    @property
    def failover_seconds(self) -> int:
        """From the last replica's end to the first request that the standby gets, beyond the router's own notice."""
        return self.check_seconds * (self.failures + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterPlan:
    """The router of one model: it finds ready pods by label and spreads requests over them."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    """All but the API key, which the pod takes from the model's Secret."""
    policy: str
    port: int
    metrics_port: int
    replicas: int
    cpu_millis: int
    memory_mib: int
    memory_limit_mib: int
    pre_stop_seconds: int
    """Sleep while endpoints forget the pod."""
    grace_seconds: int
    """The pod's termination grace period: requests that pass through are as long as those of the engine."""
    activator: ActivatorPlan | None
    priority_class: str
    why: str

    @property
    def entry_port(self) -> int:
        """Port of the pod that clients reach."""
        return self.activator.port if self.activator else self.port
