"""How many replicas a model should have: KEDA with its HPA, and Ray Serve, as the Plan configures them.

Sources: kubernetes pkg/controller/podautoscaler (tolerance, external metrics, behaviour), KEDA's prometheus and cron
scalers, Ray Serve's autoscaling policy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from catalog.assumptions import assumed
from planner.plan import CronFloor, ModelPlan, ScalingPlan
from planner.scaling import MOST_GUARDED
from settings.cron import parse, zone_of

_TOLERANCE = assumed("hpa_tolerance")
"""The HPA leaves the number alone while the metric is this near to its target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the metrics say at one moment."""

    second: float
    """Since the start of the replay."""
    waiting: int
    running: int
    ttft_p99_seconds: float
    """Over the last five minutes; 0 where there was no traffic."""
    replicas: int
    """That the workload has, ready or not."""
    ready: int
    kv_usage: float = 0.0
    """Share of the KV cache in use, mean of the ready replicas."""
    asked_peak: int = 0
    """Most requests at once in the last minute, those that the activator holds included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorWindow:
    """When a scheduled floor holds."""

    start: float
    end: float
    replicas: int


def floor_windows(floors: Sequence[CronFloor], start: datetime, seconds: float) -> tuple[FloorWindow, ...]:
    """When the floors hold between `start` and `seconds` later.

    As KEDA judges: a floor holds while the next `end` comes before, or with, the next `start`.
    """
    windows: list[FloorWindow] = []
    # In UTC: sums of local times pass over changes of the clock.
    begins = start.astimezone(UTC)
    finish = begins + timedelta(seconds=seconds)
    for floor in floors:
        zone = zone_of(floor.timezone)
        begin, end = parse(floor.start), parse(floor.end)
        moment = begins - timedelta(seconds=1)
        while moment < finish:
            next_start, next_end = begin.after(moment, zone), end.after(moment, zone)
            if next_end is not None and (next_start is None or next_end <= next_start):
                windows.append(
                    FloorWindow(
                        start=max(0.0, (moment - begins).total_seconds()),
                        end=min(seconds, (next_end - begins).total_seconds()),
                        replicas=floor.replicas,
                    )
                )
                moment = next_end
            elif next_start is not None:
                moment = next_start
            else:
                break
    return tuple(windows)


def floor_at(windows: Sequence[FloorWindow], second: float) -> int:
    """Replicas that the floors ask for at a moment; 0 where none holds."""
    return max((window.replicas for window in windows if window.start <= second < window.end), default=0)


class Scaler(Protocol):
    """Decides the number of replicas, once every polling interval."""

    def wanted(self, seen: Observation) -> int:
        """Replicas from now on."""
        ...


class Fixed:
    """Nobody scales."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def wanted(self, seen: Observation) -> int:  # noqa: ARG002 - the protocol's
        """Always the same."""
        return self._replicas


class Mean:
    """Mean of what was seen within the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._values: deque[tuple[float, float]] = deque()

    def with_new(self, second: float, value: float) -> float:
        """The mean now, with one value more."""
        self._values.append((second, value))
        while self._values[0][0] <= second - self._seconds:
            self._values.popleft()
        return sum(value for _, value in self._values) / len(self._values)


class KedaScaler:
    """A ScaledObject and the HPA that KEDA makes of it.

    KEDA alone moves between no replica and the first: up while a trigger is active (above 0) or a floor holds, down
    once none has been for the cooldown. In between the HPA decides.
    """

    def __init__(self, scaling: ScalingPlan, windows: Sequence[FloorWindow]) -> None:
        self._scaling, self._windows = scaling, windows
        self._thresholds = {trigger.name: float(trigger.threshold) for trigger in scaling.triggers}
        self._means = {trigger.name: Mean(trigger.mean_seconds) for trigger in scaling.triggers if trigger.mean_seconds}
        self._recommended: deque[tuple[float, int]] = deque()
        self._ups: deque[tuple[float, int]] = deque()
        self._downs: deque[tuple[float, int]] = deque()
        self._last_active = 0.0

    def wanted(self, seen: Observation) -> int:
        """None while it sleeps, else the highest of all triggers, within limits, stabilised and step by step."""
        scaling = self._scaling
        values = {name: _value(name, threshold, seen) for name, threshold in self._thresholds.items()}
        values |= {name: mean.with_new(seen.second, values[name]) for name, mean in self._means.items()}
        floor = floor_at(self._windows, seen.second)
        least = max(1, scaling.min_replicas)
        if floor or any(value > 0 for value in values.values()):
            self._last_active = seen.second
        elif scaling.idle_seconds is not None and (
            seen.replicas == 0 or seen.second - self._last_active >= scaling.idle_seconds
        ):
            return 0
        if seen.replicas == 0:
            return least
        proposals = [_proposal(name, values[name], threshold, seen) for name, threshold in self._thresholds.items()]
        if self._windows:
            proposals.append(_average(max(1, floor), 1.0, seen.replicas))
        proposal = min(scaling.max_replicas, max([least, *proposals]))
        stabilised = self._stabilised(seen, proposal)
        if stabilised > seen.replicas:
            return self._step_up(seen, stabilised)
        if stabilised < seen.replicas:
            return self._step_down(seen, stabilised)
        return seen.replicas

    def _stabilised(self, seen: Observation, proposal: int) -> int:
        """Downwards, the highest proposal of the window counts."""
        self._recommended.append((seen.second, proposal))
        oldest = seen.second - self._scaling.scale_down_stabilization_seconds
        while self._recommended[0][0] < oldest:
            self._recommended.popleft()
        if proposal >= seen.replicas:
            return proposal
        return min(seen.replicas, max(value for _, value in self._recommended))

    def _step_up(self, seen: Observation, wanted: int) -> int:
        scaling = self._scaling
        added = _recent(self._ups, seen.second - scaling.scale_up_period_seconds)
        removed = _recent(self._downs, seen.second - scaling.scale_up_period_seconds, forget=False)
        before = seen.replicas - added + removed
        most = before + max(scaling.scale_up_pods, math.ceil(before * (scaling.scale_up_percent or 0) / 100))
        result = max(seen.replicas, min(wanted, most))
        if result > seen.replicas:
            self._ups.append((seen.second, result - seen.replicas))
        return result

    def _step_down(self, seen: Observation, wanted: int) -> int:
        scaling = self._scaling
        removed = _recent(self._downs, seen.second - scaling.scale_down_period_seconds)
        added = _recent(self._ups, seen.second - scaling.scale_down_period_seconds, forget=False)
        least = seen.replicas + removed - added - scaling.scale_down_pods
        result = min(seen.replicas, max(wanted, least))
        if result < seen.replicas:
            self._downs.append((seen.second, seen.replicas - result))
        return result


class RayScaler:
    """Ray Serve's own autoscaler: the mean of the last 30 s over the target, after a delay; up all at once, down by the
    downscaling factor's share of the surplus."""

    _LOOK_BACK_SECONDS = 30

    def __init__(self, scaling: ScalingPlan, config: Mapping[str, Any]) -> None:
        self._scaling = scaling
        self._up_delay = float(config.get("upscale_delay_s", 30))
        self._down_delay = float(config.get("downscale_delay_s", 600))
        self._down_factor = float(config.get("downscaling_factor", 1.0))
        self._load = Mean(self._LOOK_BACK_SECONDS)
        self._since: float | None = None
        self._direction = 0

    def wanted(self, seen: Observation) -> int:
        """The target's answer once it has pointed one way for long enough."""
        scaling = self._scaling
        load = self._load.with_new(seen.second, seen.running + seen.waiting)
        answer = math.ceil(load / scaling.target_concurrency - 1e-9)
        answer = min(scaling.max_replicas, max(scaling.min_replicas, answer))
        direction = (answer > seen.replicas) - (answer < seen.replicas)
        if direction != self._direction:
            self._direction, self._since = direction, seen.second
        if direction == 0 or self._since is None:
            return seen.replicas
        delay = self._up_delay if direction > 0 else self._down_delay
        if seen.second - self._since < delay:
            return seen.replicas
        self._direction = 0
        if direction > 0:
            return answer
        return min(seen.replicas - 1, math.ceil(seen.replicas + self._down_factor * (answer - seen.replicas)))


def scaler_of(model: ModelPlan, windows: Sequence[FloorWindow]) -> Scaler:
    """Who scales a model."""
    if not model.scaling.varies:
        return Fixed(model.scaling.min_replicas)
    if model.scaling.owner == "ray_serve" and model.ray is not None:
        deployment = model.ray.serve_config["applications"][0]["args"]["llm_configs"][0]["deployment_config"]
        return RayScaler(model.scaling, deployment["autoscaling_config"])
    return KedaScaler(model.scaling, windows)


def _value(name: str, threshold: float, seen: Observation) -> float:
    """What a trigger's query answers (planner/scaling.py)."""
    if name == "ttft":
        limit = threshold * (1 + _TOLERANCE)
        return min(seen.ttft_p99_seconds, MOST_GUARDED * limit) if seen.ttft_p99_seconds > limit else 0.0
    return {
        "concurrency": seen.running + seen.waiting,
        "queue": seen.waiting,
        "kv": seen.kv_usage,
        "router": seen.asked_peak,
    }[name]


def _proposal(name: str, value: float, threshold: float, seen: Observation) -> int:
    """Replicas that one trigger asks for: of a `Value`, the ratio times those that are ready; else a sum to share."""
    if name not in {"ttft", "kv"}:
        return _average(value, threshold, seen.replicas)
    ratio = value / threshold
    return seen.replicas if abs(ratio - 1) <= _TOLERANCE else math.ceil(ratio * seen.ready)


def _average(total: float, threshold: float, replicas: int) -> int:
    """What the HPA makes of an AverageValue: ceil(total / threshold), unless that is near enough."""
    if replicas and abs(total / (threshold * replicas) - 1) <= _TOLERANCE:
        return replicas
    return math.ceil(total / threshold - 1e-9)


def _recent(events: deque[tuple[float, int]], oldest: float, *, forget: bool = True) -> int:
    """Replicas changed since `oldest`; older events are dropped where nothing else looks at them."""
    if forget:
        while events and events[0][0] < oldest - 3600:
            events.popleft()
    return sum(change for second, change in events if second > oldest)
