"""What is wrong with a Karpenter pool is told with its place and the way out."""

from __future__ import annotations

from typing import Any

import pytest

from planner import StackFileError, load_and_plan
from tests.stacks import changed

SPOT = {"kind": "spot", "nodes": {"max": 2}}
ON_DEMAND = {"kind": "on_demand", "nodes": {"max": 2}}
WARM = {"kind": "on_demand", "nodes": {"min": 1, "max": 2}}
TYPES = "pools[0].instance_types"


def karpenter(**fields: Any) -> dict[str, Any]:
    """A Karpenter pool in the place of dev's."""
    pool = {
        "name": "l40s",
        "provisioner": "karpenter",
        "instance_types": ["g6e.xlarge"],
        "availability_zone": "us-east-1a",
        "capacity": [SPOT, ON_DEMAND],
    }
    return {**pool, **fields}


def block(reservation: str, kind: str = "capacity_block", **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "reservation": reservation, "nodes": 1, **fields}


# (name, the pool's fields, expected path, words in message or help)
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown type", {"instance_types": ["g6e.xlrge"]}, "pools[0].instance_types[0]", "did you mean `g6e.xlarge`"),
    ("CPU type", {"instance_types": ["m7i.xlarge"]}, "pools[0].instance_types[0]", "no GPU"),
    ("no type", {"instance_types": []}, "pools[0].instance_types", "at least 1"),
    ("a type twice", {"instance_types": ["g6e.xlarge", "g6e.xlarge"]}, "pools[0].instance_types[1]", "named twice"),
    ("node group's key", {"instance_type": "g6e.xlarge"}, "pools[0].instance_type", "did you mean `instance_types`"),
    ("two GPUs", {"instance_types": ["g6e.xlarge", "g6.xlarge"]}, "pools[0].instance_types[1]", "1 x L4"),
    ("two counts", {"instance_types": ["g6e.xlarge", "g6e.12xlarge"]}, "pools[0].instance_types[1]", "4 x L40S"),
    ("a zone without", {"instance_types": ["p6-b200.48xlarge"]}, "pools[0].availability_zone", "us-east-1c"),
    ("EFA of a type without", {"efa": True}, "pools[0].efa", "no EFA"),
    ("EFA over types", {"efa": True, "instance_types": ["g6e.12xlarge", "g5.12xlarge"]}, TYPES, "network cards of"),
    ("nodes without pods", {"capacity": [WARM]}, "pools[0].capacity[0].nodes.min", "provisioner: node_group"),
    ("a rung twice", {"capacity": [SPOT, SPOT]}, "pools[0].capacity[1]", "merge"),
    ("wrong reservation id", {"capacity": [block("res-1")]}, "pools[0].capacity[0].reservation", "must match"),
    ("a block of a G type", {"capacity": [block("cr-0123456789abcdef0")]}, "pools[0].capacity[0]", "not sold"),
    (
        "a reservation of several types",
        {
            "instance_types": ["g6e.xlarge", "g6e.2xlarge"],
            "capacity": [block("cr-0123456789abcdef0", "capacity_reservation")],
        },
        "pools[0].capacity[0]",
        "a pool of its own",
    ),
    ("public addresses", {"associate_public_ip": True}, "pools[0].associate_public_ip", "unknown key"),
    ("an age of nothing", {"disruption": {"expire_after_days": 0}}, "pools[0].disruption.expire_after_days", "to 1"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "path", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_each_rule_is_told_once_with_its_place(tmp_path, fields, path, words):
    pool = karpenter(**fields)
    if "instance_type" in fields:
        del pool["instance_types"]
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "dev", {"pools.0": pool}, removed=("budget",)))
    problems = {problem.dotted(): problem for problem in caught.value.problems}
    assert path in problems, str(caught.value)
    assert words in f"{problems[path].message} {problems[path].help or ''}"
    assert problems[path].position is not None
    assert len(caught.value.problems) <= 2, str(caught.value)


def test_a_group_of_nodes_is_refused_with_the_reason_and_the_way_out(tmp_path):
    pool = karpenter(name="h100", instance_types=["p5.48xlarge"])
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "prod", {"pools.0": pool}))
    (problem,) = caught.value.problems
    assert problem.dotted() == "models[0].pool"
    assert "node by node" in problem.message
    assert "provisioner: node_group" in (problem.help or "")


def test_karpenter_comes_with_a_cluster_of_ours(tmp_path):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "local", {"pools.0": karpenter(name="gpu")}))
    told = {problem.dotted(): problem for problem in caught.value.problems}
    assert "provisioner: existing" in (told["pools[0].provisioner"].help or "")


def test_a_zone_without_a_subnet_is_refused_as_for_node_groups(tmp_path):
    subnets = [
        {"id": f"subnet-0123456789abcdef{index}", "availability_zone": f"us-east-1{zone}"}
        for index, zone in enumerate("bc")
    ]
    network = {"kind": "existing", "vpc": "vpc-0123456789abcdef0", "subnets": subnets}
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "dev", {"pools.0": karpenter(), "network": network}, removed=("budget",)))
    assert [problem.dotted() for problem in caught.value.problems] == ["pools[0].availability_zone"]
