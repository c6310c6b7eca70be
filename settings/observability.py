"""Metrics, dashboards and alert thresholds."""

from __future__ import annotations

from pydantic import Field

from settings.base import Section
from settings.secrets import GeneratedSecret, SecretSource


class Prometheus(Section):
    """The Prometheus server and its volume."""

    retention_days: int = Field(default=15, ge=1, le=365)
    storage_gib: int = Field(default=50, ge=5, le=10_000)
    """Size of its volume in GiB."""


class AlertThresholds(Section):
    """When people are called."""

    gpu_memory_percent: int = Field(default=85, ge=50, le=100)
    """GPU memory in use, for 5 minutes. An engine reserves its share at start, so the alert of a GPU that serves
    a model lies above that planned share."""
    gpu_busy_percent: int = Field(default=90, ge=50, le=100)
    """GPU busy, for 5 minutes."""
    kv_cache_percent: int = Field(default=85, ge=50, le=100)
    """KV cache in use, for 5 minutes: what GPU memory means for an engine that reserves all of it at start."""
    latency_p99_warning_ms: int = Field(default=500, ge=10, le=600_000)
    """P99 time to first token that warns, for models without a stricter or looser objective."""
    latency_p99_critical_ms: int = Field(default=1000, ge=10, le=600_000)
    error_rate_percent: float = Field(default=1.0, gt=0, le=100)
    restarts_per_day: int = Field(default=3, ge=1, le=100)
    """Container restarts of a serving pod in 24 hours."""
    queue_backlog: int = Field(default=100, ge=1, le=100_000)
    """Requests waiting for one model."""
    idle_pool_minutes: int = Field(default=60, ge=5, le=10_080)
    """Minutes that a pool may have nodes and no request."""
    pending_minutes: int = Field(default=30, ge=1, le=1440)
    """Minutes that a serving pod may wait for a node."""


class Observability(Section):
    """What is measured and who hears of it."""

    scrape_interval_seconds: int = Field(default=15, ge=5, le=300)
    prometheus: Prometheus = Prometheus()
    alerts: AlertThresholds = AlertThresholds()
    grafana_admin: SecretSource = GeneratedSecret()
    """Password of Grafana's user `admin`; a Secret that exists needs the keys `admin-user` and `admin-password`."""
