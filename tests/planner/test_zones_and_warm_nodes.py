"""Pools in several zones and warm nodes, from the stack file to what is declared."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace

import pytest

import program
from components.cluster_autoscaler import priorities
from components.scripts.ladder_world import orders_of
from components.warm_capacity import deployment_spec
from planner.cost.nodes import fill
from planner.ladder import keeper_orders
from planner.naming import STEP_LABEL, WARM_NAMESPACE, WARM_PRIORITY
from planner.plan import Plan
from tests.factories import example_plan, stack_plan
from tests.harness import World, deploy

ZONES = ("us-east-1a", "us-east-1b")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return example_plan("resilient")


@pytest.fixture(scope="module")
def world(plan: Plan) -> World:
    return deploy(lambda: program.build(plan) and None, stack=plan.stack)


def test_a_rung_for_each_zone_with_its_own_limit_and_the_same_priority(plan: Plan) -> None:
    rungs = plan.pool("l40s").rungs
    assert [(rung.name, rung.zone, rung.max_nodes) for rung in rungs] == [
        ("l40s-spot-1a", "us-east-1a", 3),
        ("l40s-spot-1b", "us-east-1b", 3),
        ("l40s-on-demand-1a", "us-east-1a", 3),
        ("l40s-on-demand-1b", "us-east-1b", 3),
    ]
    assert Counter(rung.priority for rung in rungs) == {100: 2, 90: 2}
    assert {rung.labels[STEP_LABEL] for rung in rungs} == {"l40s-spot", "l40s-on-demand"}
    assert plan.pool("l40s").zone is None
    assert plan.pool("l40s").zones == ZONES
    assert plan.pool("h100").zones == ("us-east-1a",)
    assert all(STEP_LABEL not in rung.labels for rung in plan.pool("h100").rungs)


def test_each_rung_is_in_the_subnet_of_its_zone(world: World) -> None:
    groups = {
        record.inputs["nodeGroupNamePrefix"]: record.inputs["subnetIds"]
        for record in world
        if record.type == "aws:eks/nodeGroup:NodeGroup"
    }
    assert len(groups["l40s-spot-1a-"]) == len(groups["l40s-spot-1b-"]) == 1
    assert groups["l40s-spot-1a-"] != groups["l40s-spot-1b-"]
    assert groups["l40s-spot-1a-"] == groups["h100-spot-"]


def test_the_autoscaler_balances_zones_of_one_step_and_nothing_else(world: World) -> None:
    (release,) = [one for one in world if one.type.endswith(":Release") and "cluster-autoscaler" in one.name]
    arguments = release.inputs["values"]["extraArgs"]
    assert arguments["balance-similar-node-groups"] == "true"
    assert arguments["balancing-label"] == STEP_LABEL
    found = priorities(example_plan("resilient").pools)
    assert {"^eks-l40s-spot-1a-[0-9a-f-]+$", "^eks-l40s-spot-1b-[0-9a-f-]+$"} <= set(found[100])


def test_no_zone_is_better_than_another_for_the_ladder_keeper(plan: Plan) -> None:
    orders = orders_of(json.dumps(asdict(keeper_orders([plan.pool("l40s")], plan.models, "python"))))
    pool = orders.pool("l40s")
    assert [pool.position(rung.name) for rung in pool.rungs] == [0, 0, 1, 1]
    assert [rung.name for rung in pool.above(1)] == ["l40s-spot-1a", "l40s-spot-1b"]
    assert pool.above(0) == ()
    assert pool.position("someone-elses") > 1


def test_karpenter_may_use_all_zones(world: World) -> None:
    pools = [record for record in world if record.type == "kubernetes:karpenter.sh/v1:NodePool"]
    assert pools
    for record in pools:
        requirements = {one["key"]: one["values"] for one in record.inputs["spec"]["template"]["spec"]["requirements"]}
        assert requirements["topology.kubernetes.io/zone"] == list(ZONES)
    (node_class,) = [record for record in world if record.type == "kubernetes:karpenter.k8s.aws/v1:EC2NodeClass"]
    assert len(node_class.inputs["spec"]["subnetSelectorTerms"]) == 2


def test_pools_in_several_zones_stream_their_weights_and_the_plan_says_so(plan: Plan) -> None:
    mediums = {model.name: model.weights.medium for model in plan.models}
    assert mediums == {"deepseek-r1": "lustre", "llama-8b": "s3_stream", "llama-8b-short": "s3_stream"}
    told = [finding.message for finding in plan.findings if finding.subject in {"pools[1]", "pools[2]"}]
    assert sum("streams weights from S3" in message for message in told) == 2


def test_replicas_prefer_other_zones_then_other_nodes(world: World) -> None:
    (deployment,) = [
        one for one in world if one.type == "kubernetes:apps/v1:Deployment" and one.name == "llama-8b-workload"
    ]
    spread = deployment.inputs["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert {one["whenUnsatisfiable"] for one in spread} == {"ScheduleAnyway"}


class TestWarmNodes:
    def test_a_placeholder_takes_a_whole_node_and_gives_it_up_at_once(self, plan: Plan) -> None:
        warm = {one.pool: one for one in plan.warm}
        assert {name: one.pods for name, one in warm.items()} == {"h100": 1, "l40s": 1}
        pod = deployment_spec(warm["h100"])["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"]["nvidia.com/gpu"] == str(plan.pool("h100").hardware.gpus)
        assert pod["terminationGracePeriodSeconds"] == 0
        assert pod["nodeSelector"] == dict(plan.pool("h100").node_selector)

    def test_its_priority_is_below_all_and_still_adds_nodes(self, world: World) -> None:
        values = {
            one.inputs["metadata"]["name"]: one.inputs["value"] for one in world if one.type.endswith(":PriorityClass")
        }
        assert -10 <= values.pop(WARM_PRIORITY) < 0 < min(values.values())

    def test_placeholders_have_a_namespace_of_their_own(self, world: World) -> None:
        homes = {
            one.inputs["metadata"]["namespace"]
            for one in world
            if one.type.endswith(":Deployment") and one.name.startswith("warm-capacity")
        }
        assert homes == {WARM_NAMESPACE}

    def test_a_stack_without_them_declares_nothing_of_it(self) -> None:
        prod = stack_plan("prod")
        assert prod.warm == ()

    def test_their_nodes_are_counted_at_every_level(self, plan: Plan) -> None:
        pool = plan.pool("h100")
        assert fill(pool, plan.models, {}) == {"h100-spot": 1, "h100-on-demand": 0}
        assert fill(pool, plan.models, {"deepseek-r1": 1}) == {"h100-spot": 3, "h100-on-demand": 0}
        assert fill(pool, plan.models, {"deepseek-r1": 2}) == {"h100-spot": 4, "h100-on-demand": 1}
        line = next(one for one in plan.cost.lines if one.item == "Pool h100" and "spot" in one.detail)
        assert line.idle_usd_per_hour == pytest.approx(pool.rungs[0].usd_per_node_hour, abs=0.001)
        assert line.base_usd_per_hour == pytest.approx(3 * pool.rungs[0].usd_per_node_hour, abs=0.001)

    def test_standing_nodes_are_held_before_any_is_added(self) -> None:
        pool = replace(stack_plan("prod").pool("l40s"), warm_nodes=1)
        models = stack_plan("prod").models
        assert fill(pool, models, {}) == {"l40s-spot": 0, "l40s-on-demand": 1}

    def test_the_plan_tells_their_price(self, plan: Plan) -> None:
        told = next(one.message for one in plan.findings if one.subject == "pools[0].warm_nodes")
        assert f"{plan.pool('h100').rungs[0].usd_per_node_hour:,.2f} $/h" in told


def test_ray_workers_prefer_other_nodes_too() -> None:
    staging = stack_plan("staging")
    world = deploy(lambda: program.build(staging) and None, stack="staging")
    (service,) = world.objects("RayService")
    (workers,) = service.inputs["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (spread,) = workers["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    head = service.inputs["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    picked = spread["labelSelector"]["matchLabels"].items()
    assert picked <= workers["template"]["metadata"]["labels"].items()
    assert not picked <= head["metadata"]["labels"].items(), "the head is none of them"
