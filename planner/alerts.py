"""Alerts of a stack: thresholds from the stack file, metric names from the pinned engines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from catalog.types import Engine
from planner.naming import EFA_GATE_CONTAINER, SERVING_NAMESPACE
from planner.plan import AlertPlan, ModelPlan, PoolPlan
from planner.router import ACTIVATOR_HELD, ACTIVATOR_STANDBY, ROUTER_ALIVE
from planner.routing import router_name
from planner.scaling import quantile, selector, waiting_of
from settings.observability import AlertThresholds
from settings.serving import Model

_TIER_HOURS, _TIER_PERCENT = 6, 1
"""A tier behind the GPUs that gave fewer tokens back, over so long, is not worth its RAM."""
_ABOVE_RESERVATION_PERCENT = 6
"""What a healthy engine takes above the share it reserves: CUDA context, NCCL and graphs."""


_SLOW_TRANSFERS = 10
"""Times the transfer of a long prompt that the plan expects; over TCP it takes a hundred times as long."""
_LEAST_TRANSFER_MS = 200
"""Below it a transfer is no reason to wake anybody."""

_NOT_OF = {"prefill": ("TimePerOutputToken",), "decode": ("TimeToFirstToken",)}
"""Prefill writes one token; what decode calls the first one comes after the prompt's cache has arrived."""


def plan_alerts(
    thresholds: AlertThresholds,
    models: tuple[tuple[Model, ModelPlan, Engine], ...],
    pools: tuple[PoolPlan, ...],
) -> tuple[AlertPlan, ...]:
    """All alerts of a stack."""
    reserved = max((plan.memory.utilization for _, plan, _ in models), default=0.0)
    found = [*_hardware(thresholds, reserved), *_idle(thresholds, pools, models)]
    found += [*_pods(thresholds), *_stores(plan for _, plan, _ in models)]
    for model, plan, engine in models:
        apart = _NOT_OF[plan.disaggregation.role] if plan.disaggregation else ()
        found += [
            replace(alert, model=plan.name, summary=f"{plan.name}: {alert.summary}")
            for alert in _model(thresholds, model, plan, engine)
            if not alert.name.startswith(apart)
        ]
    return tuple(found)


def _hardware(thresholds: AlertThresholds, reserved: float) -> Iterator[AlertPlan]:
    used = "100 * DCGM_FI_DEV_FB_USED{%s} / (DCGM_FI_DEV_FB_USED{%s} + DCGM_FI_DEV_FB_FREE{%s})"
    elsewhere, serving = f'namespace!="{SERVING_NAMESPACE}"', f'namespace="{SERVING_NAMESPACE}"'
    limit = thresholds.gpu_memory_percent
    yield AlertPlan(
        name="GpuMemoryHigh",
        expression=f"{used % (elsewhere, elsewhere, elsewhere)} > {limit}",
        for_minutes=5,
        summary=f"GPU {{{{ $labels.gpu }}}} of {{{{ $labels.Hostname }}}} has more than {limit} % of its memory in use",
    )
    # An engine takes its share at start and keeps it, so its GPUs are judged by what lies above that share.
    above = min(99, max(limit, math.ceil(reserved * 100) + _ABOVE_RESERVATION_PERCENT))
    yield AlertPlan(
        name="GpuMemoryAboveReservation",
        expression=f"{used % (serving, serving, serving)} > {above}",
        for_minutes=5,
        summary=f"GPU {{{{ $labels.gpu }}}} of {{{{ $labels.pod }}}} has more than {above} % of its memory in use",
    )
    yield AlertPlan(
        name="GpuBusyHigh",
        expression=f"DCGM_FI_DEV_GPU_UTIL > {thresholds.gpu_busy_percent}",
        for_minutes=5,
        summary=f"GPU {{{{ $labels.gpu }}}} of {{{{ $labels.Hostname }}}} is busy more than "
        f"{thresholds.gpu_busy_percent} % of the time",
    )
    yield AlertPlan(
        name="GpuXidError",
        expression="DCGM_FI_DEV_XID_ERRORS > 0",
        severity="critical",
        summary="GPU {{ $labels.gpu }} of {{ $labels.Hostname }} reported XID {{ $value }}",
    )


def _idle(
    thresholds: AlertThresholds, pools: tuple[PoolPlan, ...], models: tuple[tuple[Model, ModelPlan, Engine], ...]
) -> Iterator[AlertPlan]:
    """Nodes that bill and answer nobody. Nodes that exist anyway are not this stack's money."""
    minutes = thresholds.idle_pool_minutes
    for pool in pools:
        if pool.hardware.instance_type is None:
            continue
        answered = [
            f"(sum(increase({engine.metrics.requests}{selector(engine, plan.namespace, plan.name, histogram=True)}"
            f"[{minutes}m])) or vector(0))"
            for _, plan, engine in models
            if plan.pool == pool.name
        ]
        unless = f" unless on () ({' + '.join(answered)}) > 0" if answered else ""
        yield AlertPlan(
            name="GpuPoolIdle",
            # kube-state-metrics writes the label `inference-platform/pool` so.
            expression=f'count(kube_node_labels{{label_inference_platform_pool="{pool.name}"}}) > 0{unless}',
            for_minutes=minutes,
            summary=f"pool {pool.name}: {{{{ $value }}}} node(s) bill, and no request came for {minutes} minutes",
            pool=pool.name,
        )


def _pods(thresholds: AlertThresholds) -> Iterator[AlertPlan]:
    yield AlertPlan(
        name="ServingPodRestarts",
        expression=(
            f'increase(kube_pod_container_status_restarts_total{{namespace="{SERVING_NAMESPACE}"}}[1d])'
            f" > {thresholds.restarts_per_day}"
        ),
        summary=f"{{{{ $labels.pod }}}} restarted more than {thresholds.restarts_per_day} times in a day",
    )
    yield AlertPlan(
        name="ServingPodPending",
        expression=f'kube_pod_status_phase{{namespace="{SERVING_NAMESPACE}",phase="Pending"}} == 1',
        for_minutes=thresholds.pending_minutes,
        summary=f"{{{{ $labels.pod }}}} has waited {thresholds.pending_minutes} minutes for a node",
    )


def _stores(models: Iterable[ModelPlan]) -> Iterator[AlertPlan]:
    """Of all models that reach one; a cache costs time, state costs a restart."""
    for store in {store.name: store for plan in models for store in plan.stores}.values():
        which = f'{{namespace="{store.namespace}",pod=~"{store.name}-.*",condition="true"}}'
        yield AlertPlan(
            name="StoreDown",
            expression=f"absent(kube_pod_status_ready{which} == 1)",
            for_minutes=5,
            severity="warning" if store.evicts else "critical",
            summary=f"{store.name}: no pod of the store is ready",
        )


def _model(thresholds: AlertThresholds, model: Model, plan: ModelPlan, engine: Engine) -> Iterator[AlertPlan]:
    """Of one model; its name is put into label and summary of each by the caller."""
    name, namespace, metrics = plan.name, plan.namespace, engine.metrics
    role = plan.disaggregation.role if plan.disaggregation else None
    ttft = quantile(engine, metrics.ttft_histogram, namespace, name)
    for severity, limit in _latency_limits(thresholds, model):
        yield AlertPlan(
            name=f"TimeToFirstTokenHigh{severity.capitalize()}",
            expression=f"({ttft}) > {limit / 1000:g}",
            for_minutes=5,
            severity=severity,
            summary=f"P99 time to first token above {limit} ms",
            heading="TimeToFirstTokenHigh",
        )
    tpot = quantile(engine, metrics.tpot_histogram, namespace, name)
    yield AlertPlan(
        name="TimePerOutputTokenHigh",
        expression=f"({tpot}) > {model.objectives.tpot_p99_ms / 1000:g}",
        for_minutes=5,
        summary=f"P99 time per output token above {model.objectives.tpot_p99_ms} ms",
    )
    errors = _counter(engine, metrics.errors, namespace, name)
    requests = f"{metrics.requests}{selector(engine, namespace, name, histogram=True)}"
    yield AlertPlan(
        name="ErrorRateHigh",
        expression=(
            f"100 * sum(rate({errors}[5m])) / (sum(rate({requests}[5m])) > 0) > {thresholds.error_rate_percent:g}"
        ),
        for_minutes=5,
        severity="critical",
        summary=f"more than {thresholds.error_rate_percent:g} % of requests fail",
    )
    yield AlertPlan(
        name="QueueBacklog",
        expression=f"{waiting_of(engine, namespace, name, role)} > {thresholds.queue_backlog}",
        for_minutes=5,
        summary=f"more than {thresholds.queue_backlog} requests wait",
    )
    kv_usage = f"100 * max({metrics.kv_usage}{selector(engine, namespace, name)})"
    yield AlertPlan(
        name="KvCacheHigh",
        expression=f"{kv_usage} > {thresholds.kv_cache_percent}",
        for_minutes=5,
        summary=f"KV cache more than {thresholds.kv_cache_percent} % full",
    )
    # A model that went to zero on purpose has no pods.
    own = f'pod=~"{name}-.*",pod!~"{router_name(name)}-.*"'
    asleep = f' and on () count(kube_pod_info{{namespace="{namespace}",{own}}})'
    yield AlertPlan(
        name="ModelNotServing",
        expression=f"absent({metrics.running}{selector(engine, namespace, name)})"
        f"{asleep if plan.scaling.idle_seconds else ''}",
        for_minutes=max(10, math.ceil(2 * plan.startup_seconds / 60)),
        severity="critical",
        summary="no replica reports metrics",
    )
    yield from _tiers(plan, engine)
    yield from _efa(plan)
    yield from _router(plan)
    yield from _handoff(plan)


def _tiers(plan: ModelPlan, engine: Engine) -> Iterator[AlertPlan]:
    """RAM that is held for blocks which nobody asks for again."""
    tiers = plan.kv_tiers
    if tiers is None:
        return
    window = f"[{_TIER_HOURS}h]"
    hits = _counter(engine, engine.metrics.tier_hits, plan.namespace, plan.name)
    asked = _counter(engine, engine.metrics.tier_queries, plan.namespace, plan.name)
    # Traffic enough to have filled the tier once, so that there was something to find.
    found = f"sum(increase({hits}{window})) / (sum(increase({asked}{window})) > {tiers.tokens})"
    yield AlertPlan(
        name="KvTierUseless",
        expression=f"100 * {found} < {_TIER_PERCENT}",
        for_minutes=60,
        summary=f"{tiers.cpu_gib} GiB of RAM gave back less than {_TIER_PERCENT} % of prompt tokens",
    )


def _router(plan: ModelPlan) -> Iterator[AlertPlan]:
    """Clients reach nothing, wait longer than planned, or are answered by another model."""
    router = plan.router
    if router is None:
        return
    yield AlertPlan(
        name="RouterDown",
        expression=f'absent({ROUTER_ALIVE}{{namespace="{plan.namespace}",pod=~"{router.name}-.*"}})',
        for_minutes=5,
        severity="critical",
        summary="no router reports metrics, clients reach no replica",
    )
    which = f'{{namespace="{plan.namespace}",model="{plan.name}"}}'
    if router.activator is None:
        return
    if plan.scaling.min_replicas == 0:
        yield AlertPlan(
            name="RequestsHeld",
            expression=f"sum({ACTIVATOR_HELD}{which}) > 0",
            for_minutes=math.ceil(plan.scaling.initial_delay_seconds / 60) + 2,
            severity="critical",
            summary="requests wait for a replica longer than a start takes",
        )
    if router.activator.standby is not None:
        yield AlertPlan(
            name="ServingFromStandby",
            expression=f"max({ACTIVATOR_STANDBY}{which}) > 0",
            for_minutes=1,
            severity="critical",
            summary=f"no replica serves, {router.activator.standby.model} answers in its place",
        )


def _handoff(plan: ModelPlan) -> Iterator[AlertPlan]:
    """The KV cache does not get from prefill to decode, or much slower than EFA carries it. One group counts both."""
    group, metrics = plan.disaggregation, plan.metrics
    if group is None or group.role != "decode" or metrics.kv_transfer_histogram is None:
        return
    which = f'{{namespace="{plan.namespace}",{metrics.model_label}=~"{plan.name}|{group.peer}"}}'
    yield AlertPlan(
        name="KvTransferFails",
        expression=f"sum(rate({metrics.kv_transfer_failures}{which}[5m])) > 0",
        for_minutes=5,
        severity="critical",
        summary="KV caches do not get from prefill to decode, and their requests fail",
    )
    limit = max(_SLOW_TRANSFERS * group.transfer_ms, _LEAST_TRANSFER_MS)
    unit = 1 if metrics.kv_transfer_histogram.endswith("_ms") else 1000
    median = f"histogram_quantile(0.5, sum by (le) (rate({metrics.kv_transfer_histogram}_bucket{which}[5m])))"
    yield AlertPlan(
        name="KvTransferSlow",
        expression=f"{median} > {limit / unit:.4g}",
        for_minutes=5,
        severity="critical",
        summary=f"half of the KV caches take over {limit:.0f} ms to decode: not over EFA?",
    )


def _efa(plan: ModelPlan) -> Iterator[AlertPlan]:
    """The gate failed and has not passed since. A Ray pod that fails is replaced, so its end is looked for as well."""
    if plan.efa_gate is None:
        return
    # The other group's name begins with this one's where this is decode.
    group = plan.disaggregation
    other = f',pod!~"{group.peer}-.*"' if group is not None and group.role == "decode" else ""
    which = f'{{namespace="{plan.namespace}",pod=~"{plan.name}-.*"{other},container="{EFA_GATE_CONTAINER}"}}'
    ended = which.replace("}", ',reason="Error"}')
    yield AlertPlan(
        name="EfaFallback",
        expression=(
            f"(kube_pod_init_container_status_restarts_total{which} > 0 and on (namespace, pod, container)"
            f" kube_pod_init_container_status_ready{which} == 0)"
            f" or max_over_time(kube_pod_init_container_status_terminated_reason{ended}[15m]) > 0"
        ),
        severity="critical",
        summary="{{ $labels.pod }} is not on EFA and does not start",
    )


def _latency_limits(thresholds: AlertThresholds, model: Model) -> Iterator[tuple[Literal["warning", "critical"], int]]:
    """A model's own objective wins over the stack's default; twice the objective is critical."""
    if "ttft_p99_ms" in model.objectives.model_fields_set:
        yield "warning", model.objectives.ttft_p99_ms
        yield "critical", 2 * model.objectives.ttft_p99_ms
    else:
        yield "warning", thresholds.latency_p99_warning_ms
        yield "critical", thresholds.latency_p99_critical_ms


def _counter(engine: Engine, name: str, namespace: str, model: str) -> str:
    """A counter that may carry labels of its own, with the model's labels added."""
    labels = selector(engine, namespace, model, histogram=True)
    if "{" not in name:
        return f"{name}{labels}"
    return f"{name.removesuffix('}')},{labels.removeprefix('{')}"
