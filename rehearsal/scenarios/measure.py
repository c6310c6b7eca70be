"""Watching models come back, in planned seconds.

What the plan times (grace periods, boots, starts, a controller's patience) runs compressed, and counts that many times
over. What the real scheduler and controllers take runs as on any cluster, and counts as it is. Which of the two a model
waits for shows in its pods at every moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from planner.plan import ModelPlan
from rehearsal.kube import Json
from rehearsal.kubelet import GROUP_KEY
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

_POLL_SECONDS: Final = 0.03


@dataclass(kw_only=True)
class Course:
    """How one model fares from the event on; times in planned seconds."""

    model: ModelPlan
    before: frozenset[str]
    """Uids of its pods at the event."""
    wanted: int
    """Pods."""
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

    def look(self, theatre: Theatre, rungs: Mapping[str, str], doomed: frozenset[str], seconds: float) -> None:
        """Count the `seconds` on the wall since the last look. `rungs`: of each live node; `doomed`: about to go."""
        pods = theatre.pods(self.model)
        live = [pod for pod in pods if not leaving(pod) and pod["spec"].get("nodeName", "") not in doomed]
        on = [pod for pod in live if pod["spec"].get("nodeName") in rungs]
        serving = serving_replicas(self.model, on)
        self.serves = len(on) >= self.wanted and serving * self.model.layout.nodes >= self.wanted
        self.placed = len(on) >= self.wanted
        self.rungs = tuple(sorted({rungs[pod["spec"]["nodeName"]] for pod in on}))
        self.least_serving = min(self.least_serving, serving)
        compressed = seconds * theatre.compression
        waits_for_plan = True
        if len(live) < self.wanted:
            # Only a group's new pods wait until its old ones, whose names they take, have left.
            gone = [pod for pod in pods if leaving(pod)] if self.model.layout.nodes > 1 else []
            old = any(pod["metadata"]["uid"] in self.before for pod in gone)
            waits_for_plan = bool(gone)
            self.drained += compressed if old else 0.0
            self.waited += 0.0 if old else compressed if waits_for_plan else seconds
        elif not self.placed:
            machines = theatre.operators.autoscaler
            waits_for_plan = any(unschedulable(pod) and machines.waits_for_machine(pod) for pod in live)
            self.waited += compressed if waits_for_plan else seconds
        elif not self.serves:
            self.started += compressed
        self.touched = self.touched or not self.serves
        self.unserved += (compressed if waits_for_plan else seconds) if serving == 0 else 0.0
        self._watch_groups(live, rungs, compressed)

    def _watch_groups(self, live: Sequence[Json], rungs: Mapping[str, str], seconds: float) -> None:
        """Never on two rungs, and not for long with part of its nodes."""
        groups = replicas_of(self.model, [pod for pod in live if GROUP_KEY in pod["metadata"]["labels"]])
        half = False
        for group in groups.values():
            placed = [pod for pod in group if pod["spec"].get("nodeName") in rungs]
            used = {rungs[pod["spec"]["nodeName"]] for pod in placed}
            if len(used) > 1:
                self.split = tuple(sorted(used))
            half = half or bool(placed and any(unschedulable(pod) for pod in group))
        self.half = self.half + seconds if half else 0.0
        self.longest_half = max(self.longest_half, self.half)

    @property
    def serving_seconds(self) -> float | None:
        """From the event until it served."""
        return self.drained + self.waited + self.started if self.serves else None

    @property
    def rescheduled_seconds(self) -> float | None:
        """Without the drain of what was hit."""
        return self.waited if self.placed else None


@dataclass(kw_only=True)
class Watch:
    """The courses of some models, and what is done meanwhile."""

    theatre: Theatre
    courses: Sequence[Course]
    doomed: frozenset[str] = frozenset()
    """Nodes that still stand but will be gone."""
    _last: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, theatre: Theatre, models: Sequence[ModelPlan], *, doomed: Sequence[str] = ()) -> Watch:
        """Start to count now."""
        courses = [
            Course(
                model=model,
                before=frozenset(pod["metadata"]["uid"] for pod in theatre.pods(model)),
                wanted=model.scaling.min_replicas * model.layout.nodes,
            )
            for model in models
        ]
        return cls(theatre=theatre, courses=courses, doomed=frozenset(doomed))

    def look(self) -> None:
        """Count what has passed."""
        self.theatre.alive()
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        rungs = {
            name_of(node): rung_of(node)
            for node in self.theatre.nodes()
            if name_of(node) not in self.doomed and pool_of_rung(self.theatre.plan, rung_of(node))
        }
        for course in self.courses:
            course.look(self.theatre, rungs, self.doomed, seconds)

    def until_served(self, planned_seconds: float, *, meanwhile: Callable[[], bool] = lambda: True) -> None:
        """Until all serve again and `meanwhile` says that it is done, at most so long."""
        until = time.monotonic() + planned_seconds / self.theatre.compression
        while time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            done = meanwhile()
            self.look()
            if done and all(course.serves for course in self.courses):
                return
