"""Prefill and decode apart, as they are declared."""

from __future__ import annotations

from typing import Any

import pytest

from components.scripts.efa import gate as script
from components.serving import router as routing
from components.serving.monitors import pod_monitor
from components.serving.network_policy import rules
from planner import StackFileError
from planner.naming import CLIENT_LABEL, EFA_GATE_CONTAINER, MODEL_LABEL
from planner.plan import ModelPlan
from tests.crd_schemas import problems
from tests.factories import model_of
from tests.harness import World
from tests.router.plans import SMALL, disaggregated
from tests.serving.worlds import manifest, serve

PREFILL = f"{SMALL}-prefill"


@pytest.fixture(scope="module")
def world() -> World:
    return serve(disaggregated())


def group(name: str, engine: str = "vllm") -> ModelPlan:
    return model_of(disaggregated(engine), name)


def names(world: World, kind: str) -> set[str]:
    found = {manifest(record)["metadata"]["name"] for record in world if record.type.endswith(f":{kind}")}
    return {name for name in found if name.startswith(SMALL)}


def test_a_preview_lists_what_up_declares(world: World) -> None:
    assert serve(disaggregated(), preview=True).inventory() == world.inventory()


def test_each_group_has_its_own_pods_and_one_of_them_the_endpoint(world: World) -> None:
    both = {SMALL, PREFILL}
    assert names(world, "Deployment") == {*both, f"{SMALL}-router"}
    assert names(world, "ServiceAccount") == {*both, f"{SMALL}-router"}
    assert names(world, "PodDisruptionBudget") == {*both, f"{SMALL}-router"}
    assert names(world, "ScaledObject") == both
    assert names(world, "Service") == {SMALL}
    assert names(world, "Secret") == {f"{SMALL}-api-key"}


def test_prefill_pods_tell_the_router_how_they_hand_over(world: World) -> None:
    templates = {
        manifest(record)["metadata"]["name"]: manifest(record)["spec"]["template"]
        for record in world
        if record.type.endswith(":Deployment")
    }
    assert templates[PREFILL]["metadata"]["annotations"]["smg.ai/kv-connector"] == "NixlConnector"
    assert "smg.ai/kv-connector" not in templates[SMALL]["metadata"]["annotations"]
    for name in (PREFILL, SMALL):
        limits = templates[name]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["vpc.amazonaws.com/efa"] == "16"


def test_every_pod_proves_its_own_efa_devices_and_leaves_nothing_on_the_node(world: World) -> None:
    pods = {
        manifest(record)["metadata"]["name"]: manifest(record)["spec"]["template"]["spec"]
        for record in world
        if record.type.endswith(":Deployment")
    }
    for name in (PREFILL, SMALL):
        gate = next(one for one in pods[name]["initContainers"] if one["name"] == EFA_GATE_CONTAINER)
        found = script.arguments(gate["args"])
        assert (found.mode, found.devices, found.nodes, found.state) == ("provider", 16, 1, None)
        assert gate["resources"] == pods[name]["containers"][0]["resources"]
        assert not [volume for volume in pods[name]["volumes"] if "hostPath" in volume]
        # What no pod can prove is said, with what does.
        assert "ops efa-test --pool h100" in group(name).why["EFA"]
    assert EFA_GATE_CONTAINER not in str(pods[f"{SMALL}-router"])
    assert [record for record in world if record.name == "efa-gate-script"]


def test_pods_that_fail_it_are_called_by_the_name_of_their_group() -> None:
    alerts = {one.model: one for one in disaggregated().observability.alerts if one.name == "EfaFallback"}
    assert set(alerts) >= {SMALL, PREFILL}
    assert f'pod!~"{PREFILL}-.*"' in alerts[SMALL].expression
    assert "pod!~" not in alerts[PREFILL].expression


def test_the_gate_of_two_groups_may_be_left_out_and_is_no_all_reduce() -> None:
    assert {group.efa_gate for group in disaggregated(efa_gate="off").models if group.disaggregation} == {None}
    with pytest.raises(StackFileError, match="would prove nothing about the way of the KV cache"):
        disaggregated(efa_gate="all_reduce")


def test_groups_talk_to_each_other_and_only_the_router_asks_them() -> None:
    for name, peer in ((PREFILL, SMALL), (SMALL, PREFILL)):
        policy = rules(group(name))
        asked = [rule for rule in policy["ingress"] if _selects(rule, "from", peer)]
        assert asked
        assert all("ports" not in rule for rule in asked), "NIXL chooses its ports by chance"
        assert any(_selects(rule, "to", peer) for rule in policy["egress"])
        assert any(_selects(rule, "from", f"{SMALL}-router") and rule["ports"] for rule in policy["ingress"])
        assert CLIENT_LABEL not in str(policy)


def _selects(rule: dict[str, Any], side: str, name: str) -> bool:
    return any(one.get("podSelector", {}).get("matchLabels", {}).get(MODEL_LABEL) == name for one in rule.get(side, ()))


def test_the_router_may_reach_both() -> None:
    model = group(SMALL)
    assert model.router is not None
    egress = routing.network_policy(model, model.router)["egress"]
    assert all(any(_selects(rule, "to", name) for rule in egress) for name in (SMALL, PREFILL))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_series_of_the_prefill_group_carry_its_name(engine: str) -> None:
    monitor = pod_monitor(group(PREFILL, engine), 15, {})
    (endpoint,) = monitor.spec()["podMetricsEndpoints"]
    (rename,) = endpoint["metricRelabelings"]
    assert (rename["regex"], rename["replacement"]) == (SMALL, PREFILL)
    assert rename["sourceLabels"] == [rename["targetLabel"]] == ["model_name"]
    assert (
        problems(
            {"apiVersion": monitor.api_version, "kind": monitor.kind, "metadata": {"name": "x"}, "spec": monitor.spec()}
        )
        == []
    )
    assert "metricRelabelings" not in pod_monitor(group(SMALL, engine), 15, {}).spec()["podMetricsEndpoints"][0]
