"""Failures rehearsed: what holds in a stack that is made for them, and that each fault turns each of them red."""

from __future__ import annotations

import pytest

from rehearsal.run import RehearsalError, RehearsalOptions, rehearse
from rehearsal.scenarios import SCENARIOS
from rehearsal.scenarios.results import Outcome, ScenarioResult
from tests.factories import ROOT

STACK = ROOT / "examples" / "resilient" / "Pulumi.resilient.yaml"
SMALL = ROOT / "Pulumi.dev.yaml"
MEASURED = 60.0
QUICK = 120.0
"""Nothing is measured where all must fail."""
BOTH_ZONES = ("llama-8b", "llama-8b-short")


def of(result: ScenarioResult) -> dict[str, Outcome]:
    return {outcome.model: outcome for outcome in result.outcomes}


@pytest.mark.control_plane
def test_a_stack_with_zones_and_warm_nodes_survives_all_of_them() -> None:
    names = ("zone-loss", "node-loss", "spot-reclaim")
    report = rehearse(STACK, RehearsalOptions(scenarios=names, compression=MEASURED))
    assert [str(finding) for finding in report.findings] == []
    zone, node, spot = report.scenarios

    assert set(of(zone)) == set(BOTH_ZONES), "those that live in the other zone, too"
    # Machines that come in another order may bring both replicas into one zone: then that is told.
    together = {outcome.model for outcome in zone.outcomes if outcome.replicas_hit == outcome.replicas}
    assert all(outcome.least_serving == (outcome.model not in together) for outcome in zone.outcomes)
    assert {line.partition(":")[0] for line in zone.lost} == {"deepseek-r1", *together}, "what one zone costs is told"

    group = of(node)["deepseek-r1"]
    assert group.nodes_from in {"warm", "spare"}, "one may be left over from the zone that came back"
    assert group.rungs == ("h100-spot",), "re-ganged whole on one rung"
    assert group.rescheduled_seconds is not None
    assert group.serving_seconds is not None
    assert group.rescheduled_seconds <= 120
    assert group.serving_seconds <= 720
    assert group.dropped.in_flight > 0, "a group that dies takes what it serves with it"
    assert of(node)["llama-8b"].least_serving == 1
    assert of(node)["llama-8b"].dropped.unserved == 0

    assert {outcome.dropped.total for outcome in spot.outcomes} == {0}, "what is drained cuts nobody off"
    assert of(spot)["deepseek-r1"].rungs == ("h100-spot",)


@pytest.mark.control_plane
def test_without_another_machine_every_scenario_turns_red() -> None:
    names = tuple(SCENARIOS)
    options = RehearsalOptions(scenarios=names, inject="nothing-comes", compression=QUICK)
    report = rehearse(SMALL, options)
    assert {finding.check for finding in report.findings} == {"scenario"}
    assert {finding.subject.partition(":")[0] for finding in report.findings} == set(names)
    assert report.exit_code == 1


@pytest.mark.control_plane
def test_budgets_that_let_nobody_go_turn_a_reclaim_red() -> None:
    options = RehearsalOptions(scenarios=("spot-reclaim",), inject="no-evictions", compression=QUICK)
    report = rehearse(SMALL, options)
    assert {finding.check for finding in report.findings} == {"scenario"}
    assert any("requests were cut off" in finding.problem for finding in report.findings)


@pytest.mark.parametrize(
    ("stack", "scenario", "inject", "words"),
    [
        ("local", "spot-reclaim", None, "no pool of this stack has a spot rung"),
        ("local", "node-loss", None, "nodes of this stack exist already"),
        ("local", "zone-loss", None, "says which zone"),
        ("prod", "nothing", None, "no scenario is called `nothing`"),
        ("prod", "node-loss", "no-evictions", "--scenario spot-reclaim"),
    ],
)
def test_what_does_not_apply_is_an_error_of_use(stack: str, scenario: str, inject: str | None, words: str) -> None:
    options = RehearsalOptions(scenarios=(scenario,), inject=inject)
    with pytest.raises(RehearsalError) as caught:
        rehearse(ROOT / f"Pulumi.{stack}.yaml", options)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("fault", ["no-evictions", "no-keeper", "nothing-comes"])
def test_a_fault_of_scenarios_needs_one(fault: str) -> None:
    with pytest.raises(RehearsalError, match="add `--scenario"):
        rehearse(ROOT / "Pulumi.prod.yaml", RehearsalOptions(inject=fault))


def test_each_says_what_it_does_and_what_must_hold() -> None:
    assert set(SCENARIOS) == {"spot-reclaim", "node-loss", "zone-loss"}
    assert all(scenario.does and scenario.holds for scenario in SCENARIOS.values())
