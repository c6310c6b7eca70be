"""Continuous batching: against a simulation of every step, and what must hold of every load."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.performance import TokenLengths, Workload, capacity, floor, performance
from planner.performance.queueing import Curve
from settings.serving import Layout
from tests.planner.performance.event_simulation import simulate
from tests.planner.performance.replicas import CHAT, EVEN, LLAMA_8B, LLAMA_70B, R1, replica
from tests.planner.performance.test_step import CASES

LONG_PROMPTS = (TokenLengths(mean=4000, p99=12_000), TokenLengths(mean=150, p99=500))
LONG_ANSWERS = (TokenLengths(mean=200, p99=1000), TokenLengths(mean=600, p99=2500))


def workload(lengths, rate, cached_share=0.0):
    return Workload(requests_per_second=rate, input=lengths[0], output=lengths[1], cached_share=cached_share)


def most(made, lengths, *, ttft=None, tpot=None, cached_share=0.0):
    return capacity(
        made, input=lengths[0], output=lengths[1], cached_share=cached_share, ttft_p99_ms=ttft, tpot_p99_ms=tpot
    )


@pytest.mark.parametrize(
    "lengths", [CHAT, EVEN, LONG_PROMPTS, LONG_ANSWERS], ids=["chat", "even", "prompts", "answers"]
)
@pytest.mark.parametrize("load", [0.3, 0.8])
@pytest.mark.parametrize(
    "made",
    [replica(LLAMA_8B), replica(LLAMA_8B, "L40S"), replica(R1, "H200", Layout(tensor=8))],
    ids=["8b-h100", "8b-l40s", "r1-h200"],
)
def test_formulas_agree_with_a_simulation_of_every_step(made, lengths, load):
    """Up to 80 % of the largest rate: running and medians within 15 %, 99th percentiles within a factor of 1.4; where
    prompts are most of the work 20 % and 1.7 (bursts of long ones are worse than the formula, and rare when simulated).
    """
    rate = load * most(made, lengths).requests_per_second / 0.85
    said = performance(made, workload(lengths, rate))
    seen = simulate(made, workload(lengths, rate), requests=6000, seed=7)
    assert said.concurrency == pytest.approx(seen.concurrency, rel=0.2 if lengths is LONG_PROMPTS else 0.15)
    assert said.tpot_ms.p50 == pytest.approx(seen.tpot_p50, rel=0.15)
    assert said.ttft_ms.p50 == pytest.approx(seen.ttft_p50, rel=0.15)
    factor = 1.7 if lengths is LONG_PROMPTS else 1.4
    assert 1 / factor < said.ttft_ms.p99 / seen.ttft_p99 < factor
    assert 1 / factor < said.tpot_ms.p99 / seen.tpot_p99 < factor
    assert said.output_tokens_per_second == pytest.approx(rate * lengths[1].mean)


def lengths_of(mean_input, mean_output, tail):
    return (
        TokenLengths(mean=mean_input, p99=mean_input * tail),
        TokenLengths(mean=mean_output, p99=mean_output * tail),
    )


ANY = {
    "case": st.sampled_from(CASES),
    "engine": st.sampled_from(["vllm", "sglang"]),
    "mean_input": st.floats(10, 8000),
    "mean_output": st.floats(2, 2000),
    "tail": st.floats(1, 8),
    "cached": st.floats(0, 0.9),
}


@settings(max_examples=150, deadline=None)
@given(**ANY, low=st.floats(0, 1.3), more=st.floats(0, 0.5))
def test_more_load_never_makes_p99_better(case, engine, mean_input, mean_output, tail, cached, low, more):
    made, lengths = replica(*case, engine=engine), lengths_of(mean_input, mean_output, tail)
    top = most(made, lengths, cached_share=cached).requests_per_second
    first = performance(made, workload(lengths, top * low, cached))
    second = performance(made, workload(lengths, top * (low + more), cached))
    for before, after in ((first.ttft_ms, second.ttft_ms), (first.tpot_ms, second.tpot_ms)):
        assert after.p99 >= before.p99 * (1 - 1e-9)
        assert after.p50 >= before.p50 * (1 - 1e-9)
        assert before.p50 <= before.p99
    assert second.concurrency >= first.concurrency * (1 - 1e-9)
    assert second.queue >= first.queue * (1 - 1e-9)
    assert first.stable >= second.stable


@settings(max_examples=100, deadline=None)
@given(**ANY, ttft=st.floats(20, 5000), tpot=st.floats(5, 200))
def test_capacity_keeps_the_objectives_and_a_little_more_does_not(
    case, engine, mean_input, mean_output, tail, cached, ttft, tpot
):
    made, lengths = replica(*case, engine=engine), lengths_of(mean_input, mean_output, tail)
    found = most(made, lengths, ttft=ttft, tpot=tpot, cached_share=cached)
    if found.limited_by == "nothing serves":
        assert found.requests_per_second == 0
        return
    at = performance(made, workload(lengths, found.requests_per_second, cached))
    assert at.stable
    assert at.ttft_ms.p99 <= ttft
    assert at.tpot_ms.p99 <= tpot
    if found.limited_by in {"ttft", "tpot"}:
        finest = most(made, lengths, cached_share=cached).requests_per_second / 5000
        beyond = performance(made, workload(lengths, found.requests_per_second + finest, cached))
        assert beyond.ttft_ms.p99 > ttft or beyond.tpot_ms.p99 > tpot


@settings(max_examples=60, deadline=None)
@given(**ANY, tighter=st.floats(0.1, 1))
def test_tighter_objectives_never_serve_more(case, engine, mean_input, mean_output, tail, cached, tighter):
    made, lengths = replica(*case, engine=engine), lengths_of(mean_input, mean_output, tail)
    loose = most(made, lengths, ttft=3000, tpot=100, cached_share=cached)
    tight = most(made, lengths, ttft=3000 * tighter, tpot=100 * tighter, cached_share=cached)
    assert tight.requests_per_second <= loose.requests_per_second


@settings(max_examples=60, deadline=None)
@given(**ANY)
def test_no_load_is_served_faster_than_the_floor(case, engine, mean_input, mean_output, tail, cached):
    made, lengths = replica(*case, engine=engine), lengths_of(mean_input, mean_output, tail)
    limit = floor(made, workload(lengths, 0, cached))
    quiet = performance(made, workload(lengths, 1e-6, cached))
    assert quiet.ttft_ms.p99 >= limit.ttft_ms * (1 - 1e-9)
    assert quiet.tpot_ms.p99 >= limit.tpot_ms * 0.999


def test_a_rate_beyond_the_largest_grows_a_queue_without_end():
    made = replica(LLAMA_8B)
    top = most(made, CHAT).requests_per_second
    found = performance(made, workload(CHAT, 2 * top))
    assert not found.stable
    assert found.ttft_ms.p99 == found.queue == math.inf
    assert found.output_tokens_per_second < 1.2 * top * CHAT[1].mean


def test_more_cache_and_more_room_in_the_batch_never_serve_less():
    made = replica(LLAMA_70B, "A100-80", Layout(tensor=4))
    small = replace(made, memory=replace(made.memory, kv_tokens=made.memory.kv_tokens // 20))
    few = replace(made, max_running=8)
    assert most(small, CHAT).requests_per_second < most(made, CHAT).requests_per_second
    assert most(small, CHAT).limited_by == "memory"
    assert most(few, CHAT).requests_per_second < most(made, CHAT).requests_per_second


def test_what_the_prefix_cache_holds_need_not_be_computed():
    made = replica(LLAMA_8B)
    plain, cached = most(made, LONG_PROMPTS, ttft=1000), most(made, LONG_PROMPTS, ttft=1000, cached_share=0.8)
    assert cached.requests_per_second > 2 * plain.requests_per_second
    assert cached.performance.ttft_ms.p50 < plain.performance.ttft_ms.p50


def test_objectives_below_the_floor_serve_nothing():
    made = replica(LLAMA_8B)
    found = most(made, CHAT, tpot=1.0)
    assert found.limited_by == "nothing serves"
    assert found.requests_per_second == found.knee_concurrency == 0


def test_lengths_that_no_log_normal_distribution_has_are_refused():
    with pytest.raises(ValueError, match="between 1 and"):
        TokenLengths(mean=100, p99=50)
    with pytest.raises(ValueError, match="between 1 and"):
        TokenLengths(mean=100, p99=5000)


@given(mean=st.floats(1, 1e5), tail=st.floats(1, 14))
def test_lengths_have_the_mean_and_percentile_they_are_given(mean, tail):
    found = TokenLengths(mean=mean, p99=mean * tail)
    assert found.median * math.exp(found.sigma**2 / 2) == pytest.approx(mean)
    assert found.median * math.exp(2.3263478740408408 * found.sigma) == pytest.approx(mean * tail, rel=1e-6)


def test_latencies_are_the_sum_of_the_waits_that_are_told():
    curve = Curve(replica(LLAMA_8B), CHAT[0], CHAT[1], 0.3)
    rate = 0.6 * curve.largest_rate
    waits, (ttft, tpot, _, _) = curve.waits(rate), curve.latencies(rate)
    more = (waits.own_more, waits.prompts_more, waits.room_more, waits.flight_more)
    above = sum(part**1.5 for part in more) ** (1 / 1.5)
    assert ttft.p99 == pytest.approx(waits.flight + waits.own + waits.prompts + waits.room + above)
    assert ttft.p50 == pytest.approx(waits.flight + waits.own_p50 + 0.7 * (waits.prompts + waits.room))
    assert tpot.p99 == pytest.approx(tpot.p50 + math.hypot(waits.crowd, waits.burst))


def test_it_says_what_it_did():
    why = performance(replica(LLAMA_8B), workload(CHAT, 3)).why
    assert any("Little" in line for line in why)
    assert any("H100" in line and "measured" in line for line in why)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("mean", [2000, 6000, 20_000, 60_000])
def test_prompts_alone_come_no_faster_than_they_are_computed(engine, mean):
    """One token is answered, as by a prefill group: also where a prompt takes several steps."""
    made, prompts = replica(LLAMA_70B, layout=Layout(tensor=4), engine=engine), TokenLengths(mean=mean, p99=mean)
    found = performance(made, workload((prompts, TokenLengths(mean=1, p99=1)), 0.01))
    chunks = max(1.0, mean / made.costs.chunk)
    each_ms = made.costs.prefill_ms(mean / chunks) * chunks
    each_ms += made.costs.attention_ms(mean, 0.0) - made.costs.attention_ms(mean / chunks, 0.0) * chunks
    assert 0.01 / found.utilization == pytest.approx(1e3 / each_ms, rel=0.1)
