"""Nodes and replicas of a pool: the ladder, whole groups, calendars, losses, and the bill."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from planner.plan import ScheduledSizePlan
from simulation.calendar import minimum_at, minimums_of, seconds_until
from simulation.capacity import EMPTY_SECONDS, PoolState, RungConditions
from tests.simulation.days import MIDNIGHT, stack

PLAN = stack("prod")[1]
R1 = next(m for m in PLAN.models if m.name == "deepseek-r1")
LLAMA70 = next(m for m in PLAN.models if m.name == "r1-distill-70b")


def pool(name="h100", model=R1, conditions=None, **changes):
    plan = replace(PLAN.pool(name), **changes)
    about = conditions or [RungConditions() for _ in plan.rungs]
    return PoolState(plan, {0: model}, about, seed=1)


def run(state, until, step=15.0, start=0.0):
    now = start
    while now < until:
        now += step
        for replica in list(state.replicas):
            if replica.state == "starting" and replica.ready_at <= now:
                replica.state = "ready"
        state.place(now)
        state.settle(now)
    return now


def test_groups_fill_the_ladder_whole():
    state = pool()
    for slot in range(5):
        state.add(0, slot)
    state.place(0.0)
    rungs = [sorted({node.rung for node in replica.nodes}) for replica in state.replicas]
    # A block of two nodes, four of spot, two on demand: four groups of two, the fifth waits.
    assert rungs == [[0], [1], [1], [2], []]
    assert [replica.state for replica in state.replicas] == ["starting"] * 4 + ["pending"]
    assert state.replicas[0].ready_at == state.pool.rungs[0].boot_seconds + R1.startup_seconds


def test_a_rung_with_half_the_room_is_passed_over():
    plan = PLAN.pool("h100")
    rungs = tuple(replace(rung, max_nodes=1) if rung.kind == "spot" else rung for rung in plan.rungs)
    state = pool(rungs=rungs)
    for slot in range(2):
        state.add(0, slot)
    state.place(0.0)
    assert [[node.rung for node in replica.nodes] for replica in state.replicas] == [[0, 0], [2, 2]]


def test_empty_nodes_go_after_ten_minutes_but_the_minimum_stays():
    about = [RungConditions(), RungConditions(minimums=((0.0, 2),)), RungConditions()]
    state = pool(conditions=about)
    state.add(0, 0)
    state.add(0, 1)
    state.place(0.0)
    now = run(state, 1000)
    assert len(state.nodes) == 4
    for replica in list(state.replicas):
        state.remove(replica, now)
    run(state, now + EMPTY_SECONDS - 30, start=now)
    assert len(state.nodes) == 4
    run(state, now + EMPTY_SECONDS + 30, start=now)
    assert [node.rung for node in state.nodes] == [1, 1]


def test_prepaid_nodes_bill_whether_they_run_or_not():
    state = pool()
    assert [state.billed_nodes(index) for index in range(3)] == [2, 0, 0]


def test_a_lost_node_takes_its_group_and_the_rung_is_dry_for_a_while():
    about = [RungConditions(), RungConditions(notice_seconds=120, dry_seconds=3600), RungConditions()]
    state = pool(conditions=about)
    state.add(0, 0)
    state.add(0, 1)
    state.place(0.0)
    now = run(state, 1200)
    hit = state.lose(now, 15, ["h100-spot"])
    assert [replica.slot for replica in hit] == [1]
    state.drain(hit[0], now, by=now + 120)
    state.add(0, 2)
    state.place(now)
    assert [node.rung for node in state.replicas[-1].nodes] == [2, 2]
    state.remove(hit[0], now + 120)
    state.settle(now + 120)
    assert sum(node.rung == 1 for node in state.nodes) == 1  # the other node of the group stays, empty


def test_interruptions_come_at_the_rate_that_was_asked():
    rungs = PLAN.pool("a100").rungs
    about = [RungConditions(minimums=((0.0, 4),), per_hour=0.5), *(RungConditions() for _ in rungs[1:])]
    state = pool("a100", LLAMA70, conditions=about)
    now = 0.0
    lost = 0
    for _ in range(100 * 240):
        now += 15
        before = state.losses
        state.lose(now, 15)
        lost += state.losses - before
        state.settle(now)
    running = 100 * 4 * (1 - 0.5 * rungs[0].boot_seconds / 3600)
    assert lost == pytest.approx(0.5 * running, rel=0.2)


def test_a_calendar_raises_the_minimum_at_its_hours():
    spot = PLAN.pool("a100").rungs[0]
    steps = tuple(
        ScheduledSizePlan(name=name, timezone="Europe/Berlin", recurrence=cron, min_nodes=nodes, desired_nodes=None)
        for name, cron, nodes in (("start", "0 7 * * 1-5", 3), ("end", "0 19 * * 1-5", 0))
    )
    rung = replace(spot, schedule=steps)
    assert minimums_of(rung, MIDNIGHT, 86400) == ((0.0, 0), (5 * 3600.0, 3), (17 * 3600.0, 0))
    noon = datetime(2026, 6, 17, 10, tzinfo=UTC)
    assert minimum_at(minimums_of(rung, noon, 3600), 0) == 3


def test_a_block_gives_nodes_between_its_begin_and_end():
    begins = seconds_until("2026-06-17T06:00:00+00:00", MIDNIGHT, otherwise=0)
    ends = seconds_until("2026-06-17T12:00:00+00:00", MIDNIGHT, otherwise=0)
    about = [RungConditions(opens=begins, closes=ends), RungConditions(), RungConditions()]
    state = pool(conditions=about)
    state.add(0, 0)
    state.place(5 * 3600.0)
    assert [node.rung for node in state.replicas[0].nodes] == [1, 1]
    state.add(0, 1)
    state.place(6 * 3600.0)
    assert [node.rung for node in state.replicas[1].nodes] == [0, 0]
    assert state.lose(11.4 * 3600, 15) == []
    assert [replica.slot for replica in state.lose(11.5 * 3600, 15)] == [1]


def test_a_spare_group_starts_without_a_boot_and_another_one_boots():
    state = pool(model=replace(R1, warm_replicas=1))
    now = run(state, 3600)
    assert [len(spare.nodes) for spare in state.spares] == [R1.layout.nodes]
    assert len({node.rung for node in state.spares[0].nodes}) == 1
    first = state.add(0, 0)
    state.place(now)
    assert first.ready_at == now + R1.startup_seconds
    assert first.nodes != state.spares[0].nodes, "the placeholders have moved"
    assert {node.ready_at > now for node in state.spares[0].nodes} == {True}
    # While they boot, a second one waits for nodes of its own.
    second = state.add(0, 1)
    state.place(now)
    assert second.ready_at > now + R1.startup_seconds


def test_placeholders_keep_their_nodes_and_give_way_where_the_pool_is_full():
    state = pool(model=replace(R1, warm_replicas=1), warm_nodes=1)
    run(state, 4 * EMPTY_SECONDS)
    assert sum(len(spare.nodes) for spare in state.spares) == R1.layout.nodes + 1 == len(state.nodes)
    groups = sum(rung.max_nodes // R1.layout.nodes for rung in state.pool.rungs)
    for slot in range(groups):
        state.add(0, slot)
    run(state, 9 * 3600, start=4 * EMPTY_SECONDS)
    assert {replica.state for replica in state.replicas} == {"ready"}
    assert len(state.nodes) <= state.pool.max_nodes
    assert not any(len(spare.nodes) == R1.layout.nodes for spare in state.spares)


def test_a_lost_node_takes_its_placeholder():
    state = pool(name="a100", model=LLAMA70, warm_nodes=1)
    now = run(state, 3600)
    (node,) = state.spares[0].nodes
    state.lose(now, 15, [state.pool.rungs[node.rung].name])
    assert state.spares[0].nodes == []
    state.place(now)
    assert state.spares[0].nodes != [node]
