"""Spare replicas: nodes of a group on one rung, or a part of a node, held by placeholders of their size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.warm_capacity import deployment_spec, labels
from planner import StackFileError
from planner.cost.nodes import fill, replicas_with_room
from planner.naming import RUNG_LABEL
from planner.plan import Plan
from planner.plan.warm import WarmPlan
from tests.factories import model_of, stack_plan
from tests.router.plans import LARGE, SMALL, disaggregated, planned


def held(plan: Plan, model: str) -> list[WarmPlan]:
    return [one for one in plan.warm if one.model == model]


def test_a_group_has_a_place_for_all_its_pods_on_one_rung() -> None:
    plan = planned(LARGE, warm_replicas=2)
    layout = model_of(plan, LARGE).layout
    sets = held(plan, LARGE)
    assert [(one.name, one.pods, one.gpus) for one in sets] == [
        (f"{LARGE}-warm-{group}", layout.nodes, layout.gpus_per_node) for group in (0, 1)
    ]
    for one in sets:
        spec = deployment_spec(one)
        pod = spec["template"]
        for kind, key in (("podAffinity", RUNG_LABEL), ("podAntiAffinity", "kubernetes.io/hostname")):
            (term,) = pod["spec"]["affinity"][kind]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert term["topologyKey"] == key
            assert term["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            assert term["labelSelector"]["matchLabels"].items() != labels(sets[one is sets[0]]).items()
        assert spec["replicas"] == layout.nodes


def test_a_small_model_has_a_part_of_a_node() -> None:
    plan = planned(warm_replicas=2)
    model = model_of(plan, SMALL)
    (one,) = held(plan, SMALL)
    assert (one.name, one.pods, one.one_rung) == (f"{SMALL}-warm", 2, False)
    (container,) = deployment_spec(one)["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["nvidia.com/gpu"] == str(model.layout.gpus_per_node)
    assert "affinity" not in deployment_spec(one)["template"]["spec"]


def test_placeholders_of_a_pool_and_of_its_models_are_told_apart() -> None:
    plan = planned(LARGE, warm_replicas=1)
    one = held(plan, LARGE)[0]
    pool = replace(one, name="h100", model=None, one_rung=False)
    assert not labels(pool).items() <= labels(one).items()
    assert not labels(one).items() <= labels(pool).items()


def test_its_nodes_are_counted_beside_those_in_use() -> None:
    warm, cold = planned(LARGE, warm_replicas=1), stack_plan("prod")
    pool, nodes = warm.pool("h100"), model_of(warm, LARGE).layout.nodes
    for running in (0, 1, 2):
        more = sum(fill(pool, warm.models, {LARGE: running}).values())
        less = sum(fill(pool, cold.models, {LARGE: running}).values())
        assert more - less in {0, nodes}, running
    assert sum(fill(pool, warm.models, {LARGE: 2}).values()) == 3 * nodes
    assert warm.cost.base_usd_per_hour > cold.cost.base_usd_per_hour
    (told,) = [f.message for f in warm.findings if f.subject.endswith("warm_replicas")]
    assert "$/h" in told


def test_a_place_counts_only_while_there_is_room() -> None:
    plan = planned(LARGE, warm_replicas=1)
    pool, model = plan.pool("h100"), model_of(plan, LARGE)
    most = sum(rung.max_nodes // model.layout.nodes for rung in pool.rungs)
    assert replicas_with_room(pool, plan.models, {LARGE: most - 1})[LARGE] == most
    assert replicas_with_room(pool, plan.models, {LARGE: most})[LARGE] == most
    assert sum(fill(pool, plan.models, {LARGE: most}).values()) <= pool.max_nodes


def test_gpus_of_one_node_are_shared_by_what_serves_and_what_waits() -> None:
    """Two GPUs a replica on a node of eight: the spare one fits beside the first, and costs nothing more."""
    plan = stack_plan("prod")
    pool = plan.pool("a100")
    model = model_of(plan, "r1-distill-70b")
    small = replace(model, layout=replace(model.layout, tensor=2, gpus_per_node=2), warm_replicas=1)
    assert sum(fill(pool, [small], {small.name: 1}).values()) == 1
    assert sum(fill(pool, [small], {small.name: 4}).values()) == 2


@pytest.mark.parametrize(
    ("model", "fields", "told"),
    [
        (LARGE, {"warm_replicas": 9}, "models[0].warm_replicas: 9 spare replica(s) of 2 nodes on one rung each"),
        (SMALL, {"warm_replicas": 20}, "models[2].warm_replicas: 20 spare replica(s) of 1 GPU(s) each"),
    ],
)
def test_what_can_never_stand_is_refused(model: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(StackFileError) as caught:
        planned(model, **fields)
    lines = [f"{problem.dotted()}: {problem.message}" for problem in caught.value.problems]
    assert any(line.startswith(told) for line in lines), lines


def test_two_groups_are_not_told_a_number_that_one_of_them_could_have() -> None:
    with pytest.raises(StackFileError) as caught:
        disaggregated(warm_replicas=20)
    told = [one for one in caught.value.problems if one.path[-1] == "warm_replicas"]
    assert told
    assert all("set it to less" in str(one.help) or str(one.help).startswith("raise") for one in told)
    assert not any("set it to 1" in str(one.help) for one in told)
