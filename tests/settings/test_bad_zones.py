"""Pools in several zones and warm nodes: each rule broken once."""

from __future__ import annotations

from typing import Any

import pytest

from planner import StackFileError, load_and_plan
from tests.stacks import PLATFORM, changed, document

BOTH = ["us-east-1a", "us-east-1b"]
ZONE = ("pools.2.availability_zone",)
SPOT = [{"kind": "spot", "nodes": {"max": 2}}]

# (name, changes of prod, keys removed, expected path, words in message or help)
BAD: list[tuple[str, dict[str, Any], tuple[str, ...], str, str]] = [
    (
        "a zone twice",
        {"pools.2.availability_zones": ["us-east-1a", "us-east-1a"]},
        ZONE,
        "pools[2].availability_zones[1]",
        "named twice",
    ),
    (
        "one zone as several",
        {"pools.2.availability_zones": ["us-east-1a"]},
        ZONE,
        "pools[2].availability_zones",
        "availability_zone: us-east-1a",
    ),
    (
        "a zone, and several",
        {"pools.2.availability_zones": BOTH},
        (),
        "pools[2].availability_zones",
        "keep one of the two",
    ),
    ("no zone", {}, ZONE, "pools[2]", "availability_zones"),
    (
        "a zone without the type",
        {"pools.2.availability_zones": ["us-east-1a", "us-east-1e"]},
        ZONE,
        "pools[2].availability_zones[1]",
        "does not offer",
    ),
    (
        "an unknown zone",
        {"pools.2.availability_zones": ["us-east-1a", "us-east-1z"]},
        ZONE,
        "pools[2].availability_zones[1]",
        "not a zone",
    ),
    (
        "a group over two zones",
        {"pools.0.availability_zones": BOTH, "pools.0.capacity": [{"kind": "spot", "nodes": {"max": 4}}]},
        ("pools.0.availability_zone",),
        "models[0].pool",
        "within one zone",
    ),
    (
        "a block in two zones",
        {"pools.0.availability_zones": BOTH},
        ("pools.0.availability_zone",),
        "pools[0].capacity[0]",
        "lies in one zone",
    ),
    (
        "EFA of Karpenter in two zones",
        {
            "pools.3": {
                "name": "k",
                "provisioner": "karpenter",
                "instance_types": ["g6e.48xlarge"],
                "availability_zones": BOTH,
                "efa": True,
                "capacity": SPOT,
            }
        },
        (),
        "pools[3].availability_zones",
        "one zone only",
    ),
    ("warm nodes without room", {"pools.2.warm_nodes": 5}, (), "pools[2].warm_nodes", "6 at most"),
]


@pytest.mark.parametrize(
    ("changes", "removed", "path", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_each_rule_is_told_with_its_place(tmp_path, changes, removed, path, words):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "prod", changes, removed=removed))
    problems = {problem.dotted(): problem for problem in caught.value.problems}
    assert path in problems, str(caught.value)
    assert words in f"{problems[path].message} {problems[path].help}"


def test_nodes_that_exist_are_neither_spread_nor_kept_warm(tmp_path):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "local", {"pools.0.warm_nodes": 1}))
    assert [problem.dotted() for problem in caught.value.problems] == ["pools[0].warm_nodes"]


def test_a_file_system_that_no_pool_reads_is_refused(tmp_path):
    pool = {"name": "l40s", "instance_type": "g6e.xlarge", "availability_zones": BOTH, "capacity": SPOT}
    model = next(model for model in document("prod")["config"][PLATFORM]["models"] if model["pool"] == "l40s")
    cache = {"kind": "fsx_lustre", "storage_gib": 1200, "throughput_mbps_per_tib": 250}
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "prod", {"pools": [pool], "models": [model], "cache": cache}))
    assert [problem.dotted() for problem in caught.value.problems] == ["cache.kind"]
