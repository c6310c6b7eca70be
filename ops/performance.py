"""How fast each model is predicted to be: the table of `plan`."""

from __future__ import annotations

from collections.abc import Iterable

from ops.console import out, table
from planner.plan import ErrorBand, Latency, LoadPoint, ModelPlan, PerformancePlan

_COLUMNS = (
    "model",
    "a replica",
    "requests/s",
    "running",
    "TTFT p50 / p99 ms",
    "TPOT p50 / p99 ms",
    "output tokens/s",
    "replicas",
)


def print_performance(models: Iterable[ModelPlan]) -> None:
    """Each model at its traffic and at the capacity of a replica, every figure with its error band."""
    rows = [row for model in models if model.performance for row in _rows(model, model.performance)]
    if not rows:
        return
    out.print(table("Predicted performance of one replica (and where the truth lies)", _COLUMNS, rows, right=(2, 3, 7)))
    out.print("explained by `plan --explain <model>`; measured against engines in docs/explanation/performance.md\n")


def _rows(model: ModelPlan, found: PerformancePlan) -> list[tuple[str, ...]]:
    band, full = found.band, found.capacity
    rate = f"{full.requests_per_second:.3g} ({full.requests_per_second * band.low:.3g} to "
    rate += f"{full.requests_per_second * band.high:.3g})"
    tokens = _between(full.output_tokens_per_second, band.low, band.high)
    assumed = "" if found.lengths_given else "lengths assumed"
    rows = [("", f"full: {found.limited_by}", rate, *_latencies(model, full, band), tokens, assumed)]
    if at := found.at_traffic:
        needed = f"{found.replicas_needed} of {model.scaling.max_replicas} for {found.requests_per_second:g}/s"
        given = (f"{at.requests_per_second:.3g}", *_latencies(model, at, band), f"{at.output_tokens_per_second:,.0f}")
        rows.insert(0, ("", "at its traffic", *given, needed))
    return [(model.name, *rows[0][1:]), *rows[1:]]


def _latencies(model: ModelPlan, at: LoadPoint, band: ErrorBand) -> tuple[str, str, str]:
    role = model.disaggregation.role if model.disaggregation else None
    ttft = _latency(at.ttft_ms, band) if role != "decode" else "after prefill"
    return f"{at.concurrency:.0f}", ttft, _latency(at.tpot_ms, band) if role != "prefill" else ""


def _latency(latency: Latency, band: ErrorBand) -> str:
    return f"{latency.p50:,.0f} / {_between(latency.p99, 1 / band.high, 1 / band.low)}"


def _between(value: float, low: float, high: float) -> str:
    return f"{value:,.0f} ({value * low:,.0f} to {value * high:,.0f})"
