"""The policy search: meets the objectives at less, never recommends what is worse, and its lines load."""

from __future__ import annotations

import copy
from datetime import timedelta

import numpy as np
import pytest
import yaml

from planner import load_and_plan
from simulation.policy import Floor, ModelPolicy, Policy, applied, changes, merged
from simulation.replay import Conditions
from simulation.snippet import snippet
from simulation.tune import Search, Tuned, tune
from simulation.variants import busy_hours, longest_run, shortfalls, variants_of, warm_nodes
from tests.simulation.days import MIDNIGHT, day, served, stack, traffic
from tests.stacks import PLATFORM, document

MODEL = "r1-distill-70b"
SETTINGS, PLAN, _ = stack("prod")
MORNING = MIDNIGHT + timedelta(hours=8)
LARGEST = served("prod", MODEL).table.requests_per_second


def search(
    load: float, *, trials: int = 8, seconds: int = 2 * 3600, seed: int = 0, peak: float | None = None
) -> Search:
    rates = np.full(seconds, load * LARGEST)
    if peak is not None:
        rates[seconds // 2 :] = peak * LARGEST

    return Search(
        settings=SETTINGS,
        plan=PLAN,
        served={MODEL: served("prod", MODEL)},
        traffic_of=lambda number: traffic(MODEL, rates, seed=number, start=MORNING),
        conditions=Conditions(seed=seed),
        refused_share=0.001,
        trials=trials,
    )


@pytest.fixture(scope="module")
def found() -> Tuned:
    """Hardly any traffic in the working hours: the floor of three replicas is too many."""
    return tune(search(0.1, trials=16))


def test_a_cheaper_policy_is_found(found):
    assert found.current.meets
    assert found.proposal is not None
    assert found.proposal.meets
    assert found.proposal.usd < found.current.usd * 0.995
    assert found.proposal.policy.models[MODEL].min_replicas == 2
    assert found.saved_share == pytest.approx(1 - found.proposal.usd / found.current.usd)
    assert found.nearest is None
    assert len(found.proposal.days) == 3


def test_the_same_seed_finds_the_same(found):
    again = tune(search(0.1, trials=16))
    assert again.proposal == found.proposal
    assert again.current == found.current


def test_the_proposals_lines_load_and_give_the_plan_that_was_judged(found, tmp_path):
    said = yaml.safe_load(snippet(changes(SETTINGS, found.proposal.policy)))
    data = document("prod")
    data["config"][PLATFORM] = merged(data["config"][PLATFORM], said)
    path = tmp_path / "Pulumi.prod.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    plan = load_and_plan(path)[1]
    judged = applied(SETTINGS, PLAN, found.proposal.policy)
    assert [m.scaling for m in plan.models] == [m.scaling for m in judged.models]
    assert [p.rungs for p in plan.pools] == [p.rungs for p in judged.pools]
    asked = search(0.1).traffic_of(0)
    replayed = day("prod", asked, plan)[0]
    assert replayed.usd == pytest.approx(found.proposal.days[0].usd)


def test_what_nothing_can_serve_is_not_recommended():
    found = tune(search(12, trials=8, seconds=3600))
    assert found.proposal is None
    assert not found.current.meets
    assert found.feasible == 0
    assert found.nearest is None or found.nearest.excess < found.current.excess


@pytest.mark.parametrize("seed", [1, 2])
def test_no_recommendation_is_worse_than_the_current_settings(seed):
    found = tune(search(1.2, peak=3.2, trials=8, seed=seed))
    if found.proposal is not None:
        assert found.proposal.meets
        assert not found.current.meets or found.proposal.usd < found.current.usd


def test_only_what_differs_is_written():
    assert changes(SETTINGS, Policy()) == {}
    same = ModelPolicy(min_replicas=2)
    assert changes(SETTINGS, Policy(models={MODEL: same})) == {}
    floor = Floor(timezone="UTC", start="0 8 * * *", end="0 9 * * *", replicas=3)
    policy = Policy(
        models={MODEL: ModelPolicy(min_replicas=1, target_concurrency=9, scale_up_replicas=2, floors=(floor,))},
        rungs={("a100", 1): 1},
    )
    found = changes(copy.deepcopy(SETTINGS), policy)
    assert found["models"] == [
        {
            "name": MODEL,
            "replicas": {"min": 1, "max": 6},
            "autoscaling": {
                "floors": [{"timezone": "UTC", "start": "0 8 * * *", "end": "0 9 * * *", "replicas": 3}],
                "target_concurrency": 9,
                "scale_up_replicas": 2,
            },
        }
    ]
    assert found["pools"][0]["capacity"][1]["nodes"] == {"min": 1, "max": 2}
    plan = applied(SETTINGS, PLAN, policy)
    scaling = next(m for m in plan.models if m.name == MODEL).scaling
    assert (scaling.min_replicas, scaling.target_concurrency, scaling.scale_up_pods) == (1, 9, 2)
    assert [f.replicas for f in scaling.floors] == [3]
    assert plan.pool("a100").rungs[1].min_nodes == 1


def test_variants_change_what_their_names_say():
    rates = LARGEST * (1.5 + 1.2 * np.sin(np.arange(86400) / 86400 * 2 * np.pi))
    asked = traffic(MODEL, rates)
    found = dict(variants_of(SETTINGS, PLAN, asked, {MODEL: served("prod", MODEL)}))
    assert list(found) == ["as planned", "without scheduled floors", "with a warm node a pool"]
    bare = next(m for m in found["without scheduled floors"].models if m.name == MODEL)
    assert bare.scaling.floors == ()
    assert found["with a warm node a pool"].pool("a100").rungs[0].min_nodes == 3  # two replicas, and one more


def test_the_busy_hours_become_a_floor():
    model = next(m for m in PLAN.models if m.name == MODEL)
    rates = np.full(86400, 0.3 * LARGEST)
    rates[9 * 3600 : 17 * 3600] = 2.2 * LARGEST
    floor = busy_hours(model, traffic(MODEL, rates).models[0], served("prod", MODEL), traffic(MODEL, [0]).start)
    assert floor is not None
    assert floor.end == "0 17 * * *"
    minute, hour = (int(part) for part in floor.start.split()[:2])
    lead = 9 * 60 - hour * 60 - minute
    assert 0 <= lead - model.scaling.initial_delay_seconds / 60 < 1
    assert floor.replicas > model.scaling.min_replicas
    assert (
        busy_hours(model, traffic(MODEL, [1] * 86400).models[0], served("prod", MODEL), traffic(MODEL, [0]).start)
        is None
    )


def test_the_longest_run_goes_over_midnight():
    assert longest_run([True, True, False, False, True]) == (4, 3)
    assert longest_run([False] * 3) == (0, 0)


def test_warm_nodes_are_of_the_first_rung_with_room():
    models = list(PLAN.models)
    assert warm_nodes(PLAN.pool("h100"), models, groups=1) == {("h100", 1): 2}  # the block is prepaid
    assert warm_nodes(PLAN.pool("a100"), models, groups=2) == {("a100", 0): 4}
    assert warm_nodes(PLAN.pool("a100"), models, groups=3) == {}
    assert warm_nodes(PLAN.pool("a100"), models, groups=0) == {}


def test_too_few_replicas_are_told_with_how_many_would_do():
    asked = traffic(MODEL, [9 * LARGEST] * 3600)
    said = shortfalls(PLAN, asked, {MODEL: served("prod", MODEL)})
    assert len(said) == 1
    assert "`replicas.max` is 6" in said[0]
    assert shortfalls(PLAN, traffic(MODEL, [0.1] * 600), {MODEL: served("prod", MODEL)}) == []
