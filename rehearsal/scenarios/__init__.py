"""Failures that a rehearsed stack must survive: a file each, with what it does, what must hold, what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rehearsal.findings import Finding
from rehearsal.injections import World
from rehearsal.scenarios import node_loss, spot_reclaim, zone_loss
from rehearsal.scenarios.measure import Watch
from rehearsal.scenarios.results import ScenarioResult
from rehearsal.scenarios.scenario import Scenario
from rehearsal.scenarios.world import Theatre, name_of, rung_of

SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario for scenario in (spot_reclaim.SCENARIO, node_loss.SCENARIO, zone_loss.SCENARIO)
}

COMPRESSION: Final = 40.0
"""Planned seconds for each second on the wall. The real controllers' own time counts as it is, but the ladder keeper
rests half a second at least, which is 20 planned seconds then."""
_RECOVERY_SECONDS: Final = 3600.0


def prepared(world: World, names: Sequence[str]) -> World:
    """The world in which some scenarios can be played one after the other.

    Raises:
        NotApplicableError: the stack has nothing that one of them could hit.
    """
    for name in names:
        world = SCENARIOS[name].prepare(world)
    return world


def play(theatre: Theatre, names: Sequence[str], *, spare_nodes: int) -> tuple[list[ScenarioResult], list[Finding]]:
    """Play scenarios on a stack that has settled, each after the stack has recovered from the one before."""
    results: list[ScenarioResult] = []
    findings: list[Finding] = []
    for number, name in enumerate(names):
        if number:
            _recover(theatre)
        added = [] if not spare_nodes else _add_spare_nodes(theatre, spare_nodes)
        result, found = SCENARIOS[name].play(theatre)
        results.append(replace(result, did=(*added, *result.did)))
        findings += found
    theatre.operators.autoscaler.set_capacity(theatre.world.capacity)
    return results, findings


def _recover(theatre: Theatre) -> None:
    theatre.operators.autoscaler.set_capacity(theatre.world.capacity)
    Watch.begin(theatre, theatre.plan.models).until_served(_RECOVERY_SECONDS)


def _add_spare_nodes(theatre: Theatre, count: int) -> list[str]:
    """Idle nodes beside those in use, as far as their rung has room: what a scale-down leaves for ten minutes."""
    words: list[str] = []
    for pool in theatre.plan.pools:
        used = [rung_of(node) for node in theatre.nodes(pool.name) if theatre.models_on([name_of(node)])]
        for rung in sorted(set(used))[:1]:
            there = theatre.operators.autoscaler.add_nodes(rung, count)
            words.append(f"{there} spare node(s) stood on {rung}" if there else f"{rung} had no room for a spare node")
    return words


__all__ = ["COMPRESSION", "SCENARIOS", "Scenario", "ScenarioResult", "Theatre", "play", "prepared"]
