"""R1, a 70B and an 8B: what any answer must be, whatever prices and speeds the catalog has today."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.load import Catalog, load
from planner.performance import TokenLengths, Workload, performance
from planner.sizing import SizeError, SizeRequest, size
from planner.sizing.money import prices_known
from planner.sizing.options import MOST_REPLICAS
from planner.sizing.pareto import dominates

CATALOG = load()
R1 = "deepseek-ai/DeepSeek-R1"
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
AWQ_70B = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
EVERYWHERE = tuple(name for name in sorted(CATALOG.regions) if prices_known(name, CATALOG))
QUICK = settings(max_examples=12, deadline=None)


def request(model=LLAMA_8B, rps=20.0, **changes) -> SizeRequest:
    asked = SizeRequest(
        model=model,
        requests_per_second=rps,
        input=TokenLengths(mean=1024, p99=4096),
        output=TokenLengths(mean=256, p99=1024),
        ttft_p99_ms=2000,
        tpot_p99_ms=60,
        regions=("us-east-1",),
    )
    return replace(asked, **changes)


CASES = {
    "R1": request(R1, 300),
    "70B": request(LLAMA_70B, 20),
    "8B": request(LLAMA_8B, 20),
    "8B everywhere": request(LLAMA_8B, 20, regions=EVERYWHERE),
    "70B on demand, four nines": request(LLAMA_70B, 20, spot_share=0.0, availability=0.9999),
}


@functools.cache
def answer(case):
    return size(CASES[case])


def cheapest(asked) -> float:
    """Dollars an hour of the cheapest option, infinite where nothing serves."""
    try:
        found = size(asked)
    except SizeError:
        return math.inf
    return min(member.option.usd_per_hour for member in found.front)


@pytest.mark.parametrize("case", CASES)
def test_the_front_is_one(case):
    found = answer(case)
    weighed = found.request.front
    vectors = {member.number: member.option.vector(weighed) for member in found.front}
    assert [member.number for member in found.front] == list(range(1, len(found.front) + 1))
    assert not any(dominates(one, other) for one in vectors.values() for other in vectors.values())
    assert found.dominated
    for option, by in found.dominated:
        own = option.vector(weighed)
        assert dominates(vectors[by], own) or vectors[by] == own
    assert [vector[0] for vector in vectors.values()] == sorted(vector[0] for vector in vectors.values())


@pytest.mark.parametrize("case", CASES)
def test_every_answer_serves_the_load_within_the_objectives(case):
    found = answer(case)
    asked = found.request
    for member in found.front:
        option = member.option
        each = Workload(
            requests_per_second=asked.requests_per_second / option.replicas, input=asked.input, output=asked.output
        )
        seen = performance(option.served.replica, each)
        assert seen.stable
        assert seen.ttft_ms.p99 <= asked.ttft_p99_ms * 1.001
        assert seen.tpot_ms.p99 <= asked.tpot_p99_ms * 1.001
        assert option.served.replica.memory.kv_tokens >= found.context_tokens
        assert option.spot_share <= asked.spot_share
        assert option.availability >= (asked.availability or 0)


@pytest.mark.parametrize("case", CASES)
def test_nodes_replicas_and_dollars_add_up(case):
    found = answer(case)
    for member in found.front:
        option = member.option
        offer, layout, node = option.offer, option.served.layout, option.offer.instance
        assert node.name in CATALOG.regions[offer.region].offerings
        assert option.nodes <= found.request.max_nodes
        assert math.ceil(option.needed_replicas - 1e-9) <= option.replicas <= MOST_REPLICAS
        assert option.replicas * layout.gpus <= option.nodes * node.gpus
        usd = option.on_demand_nodes * (offer.on_demand.usd if option.on_demand_nodes else 0)
        usd += option.spot_nodes * (offer.spot.usd if option.spot_nodes else 0)
        assert option.usd_per_hour == pytest.approx(usd)
        # Input and output tokens together pay for the hour that serves.
        rate = found.request.requests_per_second * 3600 / 1e6
        paid = rate * found.request.input.mean * member.tokens.input_usd_per_million
        paid += rate * found.request.output.mean * member.tokens.output_usd_per_million
        assert paid == pytest.approx(member.tokens.usd_per_useful_hour)
        assert usd <= member.tokens.usd_per_useful_hour <= 1.2 * usd


@pytest.mark.parametrize("case", ["R1", "70B", "8B"])
def test_one_node_to_spare_is_among_the_answers(case):
    """With any one node gone, the whole load is still served within the objectives."""
    members = answer(case).front
    assert any(member.option.survives_node >= 1 and member.option.nodes > 1 for member in members)


@pytest.mark.parametrize("case", CASES)
def test_whatever_lost_has_a_reason(case):
    found = answer(case)
    counted = sum(lost.count for lost in found.lost if lost.kind in {"memory", "ttft", "tpot", "load"})
    assert 0 < len(found.front) + len(found.dominated) <= found.searched.options
    assert counted < found.searched.replicas
    for lost in found.lost:
        assert lost.count > 0
        assert lost.reason or lost.kind in {"region", "price"}
    out = {name for lost in found.lost if lost.kind == "place" for name in lost.examples}
    assert not out & {option.offer.instance.name for option, _ in found.dominated}


def test_the_answer_is_the_same_each_time():
    assert size(CASES["70B"]) == size(CASES["70B"])


@QUICK
@given(ttft=st.floats(1, 4), tpot=st.floats(1, 4), rps=st.floats(0.2, 60))
def test_looser_objectives_never_cost_more(ttft, tpot, rps):
    tight = request(rps=rps, ttft_p99_ms=400, tpot_p99_ms=25)
    loose = replace(tight, ttft_p99_ms=400 * ttft, tpot_p99_ms=25 * tpot)
    assert cheapest(loose) <= cheapest(tight)


@QUICK
@given(rps=st.floats(0.2, 100), more=st.floats(1, 4), availability=st.sampled_from([None, 0.999, 0.99999]))
def test_more_load_never_costs_less(rps, more, availability):
    few = request(rps=rps, availability=availability)
    assert cheapest(few) <= cheapest(replace(few, requests_per_second=rps * more))


@QUICK
@given(
    rps=st.floats(0.2, 100),
    wider=st.sampled_from(
        [
            {"regions": EVERYWHERE},
            {"max_nodes": 200},
            {"engines": ("vllm", "sglang")},
            {"quantization": "any"},
            {"spot_share": 1.0},
            {"availability": None},
        ]
    ),
)
def test_more_freedom_never_costs_more(rps, wider):
    narrow = request(
        rps=rps,
        regions=("us-east-1",),
        max_nodes=32,
        engines=("sglang",),
        quantization="checkpoint",
        spot_share=0.5,
        availability=0.9995,
    )
    assert cheapest(replace(narrow, **wider)) <= cheapest(narrow)


class Fewer(Catalog):
    """The catalog without some instance types."""

    def __init__(self, without: frozenset[str]) -> None:
        super().__init__()
        self._without = without

    @functools.cached_property
    def instances(self):
        return {name: entry for name, entry in CATALOG.instances.items() if name not in self._without}

    @functools.cached_property
    def prices(self):
        return CATALOG.prices

    @functools.cached_property
    def regions(self):
        return {
            name: replace(entry, offerings={t: z for t, z in entry.offerings.items() if t not in self._without})
            for name, entry in CATALOG.regions.items()
        }


@settings(max_examples=8, deadline=None)
@given(without=st.sampled_from(["p5.4xlarge", "g6e.xlarge", "g7e.2xlarge", "p6-b200.48xlarge", "p5en.48xlarge"]))
def test_one_more_instance_type_removes_a_member_only_by_being_no_worse(without):
    asked = CASES["8B"]
    fewer, whole = size(asked, Fewer(frozenset({without}))), size(asked)
    now = [member.option.vector(asked.front) for member in whole.front]
    for member in fewer.front:
        own = member.option.vector(asked.front)
        assert any(dominates(vector, own) or vector == own for vector in now)
        if own not in now:
            beaters = [m for m in whole.front if dominates(m.option.vector(asked.front), own)]
            assert any(m.option.offer.instance.name == without for m in beaters)


@pytest.mark.parametrize("front", [("cost",), ("latency",), ("resilience",), ("cost", "latency")])
def test_the_front_weighs_what_is_asked_for(front):
    found = size(request(front=front))
    best = min(option.vector(front) for option, _ in found.dominated)
    assert found.front[0].option.vector(front) <= best
    if len(front) == 1 and front[0] != "resilience":
        assert len(found.front) == 1


def test_a_format_is_served_as_asked_and_where_the_gpu_can():
    for asked, allowed in (
        ("checkpoint", {("checkpoint", LLAMA_70B), ("fp8_weight_only", LLAMA_70B)}),
        ("awq", {("checkpoint", AWQ_70B)}),
    ):
        found = size(request(LLAMA_70B, 5, quantization=asked))
        for option in [member.option for member in found.front] + [option for option, _ in found.dominated]:
            variant = option.served.variant
            assert (variant.quantization, variant.card.name) in allowed
    for option, _ in answer("70B").dominated:
        if option.served.replica.precision == "fp8":
            assert CATALOG.gpus[option.served.gpu].fp8_hardware


def test_a_model_of_published_fp8_weights_is_served_unchanged():
    assert {member.option.served.variant.card.name for member in answer("R1").front} == {R1}
    assert all(member.option.served.variant.published for member in answer("R1").front)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "meta-llama/Llama-3.1-9B-Instruct"}, "did you mean `meta-llama/Llama-3.1-8B-Instruct`"),
        ({"model": "r1-distill"}, "hub ids in the catalog: deepseek-ai/DeepSeek-R1-Distill-Llama-70B, "),
        ({"model": "llama-8b"}, "meta-llama/Llama-3.1-8B-Instruct"),
        ({"model": "my-org/my-own"}, "`python -m ops model-card config.json`"),
        ({"requests_per_second": -1.0}, "--rps -1: must be above 0"),
        ({"requests_per_second": math.nan}, "--rps nan"),
        ({"requests_per_second": math.inf}, "--rps inf"),
        ({"ttft_p99_ms": 0.0}, "--ttft-p99 0"),
        ({"tpot_p99_ms": -5.0}, "--tpot-p99 -5"),
        ({"max_nodes": 0}, "--max-nodes 0"),
        ({"spot_share": 1.5}, "--spot-share 1.5"),
        ({"cached_share": -0.1}, "--cached -0.1"),
        ({"cached_share": 1.0}, "some of each prompt is always new"),
        ({"requests_per_second": 1e-6}, "one request in 1,000 s is the least to size for"),
        ({"availability": 1.0}, "--availability 1"),
        ({"regions": ("us-eats-1",)}, "did you mean `us-east-1`"),
        ({"context_tokens": 10**7}, "--context 131072 or less"),
        ({"context_tokens": 512}, "--context 5120"),
        ({"input": TokenLengths(mean=60000, p99=200000)}, "give shorter lengths"),
        ({"model": R1, "quantization": "awq"}, "no AWQ weights"),
        ({"model": "openai/gpt-oss-120b", "quantization": "fp8"}, "cannot become FP8"),
    ],
)
def test_a_question_that_makes_no_sense_is_told(changes, words):
    with pytest.raises(SizeError) as caught:
        size(request(**changes))
    assert caught.value.asked
    assert words in f"{caught.value}\n{caught.value.help}"


def test_a_region_without_prices_names_the_nearest_with_some():
    class NoPrices(Catalog):
        @functools.cached_property
        def prices(self):
            quotes = {
                name: replace(
                    entry,
                    on_demand={r: q for r, q in entry.on_demand.items() if r != "eu-west-2"},
                    spot={r: q for r, q in entry.spot.items() if r != "eu-west-2"},
                )
                for name, entry in CATALOG.prices.instances.items()
            }
            return replace(CATALOG.prices, instances=quotes)

    with pytest.raises(SizeError, match="no price of any GPU instance is known for eu-west-2") as caught:
        size(request(regions=("eu-west-2",)), NoPrices())
    assert "eu-west-1" in caught.value.help
    assert "us-east-1" not in caught.value.help


def retried(asked, help_text):
    """The question with the options that a help text names."""
    changes = {}
    for option, field in (
        ("ttft-p99", "ttft_p99_ms"),
        ("tpot-p99", "tpot_p99_ms"),
        ("rps", "requests_per_second"),
        ("availability", "availability"),
    ):
        found = re.search(rf"--{option} ([0-9.]+)", help_text)
        if found:
            changes[field] = float(found[1].rstrip("."))
    assert changes, help_text
    return replace(asked, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ttft_p99_ms": 2.0}, "TTFT p99 2 ms is under the physical limit of"),
        ({"tpot_p99_ms": 0.5}, "TPOT p99 0.5 ms is under the physical limit of"),
        ({"model": R1, "tpot_p99_ms": 3.0}, "TPOT p99 3 ms is under the physical limit of"),
        ({"model": R1, "requests_per_second": 1e6}, "1e+06 requests/s are too many: at most"),
        ({"model": R1, "requests_per_second": 300.0, "max_nodes": 4}, "too many: at most"),
        ({"model": R1, "requests_per_second": 20.0, "max_nodes": 1, "availability": 0.999999}, "is not reached within"),
    ],
)
def test_where_nothing_serves_the_nearest_answer_is_one(changes, words):
    asked = request(**changes)
    with pytest.raises(SizeError) as caught:
        size(asked)
    error = caught.value
    assert not error.asked
    assert words in str(error)
    assert size(retried(asked, error.help)).front


def test_more_nodes_are_advised_only_where_they_help():
    asked = request(R1, 300.0, max_nodes=4)
    with pytest.raises(SizeError) as caught:
        size(asked)
    nodes = int(re.search(r"--max-nodes (\d+)", caught.value.help)[1])
    assert size(replace(asked, max_nodes=nodes)).front
    with pytest.raises(SizeError):
        size(replace(asked, max_nodes=nodes - 1))


def test_what_fits_nowhere_in_a_region_names_what_would_do():
    """R1 over the A100s of one region: too little memory for its context on any layout tried."""

    class OnlySmall(Fewer):
        def __init__(self):
            super().__init__(frozenset(name for name in CATALOG.instances if not name.startswith("g6e")))

    with pytest.raises(SizeError, match=r"fits on nothing that was searched; .* lacks .* GiB on each GPU"):
        size(request(R1, 10.0), OnlySmall())
