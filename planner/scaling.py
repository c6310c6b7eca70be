"""When replicas are added and removed: Prometheus queries and the thresholds that follow from the planned knee."""

from __future__ import annotations

import math

from catalog.assumptions import assumed
from catalog.types import Engine
from planner.drafts import Draft
from planner.plan import CronFloor, MetricTrigger, Role, ScalingPlan
from planner.problems import Findings
from planner.scale_up import Step
from settings.serving import Model

ACTIVATOR_PEAK = "activator_requests_peak"
"""Most requests at once, held ones included, that a router's pod had in the last minute; it counts without replicas."""

_POLLING_SECONDS = 15
_SCALE_DOWN_STABILIZATION_SECONDS = 900
_HPA_LONGEST_WINDOW_SECONDS = 3600
"""The API's limit of a stabilization window."""
_QUEUE_PER_REPLICA = 5
"""Requests waiting for one replica that add another: any queue that stays means saturation."""
_PREFILL_MEAN_SECONDS = 120
"""A prefill replica aims at one or two prompts at once, and each is gone within a second: what a single look sees is
chance, and the highest of all looks would hold. Prompts that wait are seen at once, by the queue."""
MOST_GUARDED = 2
"""Times its objective: as much as latency may count, so that it asks for about twice the ready replicas."""
_ROUNDING = 0.0001
_IDLE_SECONDS = 900
"""Without a request before the last replica of a model with `replicas.min: 0` goes, or its start if that is longer."""


def selector(engine: Engine, namespace: str, model: str, *, histogram: bool = False) -> str:
    """Label selector of one model's series.

    SGLang's schedulers export a gauge from rank 0 of every pipeline stage: only the first stage counts. With priorities
    a gauge has a series for each of them beside the one of all, whose label is empty. Its request histograms have
    no such labels.
    """
    labels = [f'namespace="{namespace}"', f'{engine.metrics.model_label}="{model}"']
    if engine.name == "sglang" and not histogram:
        labels += ['pp_rank="0"', 'priority=""']
    return "{" + ",".join(labels) + "}"


def sum_of(engine: Engine, metric: str, namespace: str, model: str) -> str:
    """Sum of a gauge over all replicas of a model."""
    return f"sum({metric}{selector(engine, namespace, model)})"


def waiting_of(engine: Engine, namespace: str, model: str, role: Role | None) -> str:
    """Requests that wait for a model's replicas.

    What waits for room in the cache of a decode group is not in SGLang's queue, but in one before it.
    """
    waiting = sum_of(engine, engine.metrics.waiting, namespace, model)
    if role == "decode" and engine.metrics.decode_waiting is not None:
        return f"{waiting} + {sum_of(engine, engine.metrics.decode_waiting, namespace, model)}"
    return waiting


def quantile(engine: Engine, histogram: str, namespace: str, model: str, *, q: float = 0.99, window: str = "5m") -> str:
    """A latency quantile in seconds, 0 where there was no traffic (NaN would stall scaling and silence alerts)."""
    series = f"{histogram}_bucket{selector(engine, namespace, model, histogram=True)}"
    return f"(histogram_quantile({q}, sum by (le) (rate({series}[{window}]))) > 0) or vector(0)"


_TRIGGERS_OF_ROLE = {"prefill": {"concurrency", "queue", "ttft"}, "decode": {"concurrency", "queue", "kv"}}
"""Prompts that wait and the first token are prefill's; what runs and fills the cache is decode's."""


def acts_at(limit: float) -> float:
    """Threshold of a `Value` trigger that adds a replica once its metric passes `limit`, however many there are.

    The HPA takes the ratio of metric and threshold times the ready replicas, and nothing below its tolerance.
    """
    return round(limit / (1 + assumed("hpa_tolerance")) - _ROUNDING, 4)


def _guard(latency: str, objective: float) -> str:
    """A latency in seconds as a trigger that asks for twice the replicas at most, and for none within the objective.

    It says nothing of how many replicas there should be: a request that waited ten times the objective does not need
    ten times the replicas, and one that is near it with a single replica must not keep the second alive.
    """
    return f"clamp_max(({latency}) > {objective:g}, {MOST_GUARDED * objective:g}) or vector(0)"


def target_concurrency(model: Model, knee: int) -> int:
    """Requests for each replica that scaling aims at: the user's number, or a share of the planned knee."""
    if isinstance(model.autoscaling.target_concurrency, int):
        return model.autoscaling.target_concurrency
    return max(1, math.floor(knee * assumed("knee_share")))


def plan_scaling(
    sketch: Draft, step: Step, *, namespace: str, target: int, ready_after: int, findings: Findings
) -> ScalingPlan:
    """Scaling of one model.

    Args:
        sketch: the model.
        step: how fast it grows.
        namespace: of its series.
        target: requests of a replica that scaling aims at.
        ready_after: seconds from a new replica to its first token, on a new node.
        findings: takes problems.
    """
    model = sketch.model
    low, high = model.replicas.min, model.replicas.max
    owner = "keda" if sketch.runtime != "ray_service" else "none" if low == high else "ray_serve"
    _check(sketch, findings)
    idle = _idle_seconds(model, owner, ready_after)
    triggers = (
        _triggers(model, sketch.engine, namespace, target, role=sketch.role, goes=idle is not None)
        if owner == "keda"
        else ()
    )
    if sketch.role is not None:
        triggers = tuple(trigger for trigger in triggers if trigger.name in _TRIGGERS_OF_ROLE[sketch.role])
    return ScalingPlan(
        owner=owner,
        min_replicas=low,
        max_replicas=high,
        target_concurrency=target,
        triggers=triggers,
        floors=tuple(
            CronFloor(timezone=f.timezone, start=f.start, end=f.end, replicas=f.replicas)
            for f in model.autoscaling.floors
        ),
        polling_seconds=_POLLING_SECONDS,
        scale_up_pods=step.pods,
        scale_up_percent=step.percent,
        scale_up_period_seconds=step.period_seconds,
        scale_down_pods=1,
        scale_down_period_seconds=600,
        scale_down_stabilization_seconds=min(
            _HPA_LONGEST_WINDOW_SECONDS, max(_SCALE_DOWN_STABILIZATION_SECONDS, ready_after)
        ),
        idle_seconds=idle,
        initial_delay_seconds=ready_after,
    )


def scaling_words(scaling: ScalingPlan, step: Step) -> str:
    """Who scales, on what, and how fast."""
    if not scaling.varies:
        return f"{scaling.min_replicas} replica(s), whatever is asked"
    between = f"{scaling.min_replicas} to {scaling.max_replicas} replicas, {scaling.target_concurrency} requests each"
    if scaling.owner == "ray_serve":
        return f"{between}; Ray Serve goes all the way after {scaling.polling_seconds} s, down one at a time"
    return f"{between}; up {step.why}"


def _check(sketch: Draft, findings: Findings) -> None:
    """Refuses what the model's scaler cannot do, and floors that no number of replicas can meet."""
    model, path = sketch.model, (*sketch.path, "autoscaling")
    for index, scheduled in enumerate(model.autoscaling.floors):
        if scheduled.replicas > model.replicas.max:
            findings.problem(
                (*path, "floors", index, "replicas"),
                f"{scheduled.replicas} is above replicas.max ({model.replicas.max})",
                f"set it to {model.replicas.max} or less, or raise replicas.max",
            )
    if sketch.runtime == "ray_service":
        for field, asked, lacks in (
            ("floors", bool(model.autoscaling.floors), "has no schedule"),
            ("scale_up_replicas", model.autoscaling.scale_up_replicas != "auto", "goes all the way at once"),
            ("idle_minutes", model.autoscaling.idle_minutes is not None, "keeps its last replica here"),
        ):
            if asked:
                findings.problem(
                    (*path, field),
                    f"Ray Serve's own autoscaler {lacks}",
                    "leave it out, or use runtime deployment or leader_worker_set",
                )
    elif (
        model.autoscaling.floors and model.replicas.min == model.replicas.max and model.autoscaling.idle_minutes is None
    ):
        findings.remark(
            f"models[{sketch.index}].autoscaling.floors",
            f"they change nothing: replicas are {model.replicas.min} at least and at most",
        )


def _triggers(
    model: Model, engine: Engine, namespace: str, concurrency: int, *, role: Role | None, goes: bool
) -> tuple[MetricTrigger, ...]:
    """What adds replicas. `goes`: all replicas may go, and their metrics with them.

    Where they are gone an empty answer would be an error, and the fallback would bring a replica back at once: so it
    counts as 0, and what holds the replicas up when metrics fail is the router's count, or the floors.
    """
    metrics, name, objective = engine.metrics, model.name, model.objectives.ttft_p99_ms / 1000
    gone = " or vector(0)" if goes else ""
    waiting = waiting_of(engine, namespace, name, role)
    asked = f"{sum_of(engine, metrics.running, namespace, name)} + {waiting}"
    mean_seconds = _PREFILL_MEAN_SECONDS if role == "prefill" else 0
    if mean_seconds:
        asked = f"avg_over_time(({asked})[{mean_seconds}s:{_POLLING_SECONDS}s])"
    found = [
        MetricTrigger(
            name="concurrency",
            query=f"({asked}){gone}" if goes else asked,
            threshold=str(concurrency),
            metric_type="AverageValue",
            mean_seconds=mean_seconds,
        ),
        MetricTrigger(
            name="queue", query=f"{waiting}{gone}", threshold=str(_QUEUE_PER_REPLICA), metric_type="AverageValue"
        ),
        MetricTrigger(
            name="kv",
            query=f"avg({metrics.kv_usage}{selector(engine, namespace, name)}){gone}",
            threshold=f"{acts_at(assumed('kv_use_share')):g}",
            metric_type="Value",
        ),
        MetricTrigger(
            name="ttft",
            query=_guard(quantile(engine, metrics.ttft_histogram, namespace, name), objective),
            threshold=f"{acts_at(objective):g}",
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
