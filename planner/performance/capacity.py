"""The most that a replica serves within objectives, and what no load gets below."""

from __future__ import annotations

from planner.performance.queueing import Curve
from planner.performance.replica import Replica
from planner.performance.workload import Capacity, Floor, Limit, TokenLengths, Workload

_FULLEST = 0.85
"""Share of the largest rate that no replica is planned beyond: there queues explode sooner than anyone can foretell."""
_HALVINGS = 14


def capacity(
    replica: Replica,
    *,
    input: TokenLengths,  # noqa: A002 - the field's own name
    output: TokenLengths,
    cached_share: float = 0.0,
    ttft_p99_ms: float | None,
    tpot_p99_ms: float | None,
    prefilled: bool = False,
) -> Capacity:
    """The largest rate whose p99 latencies stay within the objectives."""
    curve = Curve(replica, input, output, cached_share, prefilled=prefilled)
    return capacity_of(curve, ttft_p99_ms=ttft_p99_ms, tpot_p99_ms=tpot_p99_ms)


def capacity_of(curve: Curve, *, ttft_p99_ms: float | None, tpot_p99_ms: float | None) -> Capacity:
    """The same of a curve that is there already, by halving: both latencies grow with the rate."""

    def broken(rate: float) -> Limit | None:
        ttft, tpot, _, _ = curve.latencies(rate)
        if tpot_p99_ms is not None and tpot.p99 > tpot_p99_ms:
            return "tpot"
        if ttft_p99_ms is not None and ttft.p99 > ttft_p99_ms:
            return "ttft"
        return None

    top = _FULLEST * curve.largest_rate
    limit = broken(top)
    if limit is None:
        limited: Limit = "memory" if curve.memory_limit <= curve.limit else "compute"
        return _at(curve, top, limited)
    low, high = 0.0, top
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reason = broken(middle)
        if reason is None:
            low = middle
        else:
            high, limit = middle, reason
    return _at(curve, low, limit if low else "nothing serves")


def _at(curve: Curve, rate: float, limited_by: Limit) -> Capacity:
    found = curve.performance(rate)
    return Capacity(
        requests_per_second=rate,
        knee_concurrency=max(1, int(found.concurrency)) if rate else 0,
        limited_by=limited_by,
        performance=found,
    )


def floor(replica: Replica, workload: Workload) -> Floor:
    """TTFT and TPOT of a request alone: no rate, however small, is served faster by this replica."""
    cached = workload.input.p99 - 1 if workload.prefilled else workload.input.p99 * workload.cached_share
    fresh = max(1.0, workload.input.p99 - cached)
    return Floor(
        ttft_ms=replica.costs.prefill_ms(fresh, cached),
        tpot_ms=replica.costs.decode_ms(1, workload.input.mean + workload.output.mean / 2),
    )
