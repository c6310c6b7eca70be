"""The Plan: the whole platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from planner.plan.cache import CachePlan
from planner.plan.cost import CostPlan, SpendGuardPlan
from planner.plan.images import ImageCachePlan, ImagePullPlan
from planner.plan.karpenter import KarpenterPlan
from planner.plan.ladder import LadderPlan
from planner.plan.models import ModelPlan, WarmupPlan
from planner.plan.pools import PoolPlan
from planner.plan.secrets import SecretPlan
from planner.plan.target import CreatedNetworkPlan, EksPlan, ExistingClusterPlan, ExistingNetworkPlan
from planner.plan.valkey import ValkeyPlan
from planner.plan.warm import WarmPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a user should know that does not stop the plan."""

    subject: str
    """What it is about, for instance `models[0]`."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartPlan:
    """A pinned Helm chart and where it comes from."""

    name: str
    version: str
    namespace: str
    chart: str
    """Chart name in `repository`, an `oci://` reference, or the chart's name inside `directory`."""
    repository: str | None
    directory: str | None
    """A mirror directory that holds `<chart>-<version>.tgz`, `<chart>-<version>/` or `<chart>/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPlan:
    """One Prometheus alert."""

    name: str
    expression: str
    for_minutes: int = 0
    """How long it must hold before somebody is told."""
    severity: Literal["warning", "critical"] = "warning"
    summary: str
    heading: str | None = None
    """In docs/runbooks/alerts.md, where several alerts share one; else the alert's name."""
    model: str | None = None
    """Model that it is about; a label, since alerts with equal labels are one alert."""
    pool: str | None = None
    """Pool that it is about; a label likewise."""

    @property
    def runbook(self) -> str:
        """Anchor in docs/runbooks/alerts.md."""
        return (self.heading or self.name).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservabilityPlan:
    """Prometheus, Grafana and what they watch."""

    scrape_interval_seconds: int
    retention_days: int
    storage_gib: int
    retention_size_gib: int
    """Prometheus drops its oldest blocks above this size: a full volume stops it."""
    storage_class: str | None
    prometheus_url: str
    """Inside the cluster."""
    grafana_admin: SecretPlan
    alerts: tuple[AlertPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One platform, decided."""

    project: str
    stack: str
    environment: str
    region: str | None
    tags: Mapping[str, str]
    target: EksPlan | ExistingClusterPlan
    network: CreatedNetworkPlan | ExistingNetworkPlan | None
    pools: tuple[PoolPlan, ...]
    cache: CachePlan
    warmups: tuple[WarmupPlan, ...]
    models: tuple[ModelPlan, ...]
    charts: Mapping[str, ChartPlan]
    """By catalog name; a capability that the stack does not need has no chart here."""
    image_mirror: str | None
    observability: ObservabilityPlan
    hub_token: SecretPlan | None
    protect_data: bool
    """Protect and retain the bucket of weights and its key."""
    protect_cluster: bool
    """Protect the cluster and the cache too."""
    cost: CostPlan
    findings: tuple[Finding, ...]
    ladder: LadderPlan | None = None
    """Of the pools of node groups; None where there are none."""
    karpenter: KarpenterPlan | None = None
    """The second provisioner; None where no pool is its."""
    warm: tuple[WarmPlan, ...] = ()
    """Placeholders that keep nodes booted, by pool."""
    image_pulls: tuple[ImagePullPlan, ...] = ()
    """Engine images that nodes hold before a pod needs them, by pool."""
    valkey: ValkeyPlan | None = None
    """Keeps what must outlive a pod."""
    kv_store: ValkeyPlan | None = None
    """Keeps KV blocks that replicas share; what it has no room for is computed again."""
    pull_secrets: tuple[SecretPlan, ...] = ()
    """Credentials for registries: one Secret of one name in each namespace where this project declares pods."""
    image_cache: ImageCachePlan | None = None
    spend_guard: SpendGuardPlan | None = None
    aws_profile: str | None = None
    """Profile of the AWS configuration files; None: whatever credentials the caller has."""

    @property
    def own_tags(self) -> Mapping[str, str]:
        """The tags of ours alone: free of what a user's may hold and a controller's command line would split."""
        return {key: value for key, value in self.tags.items() if key.startswith(f"{self.project}/")}

    @property
    def pull_secret(self) -> str | None:
        """Name of the Secret that pods pull their images with."""
        return self.pull_secrets[0].name if self.pull_secrets else None

    def warmups_of(self, model: str) -> tuple[WarmupPlan, ...]:
        """Warm-ups that a model's pods wait for: of its weights, its draft model and its adapters."""
        return tuple(warmup for warmup in self.warmups if model in warmup.models)

    def pool(self, name: str) -> PoolPlan:
        """The pool of that name; raises KeyError."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise KeyError(name)

    @property
    def zones(self) -> tuple[str, ...]:
        """Availability zones of the network, in order."""
        if isinstance(self.network, CreatedNetworkPlan):
            return tuple(zone.zone for zone in self.network.zones)
        if isinstance(self.network, ExistingNetworkPlan):
            return tuple(subnet.zone for subnet in self.network.subnets)
        return ()
