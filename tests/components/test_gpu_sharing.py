"""What the GPU operator, cluster-autoscaler and Karpenter are told about GPUs that are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

import program
from components.gpu import PLUGIN_CONFIG_MAP, WHOLE_GPUS, GpuArgs, values
from components.karpenter import node_overlays
from components.karpenter_resources import NodeOverlay
from planner.plan import SharingPlan
from tests import crd_schemas
from tests.components.releases import pinned
from tests.factories import example_plan
from tests.harness import deploy
from tests.upstream import chart_values

EXAMPLE = example_plan("shared-gpus")
TURNS, PARTS = (EXAMPLE.pool(name).sharing for name in ("l40s-turns", "h100-parts"))


def operator(*sharing: SharingPlan | None) -> dict[str, Any]:
    return values(
        GpuArgs(
            chart=pinned("gpu-operator"),
            image_mirror=None,
            host_software="preinstalled",
            scrape_interval_seconds=15,
            sharing=tuple(item for item in sharing if item),
        )
    )


def test_whole_gpus_need_no_configuration() -> None:
    assert "devicePlugin" not in operator()
    assert "migManager" not in operator()


def test_the_device_plugin_has_an_entry_for_each_label_and_one_for_all_other_nodes() -> None:
    config = operator(TURNS, PARTS)["devicePlugin"]["config"]
    assert (config["name"], config["create"], config["default"]) == (PLUGIN_CONFIG_MAP, True, WHOLE_GPUS)
    assert set(config["data"]) == {WHOLE_GPUS, "time-slicing-3"}
    sliced = yaml.safe_load(config["data"]["time-slicing-3"])["sharing"]["timeSlicing"]
    assert sliced["resources"] == [{"name": "nvidia.com/gpu", "replicas": 3}]
    assert sliced["failRequestsGreaterThanOne"] is True
    assert "sharing" not in yaml.safe_load(config["data"][WHOLE_GPUS])


def test_partitions_are_offered_under_the_name_that_autoscalers_know() -> None:
    assert operator(PARTS)["mig"]["strategy"] == "single"


def test_a_gpu_that_must_reset_may_reboot_its_node() -> None:
    assert PARTS is not None
    assert "migManager" not in operator(PARTS)
    ampere = operator(replace(PARTS, reboots=True))
    assert ampere["migManager"]["env"] == [{"name": "WITH_REBOOT", "value": "true"}]


def test_the_chart_knows_every_value() -> None:
    upstream = chart_values("gpu-operator", pinned("gpu-operator").version)
    assert PARTS is not None
    ours = operator(TURNS, replace(PARTS, reboots=True))
    assert set(ours["devicePlugin"]["config"]) <= set(upstream["devicePlugin"]["config"])
    assert set(ours["migManager"]) <= set(upstream["migManager"])


def test_an_empty_node_group_tells_its_slices_and_the_label_that_comes_later() -> None:
    world = deploy(lambda: program.build(EXAMPLE) and None, stack=EXAMPLE.stack)
    tags = {
        record.inputs["tag"]["key"].removeprefix("k8s.io/cluster-autoscaler/node-template/"): record.inputs["tag"][
            "value"
        ]
        for record in world
        if record.type == "aws:autoscaling/tag:Tag" and "h100-parts" in record.name
    }
    assert tags["resources/nvidia.com/gpu"] == "3"
    assert tags["label/nvidia.com/mig.config.state"] == "success"


def test_karpenter_is_told_of_slices() -> None:
    plan = example_plan("karpenter")
    pool = plan.pool("l40s")
    assert pool.karpenter is not None
    assert node_overlays(pool, pool.karpenter) == ()
    assert TURNS is not None
    shared = replace(pool, sharing=TURNS, hardware=replace(pool.hardware, gpus=3))
    (overlay,) = node_overlays(shared, pool.karpenter)
    manifest: dict[str, Any] = {
        "apiVersion": overlay.api_version,
        "kind": overlay.kind,
        "metadata": overlay.metadata(),
        "spec": overlay.spec(),
    }
    assert crd_schemas.problems(manifest) == []
    assert manifest["spec"]["capacity"] == {"nvidia.com/gpu": "3"}
    assert manifest["spec"]["requirements"][0]["values"] == [rung.name for rung in pool.rungs]


@pytest.mark.parametrize(("pools", "capacity"), [((), {"nvidia.com/gpu": "3"}), (("a",), {"cpu": "3"})])
def test_an_overlay_that_karpenter_would_refuse_is_none(pools: tuple[str, ...], capacity: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="node overlay"):
        NodeOverlay(name="x", node_pools=pools, capacity=capacity)
