"""What is decided about Karpenter's pools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from catalog import load
from planner import load_and_plan
from planner.karpenter import network_interfaces, plan_controller
from planner.plan import EksPlan, ExistingNetworkPlan, Plan, PoolPlan
from tests.factories import example_plan
from tests.settings.test_bad_karpenter import ON_DEMAND, SPOT, block, karpenter
from tests.stacks import changed

EXAMPLE = example_plan("karpenter")
L40S = EXAMPLE.pool("l40s")
ODCR, PLACED = "cr-0123456789abcdef0", "cr-0fedcba9876543210"


def planned(directory: Path, changes: dict[str, Any] | None = None, **fields: Any) -> Plan:
    """Dev with a Karpenter pool in place of its own."""
    settings = {"pools.0": karpenter(**fields), **(changes or {})}
    return load_and_plan(changed(directory, "dev", settings, removed=("budget",)))[1]


def h100(**fields: Any) -> dict[str, Any]:
    return {"instance_types": ["p5.48xlarge"], **fields}


def test_the_ladder_becomes_node_pools_in_its_order() -> None:
    assert L40S.karpenter is not None
    spot, on_demand = L40S.karpenter.node_pools
    assert (spot.capacity_type, on_demand.capacity_type) == ("spot", "on-demand")
    assert 100 >= spot.weight > on_demand.weight >= 1
    assert [pool.name for pool in L40S.karpenter.node_pools] == [rung.name for rung in L40S.rungs]
    assert (spot.max_nodes, spot.max_gpus) == (4, 4)
    assert L40S.min_nodes == 0


def test_the_longest_ladder_keeps_within_karpenters_weights(tmp_path: Path) -> None:
    reservations = [block(f"cr-0123456789abcde{index}0", "capacity_reservation") for index in range(4)]
    pool = planned(tmp_path, capacity=[*reservations, SPOT, ON_DEMAND]).pools[0]
    assert pool.karpenter is not None
    weights = [item.weight for item in pool.karpenter.node_pools]
    assert weights == sorted(set(weights), reverse=True)
    assert min(weights) >= 1


def test_models_are_sized_for_the_smallest_type_and_money_for_the_dearest() -> None:
    instances, hardware = load().instances, L40S.hardware
    types = [instances[name] for name in ("g6e.xlarge", "g6e.2xlarge")]
    assert hardware.memory_gib == min(entry.memory_gib for entry in types)
    assert hardware.vcpus == min(entry.vcpus for entry in types)
    assert hardware.nvme_gb == min(entry.nvme_gb_total for entry in types)
    assert L40S.peak_vcpus_per_node == max(entry.vcpus for entry in types)
    prices = load().prices
    dearest = max(prices.on_demand(entry.name, "us-east-1").usd for entry in types)  # type: ignore[union-attr]
    assert L40S.rungs[1].usd_per_node_hour == dearest
    assert "g6e.2xlarge" in L40S.rungs[1].price_note
    (model,) = (model for model in EXAMPLE.models if model.pool == "l40s")
    assert model.container.memory_gib <= hardware.memory_gib


def test_nodes_drain_at_once_when_spot_is_taken_back() -> None:
    """Karpenter ends pods that must not be disrupted when no more than their own grace period is left."""
    assert L40S.karpenter is not None
    grace = {model.drain.grace_seconds for model in EXAMPLE.models if model.pool == "l40s"}
    assert grace == {L40S.karpenter.termination_grace_seconds}
    assert L40S.karpenter.termination_grace_seconds < 120


def test_nodes_start_from_the_image_of_the_node_groups() -> None:
    assert L40S.karpenter is not None
    release = EXAMPLE.pool("a100").release_version
    assert release
    assert L40S.karpenter.ami_alias == f"al2023@v{release.split('-')[1]}"


def test_pods_find_both_provisioners_nodes_by_the_same_words() -> None:
    groups = EXAMPLE.pool("a100")
    assert L40S.taints == groups.taints
    for mine, theirs in zip(L40S.rungs, groups.rungs, strict=True):
        assert mine.labels.keys() == theirs.labels.keys()


def test_reservations_are_named_one_by_one_and_a_placement_group_takes_a_class_of_its_own(tmp_path: Path) -> None:
    placed = block(PLACED, "capacity_reservation", placement_group="lab")
    pool = planned(tmp_path, capacity=[block(ODCR, "capacity_reservation", nodes=3), placed, SPOT]).pools[0]
    assert pool.karpenter is not None
    shared, own = pool.karpenter.node_classes
    assert (shared.name, shared.reservations, shared.placement_group) == ("l40s", (ODCR,), None)
    assert (own.reservations, own.placement_group) == ((PLACED,), "lab")
    first, second, spot = pool.karpenter.node_pools
    assert (first.capacity_type, first.reservation, first.node_class) == ("reserved", ODCR, "l40s")
    assert (second.reservation, second.node_class) == (PLACED, own.name)
    assert (spot.capacity_type, spot.reservation, spot.node_class) == ("spot", None, "l40s")
    assert (first.max_nodes, pool.rungs[0].max_nodes) == (3, 3)


def test_every_class_is_used_and_every_used_class_is_there(tmp_path: Path) -> None:
    placed = block(PLACED, "capacity_reservation", placement_group="lab")
    pool = planned(tmp_path, capacity=[placed]).pools[0]
    assert pool.karpenter is not None
    names = [item.name for item in pool.karpenter.node_classes]
    assert {item.node_class for item in pool.karpenter.node_pools} == set(names)


def test_a_capacity_block_is_reserved_capacity(tmp_path: Path) -> None:
    pool = planned(tmp_path, **h100(capacity=[block(ODCR), SPOT])).pools[0]
    assert pool.karpenter is not None
    assert pool.karpenter.node_pools[0].capacity_type == "reserved"
    assert pool.rungs[0].kind == "capacity_block"
    assert not any(rung.placement_group for rung in pool.rungs)


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """EC2's own description of the catalog's types with EFA."""
    names = [name for name, entry in load().instances.items() if entry.gpus and entry.efa_interfaces]
    with mock_aws():
        ec2: Any = boto3.client("ec2", region_name="us-east-1")
        pages = ec2.get_paginator("describe_instance_types").paginate(
            Filters=[{"Name": "instance-type", "Values": names}]
        )
        return {item["InstanceType"]: item["NetworkInfo"] for page in pages for item in page["InstanceTypes"]}


EFA_TYPES = sorted(name for name, entry in load().instances.items() if entry.gpus and entry.efa_interfaces)


@pytest.mark.parametrize("name", EFA_TYPES)
def test_interfaces_keep_to_every_cards_limits_and_burn_one_address(name: str, described: dict[str, Any]) -> None:
    """The checks of Karpenter's networkInterfaceCompatibility (1.14), and that all EFA devices are there."""
    network = described[name]
    cards = {card["NetworkCardIndex"]: card["MaximumNetworkInterfaces"] for card in network["NetworkCards"]}
    found = network_interfaces(load().instances[name], efa=True)
    assert all(card.device_index < cards[card.card_index] for card in found)
    efa = [card for card in found if card.interface_type == "efa-only"]
    assert len(efa) == network["EfaInfo"]["MaximumEfaInterfaces"]
    assert [card for card in found if card not in efa] == [found[0]]
    assert (found[0].card_index, found[0].device_index, found[0].interface_type) == (0, 0, "interface")
    per_card: dict[int, int] = {}
    for card in found:
        per_card[card.card_index] = per_card.get(card.card_index, 0) + 1
    assert all(count <= cards[card] for card, count in per_card.items())


def test_without_efa_a_node_has_one_interface_whatever_its_pods_ask_for() -> None:
    assert [card.interface_type for card in L40S.network_interfaces] == ["interface"]


def test_efa_brings_its_plugin_and_its_devices(tmp_path: Path) -> None:
    plan = planned(tmp_path, **h100(efa=True))
    assert plan.pools[0].hardware.efa_devices == 32
    assert "aws-efa-k8s-device-plugin" in plan.charts
    assert "aws-efa-k8s-device-plugin" not in EXAMPLE.charts


def test_disruption_is_as_asked_and_safe_where_nobody_asked(tmp_path: Path) -> None:
    assert L40S.karpenter is not None
    assert L40S.karpenter.expire_after_seconds is None
    asked = {"empty_minutes": 30, "nodes_at_once": 2, "expire_after_days": 14}
    pool = planned(tmp_path, disruption=asked).pools[0].karpenter
    assert pool is not None
    assert (pool.consolidate_after_seconds, pool.nodes_at_once, pool.expire_after_seconds) == (1800, 2, 14 * 86400)


def test_the_controller_fits_the_system_nodes_and_knows_a_network_without_internet(tmp_path: Path) -> None:
    isolated = planned(
        tmp_path, {"network": {"kind": "create", "egress": "vpc_endpoints"}, "images": {"mirror": "r.example.com/m"}}
    )
    assert isolated.karpenter is not None
    assert isolated.karpenter.isolated
    assert "sqs" in isolated.network.interface_endpoints  # type: ignore[union-attr]
    assert EXAMPLE.karpenter is not None
    assert not EXAMPLE.karpenter.isolated
    existing = plan_controller(EXAMPLE.target, ExistingNetworkPlan(vpc_id="vpc-0a", subnets=()), EXAMPLE.pools)
    assert existing is not None
    assert existing.isolated
    assert isinstance(EXAMPLE.target, EksPlan)
    one = replace(EXAMPLE.target, system=replace(EXAMPLE.target.system, min_nodes=1))
    alone = plan_controller(one, EXAMPLE.network, EXAMPLE.pools)
    assert alone is not None
    assert alone.replicas == 1


def test_without_a_pool_of_its_own_nothing_of_karpenter_is_planned() -> None:
    groups = tuple(pool for pool in EXAMPLE.pools if pool.provisioner == "node_group")
    assert plan_controller(EXAMPLE.target, EXAMPLE.network, groups) is None
    assert {"karpenter", "karpenter-crd", "cluster-autoscaler"} <= set(EXAMPLE.charts)


def test_ray_with_one_host_runs_on_karpenter(tmp_path: Path) -> None:
    ladder = [{"kind": "spot", "nodes": {"max": 9}}, {"kind": "on_demand", "nodes": {"max": 2}}]
    fields = karpenter(name="a100", instance_types=["p4d.24xlarge"], availability_zone="us-east-1b", capacity=ladder)
    plan = load_and_plan(changed(tmp_path, "staging", {"pools.0": fields}))[1]
    assert plan.models[0].runtime == "ray_service"
    assert plan.pool(plan.models[0].pool).provisioner == "karpenter"


def test_a_pool_has_either_provisioner_never_both() -> None:
    def fits(pool: PoolPlan) -> bool:
        return (pool.provisioner == "karpenter") == (pool.karpenter is not None)

    assert all(fits(pool) for pool in EXAMPLE.pools)


def test_every_type_of_a_pool_is_looked_up_in_the_account() -> None:
    assert L40S.instance_types == ("g6e.xlarge", "g6e.2xlarge")
    assert EXAMPLE.pool("a100").instance_types == ("p4d.24xlarge",)
