"""Prefill and decode apart: legal, priced and weighed as everything else, and never in the front."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.load import load
from planner.handoff import Side, layout_problems, network_problems, transfer_ms
from planner.layout import node_of
from planner.performance import TokenLengths, capacity
from planner.sizing import SizeError, SizeRequest, size
from planner.sizing.apart import ApartOption

CATALOG = load()
LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
R1 = "deepseek-ai/DeepSeek-R1"


def request(model: str = LLAMA_70B, rps: float = 2.0, **changes) -> SizeRequest:
    """Long prompts, short answers, and tokens that must come quickly."""
    asked = SizeRequest(
        model=model,
        requests_per_second=rps,
        input=TokenLengths(mean=6000, p99=16_000),
        output=TokenLengths(mean=300, p99=1200),
        ttft_p99_ms=4000,
        tpot_p99_ms=25,
        regions=("us-east-1",),
    )
    return replace(asked, **changes)


CHAT = {"input": TokenLengths(mean=500, p99=2000), "output": TokenLengths(mean=400, p99=1600), "tpot_p99_ms": 80}
CASES = {
    "70B": request(),
    "70B at 20": request(rps=20, spot_share=0.0),
    "70B, three nines": request(spot_share=0.0, availability=0.9999),
    "R1": request(R1, 20, tpot_p99_ms=40),
    "8B chat": request(LLAMA_8B, 20, **CHAT),
}
IMPOSSIBLE = request(input=TokenLengths(mean=12_000, p99=30_000), ttft_p99_ms=6000, tpot_p99_ms=7, spot_share=0.0)
"""Within one replica, prompts leave no step that short."""


@functools.cache
def answer(case: str):
    return size(CASES[case], CATALOG, experimental=True)


def options(case: str) -> list[ApartOption]:
    found = answer(case).experimental
    assert found is not None
    return [member.option for member in found.members]


@pytest.mark.parametrize("case", CASES)
def test_the_front_is_what_it_is_without(case):
    """No experimental answer is in it, whatever it costs, and numbers go on after it."""
    found = answer(case)
    plain = size(CASES[case], CATALOG)
    assert [m.option.words for m in found.front] == [m.option.words for m in plain.front]
    assert plain.experimental is None
    assert found.experimental is not None
    numbers = [member.number for member in (*found.front, *found.experimental.members)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [found.member(number) for number in numbers] == [*found.front, *found.experimental.members]


@pytest.mark.parametrize("case", CASES)
def test_every_pair_may_hand_its_cache_on(case):
    for option in options(case):
        pair = option.pair
        prefill, decode = (
            Side(
                role=group.role,
                layout=group.layout,
                node=node_of(group.instance, CATALOG.gpus[group.gpu]),
                where=group.instance.name,
                efa_devices=group.instance.efa_interfaces,
                at=("pool",),
            )
            for group in pair.groups
        )
        assert not list(layout_problems(pair.engine, pair.variant.card, prefill, decode))
        assert not list(network_problems(prefill, decode))
        assert all(group.instance.gdr for group in pair.groups)
        zones = [set(pool.offer.zones) for pool in option.pools]
        assert set.intersection(*zones), "EFA reaches no further than a zone"
        assert len({pool.offer.region for pool in option.pools}) == 1


@pytest.mark.parametrize("case", CASES)
def test_the_load_is_served_within_the_promise(case):
    asked = CASES[case]
    for option in options(case):
        assert option.ttft_ms <= asked.ttft_p99_ms + 1
        assert option.tpot_ms <= asked.tpot_p99_ms
        for group, replicas in option.counts:
            assert replicas * group.capacity.requests_per_second >= asked.requests_per_second * (1 - 1e-9)
        if asked.availability is not None:
            assert option.availability >= asked.availability


@pytest.mark.parametrize("case", CASES)
def test_the_nodes_hold_both_groups_and_leave_no_room_for_more(case):
    for option in options(case):
        for pool in option.pools:
            gpus = pool.nodes * pool.offer.instance.gpus
            used = sum(replicas * group.layout.gpus for group, replicas in pool.groups)
            assert used <= gpus
            within = [group.layout.gpus for group, _ in pool.groups if group.layout.nodes == 1]
            assert not within or gpus - used < min(within)
            price = pool.offer.spot if option.spot else pool.offer.on_demand
            assert price is not None
            assert pool.usd_per_hour == pytest.approx(pool.nodes * price.usd)
            assert pool.spot_nodes + pool.on_demand_nodes == pool.nodes
        assert option.usd_per_hour == pytest.approx(sum(pool.usd_per_hour for pool in option.pools))
        assert option.nodes <= CASES[case].max_nodes


def test_the_cache_takes_as_long_as_the_plan_says():
    """80 layers x 2 x 8 heads x 128 x 2 bytes over a pod's share of the node's network."""
    for option in options("70B"):
        pair = option.pair
        copies = max(1, pair.decode.layout.tensor // 8)
        gbps = min(g.instance.network_gbps * g.layout.gpus / g.instance.gpus for g in pair.groups)
        expected = transfer_ms(16_000, bytes_per_token=327_680 * copies, gbps=gbps)
        assert pair.transfer_ms == pytest.approx(expected, rel=1e-6)


def test_each_group_is_as_fast_as_the_performance_model_says():
    asked = CASES["70B"]
    for option in options("70B"):
        decode = option.pair.decode
        most = capacity(
            decode.replica,
            input=asked.input,
            output=asked.output,
            ttft_p99_ms=asked.ttft_p99_ms,
            tpot_p99_ms=asked.tpot_p99_ms,
            prefilled=True,
        )
        assert decode.capacity.requests_per_second <= most.requests_per_second * (1 + 1e-9)
        parts = [group.capacity.performance.ttft_ms.p99 for group in option.pair.groups]
        assert sum(parts) + option.pair.transfer_ms <= asked.ttft_p99_ms + 1


@pytest.mark.parametrize("case", CASES)
def test_no_ordinary_answer_is_as_good_as_one_that_is_told(case):
    found = answer(case)
    front = CASES[case].front
    assert found.experimental is not None
    for member in found.experimental.members:
        own = member.option.vector(front)
        for other in found.front:
            assert not all(a <= b for a, b in zip(other.option.vector(front), own, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_gain_is_over_the_best_ordinary_answer(case):
    found = answer(case)
    assert found.experimental is not None
    for member in found.experimental.members:
        gain, option = member.gain, member.option
        assert gain is not None
        assert member.over is not None
        over = found.front[member.over - 1].option
        assert gain.over is over
        assert gain.saved_share == pytest.approx(1 - option.usd_per_hour / over.usd_per_hour)
        own = option.vector(("latency", "resilience"))
        alike = [
            other.option.usd_per_hour
            for other in found.front
            if all(a <= b for a, b in zip(other.option.vector(("latency", "resilience")), own, strict=True))
        ]
        assert gain.alike == bool(alike)
        if alike:
            assert over.usd_per_hour == min(alike)
            assert gain.saved_share > 0, "else the ordinary one would be as good"


def test_long_prompts_gain_and_short_ones_do_not():
    gains = [member.gain for member in answer("70B at 20").experimental.members]
    assert max(gain.saved_share for gain in gains) > 0.1
    assert not answer("8B chat").experimental.members
    assert answer("8B chat").experimental.searched.nearest is not None


@pytest.mark.parametrize("case", CASES)
def test_prefills_gpus_pay_for_the_input(case):
    for member in answer(case).experimental.members:
        (prefill, first), (decode, second) = member.option.counts
        gpus = first * prefill.layout.gpus, second * decode.layout.gpus
        share = member.tokens.prefill_share
        if len(member.option.pools) == 1:
            assert share == pytest.approx(gpus[0] / sum(gpus))
        else:
            assert share == pytest.approx(member.option.pools[0].usd_per_hour / member.option.usd_per_hour)
        assert member.tokens.usd_per_useful_hour >= member.option.usd_per_hour


def test_groups_may_have_nodes_of_two_types_of_one_generation():
    """Prefill computes, so that a GPU with less memory may do: each pool is then one group's alone."""
    mixed = [option for option in options("70B at 20") if len(option.pools) == 2]
    assert mixed
    for option in mixed:
        assert [[group.role for group, _ in pool.groups] for pool in option.pools] == [["prefill"], ["decode"]]
        first, second = (CATALOG.gpus[group.gpu] for group in option.pair.groups)
        assert first.name != second.name
        assert first.compute_capability == second.compute_capability


def test_types_without_efa_are_counted_and_never_proposed():
    found = answer("8B chat").experimental.searched
    assert found.lost["an instance type without EFA and GPUDirect RDMA"] > 10
    assert any("have no whole one of a node's" in reason for reason in found.lost)


def test_what_only_two_groups_serve_is_told_and_answered_where_asked():
    with pytest.raises(SizeError, match="too many") as error:
        size(IMPOSSIBLE, CATALOG)
    assert "--experimental" in str(error.value.help)
    found = size(IMPOSSIBLE, CATALOG, experimental=True)
    assert found.front == ()
    assert found.experimental is not None
    assert found.experimental.members[0].number == 1
    assert all(member.gain is None for member in found.experimental.members)


def test_what_nothing_serves_is_refused_with_and_without():
    hopeless = request(tpot_p99_ms=0.1)
    for experimental in (False, True):
        with pytest.raises(SizeError) as error:
            size(hopeless, CATALOG, experimental=experimental)
        assert "--experimental" not in str(error.value.help)


@settings(max_examples=10, deadline=None)
@given(rps=st.floats(0.1, 40), mean=st.integers(200, 12_000), ttft=st.floats(1000, 10_000), tpot=st.floats(8, 100))
def test_whatever_is_asked_the_answers_serve_it(rps, mean, ttft, tpot):
    asked = request(
        rps=rps,
        input=TokenLengths(mean=mean, p99=2 * mean),
        ttft_p99_ms=ttft,
        tpot_p99_ms=tpot,
        engines=("vllm",),
        quantization="checkpoint",
    )
    try:
        found = size(asked, CATALOG, experimental=True)
    except SizeError:
        return
    assert found.experimental is not None
    for member in found.experimental.members:
        option = member.option
        assert option.ttft_ms <= ttft + 1
        assert option.tpot_ms <= tpot
        assert 0 < option.availability <= 1
        assert 0 <= option.survives_node <= 1
        assert option.nodes <= asked.max_nodes
