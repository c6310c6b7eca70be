"""Plans of the committed stacks, and what follows from what."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ops.console import to_json
from planner import load_and_plan
from planner.cost import nodes_at_start
from planner.naming import RETAINED_STORAGE_CLASS
from planner.plan import CreatedNetworkPlan
from tests.stacks import STACKS, changed, stack_path


def planned(stack):
    return load_and_plan(stack_path(stack))[1]


@pytest.mark.parametrize("stack", STACKS)
def test_a_plan_is_plain_data_and_deterministic(stack):
    first, second = planned(stack), planned(stack)
    assert first == second
    text = json.dumps(to_json(first))
    assert json.loads(text)["stack"] == stack
    assert dataclasses.is_dataclass(first)


def test_planning_imports_neither_pulumi_nor_boto3():
    code = (
        "import sys, pathlib, planner; planner.load_and_plan(pathlib.Path('Pulumi.prod.yaml'));"
        "print([m for m in ('pulumi', 'boto3', 'kubernetes') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_dev_costs_less_than_three_dollars_an_hour():
    cost = planned("dev").cost
    assert cost.peak_usd_per_hour <= 3
    assert cost.peak_usd_per_hour == pytest.approx(sum(line.peak_usd_per_hour for line in cost.lines), abs=1e-3)
    assert cost.idle_usd_per_hour <= cost.base_usd_per_hour <= cost.peak_usd_per_hour


def test_r1_has_its_weights_within_three_minutes_and_twelve_seconds():
    r1 = planned("prod").models[0]
    load = r1.weights.load
    assert load.readers == 6  # two of R1, two of the 70B, two of the 8B
    # All that the server gives before a 688.6 GB reader is done, at 9600 GiB x 1000 MB/s a TiB.
    expected = (2 * 688.6 + 2 * 141.1 + 2 * 16.1) * 1000 / (9600 / 1024 * 1000)
    assert load.seconds == pytest.approx(expected, rel=0.01)
    assert load.seconds <= 192
    assert r1.startup_seconds <= 12 * 60


def test_more_readers_never_load_faster(tmp_path):
    base = planned("prod").models[0].weights.load.seconds
    more = load_and_plan(
        changed(tmp_path, "prod", {"models.1.replicas": {"min": 6, "max": 6}, "cache.load_seconds": 600})
    )[1]
    assert more.models[0].weights.load.seconds > base


def test_leader_and_worker_are_alike():
    r1 = planned("prod").models[0]
    assert r1.worker is not None
    for field in ("gpus", "efa_devices", "hugepages_mib", "memory_gib", "cpu", "shared_memory_gib", "env", "image"):
        assert getattr(r1.worker, field) == getattr(r1.container, field)
    assert r1.container.efa_devices == 32


def test_efa_only_where_a_model_spans_nodes():
    pools = {pool.name: pool for pool in planned("prod").pools}
    assert len(pools["h100"].network_interfaces) == 32
    assert pools["a100"].network_interfaces == ()
    assert [rung.placement_group for rung in pools["h100"].rungs] == [False, True, True]
    assert [rung.priority for rung in pools["h100"].rungs] == [100, 90, 80]


def test_drain_fits_the_spot_notice():
    for stack in STACKS:
        plan = planned(stack)
        for model in plan.models:
            rungs = plan.pool(model.pool).rungs
            if any(rung.kind == "spot" for rung in rungs):
                assert model.drain.grace_seconds <= 120
            assert model.drain.pre_stop_seconds + model.drain.drain_seconds < model.drain.grace_seconds


def test_startup_probe_allows_twice_the_planned_start():
    for stack in STACKS:
        for model in planned(stack).models:
            probe = model.container.startup
            if probe is not None:
                assert probe.period_seconds * probe.failure_threshold >= 2 * model.startup_seconds


def test_ray_scales_by_its_own_autoscaler_and_says_so():
    model = planned("staging").models[0]
    assert model.scaling.owner == "ray_serve"
    assert model.ray is not None
    deployment = model.ray.serve_config["applications"][0]["args"]["llm_configs"][0]["deployment_config"]
    scaling = deployment["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 10)
    assert 1 <= scaling["target_ongoing_requests"] < deployment["max_ongoing_requests"] < 1e6


def test_charts_follow_from_what_is_served():
    assert "lws" in planned("prod").charts
    assert "kuberay-operator" in planned("staging").charts
    assert set(planned("local").charts) == {"cert-manager", "kube-prometheus-stack", "gpu-operator", "keda"}


def test_subnets_do_not_overlap_and_lie_in_the_vpc():
    network = planned("prod").network
    assert isinstance(network, CreatedNetworkPlan)
    vpc = ipaddress.ip_network(network.cidr)
    blocks = [ipaddress.ip_network(z.private_cidr) for z in network.zones]
    blocks += [ipaddress.ip_network(z.public_cidr) for z in network.zones if z.public_cidr]
    assert all(block.subnet_of(vpc) for block in blocks)
    assert not any(a.overlaps(b) for i, a in enumerate(blocks) for b in blocks[i + 1 :])


def test_groups_are_counted_whole_on_one_rung():
    plan = planned("prod")
    started = dict(nodes_at_start(plan.pool("h100"), plan.models))
    assert started == {"h100-block-9abcdef0": 2, "h100-spot": 0, "h100-on-demand": 0}


def test_a_mirror_changes_every_chart_and_image(tmp_path):
    mirror = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mirror"
    plan = load_and_plan(changed(tmp_path, "prod", {"charts": {"mirror": "./charts"}, "images": {"mirror": mirror}}))[1]
    assert all(chart.directory == "./charts" and chart.repository is None for chart in plan.charts.values())
    assert plan.models[1].container.image.startswith(f"{mirror}/docker.io/vllm/")


def test_every_alert_names_a_metric_of_its_engine():
    plan = planned("prod")
    for model in plan.models:
        own = [alert for alert in plan.observability.alerts if f'="{model.name}"' in alert.expression]
        assert len(own) >= 6
        prefix = "sglang:" if model.engine == "sglang" else "vllm:"
        assert all(prefix in alert.expression for alert in own)


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_volumes_carry_the_stacks_tags(stack, tmp_path):
    """As the driver takes them: one argument, `key=value` joined by commas, so no tag may hold a comma."""
    plan = load_and_plan(changed(tmp_path, stack, {"tags": {"owner": "Ada=Grace"}}))[1]
    driver = next(addon for addon in plan.target.addons if addon.name == "aws-ebs-csi-driver")
    tags = driver.configuration["controller"]["extraVolumeTags"]
    argument = ",".join(f"{key}={value}" for key, value in tags.items())
    parsed = dict(pair.split("=") for pair in argument.split(","))
    assert parsed["inference-platform/stack"] == stack
    assert parsed.items() <= plan.tags.items()


@pytest.mark.parametrize(("protection", "kept"), [("none", False), ("data", True), ("all", True)])
def test_what_prometheus_wrote_is_kept_like_other_data(protection, kept, tmp_path):
    """`none` promises that a destroy leaves nothing; a retained volume would be billed for ever."""
    plan = load_and_plan(changed(tmp_path, "dev", {"protection": protection}))[1]
    assert (plan.observability.storage_class == RETAINED_STORAGE_CLASS) == kept == plan.protect_data


def test_who_is_connected_reaches_the_private_endpoint(tmp_path):
    connection = {"transit_gateway": "tgw-0123456789abcdef0", "cidrs": ["172.16.0.0/16"]}
    plan = load_and_plan(
        changed(
            tmp_path,
            "dev",
            {
                "network.connection": connection,
                "target.endpoint": {"access": "private", "admin_cidrs": ["192.168.0.0/24", "172.16.0.0/16"]},
            },
        )
    )[1]
    assert plan.target.private_cidrs == ("172.16.0.0/16", "192.168.0.0/24")
    assert plan.target.public_cidrs == ()
