"""A whole zone is gone, and comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from planner.plan import ModelPlan
from rehearsal.autoscaler import FAILURE_SECONDS
from rehearsal.findings import Finding
from rehearsal.injections import NotApplicableError, World
from rehearsal.scenarios.limits import SPARE_SECONDS
from rehearsal.scenarios.node_loss import NOT_READY_SECONDS, NOTICED_BY, REMOVED_SECONDS
from rehearsal.scenarios.results import Outcome, ScenarioResult, Step
from rehearsal.scenarios.scenario import Scenario
from rehearsal.scenarios.trial import Trial
from rehearsal.scenarios.world import Theatre, name_of, zone_of

_AWAY_SECONDS: Final = 120.0
"""How much longer the zone stays away once the others serve: pods of pools in it alone wait in earnest."""


def prepare(world: World) -> World:
    """Any stack whose pools lie in zones that it knows."""
    if not any(pool.zones for pool in world.plan.pools):
        raise NotApplicableError("no pool of this stack says which zone it is in")
    return world


def play(theatre: Theatre) -> tuple[ScenarioResult, Sequence[Finding]]:
    """Take all nodes of the zone that most model pods are in; give it back when the others have come back."""
    plan = theatre.plan
    zone = busiest(theatre)
    names = [name_of(node) for node in theatre.nodes() if zone_of(node) == zone]
    rungs = rungs_in(theatre, zone)
    only_there = [model for model in theatre.models_on(names) if set(plan.pool(model.pool).zones) == {zone}]
    theatre.offer(theatre.world.capacity, lost_zones=[zone])
    trial = Trial.begin(theatre, NAME, gone=names)
    trial.without(only_there)
    theatre.vanish(names)
    trial.follow()
    outcomes = trial.outcomes(killed={n: float(hit) for n, hit in trial.hit.items()}, noticed_seconds=NOT_READY_SECONDS)
    lost, findings = _come_home(theatre, zone, only_there)
    result = ScenarioResult(
        name=NAME,
        does=SCENARIO.does,
        holds=SCENARIO.holds,
        did=(f"{zone} was gone with {len(names)} nodes, and its rungs ({', '.join(rungs)}) had nothing",),
        noticed_seconds=NOT_READY_SECONDS + REMOVED_SECONDS,
        noticed_by=NOTICED_BY,
        outcomes=outcomes,
        lost=(*_together(outcomes, zone), *lost),
    )
    return result, [*trial.findings, *findings]


def _together(outcomes: Sequence[Outcome], zone: str) -> tuple[str, ...]:
    """Models that could have been elsewhere, too, and were not."""
    return tuple(
        f"{outcome.model}: all {outcome.replicas} replica(s) stood in {zone} alone, although their pool has other "
        "zones: the scheduler prefers to spread them, and takes the machines that come first"
        for outcome in outcomes
        if outcome.replicas_hit >= outcome.replicas
    )


def _come_home(
    theatre: Theatre, zone: str, only_there: Sequence[ModelPlan]
) -> tuple[tuple[str, ...], Sequence[Finding]]:
    """Give the zone back: models that live nowhere else must serve again by themselves."""
    if only_there:
        theatre.wait(_AWAY_SECONDS)
    theatre.offer(theatre.world.capacity)
    if not only_there:
        return (), []
    asked = Step(what="what was asked for in vain is given up", seconds=FAILURE_SECONDS + SPARE_SECONDS)
    trial = Trial.begin(theatre, NAME, gone=(), models=only_there, before=(asked,))
    trial.follow()
    words: list[str] = []
    backoff = plan_backoff(theatre)
    for outcome in trial.outcomes(killed={}, noticed_seconds=0.0):
        took = "it did not come back" if outcome.serving_seconds is None else f"{outcome.serving_seconds:.0f} s"
        words.append(
            f"{outcome.model}: its pool is in {zone} alone, so all {outcome.replicas} replica(s) were gone as long as "
            f"the zone was; when the zone was back, it served again after {took}, not counting the autoscaler's "
            f"back-off (up to {backoff:.0f} s)"
        )
    return tuple(words), trial.findings


def plan_backoff(theatre: Theatre) -> float:
    """How long a rung that had nothing may be left alone; the stand-in is told at once that it has again."""
    ladder = theatre.plan.ladder
    return float(ladder.autoscaler.max_backoff_seconds) if ladder else 0.0


def busiest(theatre: Theatre) -> str:
    """The zone with most nodes that serve models; the first by name of equals."""
    count: Counter[str] = Counter()
    for node in theatre.nodes():
        if zone_of(node) and theatre.models_on([name_of(node)]):
            count[zone_of(node)] += 1
    return min(count, key=lambda zone: (-count[zone], zone))


def rungs_in(theatre: Theatre, zone: str) -> tuple[str, ...]:
    """Rungs whose nodes all come from one zone."""
    groups = theatre.operators.autoscaler.groups
    return tuple(group.name for group in groups if group.pool is not None and set(group.zones) == {zone})


NAME: Final = "zone-loss"
SCENARIO: Final = Scenario(
    name=NAME,
    does="the zone with most models loses all its nodes, and has none to give; then it is back",
    holds=(
        "models of pools in several zones go on in the others, within the limits of a lost node",
        "those whose replicas stood in that zone alone all the same are told",
        "what a pool in that zone alone loses is told; it serves again by itself when the zone is back",
    ),
    prepare=prepare,
    play=play,
)
