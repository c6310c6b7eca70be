"""Prefill and decode apart: what must hold whatever the numbers are, and who agrees with the replay."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.__main__ import main
from planner import load_and_plan
from planner.performance import TokenLengths, Workload, performance
from planner.plan import Plan
from simulation.groups import TICK_SECONDS, Length
from simulation.policy import ModelPolicy, Policy, applied, changes
from simulation.replay import Conditions, replay
from simulation.results import ModelResult
from simulation.served import Served, served_of
from simulation.subjects import Hazard, subjects_of
from simulation.traffic import ModelTraffic, Traffic
from simulation.two_groups import Apart
from simulation.variants import shortfalls, variants_of
from tests.simulation.days import MIDNIGHT, scaled
from tests.simulation.engine import simulate_apart
from tests.stacks import ROOT

MODEL, PREFILL = "llama-70b", "llama-70b-prefill"
FILE = ROOT / "examples" / "disaggregated" / "Pulumi.disaggregated.yaml"
SETTINGS, PLAN = load_and_plan(FILE)
SUBJECT = subjects_of(SETTINGS, PLAN)[MODEL]
LONG, SHORT = TokenLengths(mean=6000, p99=16_000), TokenLengths(mean=1000, p99=4000)
ANSWERS = TokenLengths(mean=300, p99=1000)
HOUR = 3600


def asked(counts, prompts: TokenLengths = LONG) -> ModelTraffic:
    return ModelTraffic(model=MODEL, counts=np.asarray(counts, dtype=np.int64), input=prompts, output=ANSWERS)


@cache
def served(prompts: TokenLengths = LONG) -> Served:
    return served_of(SUBJECT, asked([], prompts))


def work_rate(prompts: TokenLengths = LONG) -> float:
    """Requests a second that one prefill replica keeps up with."""
    table = served(prompts).prompts
    assert table is not None
    return 1e3 / float(table.work_ms.mean())


def fixed(prefill: int, decode: int) -> Plan:
    plan = PLAN
    for name, replicas in ((PREFILL, prefill), (MODEL, decode)):
        plan = scaled(plan, name, owner="none", min_replicas=replicas, max_replicas=replicas)
    return plan


def day(
    rate: float, plan: Plan, *, prompts: TokenLengths = LONG, seconds: int = HOUR, own: Served | None = None, **more
):
    counts = np.random.default_rng(1).poisson(np.full(seconds, rate))
    traffic = Traffic(start=MIDNIGHT, seconds=seconds, models=(asked(counts, prompts),), origin="test")
    return replay([("x", plan)], traffic, {MODEL: own or served(prompts)}, Conditions(**more))[0]


def with_link(factor: float) -> Served:
    """A network that takes so many times as long."""
    table = served().prompts
    assert table is not None
    return replace(served(), prompts=replace(table, transfer_ms=table.transfer_ms * factor))


class Watched(Apart):
    """Keeps what comes to decode."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.seen = []
        self.offered_tokens = 0.0

    def _decoded(self, arrived, begin):
        self.seen.append(arrived)
        return super()._decoded(arrived, begin)

    def _offered(self, tick, begin):
        found = super()._offered(tick, begin)
        new = found[found["since"] >= begin]
        self.offered_tokens += float(self._table.tokens[new["prompt"]].sum())
        return found


def made(counts, *, prefill: int, decode: int, variants: int = 2, own: Served | None = None) -> Watched:
    plan = fixed(max(1, prefill), max(1, decode))
    plans = [[next(m for m in plan.models if m.name == name)] * variants for name in (PREFILL, MODEL)]
    length = Length(start=MIDNIGHT, seconds=len(counts), keep=False)
    model = Watched(asked(counts), own or served(), (plans[0], plans[1]), length, seed=3)
    for group, number in zip(model.groups, (prefill, decode), strict=True):
        group.wanted = [number] * variants
        accepts = np.zeros_like(group.line.accepts)
        accepts[:, :number] = True
        group.line.set_accepting(accepts)
    return model


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=TICK_SECONDS, max_size=10 * TICK_SECONDS),
    prefill=st.integers(0, 3),
    decode=st.integers(0, 3),
    lost=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1), st.integers(0, 1)), max_size=4),
    factor=st.sampled_from([0.0, 1.0, 300.0]),
)
def test_no_request_is_lost_or_served_twice(counts, prefill, decode, lost, factor):
    model = made(counts, prefill=prefill, decode=decode, own=with_link(factor))
    table = model._table
    for tick in range(-(-len(counts) // TICK_SECONDS)):
        for at, group, variant in lost:
            if at == tick:
                model.groups[group].line.release(variant, 0)
        model.serve(tick)
        standing = model.standing()
        assert (standing.arrived == standing.served + standing.refused + standing.in_flight).all()
        assert standing.arrived[0] == sum(counts[: (tick + 1) * TICK_SECONDS])
        assert min(int(standing.running.min()), int(standing.waiting.min())) >= 0
    rows = np.concatenate(model.seen)
    for variant in range(2):
        # What a lost decode replica was writing begins anew, at the full second of a tick.
        since = [moment for moment in rows["since"][rows["variant"] == variant] if moment % TICK_SECONDS]
        assert len(since) == len(set(since))
    least = table.alone_ms[rows["prompt"]] + table.transfer_ms[rows["prompt"]]
    assert ((rows["ends"] - rows["since"]) * 1e3 >= least - 1e-3).all()
    if not prefill or not decode:
        assert not len(rows)
        assert (standing.refused == standing.arrived).all()


@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=60, max_size=120),
    lost=st.sets(st.integers(1, 7), max_size=3),
    factor=st.sampled_from([1.0, 300.0]),
)
def test_every_token_that_comes_in_goes_over_once_or_is_on_its_way(counts, lost, factor):
    model = made(counts, prefill=2, decode=2, variants=1, own=with_link(factor))
    for tick in range(-(-len(counts) // TICK_SECONDS)):
        if tick in lost:
            model.groups[0].line.release(0, 0)
        model.serve(tick)
    tokens = model._table.tokens
    on_its_way = sum(
        float(tokens[rows["prompt"]].sum()) for rows in (model.prompts.rows, model.caches.rows, *model._again)
    )
    assert model.standing().refused[0] == 0
    assert model.handed_tokens[0] + on_its_way == pytest.approx(model.offered_tokens)


@pytest.mark.parametrize(
    ("prompts", "load", "seconds"), [(LONG, 0.35, 15_000), (LONG, 0.6, 15_000), (SHORT, 0.35, 3000), (SHORT, 0.6, 3000)]
)
def test_latencies_agree_with_single_requests_and_steps(prompts, load, seconds):
    """TTFT: median within 12 %, p99 within 25 %; TPOT: 5 and 12 %."""
    assert SUBJECT.prompts is not None
    assert SUBJECT.handoff is not None
    rate = load * work_rate(prompts)
    seen = simulate_apart(
        SUBJECT.prompts.replica,
        SUBJECT.replica,
        rate=rate,
        prompts=prompts,
        answers=ANSWERS,
        seconds=seconds,
        limit=served(prompts).table.limit,
        transfer_ms=SUBJECT.handoff.transfer_ms,
        seed=5,
    )
    found = day(rate, fixed(1, 1), prompts=prompts, seconds=2 * seconds).model(MODEL)
    ttft, tpot = np.percentile(seen.ttft_ms, [50, 99]), np.percentile(seen.tpot_ms, [50, 99])
    assert found.refused == 0
    assert found.ttft_p50_ms == pytest.approx(ttft[0], rel=0.12)
    assert found.ttft_p99_ms == pytest.approx(ttft[1], rel=0.25)
    assert found.tpot_p50_ms == pytest.approx(tpot[0], rel=0.05)
    assert found.tpot_p99_ms == pytest.approx(tpot[1], rel=0.12)


@pytest.mark.parametrize("prompts", [LONG, SHORT])
def test_a_quiet_day_agrees_with_the_plans_own_prediction(prompts):
    """At a tenth of what prefill keeps up with. The plan adds each part's p99, so that it says `at most`: the replay
    comes out up to 25 % below it, and never more than 5 % above; medians within 15 %, and TPOT's p50 within 5 %."""
    assert SUBJECT.prompts is not None
    assert SUBJECT.handoff is not None
    rate = 0.1 * work_rate(prompts)
    found = day(rate, fixed(1, 1), prompts=prompts, seconds=int(4000 / rate)).model(MODEL)
    one = TokenLengths(mean=1, p99=1)
    prefill = performance(SUBJECT.prompts.replica, Workload(requests_per_second=rate, input=prompts, output=one))
    decode = performance(
        SUBJECT.replica, Workload(requests_per_second=rate, input=prompts, output=ANSWERS, prefilled=True)
    )
    transfer_ms = SUBJECT.handoff.transfer_ms
    p50 = prefill.ttft_ms.p50 + transfer_ms(prompts.median) + decode.ttft_ms.p50
    p99 = prefill.ttft_ms.p99 + transfer_ms(prompts.p99) + decode.ttft_ms.p99
    assert found.ttft_p50_ms == pytest.approx(p50, rel=0.15)
    assert 0.75 * p99 <= (found.ttft_p99_ms or 0) <= 1.05 * p99
    assert found.tpot_p50_ms == pytest.approx(decode.tpot_ms.p50, rel=0.05)
    assert found.transfer is not None
    assert found.transfer.p50_ms == pytest.approx(transfer_ms(prompts.median), rel=0.1)
    assert found.transfer.p99_ms == pytest.approx(transfer_ms(prompts.p99), rel=0.15)


def parts(found: ModelResult) -> tuple[ModelResult, ModelResult]:
    prefill, decode = found.groups
    assert (prefill.role, decode.role) == ("prefill", "decode")
    return prefill.result, decode.result


def test_the_parts_are_the_whole():
    found = day(0.5 * work_rate(), fixed(2, 1)).model(MODEL)
    prefill, decode = parts(found)
    assert (prefill.model, decode.model) == (PREFILL, MODEL)
    assert found.arrived == prefill.arrived
    assert prefill.served == decode.arrived + (prefill.served - (found.transfer.caches if found.transfer else 0))
    assert found.served == decode.served
    assert found.gpu_hours == prefill.gpu_hours + decode.gpu_hours == pytest.approx(3 * 4)
    assert found.replicas_mean == prefill.replicas_mean + decode.replicas_mean
    assert prefill.tpot_p99_ms is None
    assert decode.tpot_p99_ms == found.tpot_p99_ms
    assert prefill.ttft_objective_ms + decode.ttft_objective_ms < found.ttft_objective_ms


def test_a_free_network_takes_nothing_but_the_transfer_away():
    """Everything in prefill goes the same way, request by request."""
    rate, plan = 0.2 * work_rate(), fixed(1, 1)
    over, free = (day(rate, plan, own=with_link(factor)).model(MODEL) for factor in (1.0, 0.0))
    assert parts(over)[0] == parts(free)[0]
    assert free.transfer is not None
    assert over.transfer is not None
    assert free.transfer.p99_ms is not None
    assert free.transfer.p99_ms < 1
    gain = (over.ttft_p50_ms or 0) - (free.ttft_p50_ms or 0)
    assert gain == pytest.approx(over.transfer.p50_ms or 0, abs=0.02 * (over.ttft_p50_ms or 0))


def test_a_slow_network_is_what_limits():
    """A link that is 200 times as slow serves less than what comes: caches wait for it, and prefill does not care."""
    rate, plan = 0.4 * work_rate(), fixed(1, 1)
    fast, slow = (day(rate, plan, own=with_link(factor)).model(MODEL) for factor in (1.0, 200.0))
    table = with_link(200).prompts
    assert table is not None
    assert slow.transfer is not None
    assert slow.served < fast.served
    assert slow.transfer.caches / HOUR == pytest.approx(1e3 / float(table.transfer_ms.mean()), rel=0.1)
    assert parts(slow)[0].ttft_p99_ms == parts(fast)[0].ttft_p99_ms


def test_prompts_do_not_stand_between_the_tokens_of_answers():
    """The same decode replica, twice as many prompts as long: time between tokens grows with the batch alone."""
    rate = 0.5 * work_rate()
    found = day(rate, fixed(2, 1)).model(MODEL)
    alone = performance(SUBJECT.replica, Workload(requests_per_second=rate, input=LONG, output=ANSWERS, prefilled=True))
    both = performance(SUBJECT.replica, Workload(requests_per_second=rate, input=LONG, output=ANSWERS))
    assert found.tpot_p99_ms == pytest.approx(alone.tpot_ms.p99, rel=0.1)
    assert (found.tpot_p99_ms or 0) < both.tpot_ms.p50


def test_each_group_is_scaled_by_its_own_triggers_and_limits():
    """Many prompts with answers of a few tokens: prefill grows to its limit, decode stays."""
    short = replace(asked([]), output=TokenLengths(mean=5, p99=10))
    own = served_of(SUBJECT, short)
    counts = np.random.default_rng(1).poisson(np.full(2 * HOUR, 4 * work_rate()))
    traffic = Traffic(
        start=MIDNIGHT, seconds=len(counts), models=(replace(short, counts=counts.astype(np.int64)),), origin="test"
    )
    found = replay([("x", PLAN)], traffic, {MODEL: own}, Conditions())[0].model(MODEL)
    prefill, decode = parts(found)
    assert prefill.replicas_most == 5
    assert decode.replicas_most == 1


def test_a_lost_node_takes_both_groups_replicas_and_all_are_tried_again():
    rung = PLAN.pool("h100").rungs[0].name
    hazards = {rung: Hazard(per_hour=0.0, notice_seconds=0.0, dry_seconds=0.0)}
    found = day(1.2 * work_rate(), fixed(3, 1), seconds=2 * HOUR, hazards=hazards, losses=((1800, rung), (1900, rung)))
    model = found.model(MODEL)
    prefill, _ = parts(model)
    assert found.losses == 2
    assert model.interrupted >= prefill.interrupted > 0
    assert model.arrived == model.served + model.refused + model.in_flight
    ready = [interval.replicas_ready for interval in model.series]
    assert min(ready) < 4 == ready[-1]


def test_both_groups_minimums_are_searched_and_written_in_their_place():
    policy = Policy(models={PREFILL: ModelPolicy(min_replicas=3), MODEL: ModelPolicy(min_replicas=1)})
    (entry,) = changes(SETTINGS, policy)["models"]
    assert entry["disaggregated"]["prefill"] == {"layout": {"tensor": 4}, "replicas": {"min": 3, "max": 5}}
    plan = applied(SETTINGS, PLAN, policy)
    assert [m.scaling.min_replicas for m in plan.models] == [3, 1]
    assert changes(SETTINGS, Policy(models={PREFILL: ModelPolicy(min_replicas=2)})) == {}


def test_too_few_replicas_are_told_of_the_group_that_has_them():
    counts = np.full(HOUR, 12)
    traffic = Traffic(start=MIDNIGHT, seconds=HOUR, models=(asked(counts),), origin="test")
    said = shortfalls(PLAN, traffic, {MODEL: served()})
    assert any("replicas of prefill, `disaggregated.prefill.replicas.max` is 5" in text for text in said)
    names = [name for name, _ in variants_of(SETTINGS, PLAN, traffic, {MODEL: served()})]
    assert names == ["as planned", "with a warm node a pool"], "no floor is one number for two groups"


def test_the_verb_tells_the_groups_apart(capsys, tmp_path):
    plot, series = tmp_path / "day.svg", tmp_path / "day.csv"
    call = ["simulate", "--stack", str(FILE), "--profile", "flat", "--hours", "1", "--no-compare"]
    assert main([*call, "--plot", str(plot), "--out", str(series)]) == 0
    said = capsys.readouterr().out
    for words in ("  prefill", "  transfer", "  decode", "KV caches", "GPU hours"):
        assert words in said
    assert "prefill ready" in plot.read_text()
    lines = series.read_text().splitlines()
    assert len(lines) == 1 + 3 * 12
    assert [line.split(",")[2] for line in (lines[1], lines[13], lines[25])] == ["", "prefill", "decode"]
    assert main([*call, "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["variants"][0]["models"]
    assert [part["role"] for part in model["groups"]] == ["prefill", "decode"]
    assert model["transfer"]["caches"] == pytest.approx(model["arrived"], abs=20)
