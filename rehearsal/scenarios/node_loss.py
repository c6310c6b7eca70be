"""One node of every pool is gone from one moment to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rehearsal.findings import Finding
from rehearsal.injections import NotApplicableError, World
from rehearsal.kube import Json
from rehearsal.scenarios.results import ScenarioResult
from rehearsal.scenarios.scenario import Scenario
from rehearsal.scenarios.trial import Trial
from rehearsal.scenarios.world import Theatre, name_of

NOT_READY_SECONDS: Final = 50.0
"""Until a silent node counts as not ready and its pods get no more requests: kube-controller-manager's
`node-monitor-grace-period` since Kubernetes 1.32."""
REMOVED_SECONDS: Final = 65.0
"""From then until its pods are gone: the cloud controller asks EC2 every 5 s and deletes the Node, pods without a node
are collected 40 to 60 s later (kubernetes, pkg/controller/podgc: quarantine of 40 s, a look every 20 s)."""
NOTICED_BY: Final = "not ready after 50 s without a sign of life, deleted by the cloud controller, pods collected"


def prepare(world: World) -> World:
    """Any stack whose nodes are made here."""
    if world.plan.target.kind != "eks":
        raise NotApplicableError("the nodes of this stack exist already: nobody would bring another one")
    return world


def play(theatre: Theatre) -> tuple[ScenarioResult, Sequence[Finding]]:
    """Take one node with a model away, of each pool, with all its pods."""
    names = [name_of(node) for node in victims(theatre)]
    # The machine is broken: its pool may get another one.
    theatre.offer(theatre.world.capacity)
    trial = Trial.begin(theatre, NAME, gone=names)
    theatre.vanish(names)
    trial.follow()
    outcomes = trial.outcomes(killed={n: float(hit) for n, hit in trial.hit.items()}, noticed_seconds=NOT_READY_SECONDS)
    result = ScenarioResult(
        name=NAME,
        does=SCENARIO.does,
        holds=SCENARIO.holds,
        did=tuple(f"{name} was gone with its pods" for name in names),
        noticed_seconds=NOT_READY_SECONDS + REMOVED_SECONDS,
        noticed_by=NOTICED_BY,
        outcomes=outcomes,
    )
    return result, trial.findings


def victims(theatre: Theatre) -> list[Json]:
    """The last node with a model on it of each pool: of a group, that of a worker."""
    found: list[Json] = []
    for pool in theatre.plan.pools:
        used = [node for node in theatre.nodes(pool.name) if theatre.models_on([name_of(node)])]
        found += used[-1:]
    return found


NAME: Final = "node-loss"
SCENARIO: Final = Scenario(
    name=NAME,
    does="one node of every pool dies with its pods, without notice",
    holds=(
        "every replica is rescheduled within 30 s where nodes stand idle, 120 s where warm nodes are handed over, else "
        "within a boot of the rung",
        "every replica serves again within its planned drain, nodes and start; a group within 12 minutes where its "
        "nodes stand",
        "a group is made anew as a whole, on one rung, and never holds half of its nodes beyond the stall limit",
    ),
    prepare=prepare,
    play=play,
)
