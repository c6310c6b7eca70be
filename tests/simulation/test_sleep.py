"""A model without replicas: held requests, wake-up and sleep; and a full KV cache that adds replicas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.plan import ModelPlan, Plan
from simulation.queues import Hold, Queues
from simulation.replay import Conditions, replay
from tests.router.plans import SMALL, planned
from tests.simulation.days import day, no_other_trigger, scaled, served, stack, traffic

HOUR = 3600
TABLE = served("prod", SMALL).table
LARGE = "r1-distill-70b"


def asleep() -> Plan:
    return planned(replicas={"min": 0, "max": 4}, without=("traffic",))


def model_of(plan: Plan, name: str = SMALL) -> ModelPlan:
    return next(model for model in plan.models if model.name == name)


def wait_of(plan: Plan) -> float:
    """What the plan promises the first request."""
    return next(n.value for n in model_of(plan).numbers if n.section == "router" and n.unit == "s")


def test_the_first_request_waits_as_long_as_the_plan_says_and_no_request_is_lost():
    plan = asleep()
    rates = np.zeros(3 * HOUR)
    rates[HOUR : HOUR + 600] = 0.5
    found = day("prod", traffic(SMALL, rates), plan)[0].model(SMALL)
    assert found.held > 0 == found.refused
    assert found.arrived == found.served + found.in_flight
    woken = [interval.second for interval in found.series if interval.replicas_ready > 0]
    assert woken[0] - HOUR <= wait_of(plan) <= woken[0] - HOUR + 600
    assert found.ttft_p99_ms is not None
    # The plan counts the slowest rung's boot; a node that always runs is there already.
    assert 0.9 * model_of(plan).startup_seconds <= found.ttft_p99_ms / 1e3 <= wait_of(plan)
    idle = model_of(plan).scaling.idle_seconds
    assert idle is not None
    assert idle <= woken[-1] - (HOUR + 600) <= idle + 900


def test_a_night_without_requests_costs_no_node():
    plan = asleep()
    awake = scaled(plan, SMALL, owner="none", min_replicas=1, max_replicas=1)
    asked = traffic(SMALL, np.zeros(12 * HOUR))
    night, kept = day("prod", asked, plan, awake)
    rungs = plan.pool(model_of(plan).pool).rungs
    assert sum(r.node_hours for r in night.rungs) == pytest.approx(12 * sum(r.min_nodes for r in rungs))
    assert night.usd < kept.usd


def test_requests_without_replica_and_without_router_are_refused():
    plan = asleep()
    bare = replace(plan, models=tuple(replace(m, router=None) if m.name == SMALL else m for m in plan.models))
    rates = np.full(HOUR, 0.2)
    held, refused = day("prod", traffic(SMALL, np.concatenate((np.zeros(900), rates))), plan, bare)
    assert held.model(SMALL).refused == 0 == refused.model(SMALL).held
    assert refused.model(SMALL).refused > 0


def test_who_waits_too_long_or_finds_no_room_is_refused():
    made = Queues(TABLE, variants=2, slots=1, seconds=5, seed=0, holds=[Hold(seconds=60, requests=10), None])
    made.step(8)
    assert list(made.held) == [8, 0]
    made.step(8)
    assert list(made.held) == [10, 0]
    assert list(made.refused) == [6, 16]
    for _ in range(11):
        made.step(0)
    assert list(made.held) == [2, 0]
    made.set_accepting(np.ones((2, 1), dtype=bool))
    (found,) = made.step(3).released.items()
    assert found[0] == 0
    assert list(found[1].waited_seconds) == [0, 0, 0, 60, 60]
    assert (made.arrived == made.served + made.refused + made.in_flight).all()


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 300), st.booleans()), min_size=1, max_size=60))
def test_no_request_is_lost_whatever_opens_and_closes(steps):
    made = Queues(TABLE, variants=2, slots=2, seconds=15, seed=1, holds=[None, Hold(seconds=100, requests=200)])
    for count, opens in steps:
        made.set_accepting(np.full((2, 2), opens))
        made.step(count)
        assert (made.arrived == made.served + made.refused + made.in_flight).all()
        assert made.held[0] == 0 <= made.held[1] <= 200


def test_a_full_cache_adds_a_replica_before_the_queue_does():
    """The same load on a model whose cache is nearly full: the `kv` trigger alone acts."""
    plan = no_other_trigger(stack("prod")[1], LARGE, "kv")
    found = {}
    for share in (0.3, 0.98):
        subject = served("prod", LARGE)
        busy = float(np.interp(0.5 * subject.table.requests_per_second, subject.table.rates, subject.table.running))
        table = replace(subject.table, kv_share=share / busy)
        asked = traffic(LARGE, [subject.table.requests_per_second] * HOUR)
        result = replay([("x", plan)], asked, {LARGE: replace(subject, table=table)}, Conditions())
        found[share] = result[0].model(LARGE).series[-1].replicas_wanted
    assert found[0.3] == pytest.approx(model_of(plan, LARGE).scaling.min_replicas)
    assert found[0.98] > found[0.3]
