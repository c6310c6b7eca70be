"""How fast one model of the stack file is, and whether its replicas can serve what is asked of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from catalog.assumptions import assumed
from planner.drafts import Draft
from planner.performance import (
    MAX_RUNNING,
    Capacity,
    Floor,
    Performance,
    Replica,
    TokenLengths,
    Workload,
    capacity,
    decode_step_ms,
    floor,
    matrix_precision,
    performance,
    prefill_ms,
    replica_of,
)
from planner.plan import ErrorBand, GpuTime, Latency, Lengths, LoadPoint, PerformancePlan, PoolPlan
from planner.problems import Findings
from settings.traffic import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A model's performance, and what it was worked out from."""

    replica: Replica
    workload: Workload
    """Of the whole model; its rate is 0 where none is given."""
    capacity: Capacity
    floor: Floor
    plan: PerformancePlan


def lengths_of(sketch: Draft) -> tuple[TokenLengths, TokenLengths, float]:
    """(prompts, answers, cached share): as the stack file states, else assumed and cut to half of the context.

    A prefill group answers one token, which its engine computes with the prompt.
    """
    prompts, answers, cached = _asked(sketch)
    return prompts, TokenLengths(mean=1.0, p99=1.0) if sketch.role == "prefill" else answers, cached


def _asked(sketch: Draft) -> tuple[TokenLengths, TokenLengths, float]:
    traffic = sketch.model.traffic
    if traffic is not None:
        return _lengths(traffic.input_tokens), _lengths(traffic.output_tokens), traffic.cached_share
    half = sketch.model.context_tokens * assumed("mean_sequence_share")
    share = min(1.0, half / (assumed("input_tokens_mean") + assumed("output_tokens_mean")))
    ratio = assumed("token_length_p99_ratio") if share == 1 else 1 / assumed("mean_sequence_share")
    found = (assumed(name) * share for name in ("input_tokens_mean", "output_tokens_mean"))
    prompts, answers = (TokenLengths(mean=mean, p99=mean * ratio) for mean in found)
    return prompts, answers, 0.0


def _lengths(tokens: Tokens) -> TokenLengths:
    return TokenLengths(mean=tokens.mean, p99=tokens.p99 or tokens.mean * assumed("token_length_p99_ratio"))


def mean_tokens(sketch: Draft) -> int:
    """Of a running sequence: of the stated traffic, else half the context, which is on the safe side."""
    if sketch.model.traffic is None:
        return max(1, int(sketch.model.context_tokens * assumed("mean_sequence_share")))
    prompts, answers, _ = lengths_of(sketch)
    return max(1, math.ceil(prompts.mean + answers.mean * (1 + answers.cv2) / 2))


def predict(sketch: Draft, pool: PoolPlan, *, max_running: int, findings: Findings) -> Predicted:
    """Capacity of a replica and latencies at the stated traffic; what cannot be served is a problem."""
    model = sketch.model
    prompts, answers, cached = lengths_of(sketch)
    replica = replica_for(sketch, pool, max_running=max_running)
    prefilled = sketch.role == "decode"
    most = capacity(
        replica,
        input=prompts,
        output=answers,
        cached_share=cached,
        ttft_p99_ms=model.objectives.ttft_p99_ms,
        tpot_p99_ms=model.objectives.tpot_p99_ms,
        prefilled=prefilled,
    )
    rate = model.traffic.requests_per_second if model.traffic else 0.0
    workload = Workload(
        requests_per_second=rate, input=prompts, output=answers, cached_share=cached, prefilled=prefilled
    )
    limit = floor(replica, workload)
    _judge_floor(sketch, most, limit, replica, findings)
    needed = _replicas_needed(sketch, most, findings) if rate else None
    at_traffic = None
    if needed is not None:
        each = Workload(
            requests_per_second=rate / max(1, needed, model.replicas.min),
            input=prompts,
            output=answers,
            cached_share=cached,
            prefilled=prefilled,
        )
        at_traffic = _point(each.requests_per_second, performance(replica, each))
    band = most.performance.band
    plan = PerformancePlan(
        lengths_given=model.traffic is not None,
        input_tokens=Lengths(mean=prompts.mean, p99=prompts.p99),
        output_tokens=Lengths(mean=answers.mean, p99=answers.p99),
        cached_share=cached,
        capacity=_point(most.requests_per_second, most.performance),
        limited_by=most.limited_by,
        knee_concurrency=most.knee_concurrency,
        floor_ttft_ms=limit.ttft_ms,
        floor_tpot_ms=limit.tpot_ms,
        band=ErrorBand(low=band.low, high=band.high, evidence=band.evidence),
        requests_per_second=rate or None,
        replicas_needed=needed,
        at_traffic=at_traffic,
        gpu_time=_of_role(
            sketch,
            gpu_time(replica, workload, at_traffic.concurrency if at_traffic else most.performance.concurrency),
        ),
    )
    return Predicted(replica=replica, workload=workload, capacity=most, floor=limit, plan=plan)


def replica_for(sketch: Draft, pool: PoolPlan, *, max_running: int = MAX_RUNNING) -> Replica:
    """One replica of a draft on its pool, as the performance model sees it."""
    return replica_of(
        sketch.card,
        sketch.facts.node(),
        sketch.fit,
        engine=sketch.model.engine,
        precision=matrix_precision(sketch.card, sketch.model.quantization),
        network_gbps=pool.hardware.network_gbps,
        max_running=max_running,
        kv_bytes_per_value=sketch.serving.kv_bytes_per_value,
    )


def _of_role(sketch: Draft, time: GpuTime) -> GpuTime:
    """Of a request's time, what this group takes: prefill buys the tokens that come in, decode those that go out."""
    if sketch.role is None:
        return time
    return replace(time, decode_ms=0.0) if sketch.role == "prefill" else replace(time, prefill_ms=0.0)


def gpu_time(replica: Replica, workload: Workload, concurrency: float) -> GpuTime:
    """Of one mean request, with so many running."""
    cached = workload.input.mean * workload.cached_share
    batch = max(1.0, concurrency)
    step = decode_step_ms(replica, batch=batch, context=workload.input.mean + workload.output.mean / 2)
    return GpuTime(
        prefill_ms=prefill_ms(replica, tokens=max(1.0, workload.input.mean - cached), context=cached),
        decode_ms=workload.output.mean * step / batch,
        batch=batch,
    )


def _point(rate: float, found: Performance) -> LoadPoint:
    return LoadPoint(
        requests_per_second=rate,
        concurrency=found.concurrency,
        queue=found.queue,
        ttft_ms=Latency(p50=found.ttft_ms.p50, p99=found.ttft_ms.p99),
        tpot_ms=Latency(p50=found.tpot_ms.p50, p99=found.tpot_ms.p99),
        output_tokens_per_second=found.output_tokens_per_second,
        input_tokens_per_second=found.input_tokens_per_second,
    )


def _judge_floor(sketch: Draft, most: Capacity, limit: Floor, replica: Replica, findings: Findings) -> None:
    """Objectives that not even one request alone meets: a problem, with the limit and where it comes from."""
    objectives, gpus = sketch.model.objectives, f"{replica.layout.gpus} x {replica.gpu.name}"
    if limit.tpot_ms > objectives.tpot_p99_ms:
        findings.problem(
            (*sketch.path, "objectives", "tpot_p99_ms"),
            f"{objectives.tpot_p99_ms} ms a token is below what {gpus} can do: a step of one request takes "
            f"{limit.tpot_ms:.1f} ms (reading the weights that it touches, each layer's kernels and sums)",
            f"set it to {math.ceil(limit.tpot_ms * 1.2)} or more, use more GPUs or fewer bits a weight",
        )
        return
    late = limit.ttft_ms > objectives.ttft_p99_ms
    if not late and most.limited_by != "nothing serves":
        return
    longest = lengths_of(sketch)[0].p99
    message = (
        f"{objectives.ttft_p99_ms} ms to the first token is below what {gpus} can do: the prefill of a long prompt "
        f"({longest:,.0f} tokens, p99) takes {limit.ttft_ms:.0f} ms alone (products of matrices, kernels and sums "
        "between GPUs in each layer)"
        if late
        else f"no load at all keeps within {objectives.ttft_p99_ms} ms to the first token and "
        f"{objectives.tpot_p99_ms} ms a token: alone a request takes {limit.ttft_ms:.0f} and {limit.tpot_ms:.1f} ms"
    )
    tell_too_slow(
        sketch, message, limit.ttft_ms, "use more or faster GPUs, or plan for shorter prompts", findings=findings
    )


def tell_too_slow(sketch: Draft, message: str, least_ms: float, otherwise: str, *, findings: Findings) -> None:
    """That not even one request alone is served in time: a problem, or a remark where its length is assumed.

    Args:
        sketch: the model.
        message: what is too slow, and why.
        least_ms: to the first token of a request alone.
        otherwise: what mends it beside a longer objective.
        findings: takes it.
    """
    if sketch.model.traffic is None:
        findings.remark(f"models[{sketch.index}]", f"{message}; lengths are assumed: state `traffic`")
        return
    findings.problem(
        (*sketch.path, "objectives", "ttft_p99_ms"),
        message,
        f"set it to {math.ceil(least_ms * 1.5)} or more, {otherwise}",
    )


def _replicas_needed(sketch: Draft, most: Capacity, findings: Findings) -> int | None:
    """Replicas for the stated traffic; more than replicas.max is a problem. None where no number of them is enough."""
    traffic = sketch.model.traffic
    assert traffic is not None  # noqa: S101 - the caller has checked
    if most.requests_per_second <= 0:
        return None
    needed = math.ceil(traffic.requests_per_second / most.requests_per_second)
    allowed = sketch.model.replicas.max
    of_group = f"of {sketch.role} " if sketch.role else ""
    most_key = f"disaggregated.{sketch.role}.replicas.max" if sketch.role else "replicas.max"
    if needed > allowed:
        findings.problem(
            (*sketch.path, "traffic", "requests_per_second"),
            f"{traffic.requests_per_second:g} requests/s need {needed} replicas {of_group}within the objectives, and "
            f"{most_key} is {allowed}: one serves {most.requests_per_second:.3g} (limited by {most.limited_by})",
            f"set {most_key} to {needed} (and give the pool room), or plan for at most "
            f"{allowed * most.requests_per_second:.3g} requests/s",
        )
    return needed
