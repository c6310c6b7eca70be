"""The capacity ladder as cluster-autoscaler reads it."""

from __future__ import annotations

import re
from dataclasses import replace

import yaml

import program
from components.cluster_autoscaler import PRIORITY_CONFIG_MAP, priorities
from planner.plan import PoolPlan
from tests.components.conftest import declared
from tests.factories import example_plan, model_of, stack_plan, with_models
from tests.harness import deploy

UUID = "6ec9c2e4-7a7b-4c1e-9d3f-0f3c5a1b2c3d"
TIMESTAMP = "20261122173000123400000001"
"""What Terraform's AWS provider appends to a name prefix."""


def tried_first(ladder: dict[int, list[str]], groups: list[str]) -> str:
    """What the priority expander picks: the group with the highest priority that any pattern gives it."""

    def best(group: str) -> int:
        return max(priority for priority, patterns in ladder.items() if any(re.search(p, group) for p in patterns))

    return max(groups, key=best)


def groups_of(pool: PoolPlan) -> list[str]:
    return [f"eks-{rung.name}-{TIMESTAMP}-{UUID}" for rung in pool.rungs]


def test_the_ladder_is_climbed_from_its_first_rung() -> None:
    plan = stack_plan("prod")
    ladder = priorities(plan.pools)
    for pool in plan.pools:
        groups = groups_of(pool)
        while groups:
            assert tried_first(ladder, groups) == groups.pop(0)


def test_every_rung_is_caught_by_its_own_pattern_alone() -> None:
    pool = stack_plan("prod").pool("h100")
    spot = next(rung for rung in pool.rungs if rung.kind == "spot")
    # A pool whose name is another pool's rung: its groups begin with the same letters.
    twin = replace(pool, name="h100-spot", rungs=(replace(spot, name="h100-spot-on-demand", priority=7),))
    ladder = priorities((pool, twin))
    own = [p for patterns in ladder.values() for p in patterns if p != ".*" and re.search(p, groups_of(twin)[0])]
    assert own == ["^eks-h100-spot-on-demand-[0-9a-f-]+$"]


def test_groups_that_are_no_rung_come_last() -> None:
    ladder = priorities(stack_plan("prod").pools)
    assert min(ladder) == 0
    assert ladder[0] == [".*"]
    assert tried_first(ladder, [f"eks-system-{UUID}", *groups_of(stack_plan("prod").pools[0])]).startswith("eks-h100")


def test_the_config_map_is_what_the_expander_looks_for() -> None:
    world = declared(stack_plan("prod"))
    found = next(r for r in world.objects("ConfigMap") if r.inputs["metadata"]["name"] == PRIORITY_CONFIG_MAP)
    assert found.inputs["metadata"]["namespace"] == "kube-system"
    assert yaml.safe_load(found.inputs["data"]["priorities"]) == priorities(stack_plan("prod").pools)


def test_a_drained_node_waits_for_the_slowest_model() -> None:
    plan = stack_plan("prod")
    first = plan.models[0]
    world = declared(with_models(plan, model_of(plan, first.name, drain=replace(first.drain, grace_seconds=5400))))
    arguments = world["kubernetes:helm.sh/v3:Release", "cluster-autoscaler-controller"].inputs["values"]["extraArgs"]
    assert arguments["max-graceful-termination-sec"] == "5400"


def test_times_are_the_plans_and_karpenters_rungs_are_not_its_own() -> None:
    plan = example_plan("capacity-ladder")
    world = deploy(lambda: program.build(plan) and None, stack=plan.stack)
    arguments = world["kubernetes:helm.sh/v3:Release", "cluster-autoscaler-controller"].inputs["values"]["extraArgs"]
    assert plan.ladder is not None
    times = plan.ladder.autoscaler
    assert arguments["max-node-provision-time"] == f"{times.max_node_provision_seconds}s"
    assert arguments["initial-node-group-backoff-duration"] == f"{times.initial_backoff_seconds}s"
    assert arguments["max-node-group-backoff-duration"] == f"{times.max_backoff_seconds}s"
    assert arguments["node-group-backoff-reset-timeout"] == f"{times.backoff_reset_seconds}s"
    found = next(r for r in world.objects("ConfigMap") if r.inputs["metadata"]["name"] == PRIORITY_CONFIG_MAP)
    ladder = yaml.safe_load(found.inputs["data"]["priorities"])
    assert ladder == priorities(plan.pools[:2])
    assert "h200" not in found.inputs["data"]["priorities"]
