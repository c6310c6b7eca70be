"""Small typed specs of the custom resources that serving needs, with the rules that their operators' webhooks hold.

A rehearsal runs no webhook and a first `pulumi up` may come before one answers, so each spec checks itself: what it
renders is what the operator accepts. Sources: LeaderWorkerSet v0.10 (pkg/webhooks/leaderworkerset_webhook.go), KubeRay
v1.7 (controllers/ray/utils/validation.go), KEDA v2.20 (apis/keda/v1alpha1), prometheus-operator v0.93 (CRD).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from components._objects import object_metadata

_DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_DURATION = re.compile(r"^([0-9]+(ms|s|m|h|d))+$")
_RAY_SERVICE_NAME_LIMIT = 47
_LABEL_VALUE_LIMIT = 63
_HPA_PREFIX = "keda-hpa-"


class InvalidObjectError(ValueError):
    """An object that its operator would refuse; a fault of the plan, not of the user."""


def _require(condition: bool, kind: str, name: str, message: str) -> None:
    if not condition:
        raise InvalidObjectError(f"{kind} {name}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacedObject:
    """What every object of a namespace has."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])

    def metadata(self) -> dict[str, Any]:
        """`metadata`, without empty keys."""
        rendered = object_metadata(self.name, self.namespace, self.labels)
        if self.annotations:
            rendered["annotations"] = dict(self.annotations)
        return rendered


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderWorkerSet(NamespacedObject):
    """Groups of pods that live and die together."""

    replicas: int
    """Groups."""
    size: int
    """Pods of a group, its leader included."""
    leader_template: Mapping[str, Any]
    worker_template: Mapping[str, Any]
    max_unavailable: int = 1
    max_surge: int = 0
    restart_policy: Literal["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"] = "RecreateGroupAfterStart"
    startup_policy: Literal["LeaderCreated", "LeaderReady"] = "LeaderCreated"
    api_version: str = field(default="leaderworkerset.x-k8s.io/v1", init=False)
    kind: str = field(default="LeaderWorkerSet", init=False)

    def __post_init__(self) -> None:
        def require(condition: bool, message: str) -> None:
            _require(condition, "LeaderWorkerSet", self.name, message)

        # It names a headless Service; the pods append `-<group>-<worker>`, and StatefulSets a revision hash to a label.
        require(bool(_DNS_1035.match(self.name)), "the name must be a DNS-1035 label")
        require(
            len(self.name) <= _LABEL_VALUE_LIMIT - 16, "the name leaves no room for group, worker and revision hash"
        )
        require(0 <= self.replicas <= 1_000_000, "replicas must be between 0 and 1000000")
        require(self.size >= 1, "a group has one pod at least")
        require(self.replicas * self.size <= 2**31 - 1, "replicas x size must fit 32 bits")
        require(min(self.max_unavailable, self.max_surge) >= 0, "maxUnavailable and maxSurge must not be negative")
        require(
            self.replicas == 0 or self.max_unavailable > 0 or self.max_surge > 0,
            "maxUnavailable and maxSurge must not both be 0",
        )

    def spec(self) -> dict[str, Any]:
        """The spec, as the API has it."""
        return {
            "replicas": self.replicas,
            "startupPolicy": self.startup_policy,
            # A headless Service for each group: the leader's name resolves without the pods of other groups.
            "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {
                    "maxUnavailable": self.max_unavailable,
                    "maxSurge": self.max_surge,
                    "partition": 0,
                },
            },
            "leaderWorkerTemplate": {
                "size": self.size,
                "restartPolicy": self.restart_policy,
                "leaderTemplate": self.leader_template,
                "workerTemplate": self.worker_template,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RayWorkerGroup:
    """Ray workers of one shape."""

    name: str
    hosts: int
    """Pods of one replica."""
    min_replicas: int
    max_replicas: int
    template: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsStore:
    """What keeps a Ray cluster's state while there is no head."""

    address: str
    """With Redis' scheme; `rediss` is TLS."""
    password_secret: str
    password_key: str

    def render(self) -> dict[str, Any]:
        """`gcsFaultToleranceOptions`. KubeRay itself names the store's namespace after the cluster: a fixed one would
        hand the state of one cluster to its successor."""
        return {
            "redisAddress": self.address,
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": self.password_secret, "key": self.password_key}}},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RayService(NamespacedObject):
    """A Ray cluster and the Serve application on it."""

    ray_version: str
    serve_config: str
    """YAML."""
    head_template: Mapping[str, Any]
    workers: RayWorkerGroup
    initializing_timeout_minutes: int
    idle_seconds: int
    """How long an empty worker stays."""
    gcs_store: GcsStore | None = None
    api_version: str = field(default="ray.io/v1", init=False)
    kind: str = field(default="RayService", init=False)

    def __post_init__(self) -> None:
        def require(condition: bool, message: str) -> None:
            _require(condition, "RayService", self.name, message)

        require(bool(_DNS_1035.match(self.name)), "the name must be a DNS-1035 label")
        require(len(self.name) <= _RAY_SERVICE_NAME_LIMIT, f"the name must be {_RAY_SERVICE_NAME_LIMIT} long at most")
        require(self.workers.hosts >= 1, "a worker replica has one host at least")
        require(0 <= self.workers.min_replicas <= self.workers.max_replicas, "minReplicas must be 0 to maxReplicas")
        require(self.initializing_timeout_minutes > 0, "the initializing timeout must be positive")
        require(self.idle_seconds > 0, "the idle timeout must be positive")
        for template in (self.head_template, self.workers.template):
            require(bool(template["spec"]["containers"]), "every pod has a container")
            names = {
                variable["name"]
                for container in template["spec"]["containers"]
                for variable in container.get("env", [])
            }
            # KubeRay sets both from gcsFaultToleranceOptions, and refuses them beside it.
            require(
                self.gcs_store is None or not names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"},
                "the store's address and password are gcsFaultToleranceOptions, not environment",
            )
            restart = template["spec"].get("restartPolicy", "Never")
            require(restart == "Never", "restartPolicy must be Never or unset with autoscaler v2")

    def metadata(self) -> dict[str, Any]:
        """With the time after which KubeRay gives up a service that never served."""
        rendered = NamespacedObject.metadata(self)
        timeout = {"ray.io/initializing-timeout": f"{self.initializing_timeout_minutes}m"}
        return {**rendered, "annotations": {**self.annotations, **timeout}}

    def spec(self) -> dict[str, Any]:
        """The spec, as the API has it."""
        return {
            "serveConfigV2": self.serve_config,
            # Any other strategy prepares a second cluster beside the first: twice the GPUs.
            "upgradeStrategy": {"type": "None"},
            "excludeHeadPodFromServeSvc": True,
            "rayClusterConfig": {
                "rayVersion": self.ray_version,
                **({"gcsFaultToleranceOptions": self.gcs_store.render()} if self.gcs_store else {}),
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {
                    "version": "v2",
                    "idleTimeoutSeconds": self.idle_seconds,
                    "upscalingMode": "Default",
                    "resources": {
                        "limits": {"cpu": "1", "memory": "1Gi"},
                        "requests": {"cpu": "500m", "memory": "1Gi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                },
                "headGroupSpec": {
                    # No CPUs and no GPUs: nothing of the application is ever placed on the head.
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104
                    "template": self.head_template,
                },
                "workerGroupSpecs": [
                    {
                        "groupName": self.workers.name,
                        "replicas": self.workers.min_replicas,
                        "minReplicas": self.workers.min_replicas,
                        "maxReplicas": self.workers.max_replicas,
                        "numOfHosts": self.workers.hosts,
                        "rayStartParams": {},
                        "template": self.workers.template,
                    }
                ],
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusTrigger:
    """Replicas from a query."""

    name: str
    server: str
    query: str
    threshold: str
    metric_type: Literal["AverageValue", "Value"]

    def render(self) -> dict[str, Any]:
        """The trigger, as the API has it."""
        return {
            "type": "prometheus",
            "name": self.name,
            "metricType": self.metric_type,
            "metadata": {
                "serverAddress": self.server,
                "query": self.query,
                "threshold": self.threshold,
                # An empty answer is an error, so that the fallback holds the replicas, not a 0 that takes them away.
                "ignoreNullValues": "false",
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CronTrigger:
    """Replicas at known hours."""

    timezone: str
    start: str
    end: str
    replicas: int

    def render(self) -> dict[str, Any]:
        """The trigger, as the API has it."""
        return {
            "type": "cron",
            "metadata": {
                "timezone": self.timezone,
                "start": self.start,
                "end": self.end,
                "desiredReplicas": str(self.replicas),
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRule:
    """How fast replicas change in one direction; of several policies the one that moves most."""

    pods: int
    percent: int | None = None
    period_seconds: int
    stabilization_seconds: int

    def render(self) -> dict[str, Any]:
        """HPA scaling rules."""
        values = {"Pods": self.pods, "Percent": self.percent}
        return {
            "stabilizationWindowSeconds": self.stabilization_seconds,
            "selectPolicy": "Max",
            "policies": [
                {"type": kind, "value": value, "periodSeconds": self.period_seconds}
                for kind, value in values.items()
                if value is not None
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledObject(NamespacedObject):
    """What KEDA scales, and on what."""

    target_api_version: str
    target_kind: Literal["Deployment", "LeaderWorkerSet"]
    target_name: str
    min_replicas: int
    max_replicas: int
    polling_seconds: int
    scales_to_zero: bool = False
    """All replicas go once no trigger has been active for `cooldown_seconds`; a scheduled floor brings them back."""
    cooldown_seconds: int
    initial_cooldown_seconds: int
    prometheus: tuple[PrometheusTrigger, ...]
    cron: tuple[CronTrigger, ...]
    up: ScaleRule
    down: ScaleRule
    api_version: str = field(default="keda.sh/v1alpha1", init=False)
    kind: str = field(default="ScaledObject", init=False)

    def __post_init__(self) -> None:
        def require(condition: bool, message: str) -> None:
            _require(condition, "ScaledObject", self.name, message)

        require(len(_HPA_PREFIX + self.name) <= _LABEL_VALUE_LIMIT, "the name of its HPA would pass 63 characters")
        require(0 <= self.min_replicas <= self.max_replicas, "minReplicaCount must be 0 to maxReplicaCount")
        require(self.max_replicas >= 1, "maxReplicaCount must be 1 at least")
        # KEDA's only legal idleReplicaCount is 0, below the minimum; metrics of pods that are gone wake nobody.
        require(not self.scales_to_zero or self.min_replicas > 0, "idleReplicaCount must be below minReplicaCount")
        require(not self.scales_to_zero or bool(self.cron), "a scaler that goes to zero needs a floor that wakes it")
        require(bool(self.prometheus), "a fallback needs a trigger with a metric")
        names = [trigger.name for trigger in self.prometheus]
        require(len(names) == len(set(names)), "triggers must have different names")
        for rule in (self.up, self.down):
            # HPA validation: autoscaling/v2.
            moved = min(rule.pods, rule.percent or rule.pods)
            require(moved > 0, "a scaling policy must move one pod, or a percent, at least")
            require(0 < rule.period_seconds <= 1800, "periodSeconds must be 1 to 1800")
            require(0 <= rule.stabilization_seconds <= 3600, "stabilizationWindowSeconds must be 0 to 3600")
        for floor in self.cron:
            require(floor.start != floor.end, "a scheduled floor must not start and end at once")
            require(0 <= floor.replicas <= self.max_replicas, "a scheduled floor must not pass maxReplicaCount")

    def spec(self) -> dict[str, Any]:
        """The spec, as the API has it."""
        return {
            "scaleTargetRef": {
                "apiVersion": self.target_api_version,
                "kind": self.target_kind,
                "name": self.target_name,
            },
            "pollingInterval": self.polling_seconds,
            "cooldownPeriod": self.cooldown_seconds,
            "initialCooldownPeriod": self.initial_cooldown_seconds,
            **({"idleReplicaCount": 0} if self.scales_to_zero else {}),
            "minReplicaCount": self.min_replicas,
            "maxReplicaCount": self.max_replicas,
            # Without Prometheus the replicas stay, and never fall below the minimum.
            "fallback": {
                "failureThreshold": 4,
                "replicas": max(1, self.min_replicas),
                "behavior": "currentReplicasIfHigher",
            },
            "advanced": {
                "restoreToOriginalReplicaCount": False,
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleUp": self.up.render(), "scaleDown": self.down.render()}
                },
            },
            "triggers": [trigger.render() for trigger in (*self.prometheus, *self.cron)],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMonitor(NamespacedObject):
    """Pods that Prometheus scrapes."""

    match_labels: Mapping[str, str]
    port: str
    path: str
    interval: str
    renames: tuple[str, str, str] | None = None
    """(label, value, new value): series with that value, which is a name and so no pattern, get the new one."""
    api_version: str = field(default="monitoring.coreos.com/v1", init=False)
    kind: str = field(default="PodMonitor", init=False)

    def __post_init__(self) -> None:
        def require(condition: bool, message: str) -> None:
            _require(condition, "PodMonitor", self.name, message)

        require(bool(self.match_labels), "an empty selector would scrape every pod")
        require(bool(_DURATION.match(self.interval)), f"interval {self.interval} is no duration")
        require(self.path.startswith("/"), "the path starts with /")

    def spec(self) -> dict[str, Any]:
        """The spec, as the API has it."""
        endpoint: dict[str, Any] = {"port": self.port, "path": self.path, "interval": self.interval}
        if self.renames is not None:
            label, value, new = self.renames
            endpoint["metricRelabelings"] = [
                {"sourceLabels": [label], "regex": value, "targetLabel": label, "replacement": new}
            ]
        return {"selector": {"matchLabels": dict(self.match_labels)}, "podMetricsEndpoints": [endpoint]}
