"""A day on a Plan: what must hold whatever the numbers are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from planner.performance import Workload, performance
from simulation.replay import Conditions, base_usd_per_hour, replay
from simulation.subjects import Hazard
from tests.simulation.days import ANSWERS, PROMPTS, day, fixed, scaled, served, stack, traffic

MODEL = "r1-distill-70b"
PLAN = stack("prod")[1]
LARGEST = served("prod", MODEL).table.requests_per_second
HOUR = 3600


def no_floors(**changes):
    return scaled(PLAN, MODEL, floors=(), **changes)


@pytest.mark.parametrize("load", [0.2, 1.5, 8.0])
def test_arrived_is_served_refused_or_in_flight(load):
    asked = traffic(MODEL, [load * LARGEST] * 2 * HOUR)
    hazards = {"a100-spot": Hazard(per_hour=1.0, notice_seconds=120, dry_seconds=600)}
    conditions = Conditions(losses=((1800, "a100-spot"),), hazards=hazards)
    found = day("prod", asked, conditions=conditions)[0].model(MODEL)
    assert found.arrived == asked.requests
    assert found.arrived == found.served + found.refused + found.in_flight
    assert sum(i.arrived for i in found.series) == found.arrived
    assert sum(i.refused for i in found.series) == found.refused


def test_the_same_seed_gives_the_same_day_and_another_does_not():
    asked = traffic(MODEL, [LARGEST] * HOUR)
    one, two, other = (day("prod", asked, conditions=Conditions(seed=seed))[0] for seed in (3, 3, 4))
    assert one == two
    assert one.model(MODEL).ttft_p99_ms != other.model(MODEL).ttft_p99_ms


def test_no_traffic_costs_exactly_the_floor():
    asked = traffic(MODEL, [0] * 24 * HOUR)
    found = day("prod", asked, no_floors())[0]
    spot = next(rung for rung in found.rungs if rung.rung == "a100-spot")
    # Two replicas at least, each a whole p4d.
    price = next(rung.usd_per_node_hour for rung in PLAN.pool("a100").rungs if rung.kind == "spot")
    assert spot.node_hours == pytest.approx(48)
    assert found.usd == pytest.approx(24 * (base_usd_per_hour(PLAN) + 2 * price))
    assert found.model(MODEL).ttft_p99_ms is None


def test_more_replicas_are_never_worse():
    asked = traffic(MODEL, [2.4 * LARGEST] * 3 * HOUR)
    found = day("prod", asked, *(fixed(PLAN, MODEL, replicas) for replicas in range(1, 7)))
    p99 = [one.model(MODEL).ttft_p99_ms for one in found]
    refused = [one.model(MODEL).refused for one in found]
    assert all(more <= less * 1.05 for less, more in pairwise(p99))
    assert refused == sorted(refused, reverse=True)
    assert refused[0] > 0 == refused[-1]


def test_a_cold_start_takes_boot_and_start():
    """Twice the load from one moment on: the new replica serves no earlier than planned, and soon after."""
    jump = 2 * HOUR
    rates = np.concatenate((np.full(jump, 0.5 * LARGEST), np.full(2 * HOUR, 3 * LARGEST)))
    found = day("prod", traffic(MODEL, rates), no_floors())[0].model(MODEL)
    model = next(m for m in PLAN.models if m.name == MODEL)
    planned = PLAN.pool("a100").rungs[0].boot_seconds + model.startup_seconds
    ready = [i.second for i in found.series if i.second >= jump and i.replicas_ready > 2.01]
    assert jump + planned - 300 <= ready[0] <= jump + planned + 600
    worst = max(i.ttft_p99_ms or 0 for i in found.series if jump <= i.second < ready[0])
    calm = max(i.ttft_p99_ms or 0 for i in found.series if HOUR <= i.second < jump)
    assert worst > 3 * calm


def test_a_warm_node_saves_the_boot():
    jump = 2 * HOUR
    rates = np.concatenate((np.full(jump, 0.5 * LARGEST), np.full(2 * HOUR, 3 * LARGEST)))
    pool = PLAN.pool("a100")
    rungs = tuple(replace(rung, min_nodes=3) if rung.kind == "spot" else rung for rung in pool.rungs)
    warm = replace(no_floors(), pools=tuple(replace(p, rungs=rungs) if p.name == "a100" else p for p in PLAN.pools))
    cold, kept = day("prod", traffic(MODEL, rates), no_floors(), warm)
    first = [next(i.second for i in one.model(MODEL).series if i.replicas_ready > 2.01) for one in (cold, kept)]
    assert first[0] - first[1] == pytest.approx(pool.rungs[0].boot_seconds, abs=300)
    assert kept.usd > cold.usd


def test_a_lost_spot_node_is_replaced_after_the_planned_time():
    at = 2 * HOUR + 7
    asked = traffic(MODEL, [LARGEST] * 4 * HOUR)
    hazards = {"a100-spot": Hazard(per_hour=0.0, notice_seconds=120, dry_seconds=0)}
    conditions = Conditions(losses=((at, "a100-spot"),), hazards=hazards)
    found = day("prod", asked, fixed(PLAN, MODEL, 2), conditions=conditions)[0]
    series = found.model(MODEL).series
    model = next(m for m in PLAN.models if m.name == MODEL)
    planned = PLAN.pool("a100").rungs[0].boot_seconds + model.startup_seconds
    missing = sum((2 - i.replicas_ready) * 300 for i in series)
    assert missing == pytest.approx(planned, abs=30)
    assert found.losses == 1
    assert found.model(MODEL).arrived == asked.requests


def test_a_flat_load_agrees_with_the_plans_own_figures():
    """The replay of a steady load is the performance model's steady state."""
    rate = 0.6 * LARGEST
    subject = stack("prod")[2][MODEL]
    steady = performance(subject.replica, Workload(requests_per_second=rate, input=PROMPTS, output=ANSWERS))
    found = day("prod", traffic(MODEL, [2 * rate] * 4 * HOUR), fixed(PLAN, MODEL, 2))[0].model(MODEL)
    assert found.tpot_p50_ms == pytest.approx(steady.tpot_ms.p50, rel=0.1)
    assert found.ttft_p50_ms == pytest.approx(steady.ttft_ms.p50, rel=0.3)
    assert found.ttft_p99_ms == pytest.approx(steady.ttft_ms.p99, rel=0.5)


def test_models_of_one_pool_share_its_nodes():
    asked = traffic(MODEL, [LARGEST] * HOUR)
    other = replace(next(m for m in PLAN.models if m.name == MODEL), name="twin")
    plan = replace(PLAN, models=(*PLAN.models, other))
    both = replace(asked, models=(asked.models[0], replace(asked.models[0], model="twin")))
    subject = served("prod", MODEL)
    found = replay([("x", plan)], both, {MODEL: subject, "twin": subject}, Conditions())[0]
    assert {m.model for m in found.models} == {MODEL, "twin"}
    # Six nodes at most on the pool's ladder, for both together.
    assert sum(r.node_hours for r in found.rungs if r.pool == "a100") <= 6.001
