"""A stack's models: what their traffic needs, and what cannot be served."""

from __future__ import annotations

import math

import pytest
from rich.console import Console

from ops.performance import print_performance
from planner import StackFileError, load_and_plan
from tests.factories import stack_plan
from tests.stacks import changed

LLAMA = "models.2"
"""prod's 8B on L40S."""


def model_of(path, name="llama-8b"):
    return next(model for model in load_and_plan(path)[1].models if model.name == name)


def problems(path):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(path)
    return str(caught.value)


@pytest.mark.parametrize("stack", ["dev", "staging", "prod", "local"])
def test_every_model_of_the_committed_stacks_has_its_performance(stack):
    for model in stack_plan(stack).models:
        found = model.performance
        assert found.capacity.requests_per_second > 0
        assert found.floor_tpot_ms < found.capacity.tpot_ms.p99
        assert 0 < found.band.low < 1 < found.band.high
        assert found.lengths_given == (stack in {"staging", "prod"})
        assert any(number.section == "performance" for number in model.numbers)
        assert model.scaling.target_concurrency <= found.knee_concurrency


def test_replicas_follow_from_the_traffic(tmp_path):
    plan = stack_plan("prod").models[2].performance
    one = plan.capacity.requests_per_second
    found = model_of(changed(tmp_path, "prod", {f"{LLAMA}.traffic.requests_per_second": 2.5 * one})).performance
    assert found.replicas_needed == 3
    assert found.at_traffic.requests_per_second == pytest.approx(2.5 * one / 3)
    assert found.at_traffic.tpot_ms.p99 <= 60


def test_a_rate_that_nothing_can_serve_is_refused_with_what_can(tmp_path):
    one = stack_plan("prod").models[2].performance.capacity.requests_per_second
    text = problems(changed(tmp_path, "prod", {f"{LLAMA}.traffic.requests_per_second": 5.5 * one}))
    assert "traffic.requests_per_second" in text
    assert "need 6 replicas within the objectives, and replicas.max is 5" in text
    assert f"plan for at most {5 * one:.3g} requests/s" in text
    allowed = {f"{LLAMA}.traffic.requests_per_second": 4.99 * one}
    assert model_of(changed(tmp_path, "prod", allowed)).performance.replicas_needed == 5


def test_an_objective_below_the_physical_limit_names_the_limit_and_the_nearest(tmp_path):
    limit = stack_plan("prod").models[2].performance.floor_tpot_ms
    text = problems(changed(tmp_path, "prod", {f"{LLAMA}.objectives.tpot_p99_ms": int(limit) - 1}))
    assert f"a step of one request takes {limit:.1f} ms (reading the weights" in text
    nearest = math.ceil(limit * 1.2)
    assert f"set it to {nearest} or more" in text
    fine = {f"{LLAMA}.objectives.tpot_p99_ms": nearest, f"{LLAMA}.traffic.requests_per_second": 0.1}
    assert model_of(changed(tmp_path, "prod", fine)).performance.replicas_needed == 1


def test_long_prompts_need_time_to_the_first_token(tmp_path):
    text = problems(changed(tmp_path, "prod", {f"{LLAMA}.objectives.ttft_p99_ms": 100}))
    assert "the prefill of a long prompt (2,400 tokens, p99) takes" in text


def test_assumed_lengths_only_remark(tmp_path):
    path = changed(tmp_path, "prod", {f"{LLAMA}.objectives.ttft_p99_ms": 100}, removed=(f"{LLAMA}.traffic",))
    findings = load_and_plan(path)[1].findings
    assert any("lengths are assumed: state `traffic`" in finding.message for finding in findings)


def test_lengths_that_contradict_themselves_are_told(tmp_path):
    text = problems(changed(tmp_path, "prod", {f"{LLAMA}.traffic.input_tokens": {"mean": 600, "p99": 60}}))
    assert "does not go with a mean of 600" in text
    assert "between 600 (all alike) and 8400" in text


def test_the_report_has_every_model_and_its_band(capsys, monkeypatch):
    monkeypatch.setattr("ops.performance.out", Console(width=200))
    plan = stack_plan("prod")
    print_performance(plan.models)
    text = capsys.readouterr().out
    low = plan.models[0].performance.capacity.output_tokens_per_second * plan.models[0].performance.band.low
    assert all(model.name in text for model in plan.models)
    assert f"{low:,.0f}" in text


@pytest.mark.parametrize("stack", ["staging", "prod"])
def test_latencies_follow_from_the_inputs_that_explain_them(stack):
    for model in stack_plan(stack).models:
        numbers = {number.name: number for number in model.numbers if number.section == "performance"}

        def given(name, numbers=numbers):
            return {one.name: one.value for one in numbers[name].inputs}

        at = model.performance.at_traffic
        p50, p99 = given("TTFT at the traffic, p50"), given("TTFT at the traffic, p99")
        above = sum(p99[name] ** 1.5 for name in ("prompts_more", "room_more", "own_more", "flight_more")) ** (1 / 1.5)
        mean = p99["flight"] + p99["own"] + p99["prompts"] + p99["room"]
        assert p50["flight"] + p50["own"] + 0.7 * (p50["prompts"] + p50["room"]) == pytest.approx(
            at.ttft_ms.p50, abs=0.05
        )
        assert mean + above == pytest.approx(at.ttft_ms.p99, abs=0.1)
        tpot = given("TPOT at the traffic, p99")
        assert tpot["step"] + math.hypot(tpot["crowd"], tpot["burst"]) == pytest.approx(at.tpot_ms.p99, abs=0.05)
        parts = given("TTFT of a long prompt alone")
        made = sum(parts.get(name, 0) for name in ("matrices", "experts", "attention", "layers", "messages", "engine"))
        assert made == pytest.approx(model.performance.floor_ttft_ms, abs=0.1)
