"""The capacity ladder as planned: names, times, calendars, ends of blocks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import load_and_plan
from planner.ladder import RUNG_SECONDS, autoscaler_times, ladder_alerts
from planner.naming import node_group_prefix, scaling_group_pattern
from planner.plan import KeeperPlan, Plan
from tests.factories import example_plan, stack_plan
from tests.stacks import changed

SUFFIX = "-20261122173000123400000001-6ec9c2e4-7a7b-4c1e-9d3f-0f3c5a1b2c3d"
"""What the provider and EKS append to a rung's name."""
KINDS = ("capacity_block", "capacity_reservation", "spot", "on_demand")

pool_names = st.from_regex(r"[a-f0-9spotblkreservdnma-]{0,14}[a-z0-9]", fullmatch=True).map(lambda text: f"a{text}")
rungs = st.tuples(pool_names, st.sampled_from(KINDS), st.from_regex(r"cr-[0-9a-f]{17}", fullmatch=True))


def name_of(rung: tuple[str, str, str]) -> str:
    pool, kind, reservation = rung
    return node_group_prefix(pool, kind, reservation if kind.startswith("capacity") else None)


@given(one=rungs, other=rungs)
def test_no_rung_catches_the_scaling_group_of_another(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    group = f"eks-{name_of(other)}{SUFFIX}"
    assert bool(re.search(scaling_group_pattern(name_of(one)), group)) == (name_of(one) == name_of(other))


def keeper(plan: Plan) -> KeeperPlan:
    assert plan.ladder is not None
    assert plan.ladder.keeper is not None
    return plan.ladder.keeper


def ladder_plan(tmp_path: Path, changes: dict[str, Any]) -> Plan:
    return load_and_plan(changed(tmp_path, "prod", changes))[1]


def test_a_launched_machine_gets_its_boot_and_a_rung_without_capacity_six_minutes() -> None:
    pools = example_plan("capacity-ladder").pools[:2]
    times = autoscaler_times(pools)
    boot = max(rung.boot_seconds for pool in pools for rung in pool.rungs)
    assert boot > RUNG_SECONDS, "else there would be no conflict to resolve"
    assert boot < times.max_node_provision_seconds <= 2 * boot
    # While the three other rungs are tried, the first is not asked again.
    assert times.initial_backoff_seconds == 3 * RUNG_SECONDS
    assert times.initial_backoff_seconds <= times.max_backoff_seconds < times.backoff_reset_seconds
    assert set(times.why) == {name for name in times.__dataclass_fields__ if name != "why"}


def test_small_machines_that_boot_fast_are_given_up_sooner() -> None:
    (pool,) = [pool for pool in stack_plan("prod").pools if pool.name == "l40s"]
    times = autoscaler_times([pool])
    assert times.max_node_provision_seconds == RUNG_SECONDS


def test_a_single_rung_is_asked_again_as_soon_as_usual() -> None:
    (pool,) = [pool for pool in stack_plan("prod").pools if pool.name == "l40s"]
    assert autoscaler_times([replace(pool, rungs=pool.rungs[:1])]).initial_backoff_seconds == 300


def test_reserved_rungs_start_empty_bill_always_and_make_no_placement_group() -> None:
    block, reserved, spot, demand = example_plan("capacity-ladder").pool("h100").rungs
    assert [rung.kind for rung in (block, reserved, spot, demand)] == list(KINDS)
    for rung in (block, reserved):
        assert (rung.min_nodes, rung.desired_nodes, rung.max_nodes) == (0, 0, 2)
        assert rung.always_bills
        assert not rung.placement_group
    assert spot.placement_group
    assert demand.placement_group
    assert reserved.usd_per_node_hour == demand.usd_per_node_hour
    assert (block.starts, block.ends) == ("2027-02-01T11:30:00Z", "2027-03-01T11:30:00Z")


def test_a_reservation_in_a_placement_group_keeps_it(tmp_path: Path) -> None:
    rung = {
        "kind": "capacity_reservation",
        "reservation": "cr-0123456789abcdef0",
        "nodes": 2,
        "placement_group": "near",
    }
    plan = ladder_plan(tmp_path, {"pools.0.capacity": [rung]})
    (planned,) = plan.pool("h100").rungs
    assert (planned.placement_group, planned.placement_group_name) == (False, "near")


def test_a_calendar_fills_rungs_from_the_top_and_ends_with_the_floor(tmp_path: Path) -> None:
    entry = {"timezone": "Europe/Berlin", "start": "30 7 * * 1-5", "end": "0 19 * * 1-5", "nodes": 5}
    plan = ladder_plan(tmp_path, {"pools.1.calendar": [entry], "pools.1.capacity.1.nodes.min": 1})
    spot, demand = plan.pool("a100").rungs
    assert [(s.name, s.min_nodes, s.desired_nodes, s.recurrence) for s in spot.schedule] == [
        # No desired number: where more nodes serve already, it would end some of them, budgets or not.
        ("calendar-1-start", 4, None, "30 7 * * 1-5"),
        ("calendar-1-end", 0, None, "0 19 * * 1-5"),
    ]
    assert demand.schedule == (), "its floor of one is the fifth node"
    assert {step.timezone for step in spot.schedule} == {"Europe/Berlin"}


def test_a_block_whose_end_is_not_said_is_told(tmp_path: Path) -> None:
    block = {"kind": "capacity_block", "reservation": "cr-0123456789abcdef0", "nodes": 2}
    ending = {**block, "starts": "2027-02-01T11:30:00Z", "ends": "2027-03-01T11:30:00Z"}
    for rung, told in ((block, True), (ending, False)):
        plan = ladder_plan(tmp_path, {"pools.0.capacity.0": rung})
        assert told is any("no `ends`" in one.message for one in plan.findings if one.subject == "pools[0].capacity[0]")


def test_what_a_calendar_costs_is_told(tmp_path: Path) -> None:
    entry = {"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "nodes": 2}
    plan = ladder_plan(tmp_path, {"pools.1.calendar": [entry]})
    spot = plan.pool("a100").rungs[0]
    monthly = 2 * spot.usd_per_node_hour * 50 * 730 / 168
    (told,) = [finding.message for finding in plan.findings if finding.subject == "pools[1].calendar[0]"]
    assert told.startswith(f"2 on a100-spot, 50 h a week: up to {monthly:,.0f} $ a month")


def test_a_block_is_left_group_by_group_before_eks_takes_it() -> None:
    plan = example_plan("capacity-ladder")
    orders = keeper(plan)
    h100 = next(pool for pool in orders.pools if pool.name == "h100")
    model = next(model for model in orders.models if model.pool == "h100")
    block, reserved = h100.rungs[:2]
    assert orders.forced_lead_seconds > 40 * 60, "EKS scales the group to zero 40 minutes before the end"
    assert block.drain_lead_seconds == orders.forced_lead_seconds, "one group fits"
    four = replace(h100.rungs[2], max_nodes=4)
    assert four.drain_lead_seconds == orders.forced_lead_seconds + model.move_seconds, "two groups, one after the other"
    assert reserved.ends is None


def test_the_keeper_knows_node_groups_alone_and_every_model_on_them() -> None:
    plan = example_plan("capacity-ladder")
    orders = keeper(plan)
    assert {pool.name for pool in orders.pools} == {"h100", "a100"}
    assert {(model.name, model.nodes) for model in orders.models} == {("deepseek-r1", 2), ("r1-distill-70b", 1)}
    assert all(pool.window is not None and pool.window.days == ("tue", "thu") for pool in orders.pools)


def test_a_pools_own_window_wins(tmp_path: Path) -> None:
    plan = ladder_plan(
        tmp_path,
        {
            "target.maintenance_window": {"start": "03:00", "hours": 2},
            "pools.1.maintenance_window": {"start": "05:00", "hours": 1, "days": ["sun"]},
        },
    )
    starts = {pool.name: pool.maintenance_window.start for pool in plan.pools if pool.maintenance_window}
    assert starts == {"h100": "03:00", "a100": "05:00", "l40s": "03:00"}


@pytest.mark.parametrize(("stack", "kept"), [("prod", True), ("staging", True), ("dev", False)])
def test_a_keeper_where_there_is_something_to_keep(stack: str, kept: bool) -> None:
    ladder = stack_plan(stack).ladder
    assert ladder is not None
    assert (ladder.keeper is not None) == kept
    assert bool(ladder_alerts(ladder)) == kept


def test_alerts_a_day_and_forty_minutes_before_a_block_ends() -> None:
    alerts = {alert.name: alert for alert in example_plan("capacity-ladder").observability.alerts}
    assert "< 86400" in alerts["CapacityBlockEndsTomorrow"].expression
    assert "< 2400" in alerts["CapacityBlockEnds"].expression
    assert "CapacityBlockEnds" not in {alert.name for alert in stack_plan("prod").observability.alerts}
