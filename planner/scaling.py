"""When replicas are added and removed: Prometheus queries and the thresholds that follow from the planned knee."""

from __future__ import annotations

import math

from catalog.assumptions import assumed
from catalog.types import Engine
from planner.plan import CronFloor, MetricTrigger, ScalingPlan
from settings.serving import Model

ACTIVATOR_PEAK = "activator_requests_peak"
"""Most requests at once, held ones included, that a router's pod had in the last minute; it counts without replicas."""

_POLLING_SECONDS = 15
_SCALE_DOWN_STABILIZATION_SECONDS = 900
_HPA_LONGEST_WINDOW_SECONDS = 3600
"""The API's limit of a stabilization window."""
_QUEUE_PER_REPLICA = 5
"""Requests waiting for one replica that add another: any queue that stays means saturation."""
_IDLE_SECONDS = 900
"""Without a request before the last replica of a model with `replicas.min: 0` goes, or its start if that is longer."""


def selector(engine: Engine, namespace: str, model: str, *, histogram: bool = False) -> str:
    """Label selector of one model's series.

    SGLang's schedulers export a gauge from rank 0 of every pipeline stage: only the first stage counts. Its request
    histograms have no such label.
    """
    labels = [f'namespace="{namespace}"', f'{engine.metrics.model_label}="{model}"']
    if engine.name == "sglang" and not histogram:
        labels.append('pp_rank="0"')
    return "{" + ",".join(labels) + "}"


def sum_of(engine: Engine, metric: str, namespace: str, model: str) -> str:
    """Sum of a gauge over all replicas of a model."""
    return f"sum({metric}{selector(engine, namespace, model)})"


def quantile(engine: Engine, histogram: str, namespace: str, model: str, *, q: float = 0.99, window: str = "5m") -> str:
    """A latency quantile in seconds, 0 where there was no traffic (NaN would stall scaling and silence alerts)."""
    series = f"{histogram}_bucket{selector(engine, namespace, model, histogram=True)}"
    return f"(histogram_quantile({q}, sum by (le) (rate({series}[{window}]))) > 0) or vector(0)"


def target_concurrency(model: Model, knee: int) -> int:
    """Requests for each replica that scaling aims at: the user's number, or a share of the planned knee."""
    if isinstance(model.autoscaling.target_concurrency, int):
        return model.autoscaling.target_concurrency
    return max(1, math.floor(knee * assumed("knee_share")))


def scale_up_replicas(model: Model) -> int:
    """Replicas added at once: the user's number, or a quarter of the room between the least and the most."""
    if isinstance(model.autoscaling.scale_up_replicas, int):
        return model.autoscaling.scale_up_replicas
    return max(1, math.ceil((model.replicas.max - model.replicas.min) / 4))


def plan_scaling(
    model: Model, engine: Engine, *, runtime: str, namespace: str, knee: int, startup_seconds: int, boot_seconds: int
) -> ScalingPlan:
    """Scaling of one model. A fixed number of replicas has no owner."""
    low, high = model.replicas.min, model.replicas.max
    concurrency = target_concurrency(model, knee)
    ready_after = startup_seconds + boot_seconds
    scaler = "ray_serve" if runtime == "ray_service" else "keda"
    owner = "none" if low == high else scaler
    idle = _idle_seconds(model, owner, ready_after)
    triggers = _triggers(model, engine, namespace, concurrency, goes=idle is not None) if owner == "keda" else ()
    return ScalingPlan(
        owner=owner,
        min_replicas=low,
        max_replicas=high,
        target_concurrency=concurrency,
        triggers=triggers,
        floors=tuple(
            CronFloor(timezone=f.timezone, start=f.start, end=f.end, replicas=f.replicas)
            for f in model.autoscaling.floors
        ),
        polling_seconds=_POLLING_SECONDS,
        # Again when the first of them can have started.
        scale_up_pods=scale_up_replicas(model),
        scale_up_period_seconds=min(300, max(60, startup_seconds)),
        scale_down_pods=1,
        scale_down_period_seconds=600,
        scale_down_stabilization_seconds=min(
            _HPA_LONGEST_WINDOW_SECONDS, max(_SCALE_DOWN_STABILIZATION_SECONDS, ready_after)
        ),
        idle_seconds=idle,
        initial_delay_seconds=ready_after,
    )


def _triggers(
    model: Model, engine: Engine, namespace: str, concurrency: int, *, goes: bool
) -> tuple[MetricTrigger, ...]:
    """What adds replicas. `goes`: all replicas may go, and their metrics with them.

    Where they are gone an empty answer would be an error, and the fallback would bring a replica back at once: so it
    counts as 0, and what holds the replicas up when metrics fail is the router's count, or the floors.
    """
    metrics, name = engine.metrics, model.name
    gone = " or vector(0)" if goes else ""
    waiting = sum_of(engine, metrics.waiting, namespace, name)
    running = sum_of(engine, metrics.running, namespace, name)
    found = [
        MetricTrigger(
            name="concurrency",
            query=f"({running} + {waiting}){gone}" if goes else f"{running} + {waiting}",
            threshold=str(concurrency),
            metric_type="AverageValue",
        ),
        MetricTrigger(
            name="queue", query=f"{waiting}{gone}", threshold=str(_QUEUE_PER_REPLICA), metric_type="AverageValue"
        ),
        MetricTrigger(
            name="kv",
            query=f"avg({metrics.kv_usage}{selector(engine, namespace, name)}){gone}",
            threshold=f"{assumed('kv_use_share'):g}",
            metric_type="Value",
        ),
        MetricTrigger(
            name="ttft",
            query=quantile(engine, metrics.ttft_histogram, namespace, name),
            threshold=f"{model.objectives.ttft_p99_ms / 1000:g}",
            metric_type="Value",
        ),
    ]
    if model.replicas.min == 0:
        found.append(
            MetricTrigger(
                name="router",
                query=f'sum({ACTIVATOR_PEAK}{{namespace="{namespace}",model="{name}"}})',
                threshold=str(concurrency),
                metric_type="AverageValue",
            )
        )
    return tuple(found)


def _idle_seconds(model: Model, owner: str, ready_after: int) -> int | None:
    minutes = model.autoscaling.idle_minutes
    if owner != "keda":
        return None
    if minutes is not None:
        return minutes * 60
    return max(_IDLE_SECONDS, ready_after) if model.replicas.min == 0 else None
