"""Watching models come back, in planned seconds.

What the plan times (grace periods, boots, starts, a controller's patience) runs compressed, and counts that many times
over. What the real scheduler and controllers take runs as on any cluster, and counts as it is; so does a simulator's
delay after the moment that the plan names. Which of them a model waits for shows in its pods at every moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from planner.plan import ModelPlan
from rehearsal.kube import Json, key_of
from rehearsal.kubelet import GROUP_KEY
from rehearsal.pods import is_ready
from rehearsal.scenarios.world import (
    Theatre,
    leaving,
    name_of,
    pool_of_rung,
    replicas_of,
    rung_of,
    serving_replicas,
    unschedulable,
)
from rehearsal.stages import KILLED_AT, READY_AT

_POLL_SECONDS: Final = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lack:
    """What a model lacks from one look to the next."""

    counts: Literal["drained", "waited", "started"]
    planned_since: float = math.inf
    """By `time.monotonic`, where it is known."""
    planned_until: float
    """By `time.monotonic`: what passes before is timed by the plan; later, simulators and API are late."""
    unserved: bool

    def planned_seconds(self, begin: float, end: float, compression: float) -> float:
        """The time from `begin` to `end`, with each part as it counts."""
        compressed = min(max(self.planned_until - begin, 0.0), end - begin)
        return compressed * compression + (end - begin - compressed)


@dataclass(kw_only=True)
class Course:
    """How one model fares from the event on; times in planned seconds."""

    model: ModelPlan
    before: frozenset[str]
    """Uids of its pods at the event."""
    wanted: int
    """Pods."""
    since: float
    """When it was last looked at, by `time.monotonic`."""
    drained: float = 0.0
    waited: float = 0.0
    started: float = 0.0
    placed: bool = False
    serves: bool = False
    touched: bool = False
    """Whether it ever lacked anything."""
    unserved: float = 0.0
    least_serving: int = 10**6
    half: float = 0.0
    """How long some group has had only part of its nodes, now."""
    longest_half: float = 0.0
    split: tuple[str, ...] = ()
    """Rungs that one group was on at the same time."""
    rungs: tuple[str, ...] = ()
    _lack: _Lack | None = None
    _is_half: bool = False
    _gone_by: dict[str, float] = field(default_factory=dict[str, float])
    """Uid of a pod that leaves -> when its grace period ends, by `time.monotonic`."""

    def look(self, theatre: Theatre, rungs: Mapping[str, str], doomed: frozenset[str], now: float) -> None:
        """Count the time since the last look by what that one saw, and see anew.

        Args:
            theatre: where.
            rungs: of each live node.
            doomed: nodes about to go.
            now: `time.monotonic`.
        """
        self._count(now, theatre.compression)
        pods = theatre.pods(self.model)
        live = [pod for pod in pods if not leaving(pod) and pod["spec"].get("nodeName", "") not in doomed]
        on = [pod for pod in live if pod["spec"].get("nodeName") in rungs]
        serving = serving_replicas(self.model, on)
        self.serves = len(on) >= self.wanted and serving * self.model.layout.nodes >= self.wanted
        self.placed = len(on) >= self.wanted
        self.rungs = tuple(sorted({rungs[pod["spec"]["nodeName"]] for pod in on}))
        self.least_serving = min(self.least_serving, serving)
        lack = None if self.serves else self._seen(theatre, pods, live, now, unserved=serving == 0)
        if lack and (self._lack is None or self._lack.planned_until < lack.planned_since):
            # It began between the looks, and was counted as it is.
            more = max(0.0, now - lack.planned_since) * (theatre.compression - 1)
            self.waited += more
            self.unserved += more if lack.unserved else 0.0
        self._lack = lack
        self.touched = self.touched or not self.serves
        self._see_groups(live, rungs)

    def _count(self, now: float, compression: float) -> None:
        begin, self.since = self.since, now
        if self._lack is not None:
            seconds = self._lack.planned_seconds(begin, now, compression)
            match self._lack.counts:
                case "drained":
                    self.drained += seconds
                case "waited":
                    self.waited += seconds
                case "started":
                    self.started += seconds
            self.unserved += seconds if self._lack.unserved else 0.0
        self.half = self.half + (now - begin) * compression if self._is_half else 0.0
        self.longest_half = max(self.longest_half, self.half)

    def _seen(
        self, theatre: Theatre, pods: Sequence[Json], live: Sequence[Json], now: float, *, unserved: bool
    ) -> _Lack:
        if len(live) < self.wanted:
            # Only a group's new pods wait until its old ones, whose names they take, have left.
            gone = [pod for pod in pods if leaving(pod)] if self.model.layout.nodes > 1 else []
            old = any(pod["metadata"]["uid"] in self.before for pod in gone)
            until = max((self._leaves_by(pod, now, theatre.compression) for pod in gone), default=now)
            return _Lack(counts="drained" if old else "waited", planned_until=until, unserved=unserved)
        if not self.placed:
            machines = theatre.operators.autoscaler
            waits = [machines.machine_wait(pod) for pod in live if unschedulable(pod)]
            since, until = max((one for one in waits if one is not None), default=(math.inf, now))
            return _Lack(counts="waited", planned_since=since, planned_until=until, unserved=unserved)
        until = max((_start_ends(theatre, pod, now) for pod in live if not is_ready(pod)), default=now)
        return _Lack(counts="started", planned_until=until, unserved=unserved)

    def _leaves_by(self, pod: Json, now: float, compression: float) -> float:
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds", 0))
        return self._gone_by.setdefault(pod["metadata"]["uid"], now + grace / compression)

    def _see_groups(self, live: Sequence[Json], rungs: Mapping[str, str]) -> None:
        """Never on two rungs, and not for long with part of its nodes."""
        groups = replicas_of(self.model, [pod for pod in live if GROUP_KEY in pod["metadata"]["labels"]])
        self._is_half = False
        for group in groups.values():
            placed = [pod for pod in group if pod["spec"].get("nodeName") in rungs]
            used = {rungs[pod["spec"]["nodeName"]] for pod in placed}
            if len(used) > 1:
                self.split = tuple(sorted(used))
            self._is_half = self._is_half or bool(placed and any(unschedulable(pod) for pod in group))

    @property
    def serving_seconds(self) -> float | None:
        """From the event until it served."""
        return self.drained + self.waited + self.started if self.serves else None

    @property
    def rescheduled_seconds(self) -> float | None:
        """Without the drain of what was hit."""
        return self.waited if self.placed else None


def _start_ends(theatre: Theatre, pod: Json, now: float) -> float:
    """When a placed pod has started by the plan; never while it is held, or is killed by its own probe."""
    annotations: Mapping[str, str] = pod["metadata"].get("annotations", {})
    if KILLED_AT in annotations or key_of(pod) in theatre.operators.kubelet.held:
        return math.inf
    if READY_AT not in annotations:
        return now
    return now + (datetime.fromisoformat(annotations[READY_AT]) - datetime.now(UTC)).total_seconds()


@dataclass(kw_only=True)
class Watch:
    """The courses of some models, and what is done meanwhile."""

    theatre: Theatre
    courses: Sequence[Course]
    doomed: frozenset[str] = frozenset()
    """Nodes that still stand but will be gone."""

    @classmethod
    def begin(cls, theatre: Theatre, models: Sequence[ModelPlan], *, doomed: Sequence[str] = ()) -> Watch:
        """Start to count now."""
        courses = [
            Course(
                model=model,
                before=frozenset(pod["metadata"]["uid"] for pod in theatre.pods(model)),
                wanted=model.scaling.min_replicas * model.layout.nodes,
                since=time.monotonic(),
            )
            for model in models
        ]
        return cls(theatre=theatre, courses=courses, doomed=frozenset(doomed))

    def look(self) -> None:
        """Count what has passed."""
        self.theatre.alive()
        now = time.monotonic()
        rungs = {
            name_of(node): rung_of(node)
            for node in self.theatre.nodes()
            if name_of(node) not in self.doomed and pool_of_rung(self.theatre.plan, rung_of(node))
        }
        for course in self.courses:
            course.look(self.theatre, rungs, self.doomed, now)

    def until_served(self, planned_seconds: float, *, meanwhile: Callable[[], bool] = lambda: True) -> None:
        """Until all serve again and `meanwhile` says that it is done, at most so long."""
        until = time.monotonic() + planned_seconds / self.theatre.compression
        while time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            done = meanwhile()
            self.look()
            if done and all(course.serves for course in self.courses):
                return
