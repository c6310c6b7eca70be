"""Karpenter in the cluster: custom resources that its CRDs take, in an order that leaves no node behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import program
from components._objects import manifest
from components.karpenter import KarpenterNodes, node_classes, node_pools
from components.karpenter_resources import Ec2NodeClass, NodePool
from planner import load_and_plan
from planner.karpenter import network_interfaces
from planner.naming import POOL_LABEL, RUNG_LABEL
from planner.plan import NetworkInterfacePlan, NodeClassPlan, PoolPlan
from tests import crd_schemas
from tests.components.conftest import declared
from tests.components.releases import MIRROR, karpenter_values
from tests.components.test_platform import before
from tests.factories import example_plan
from tests.harness import ResourceRecord, World, deploy
from tests.infra.plans import catalog
from tests.stacks import changed

PLAN = example_plan("karpenter")
L40S = PLAN.pool("l40s")
RELEASE = "kubernetes:helm.sh/v3:Release"
NODES = KarpenterNodes(
    endpoint="https://example.com",
    queue_name="queue",
    instance_profile="profile",
    subnet_ids={"l40s": ("subnet-0a",)},
    security_group_ids={"l40s": ["sg-0a", "sg-0b"]},
    volume_key_arn="arn:aws:kms:us-east-1:111122223333:key/volumes",
)


@cache
def world() -> World:
    return deploy(lambda: program.build(PLAN) and None, stack="karpenter")


def with_everything() -> PoolPlan:
    """A pool with EFA, a reservation, a placement group and an age."""
    assert L40S.karpenter is not None
    first, second = L40S.karpenter.node_pools
    reserved = replace(first, capacity_type="reserved", reservation="cr-0123456789abcdef0", node_class="placed")
    karpenter = replace(
        L40S.karpenter,
        node_classes=(
            NodeClassPlan(name="l40s", reservations=(), placement_group=None),
            NodeClassPlan(name="placed", reservations=("cr-0123456789abcdef0",), placement_group="lab"),
        ),
        node_pools=(reserved, second),
        expire_after_seconds=86400,
    )
    interfaces = network_interfaces(catalog().instances["p6-b300.48xlarge"], efa=True)
    return replace(L40S, karpenter=karpenter, network_interfaces=interfaces)


def manifests(pool: PoolPlan) -> list[Mapping[str, Any]]:
    assert pool.karpenter is not None
    items = (*node_classes(pool, pool.karpenter, NODES, {"team": "ml"}), *node_pools(pool, pool.karpenter))
    return [manifest(item) for item in items]


@pytest.mark.parametrize("pool", [L40S, with_everything()], ids=["example", "everything"])
def test_upstreams_definitions_take_every_field(pool: PoolPlan) -> None:
    for item in manifests(pool):
        assert crd_schemas.problems(item) == [], item["metadata"]["name"]


def test_what_the_program_declares_is_taken_too() -> None:
    declared = [*world().objects("EC2NodeClass"), *world().objects("NodePool")]
    assert len(declared) == 3
    for record in declared:
        assert crd_schemas.problems(record.inputs) == []


def test_a_misspelt_field_would_be_seen() -> None:
    (node_class, *_) = manifests(L40S)
    assert crd_schemas.problems({**node_class, "spec": {**node_class["spec"], "instanceStorePolcy": "RAID0"}})
    assert crd_schemas.problems({**node_class, "spec": {**node_class["spec"], "instanceStorePolicy": "RAID1"}})


def test_nodes_have_no_public_address_no_second_hop_and_no_open_disk() -> None:
    for item in manifests(with_everything()):
        if item["kind"] != "EC2NodeClass":
            continue
        spec = item["spec"]
        assert "associatePublicIPAddress" not in spec
        assert spec["metadataOptions"] == {
            "httpEndpoint": "enabled",
            "httpTokens": "required",
            "httpPutResponseHopLimit": 1,
        }
        (disk,) = spec["blockDeviceMappings"]
        assert disk["ebs"]["encrypted"] is True
        assert disk["ebs"]["kmsKeyID"] == NODES.volume_key_arn
        assert "role" not in spec  # Karpenter may make no profiles


def test_pods_of_a_model_find_karpenters_nodes() -> None:
    """The selector and tolerations of a pod against the labels and taints of the NodePools that it is meant for."""
    pod = next(r for r in world().objects("Deployment") if r.name.startswith("llama-8b")).inputs["spec"]["template"]
    assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    for record in world().objects("NodePool"):
        template = record.inputs["spec"]["template"]
        assert pod["spec"]["nodeSelector"].items() <= template["metadata"]["labels"].items()
        assert template["metadata"]["labels"][RUNG_LABEL] == record.inputs["metadata"]["name"]
        tolerated = {(item["key"], item["effect"]) for item in pod["spec"]["tolerations"]}
        assert {(taint["key"], taint["effect"]) for taint in template["spec"]["taints"]} <= tolerated


def test_both_provisioners_nodes_carry_the_same_taint() -> None:
    (taint,) = world()["aws:eks/nodeGroup:NodeGroup", "pool-a100-spot-nodes"].inputs["taints"]
    (theirs,) = world().objects("NodePool")[0].inputs["spec"]["template"]["spec"]["taints"]
    assert (taint["key"], taint["value"]) == (theirs["key"], theirs["value"])


def test_a_reserved_rung_launches_into_its_reservation_alone() -> None:
    pool = next(item for item in manifests(with_everything()) if item["kind"] == "NodePool")
    requirements = {item["key"]: item["values"] for item in pool["spec"]["template"]["spec"]["requirements"]}
    assert requirements["karpenter.sh/capacity-type"] == ["reserved"]
    assert requirements["karpenter.k8s.aws/capacity-reservation-id"] == ["cr-0123456789abcdef0"]
    own = next(item for item in manifests(with_everything()) if item["metadata"]["name"] == "placed")
    assert own["spec"]["capacityReservationSelectorTerms"] == [{"id": "cr-0123456789abcdef0"}]
    assert own["spec"]["placementGroupSelector"] == {"name": "lab"}


def test_empty_nodes_go_together_and_drifted_ones_one_by_one() -> None:
    disruption = manifests(L40S)[1]["spec"]["disruption"]
    assert disruption["consolidationPolicy"] == "WhenEmpty"
    assert disruption["budgets"] == [{"nodes": "1", "reasons": ["Drifted"]}]
    assert manifests(L40S)[1]["spec"]["template"]["spec"]["expireAfter"] == "Never"
    assert manifests(with_everything())[2]["spec"]["template"]["spec"]["expireAfter"] == "86400s"


CLASS: dict[str, Any] = {
    "name": "x",
    "ami_alias": "al2023@v20260903",
    "instance_profile": "p",
    "subnet_ids": ("subnet-0a",),
    "security_group_ids": ("sg-0a",),
    "network_interfaces": L40S.network_interfaces,
    "max_pods": 58,
    "root_volume_gib": 100,
    "volume_key_arn": "k",
    "instance_store": True,
    "reservations": (),
    "placement_group": None,
    "tags": {},
}


def card(index: int, device: int, kind: Any) -> NetworkInterfacePlan:
    return NetworkInterfacePlan(card_index=index, device_index=device, interface_type=kind)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ami_alias": "al2023@latest"}, "one release"),
        ({"network_interfaces": (card(0, 0, "efa-only"),)}, "first interface is plain"),
        ({"network_interfaces": (card(1, 0, "interface"),)}, "first interface is plain"),
        ({"network_interfaces": (card(0, 0, "interface"), card(1, 1, "efa"))}, "plain or efa-only"),
        ({"network_interfaces": (card(0, 0, "interface"), card(0, 0, "interface"))}, "one place"),
        (
            {"network_interfaces": (card(0, 0, "interface"), card(1, 0, "efa-only"), card(1, 1, "efa-only"))},
            "on one card",
        ),
        ({"tags": {"karpenter.sh/nodepool": "x"}}, "Karpenter's own"),
        ({"tags": {"kubernetes.io/cluster/x": "owned"}}, "Karpenter's own"),
    ],
)
def test_a_node_class_that_karpenter_would_refuse_cannot_be_made(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ec2NodeClass(**(CLASS | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": 0}, "between 1 and 100"),
        ({"weight": 101}, "between 1 and 100"),
        ({"capacity_type": "reserved"}, "names its reservation"),
        ({"reservation": "cr-0123456789abcdef0"}, "other capacity none"),
        ({"max_nodes": 0}, "no node"),
        ({"instance_types": ()}, "no instance type"),
    ],
)
def test_a_node_pool_that_karpenter_would_refuse_cannot_be_made(change: dict[str, Any], words: str) -> None:
    assert L40S.karpenter is not None
    known = node_pools(L40S, L40S.karpenter)[0]
    with pytest.raises(ValueError, match=words):
        replace(known, **change)
    assert isinstance(known, NodePool)


def test_definitions_come_first_then_the_controller_then_classes_then_pools_then_models() -> None:
    chain = [
        world()[RELEASE, "karpenter-definitions"],
        world()[RELEASE, "karpenter-controller"],
        world()["kubernetes:karpenter.k8s.aws/v1:EC2NodeClass", "karpenter-class-l40s"],
        world()["kubernetes:karpenter.sh/v1:NodePool", "karpenter-pool-l40s-spot"],
        next(r for r in world().objects("Deployment") if r.name.startswith("llama-8b")),
    ]
    for first, later in pairwise(chain):
        assert first.urn in before(world(), later), f"{later.name} does not wait for {first.name}"


def aws_of_nodes(found: World) -> list[ResourceRecord]:
    """Everything of AWS that a node needs until it is gone."""
    return [
        *(r for r in found if r.type.startswith("aws:") and r.name.startswith("karpenter")),
        *found.of_type("aws:ec2/natGateway:NatGateway"),
        *found.of_type("aws:ec2/route:Route"),
        *(r for r in found.of_type("aws:ec2/subnet:Subnet") if "private" in r.name),
        found["aws:eks/nodeGroup:NodeGroup", "system-nodes"],
        found["aws:eks/addon:Addon", "addons-nodes-vpc-cni"],
        found["aws:kms/key:Key", "data-key-key"],
    ]


def test_on_destroy_nodes_are_gone_before_what_they_and_their_controller_need() -> None:
    """A destroy goes against the edges: what a NodePool waits for is destroyed after it."""
    needed = aws_of_nodes(world())
    assert {r.name for r in needed} >= {"karpenter-node-role", "karpenter-node-access", "karpenter-interruptions"}
    for later in (*world().objects("EC2NodeClass"), *world().objects("NodePool")):
        waits_for = before(world(), later)
        for record in needed:
            assert record.urn in waits_for, f"{record.name} may be destroyed while nodes of {later.name} still leave"


def test_a_destroy_waits_longer_for_a_class_than_its_nodes_may_take() -> None:
    assert L40S.karpenter is not None
    assert L40S.karpenter.leave_minutes * 60 > L40S.karpenter.termination_grace_seconds + 600


def test_models_of_node_groups_do_not_wait_for_karpenters_nodes() -> None:
    other = next(r for r in world().objects("Deployment") if r.name.startswith("r1-distill"))
    assert not {r.urn for r in world().objects("NodePool")} & before(world(), other)


def test_the_controller_runs_on_system_nodes_and_knows_cluster_and_queue() -> None:
    found = karpenter_values()
    assert found["settings"]["interruptionQueue"]
    assert found["tolerations"] == [{"key": "CriticalAddonsOnly", "operator": "Exists"}]
    assert {"name": "AWS_REGION", "value": "us-east-1"} in found["controller"]["env"]
    assert MIRROR in karpenter_values(MIRROR)["controller"]["image"]["repository"]
    record = world()[RELEASE, "karpenter-controller"]
    release = record.inputs
    assert release["skipCrds"] is True
    settings = release["values"]["settings"]
    assert settings["clusterName"] == "inference-platform-karpenter"
    assert settings["clusterEndpoint"].startswith("https://")
    queue = world()["aws:sqs/queue:Queue", "karpenter-interruptions"]
    assert queue.urn in before(world(), record)


def test_cluster_autoscaler_leaves_karpenters_rungs_alone() -> None:
    ladder = next(r for r in world().objects("ConfigMap") if "priorit" in r.inputs["metadata"]["name"])
    assert "a100-spot" in ladder.inputs["data"]["priorities"]
    assert "l40s" not in ladder.inputs["data"]["priorities"]


def test_a_cluster_without_its_aws_side_is_refused() -> None:
    with pytest.raises(ValueError, match="AWS side"):
        declared(PLAN)


def test_labels_of_a_rung_name_pool_and_rung() -> None:
    labels = manifests(L40S)[1]["spec"]["template"]["metadata"]["labels"]
    assert (labels[POOL_LABEL], labels[RUNG_LABEL]) == ("l40s", "l40s-spot")


def test_four_rungs_on_three_pools_with_both_provisioners_build(tmp_path: Path) -> None:
    spot, on_demand = ({"kind": kind, "nodes": {"max": 2}} for kind in ("spot", "on_demand"))

    def reserved(number: int, kind: str = "capacity_reservation") -> dict[str, Any]:
        return {"kind": kind, "reservation": f"cr-0123456789abcde0{number}", "nodes": 2}

    karpenter = {
        "name": "l40s",
        "provisioner": "karpenter",
        "instance_types": ["g6e.xlarge"],
        "availability_zone": "us-east-1a",
        "capacity": [reserved(5), reserved(6), spot, on_demand],
    }
    changes = {
        "pools.0.capacity": [reserved(1, "capacity_block"), reserved(2), spot, on_demand],
        "pools.1.capacity": [reserved(3, "capacity_block"), reserved(4), spot, on_demand],
        "pools.2": karpenter,
    }
    plan = load_and_plan(changed(tmp_path, "prod", changes, removed=("budget",)))[1]
    built = deploy(lambda: program.build(plan) and None, stack="prod")
    assert len(built.of_type("aws:eks/nodeGroup:NodeGroup")) == 1 + 2 * 4
    pools = sorted(built.objects("NodePool"), key=lambda record: -record.inputs["spec"]["weight"])
    assert [record.inputs["metadata"]["name"] for record in pools] == [rung.name for rung in plan.pool("l40s").rungs]
    for record in (*pools, *built.objects("EC2NodeClass")):
        assert crd_schemas.problems(record.inputs) == []
