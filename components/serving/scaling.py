"""Who decides how many replicas run: KEDA for Deployments and LeaderWorkerSets."""

from __future__ import annotations

from components.serving.custom_resources import CronTrigger, PrometheusTrigger, ScaledObject, ScaleRule
from components.serving.pods import object_labels
from planner.plan import ModelPlan

_TARGETS = {
    "deployment": ("apps/v1", "Deployment"),
    "leader_worker_set": ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
}


def fields_of_the_scaler(model: ModelPlan) -> list[str] | None:
    """Fields that `up` must leave alone: the HPA that KEDA makes writes the replicas of what it scales."""
    return ["spec.replicas"] if model.scaling.owner == "keda" else None


def scaled_object(model: ModelPlan, prometheus_url: str) -> ScaledObject:
    """The ScaledObject of a model that KEDA scales.

    It is awaited when deleted, unlike the workload: its finalizer needs KEDA, which goes later.
    """
    scaling = model.scaling
    api_version, kind = _TARGETS[model.runtime]
    return ScaledObject(
        name=model.name,
        namespace=model.namespace,
        labels=object_labels(model),
        target_api_version=api_version,
        target_kind="LeaderWorkerSet" if kind == "LeaderWorkerSet" else "Deployment",
        target_name=model.name,
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        polling_seconds=scaling.polling_seconds,
        scales_to_zero=scaling.idle_seconds is not None and scaling.min_replicas > 0,
        cooldown_seconds=scaling.idle_seconds or scaling.scale_down_stabilization_seconds,
        initial_cooldown_seconds=scaling.initial_delay_seconds,
        prometheus=tuple(
            PrometheusTrigger(
                name=trigger.name,
                server=prometheus_url,
                query=trigger.query,
                threshold=trigger.threshold,
                metric_type=trigger.metric_type,
            )
            for trigger in scaling.triggers
        ),
        cron=tuple(
            CronTrigger(timezone=floor.timezone, start=floor.start, end=floor.end, replicas=floor.replicas)
            for floor in scaling.floors
        ),
        up=ScaleRule(
            pods=scaling.scale_up_pods,
            percent=scaling.scale_up_percent,
            period_seconds=scaling.scale_up_period_seconds,
            stabilization_seconds=0,
        ),
        down=ScaleRule(
            pods=scaling.scale_down_pods,
            period_seconds=scaling.scale_down_period_seconds,
            stabilization_seconds=scaling.scale_down_stabilization_seconds,
        ),
    )
