"""Wall-clock plans of rungs, in seconds since the start of a replay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from planner.plan import RungPlan
from settings.cron import parse, zone_of

Minimums = tuple[tuple[float, int], ...]
"""(second, nodes): how many a rung has at least from then on, in order."""

_PERIOD = timedelta(days=8)
"""Calendars repeat every week: what was set last lies no further back."""


def minimums_of(rung: RungPlan, start: datetime, seconds: float) -> Minimums:
    """A rung's least nodes over a replay, its calendar counted; the last entry before `start` still holds."""
    finish = start.astimezone(UTC) + timedelta(seconds=seconds)
    events: list[tuple[datetime, int]] = []
    for step in rung.schedule:
        zone, cron = zone_of(step.timezone), parse(step.recurrence)
        moment = start.astimezone(UTC) - _PERIOD
        while (found := cron.after(moment, zone)) is not None and found < finish:
            events.append((found, step.min_nodes))
            moment = found
    events.sort(key=lambda event: event[0])
    before = [nodes for at, nodes in events if at <= start]
    first = before[-1] if before else rung.min_nodes
    return ((0.0, first), *(((at - start).total_seconds(), nodes) for at, nodes in events if at > start))


def minimum_at(minimums: Minimums, second: float) -> int:
    """Nodes at least at a moment."""
    value = minimums[0][1]
    for at, nodes in minimums:
        if at > second:
            break
        value = nodes
    return value


def seconds_until(moment: str | None, start: datetime, *, otherwise: float) -> float:
    """Seconds from `start` to an ISO time; `otherwise` where there is none."""
    return otherwise if moment is None else (datetime.fromisoformat(moment) - start).total_seconds()
