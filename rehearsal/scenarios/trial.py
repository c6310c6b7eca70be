"""What all scenarios have in common: who is hit, how they come back, and the judgment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from planner.plan import ModelPlan
from planner.plan.performance import LoadPoint
from rehearsal.findings import Finding
from rehearsal.scenarios.limits import Room, bounds, pods_lacking
from rehearsal.scenarios.measure import Course, Watch
from rehearsal.scenarios.results import Dropped, Limit, Outcome, Source, Step
from rehearsal.scenarios.world import Theatre, leaving, replicas_of

_PATIENCE: Final = 1.5
"""How much longer than its limit a model is watched: a number that is too high says more than none."""


@dataclass(kw_only=True)
class Trial:
    """One blow and what it does to the models that it hits."""

    theatre: Theatre
    scenario: str
    models: Sequence[ModelPlan]
    limits: Mapping[str, tuple[Source, Limit, Limit]]
    """By model: where its nodes come from, until rescheduled, until serving."""
    hit: Mapping[str, int]
    """Replicas by model."""
    watch: Watch
    findings: list[Finding] = field(default_factory=list[Finding])

    @classmethod
    def begin(
        cls,
        theatre: Theatre,
        scenario: str,
        *,
        gone: Iterable[str],
        doomed: bool = False,
        models: Sequence[ModelPlan] | None = None,
        before: tuple[Step, ...] = (),
    ) -> Trial:
        """Right before the nodes `gone` are hit, with what can be had afterwards set already.

        Args:
            theatre: where.
            scenario: its name.
            gone: nodes.
            doomed: they still stand for a while.
            models: who waits for nodes; those on the nodes where left out.
            before: what comes before the steps that follow from the nodes.
        """
        nodes = tuple(gone)
        models = theatre.models_on(nodes) if models is None else models
        rooms = {
            name: Room.of(theatre, theatre.plan.pool(name), gone=nodes)
            for name in dict.fromkeys(model.pool for model in models)
        }
        return cls(
            theatre=theatre,
            scenario=scenario,
            models=models,
            limits={
                model.name: bounds(theatre, model, rooms[model.pool], pods_lacking(theatre, model, nodes), before)
                for model in models
            },
            hit={model.name: replicas_hit(theatre, model, nodes) for model in models},
            watch=Watch.begin(theatre, models, doomed=nodes if doomed else ()),
        )

    def without(self, models: Sequence[ModelPlan]) -> None:
        """Do not wait for these: they cannot come back now."""
        names = {model.name for model in models}
        self.watch.courses = [course for course in self.watch.courses if course.model.name not in names]
        self.limits = {name: limit for name, limit in self.limits.items() if name not in names}

    def follow(self, *, meanwhile: Callable[[], bool] = lambda: True) -> None:
        """Until every model serves again, or longer than it may take."""
        longest = max((serving.seconds for _, _, serving in self.limits.values()), default=0.0)
        self.watch.until_served(_PATIENCE * longest + 60.0, meanwhile=meanwhile)

    def outcomes(self, *, killed: Mapping[str, float], noticed_seconds: float) -> tuple[Outcome, ...]:
        """What became of every model; what is not as it must be is a finding.

        Args:
            killed: replicas that died while they served, by model.
            noticed_seconds: for how long such a replica was still sent requests.
        """
        return tuple(
            self._judged(course, killed.get(course.model.name, 0.0), noticed_seconds) for course in self.watch.courses
        )

    def _judged(self, course: Course, killed: float, noticed_seconds: float) -> Outcome:
        model = course.model
        source, rescheduled, serving = self.limits[model.name]
        outcome = Outcome(
            model=model.name,
            replicas=model.scaling.min_replicas,
            replicas_hit=self.hit[model.name],
            nodes_from=source,
            drained_seconds=round(course.drained, 1),
            rescheduled_seconds=_rounded(course.rescheduled_seconds),
            rescheduled_limit=rescheduled,
            serving_seconds=_rounded(course.serving_seconds),
            serving_limit=serving,
            least_serving=course.least_serving,
            rungs=course.rungs,
            dropped=dropped(model, killed, noticed_seconds, course.unserved),
        )
        self._judge(outcome, course)
        return outcome

    def _judge(self, outcome: Outcome, course: Course) -> None:
        if outcome.serving_seconds is None:
            waited = course.drained + course.waited + course.started
            self.found(
                outcome.model,
                f"does not serve {waited:.0f} planned seconds later: its nodes come from {outcome.nodes_from}",
                "give the pool another rung or zone, or warm nodes",
            )
        else:
            for what, took, limit in (
                ("is rescheduled", outcome.rescheduled_seconds or 0.0, outcome.rescheduled_limit),
                ("serves again", outcome.serving_seconds, outcome.serving_limit),
            ):
                if took > limit.seconds:
                    self.found(
                        outcome.model,
                        f"{what} after {took:.0f} s, and {limit.seconds:.0f} s are planned ({limit.words})",
                        "read the notes of the ladder keeper and what its pods waited for",
                    )
        if course.split:
            self.found(
                outcome.model,
                f"a group was on {' and '.join(course.split)} at once",
                "keep the required affinity on the rung (docs/adr/0001)",
            )
        if course.longest_half > self._longest_half():
            self.found(
                outcome.model,
                f"half of a group held nodes for {course.longest_half:.0f} s",
                "see that the ladder keeper runs (docs/adr/0005)",
            )

    def found(self, model: str, problem: str, remedy: str) -> None:
        """Something that does not hold."""
        self.findings.append(
            Finding(
                check="scenario", subject=f"{self.scenario}: model {model}", field="", problem=problem, remedy=remedy
            )
        )

    def _longest_half(self) -> float:
        """The stall limit of the slowest rung, and what the keeper needs to see and end it."""
        ladder = self.theatre.plan.ladder
        if ladder is None or ladder.keeper is None:
            return float("inf")
        stall = max(rung.stall_seconds for pool in ladder.keeper.pools for rung in pool.rungs)
        return stall + 2 * max(ladder.keeper.interval_seconds, self.theatre.compression)


def replicas_hit(theatre: Theatre, model: ModelPlan, nodes: Iterable[str]) -> int:
    """Replicas with a pod on one of the nodes."""
    lost = set(nodes)
    live = [pod for pod in theatre.pods(model) if not leaving(pod)]
    return sum(any(pod["spec"].get("nodeName") in lost for pod in group) for group in replicas_of(model, live).values())


def dropped(model: ModelPlan, killed: float, noticed_seconds: float, unserved_seconds: float) -> Dropped:
    """Requests that fail, at the traffic that the stack file states; else with each replica at its capacity."""
    load = load_of(model)
    if load is None:
        return Dropped(in_flight=0.0, unnoticed=0.0, unserved=0.0)
    return Dropped(
        in_flight=round(killed * (load.concurrency + load.queue), 1),
        unnoticed=round(killed * load.requests_per_second * noticed_seconds, 1),
        unserved=round(unserved_seconds * load.requests_per_second * model.scaling.min_replicas, 1),
    )


def load_of(model: ModelPlan) -> LoadPoint | None:
    """One replica at the traffic of the stack file, or at its capacity; None in a plan without a prediction."""
    if model.performance is None:
        return None
    return model.performance.at_traffic or model.performance.capacity


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
