"""How fast replicas are added: as many at once as traffic needs while one of them starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from catalog.assumptions import assumed
from planner.drafts import Draft
from planner.inputs import assumption, planned
from planner.plan import Explained, Input, PerformancePlan, PoolPlan
from planner.problems import Findings
from planner.room import replicas_that_fit

LONGEST_PERIOD_SECONDS = 1800
"""The API's limit of a scaling policy's period."""
_SHORTEST_PERIOD_SECONDS = 60
DOUBLING_PERCENT = 100
"""Of the replicas that there are: growth beyond the planned one, which multiplies. A surge that needs more than twice
the replicas is not told from a stall, whose requests pile up as well."""
_STEPS = 4
"""From the least to the most replicas, where no traffic says how fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Replicas that may be added in one period, and why so many."""

    pods: int
    percent: int | None
    period_seconds: int
    why: str
    number: Explained


@dataclass(frozen=True, slots=True, kw_only=True)
class _Growth:
    """Of requests a second, from the mean of the busy hours to the peak."""

    mean: Input
    peak: Input
    ramp_seconds: Input

    def within(self, seconds: float) -> float:
        """Requests a second more, so much later at most."""
        height = float(self.peak.value) - float(self.mean.value)
        return height * min(1.0, seconds / float(self.ramp_seconds.value))


def plan_step(
    sketch: Draft, pool: PoolPlan, speed: PerformancePlan, *, target: int, ready_after: int, findings: Findings
) -> Step:
    """Replicas added at once, and when the next ones may follow.

    What is asked for now serves one start later, so a step covers the growth of one start (boot, load and compile):
    fewer fall behind for good, more are ordered before the first shows what it does. The period is that start, so that
    the next step counts those that have come; never more than the room between least and most, or than the pool holds.
    Groups over several nodes come one after another, so many in a start: of two that start together each may take half
    of the last room (ADR 1).

    Args:
        sketch: the model.
        pool: its nodes.
        speed: predicted rates.
        target: requests of a replica that scaling aims at.
        ready_after: seconds from a new replica to its first token, on a new node.
        findings: takes remarks.
    """
    period = min(LONGEST_PERIOD_SECONDS, max(_SHORTEST_PERIOD_SECONDS, ready_after))
    given = sketch.model.autoscaling.scale_up_replicas
    if isinstance(given, int):
        return _given(sketch, given, period, findings)
    replicas = sketch.model.replicas
    room = max(1, min(replicas.max, replicas_that_fit(pool, sketch.fit.layout)) - replicas.min)
    inputs = (
        Input(
            name="period",
            value=period,
            unit="s",
            source=f"replica on a new node, section start, {_SHORTEST_PERIOD_SECONDS} to {LONGEST_PERIOD_SECONDS}",
        ),
        Input(
            name="room", value=room, unit="replicas", source="replicas.max, or what the pool holds, less replicas.min"
        ),
    )
    growth, served = _growth(sketch), _served(speed, target)
    if growth is None or served <= 0:
        pods = max(1, math.ceil(room / _STEPS))
        steps = Input(name="steps", value=_STEPS, unit="", source="from least to most, planner/scale_up.py")
        reason = f"no traffic says how fast it grows, so {_STEPS} steps from least to most"
        return _paced(sketch, pool, period, reason, _number(pods, "room / steps, rounded up", (*inputs, steps)))
    more = growth.within(period)
    pods = min(room, max(1, math.ceil(more / served - 1e-9)))
    _tell_peak(sketch, growth, served, pool, findings)
    reason = (
        f"a start takes {ready_after} s, traffic grows by {more:.3g} requests/s in {period} s and a replica takes "
        f"{served:.3g}"
    )
    number = _number(
        pods,
        "(peak - mean) x min(1, period / ramp) / (rate x target / knee), rounded up, 1 to room",
        (
            growth.peak,
            growth.mean,
            *inputs,
            growth.ramp_seconds,
            planned("rate", speed.capacity.requests_per_second, "requests/s a replica", "performance"),
            planned("target", target, "requests a replica", "concurrency"),
            planned("knee", speed.knee_concurrency, "requests a replica", "concurrency"),
        ),
    )
    return _paced(sketch, pool, period, reason, number)


def _given(sketch: Draft, pods: int, period: int, findings: Findings) -> Step:
    where = f"models[{sketch.index}].autoscaling.scale_up_replicas"
    if pods > 1 and sketch.fit.layout.nodes > 1:
        findings.remark(where, "groups that start together may each take half of the last room (docs/adr/0001)")
    given = Input(name="given", value=pods, unit="replicas", source=f"{where} in the stack file")
    why = f"{pods} replica(s) each {period} s: given in the stack file"
    return Step(pods=pods, percent=None, period_seconds=period, why=why, number=_number(pods, "given", (given,)))


def _paced(sketch: Draft, pool: PoolPlan, period: int, reason: str, number: Explained) -> Step:
    """The number at once for replicas on one node, one after another for groups."""
    pods = int(number.value)
    if sketch.fit.layout.nodes == 1:
        why = f"{pods} replica(s), or as many as there are if that is more, each {period} s: {reason}"
        return Step(pods=pods, percent=DOUBLING_PERCENT, period_seconds=period, why=why, number=number)
    boot = max(rung.boot_seconds for rung in pool.rungs)
    each = min(LONGEST_PERIOD_SECONDS, max(_SHORTEST_PERIOD_SECONDS, boot, period // pods))
    why = f"1 group each {each} s, no faster than nodes boot: {reason}"
    return Step(pods=1, percent=None, period_seconds=each, why=why, number=number)


def _number(pods: int, formula: str, inputs: tuple[Input, ...]) -> Explained:
    return Explained(
        section="scaling",
        name="replicas added while one starts",
        value=pods,
        unit="a period",
        formula=formula,
        inputs=inputs,
    )


def _served(speed: PerformancePlan, target: int) -> float:
    """Requests a second of a replica that runs `target`: those of the knee, in proportion."""
    return speed.capacity.requests_per_second * target / max(1, speed.knee_concurrency)


def _growth(sketch: Draft) -> _Growth | None:
    traffic = sketch.model.traffic
    if traffic is None:
        return None
    where = f"models[{sketch.index}].traffic"
    mean = Input(
        name="mean",
        value=traffic.requests_per_second,
        unit="requests/s",
        source=f"{where}.requests_per_second in the stack file",
    )
    if traffic.peak is not None:
        source = f"{where}.peak in the stack file"
        return _Growth(
            mean=mean,
            peak=Input(name="peak", value=traffic.peak.requests_per_second, unit="requests/s", source=source),
            ramp_seconds=Input(name="ramp", value=traffic.peak.ramp_minutes * 60, unit="s", source=source),
        )
    return _Growth(
        mean=mean,
        peak=Input(
            name="peak",
            value=traffic.requests_per_second * assumed("traffic_peak_ratio"),
            unit="requests/s",
            source=f"mean x traffic_peak_ratio, {assumption('traffic_peak_ratio').source}; state `traffic.peak`",
        ),
        ramp_seconds=Input(
            name="ramp",
            value=assumed("traffic_ramp_minutes") * 60,
            unit="s",
            source=assumption("traffic_ramp_minutes").source,
        ),
    )


def _tell_peak(sketch: Draft, growth: _Growth, served: float, pool: PoolPlan, findings: Findings) -> None:
    """A stated peak that the replicas do not serve is told: its requests wait."""
    traffic = sketch.model.traffic
    if traffic is None or traffic.peak is None:
        return
    most = min(sketch.model.replicas.max, replicas_that_fit(pool, sketch.fit.layout))
    needed = math.ceil(float(growth.peak.value) / served - 1e-9)
    if needed > most:
        findings.remark(
            f"models[{sketch.index}].traffic.peak",
            f"its {float(growth.peak.value):g} requests/s need {needed} replicas at the load that scaling aims at, and "
            f"there are {most} at most: requests of the peak wait",
        )
