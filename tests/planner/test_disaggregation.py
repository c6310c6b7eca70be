"""Prefill and decode apart: two groups of the plan, what they are told, and whether it pays."""

from __future__ import annotations

import json

import pytest

from components.observability.dashboard import dashboard
from planner.plan import ModelPlan, Plan
from tests.factories import example_plan, model_of, stack_plan
from tests.router.plans import SMALL, disaggregated

PREFILL = f"{SMALL}-prefill"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return disaggregated()


def groups_of(plan: Plan) -> tuple[ModelPlan, ModelPlan]:
    return model_of(plan, PREFILL), model_of(plan, SMALL)


def argument(model: ModelPlan, option: str) -> str:
    return next(arg.partition("=")[2] for arg in model.container.args if arg.partition("=")[0] == option)


def test_models_without_it_are_what_they_were() -> None:
    assert all(model.disaggregation is None and model.is_endpoint for model in stack_plan("prod").models)


def test_one_model_becomes_two_groups_that_answer_to_one_name(plan: Plan) -> None:
    prefill, decode = groups_of(plan)
    assert [argument(model, "--served-model-name") for model in (prefill, decode)] == [SMALL, SMALL]
    assert (prefill.is_endpoint, decode.is_endpoint) == (False, True)
    assert prefill.api_key == decode.api_key
    assert prefill.router is None
    assert decode.router is not None
    (warm_up,) = [job for job in plan.warmups if SMALL in job.models]
    assert PREFILL in warm_up.models, "both read the same revision, which one Job prepares"


def test_prefill_is_scaled_by_what_lasts_and_decode_by_what_is(plan: Plan) -> None:
    for model, mean_seconds in zip(groups_of(plan), (120, 0), strict=True):
        trigger = next(one for one in model.scaling.triggers if one.name == "concurrency")
        assert trigger.mean_seconds == mean_seconds
        assert trigger.query.startswith("avg_over_time((") == bool(mean_seconds)


def test_vllm_is_told_its_role_and_where_prefill_can_be_reached(plan: Plan) -> None:
    prefill, decode = groups_of(plan)
    told = [json.loads(argument(model, "--kv-transfer-config")) for model in (prefill, decode)]
    assert [one["kv_role"] for one in told] == ["kv_producer", "kv_consumer"]
    assert {one["kv_connector"] for one in told} == {"NixlConnector"}
    assert {one["kv_load_failure_policy"] for one in told} == {"fail"}
    assert {one["kv_connector_extra_config"]["backends"][0] for one in told} == {"UCX"}
    env = {variable.name: variable for variable in prefill.container.env}
    assert env["VLLM_NIXL_SIDE_CHANNEL_HOST"].field_path == "status.podIP"
    assert prefill.disaggregation is not None
    assert prefill.disaggregation.annotations == {"smg.ai/kv-connector": "NixlConnector"}


def test_sglang_is_told_its_role_and_the_router_its_bootstrap_port() -> None:
    given = {"layout": {"tensor": 4}, "replicas": {"min": 1, "max": 3}}
    prefill, decode = groups_of(
        disaggregated("sglang", disaggregated={"transport": "libfabric", "prefill": given, "decode": given})
    )
    assert [argument(model, "--disaggregation-mode") for model in (prefill, decode)] == ["prefill", "decode"]
    assert {argument(model, "--disaggregation-transfer-backend") for model in (prefill, decode)} == {"nixl"}
    assert prefill.disaggregation is not None
    port = argument(prefill, "--disaggregation-bootstrap-port")
    assert prefill.disaggregation.annotations == {"sglang.ai/bootstrap-port": port}
    env = {variable.name: variable.value for variable in decode.container.env}
    assert env["SGLANG_DISAGGREGATION_NIXL_BACKEND"] == "LIBFABRIC"


def test_pods_take_their_share_of_a_nodes_efa(plan: Plan) -> None:
    hardware = plan.pool("h100").hardware
    for model in groups_of(plan):
        assert model.container.efa_devices == hardware.efa_devices * 4 // 8
        assert model.container.capabilities == ("IPC_LOCK",)
        assert 2 * model.container.hugepages_mib <= hardware.hugepages_mib, "two pods of a node"


def test_the_time_of_the_transfer_follows_from_bytes_and_network(plan: Plan) -> None:
    decode = model_of(plan, SMALL)
    assert decode.disaggregation is not None
    # 80 layers x 2 x 8 heads x 128 x 2 bytes; half a p5.48xlarge's 3200 Gbit/s at 0.7 of line rate; 50 us.
    expected = 0.05 + 9000 * 327_680 * 8 / (1600e9 * 0.7) * 1e3
    assert decode.disaggregation.transfer_ms == pytest.approx(expected, rel=1e-6)


def test_the_promise_is_shared_so_that_its_parts_keep_it(plan: Plan) -> None:
    prefill, decode = groups_of(plan)
    assert prefill.performance is not None
    assert decode.performance is not None
    assert decode.disaggregation is not None
    at_most = prefill.performance.capacity.ttft_ms.p99 + decode.performance.capacity.ttft_ms.p99
    assert at_most + decode.disaggregation.transfer_ms <= 2500 + 1
    assert prefill.performance.limited_by == "ttft"
    assert decode.performance.capacity.tpot_ms.p99 <= 40


def test_prompts_no_longer_stand_between_the_tokens_of_answers() -> None:
    together = disaggregated(disaggregated=None, layout={"tensor": 4}, replicas={"min": 1, "max": 8})
    apart = model_of(disaggregated(), SMALL).performance
    one = model_of(together, SMALL).performance
    assert apart is not None
    assert one is not None
    assert apart.at_traffic is not None
    assert one.at_traffic is not None
    assert apart.at_traffic.requests_per_second > one.at_traffic.requests_per_second
    assert apart.at_traffic.tpot_ms.p99 < one.at_traffic.tpot_ms.p99


def test_each_group_scales_by_what_it_does(plan: Plan) -> None:
    prefill, decode = groups_of(plan)
    assert {trigger.name for trigger in prefill.scaling.triggers} == {"concurrency", "queue", "ttft"}
    assert {trigger.name for trigger in decode.scaling.triggers} == {"concurrency", "queue", "kv"}
    assert all(f'model_name="{PREFILL}"' in trigger.query for trigger in prefill.scaling.triggers)
    names = {alert.name for alert in plan.observability.alerts if alert.model == PREFILL}
    assert "TimeToFirstTokenHighWarning" in names
    assert "TimePerOutputTokenHigh" not in names
    names = {alert.name for alert in plan.observability.alerts if alert.model == SMALL}
    assert "TimePerOutputTokenHigh" in names
    assert "TimeToFirstTokenHighWarning" not in names


def test_what_waits_for_room_in_sglangs_decode_cache_counts() -> None:
    prefill, decode = groups_of(disaggregated("sglang"))
    before = "sglang:num_decode_prealloc_queue_reqs"
    asked = {trigger.name: trigger.query for trigger in decode.scaling.triggers}
    assert before in asked["queue"]
    assert before in asked["concurrency"]
    assert not any(before in trigger.query for trigger in prefill.scaling.triggers)


def test_both_groups_are_paid_for_and_tokens_by_who_makes_them(plan: Plan) -> None:
    tokens = {entry.model: entry for entry in plan.cost.tokens}
    assert tokens[PREFILL].input_usd_per_million > 0
    assert tokens[PREFILL].output_usd_per_million == 0
    assert tokens[SMALL].input_usd_per_million == 0
    assert tokens[SMALL].output_usd_per_million > 0
    example = example_plan("disaggregated")
    (line,) = [line for line in example.cost.lines if line.item == "Pool h100"]
    nodes = line.base_usd_per_hour / example.pool("h100").rungs[0].usd_per_node_hour
    assert nodes == pytest.approx(2), "two replicas of prefill and one of decode, half a node each"


def test_the_example_says_that_it_pays_and_by_how_much() -> None:
    plan = example_plan("disaggregated")
    words = model_of(plan, "llama-70b").why["prefill and decode apart"]
    numbers = {number.name: number for number in model_of(plan, "llama-70b").numbers}
    apart, together = numbers["GPUs apart"].value, numbers["GPUs together"].value
    assert float(apart) < float(together)
    assert f"{apart} GPUs apart, together {together}" in words
    assert "it pays" in words


def test_where_it_does_not_pay_it_says_so() -> None:
    traffic = {"requests_per_second": 2, "input_tokens": {"mean": 300}, "output_tokens": {"mean": 400}}
    plan = disaggregated(traffic=traffic)
    told = [finding.message for finding in plan.findings if finding.subject.endswith("disaggregated")]
    assert any(message.startswith("experimental on EFA") for message in told)
    assert any(message.startswith("does not pay") for message in told)
    assert "it does not pay" in model_of(plan, SMALL).why["prefill and decode apart"]


def test_prefill_may_span_nodes_while_decode_does_not() -> None:
    plan = disaggregated(
        "sglang",
        model="deepseek-ai/DeepSeek-R1-0528",
        pool="h100",
        disaggregated={"prefill": {"layout": {"tensor": 16}}, "decode": {"layout": {"tensor": 16}}},
        objectives={"ttft_p99_ms": 20_000, "tpot_p99_ms": 200},
    )
    prefill, decode = groups_of(plan)
    assert (prefill.runtime, prefill.layout.nodes) == ("leader_worker_set", 2)
    assert prefill.container.efa_devices == plan.pool("h100").hardware.efa_devices
    assert decode.router is not None
    selected = decode.router.args[decode.router.args.index("--prefill-selector") + 1 :][:4]
    assert "leaderworkerset.sigs.k8s.io/worker-index=0" in selected


@pytest.mark.parametrize(("engine", "limit"), [("vllm", 0.2112), ("sglang", 211.2)])
def test_a_transfer_that_is_not_over_efa_wakes_somebody(engine: str, limit: float) -> None:
    plan = disaggregated(engine)
    alerts = {alert.name: alert for alert in plan.observability.alerts if alert.model == SMALL}
    slow = alerts["KvTransferSlow"].expression
    assert f'model_name=~"{SMALL}|{PREFILL}"' in slow
    assert float(slow.rpartition("> ")[2]) == pytest.approx(limit, rel=1e-3), "in the unit of the engine's metric"
    assert alerts["KvTransferFails"].severity == "critical"
    asked = str(dashboard(plan)["panels"])
    assert "KV cache from prefill to decode" in asked
    assert "KV cache from prefill to decode" not in str(dashboard(stack_plan("dev"))["panels"])
