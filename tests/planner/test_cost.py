"""Money: lines add up, formulas give the figures they explain, more is never cheaper, budgets say what fits."""

from __future__ import annotations

import dataclasses
import math
import re
from datetime import date
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from catalog.interruptions import interruptions
from catalog.load import load
from catalog.types import Price
from ops.explain import numbers_of
from planner import StackFileError, load_and_plan
from planner.cost import HOURS_PER_MONTH, expected_nodes, fill, stale_prices
from planner.cost.interruptions import hazard_of, there
from planner.plan import CostPlan, Explained, Plan
from tests.stacks import STACKS, changed, stack_path

ON_EKS = tuple(stack for stack in STACKS if stack != "local")


@cache
def planned(stack: str) -> Plan:
    return load_and_plan(stack_path(stack))[1]


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_costs_the_sum_of_its_lines_at_every_level(stack):
    cost = planned(stack).cost
    for level in ("idle", "base", "planned", "peak"):
        total = sum(getattr(line, f"{level}_usd_per_hour") for line in cost.lines)
        assert getattr(cost, f"{level}_usd_per_hour") == pytest.approx(total, abs=1e-3), level
    assert cost.idle_usd_per_hour <= cost.base_usd_per_hour <= cost.peak_usd_per_hour + 1e-9
    assert cost.planned_usd_per_hour <= cost.peak_usd_per_hour + 1e-9
    assert cost.peak_usd_per_month == pytest.approx(cost.peak_usd_per_hour * 730)
    assert HOURS_PER_MONTH == 365 * 24 / 12


def test_all_that_bills_is_there():
    items = {line.item for line in planned("prod").cost.lines}
    assert items >= {
        "EKS control plane",
        "KMS keys",
        "Logs",
        "Logs kept",
        "System nodes",
        "System volumes",
        "NAT gateways",
        "NAT traffic",
        "Public addresses",
        "Traffic between zones",
        "Prometheus volume",
        "Volumes h100",
        "FSx for Lustre",
        "S3 weights",
        "S3 reads",
        "S3 writes",
        "Pool h100",
    }


def test_a_vpc_without_internet_pays_endpoints_and_no_gateway(tmp_path):
    changes = {
        "network": {"kind": "create", "egress": "vpc_endpoints"},
        "images.mirror": "111122223333.dkr.ecr.us-east-1.amazonaws.com/mirror",
    }
    path = changed(tmp_path, "dev", {"images": {}, **changes})
    items = {line.item: line for line in load_and_plan(path)[1].cost.lines}
    assert "NAT gateways" not in items
    assert "NAT traffic" not in items
    hours = items["Interface endpoints"]
    assert hours.idle_usd_per_hour == pytest.approx(0.01 * hours.inputs[0].value)
    assert items["Endpoint traffic"].planned_usd_per_hour == pytest.approx(20 * 0.01 / 730)


def test_secrets_manager_secrets_bill_once_each(tmp_path):
    arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:keys-AbCdEf"
    source = {"kind": "secrets_manager", "arn": arn}
    path = changed(
        tmp_path, "prod", {"models.0.api_key": {**source, "key": "a"}, "models.1.api_key": {**source, "key": "b"}}
    )
    line = next(line for line in load_and_plan(path)[1].cost.lines if line.item == "Secrets")
    assert line.idle_usd_per_hour == pytest.approx(0.40 / 730)


# What is explained ------------------------------------------------------------------------------------------------


def value_of(number: Explained) -> float:
    """What the formula gives for its inputs: `x` multiplies, `^` raises, `a = b` behind a `;` defines a name."""
    names: dict[str, Any] = {given.name: given.value for given in number.inputs}
    whole, *parts = number.formula.split("; ")
    definitions = [part for text in parts for part in re.split(r", (?=\w+ = )", text)]
    for definition in reversed(definitions):
        name, _, text = definition.removeprefix("no spot: ").partition(" = ")
        names[name] = evaluated(text, names)
    return evaluated(whole, names)


def evaluated(text: str, names: dict[str, Any]) -> float:
    python = re.sub(r"(?<=\d) (h|s)\b", "", text).replace(" x ", " * ").replace("^", "**")
    python = python.replace(")**", ") ** ")
    return float(eval(python, {"__builtins__": {}}, names))  # noqa: S307 - formulas of our own


@pytest.mark.parametrize("stack", ON_EKS)
def test_formulas_give_the_figures_that_they_explain(stack):
    plan = planned(stack)
    numbers = [number for number in numbers_of(plan, "cost") if number.section == "cost"]
    assert len(numbers) >= 15
    for number in numbers:
        told = value_of(number)
        assert told == pytest.approx(number.value, rel=2e-3, abs=1e-9), (
            number.name,
            number.formula,
            told,
            number.value,
        )


@pytest.mark.parametrize("stack", STACKS)
def test_every_explained_number_names_formula_inputs_and_sources(stack):
    plan = planned(stack)
    subjects = [*(model.name for model in plan.models), *(["cost"] if stack in ON_EKS else [])]
    for subject in subjects:
        numbers = numbers_of(plan, subject)
        assert len(numbers) >= 10, subject
        assert len({(number.section, number.name) for number in numbers}) == len(numbers), subject
        for number in numbers:
            assert number.formula.strip(), number
            assert number.inputs, number
            assert all(given.source.strip() and given.value != "" for given in number.inputs), number
            assert math.isfinite(number.value), number


def test_a_number_without_source_cannot_be_made():
    number = numbers_of(planned("dev"), "cost")[0]
    with pytest.raises(ValueError, match="lacks"):
        dataclasses.replace(number, formula=" ")
    with pytest.raises(ValueError, match="lacks"):
        dataclasses.replace(number, inputs=())
    with pytest.raises(ValueError, match="price"):
        dataclasses.replace(
            number,
            inputs=tuple(dataclasses.replace(given, source="") for given in number.inputs if given.name == "price"),
        )


# Interruptions and ladders ----------------------------------------------------------------------------------------


def test_a_useful_hour_costs_more_than_an_hour_and_less_where_less_is_lost():
    for rung in planned("prod").cost.rungs:
        assert rung.usd_per_useful_hour > rung.usd_per_node_hour, rung.rung
    spot = next(rung for rung in planned("prod").cost.rungs if rung.rung == "h100-spot")
    # 2 nodes a group, >20 % a month (counted as 0.35), 120 s notice + boot + start of R1.
    start = planned("prod").models[0].startup_seconds
    rate = -math.log(1 - 0.35) / 730
    expected = spot.usd_per_node_hour * (1 + rate * 2 * (120 + 420 + start) / 3600)
    assert spot.usd_per_useful_hour == pytest.approx(expected)


def test_types_without_data_get_the_worst_band_and_say_so():
    known = interruptions()
    there_is = known.of("p4d.24xlarge", "us-east-1")
    unknown = known.of("p6-b200.48xlarge", "us-east-1")
    assert (there_is.assumed, unknown.assumed) == (False, True)
    assert unknown.per_hour > there_is.per_hour
    assert "assumed" in unknown.source
    share = 1 - math.exp(-there_is.per_hour * 730)
    assert there_is.band.low <= share <= there_is.band.high


def test_every_instance_of_the_interruption_data_is_in_the_catalog():
    known, catalog = interruptions(), load()
    assert set(known.instances) <= set(catalog.instances)
    for bands in known.instances.values():
        assert set(bands) <= set(catalog.regions)
        assert set(bands.values()) <= set(known.bands)


def test_a_ladder_sends_to_the_next_rung_what_spot_does_not_have():
    plan = planned("prod")
    pool = plan.pool("a100")
    replicas = {"r1-distill-70b": 3}
    always = expected_nodes(pool, plan.models, replicas, {"a100-spot": 1.0})
    half = expected_nodes(pool, plan.models, replicas, {"a100-spot": 0.5})
    never = expected_nodes(pool, plan.models, replicas, {"a100-spot": 0.0})
    assert always == {"a100-spot": 3.0, "a100-on-demand": 0.0}
    assert never == {"a100-spot": 0.0, "a100-on-demand": 2.0}  # two have room
    assert half == {"a100-spot": 1.5, "a100-on-demand": 1.0}


def test_nodes_that_always_run_are_filled_before_any_is_added():
    plan = planned("staging")
    pool = plan.pool("a100")  # spot first, and one on-demand node that always runs
    assert fill(pool, plan.models, {"r1-distill-70b": 1}) == {"a100-spot": 0, "a100-on-demand": 1}
    assert fill(pool, plan.models, {"r1-distill-70b": 2}) == {"a100-spot": 1, "a100-on-demand": 1}


def test_a_floor_on_demand_is_there_more_than_spot_alone(tmp_path):
    both = planned("staging").cost.availability[0]
    path = changed(tmp_path, "staging", {"pools.0.capacity": [{"kind": "spot", "nodes": {"min": 0, "max": 9}}]})
    alone = load_and_plan(path)[1].cost.availability[0]
    assert both.endpoint > alone.endpoint
    assert both.endpoint_tight > 0.999 > alone.endpoint_tight
    assert alone.capacity_tight < alone.capacity < 1


def test_the_tight_market_is_worse_in_every_way():
    for stack in ON_EKS:
        for entry in planned(stack).cost.availability:
            assert entry.endpoint_tight <= entry.endpoint <= 1
            assert entry.capacity_tight <= entry.capacity <= entry.endpoint + 1e-9


def test_spot_of_a_market_is_there_up_over_up_and_down():
    plan = planned("prod")
    share = there(plan.pool("a100"), "us-east-1")["a100-spot"]
    rung = plan.pool("a100").rungs[0]
    hazard = hazard_of(rung, "p4d.24xlarge", "us-east-1")
    up = 1 / hazard.per_hour
    assert share == pytest.approx(up / (up + hazard.hours_without))


# Properties -------------------------------------------------------------------------------------------------------

LEVELS = ("idle_usd_per_hour", "base_usd_per_hour", "planned_usd_per_hour", "peak_usd_per_hour")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    low=st.integers(0, 2),
    span=st.integers(1, 4),
    more=st.integers(1, 4),
    minimum=st.integers(1, 3),
    kind=st.sampled_from(["spot", "on_demand"]),
)
def test_more_nodes_are_never_cheaper_and_plans_are_deterministic(tmp_path, low, span, more, minimum, kind):
    def cost(extra_min: int, extra_max: int) -> CostPlan:
        nodes = {"min": low + extra_min, "max": low + span + extra_min + extra_max}
        changes: dict[str, Any] = {
            "pools.0.capacity": [{"kind": kind, "nodes": nodes}],
            "models.0.replicas": {"min": minimum, "max": minimum},
            "budget": {"monthly_usd": 10_000_000},
        }
        return load_and_plan(changed(tmp_path, "staging", changes, removed=("models.0.traffic",)))[1].cost

    assume(low + span >= minimum)
    first = cost(0, 0)
    assert first == cost(0, 0)
    for bigger in (cost(0, more), cost(more, 0)):
        for level in LEVELS:
            assert getattr(bigger, level) >= getattr(first, level) - 1e-6, level
    for level in LEVELS:
        assert getattr(first, level) == pytest.approx(sum(getattr(line, level) for line in first.lines), abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    replicas=st.integers(0, 8),
    more=st.integers(1, 4),
    share=st.floats(0.0, 1.0, allow_nan=False),
)
def test_more_replicas_never_run_on_fewer_nodes(replicas, more, share):
    plan = planned("prod")
    pool = plan.pool("a100")
    there_is = {"a100-spot": share}
    few = sum(expected_nodes(pool, plan.models, {"r1-distill-70b": replicas}, there_is).values())
    many = sum(expected_nodes(pool, plan.models, {"r1-distill-70b": replicas + more}, there_is).values())
    assert many >= few - 1e-9
    assert many <= pool.max_nodes


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=st.floats(1, 20), more=st.floats(0, 10))
def test_more_traffic_is_never_cheaper(tmp_path, rate, more):
    def cost(requests: float) -> CostPlan:
        path = changed(tmp_path, "staging", {"models.0.traffic.requests_per_second": requests})
        return load_and_plan(path)[1].cost

    few, many = cost(rate), cost(rate + more)
    assert many.planned_usd_per_hour >= few.planned_usd_per_hour - 1e-6
    assert many.peak_usd_per_hour == pytest.approx(few.peak_usd_per_hour, rel=0.01)  # the ladder is the same


def test_tokens_cost_what_the_gpus_do():
    """Input and output at their prices, over an hour, are what the GPUs cost in it: nothing lost, nothing twice."""
    plan = planned("prod")
    useful = {rung.rung: rung.usd_per_useful_hour for rung in plan.cost.rungs}
    for entry in plan.cost.tokens:
        model = next(m for m in plan.models if m.name == entry.model)
        assert model.performance is not None
        lengths = model.performance.input_tokens.mean, model.performance.output_tokens.mean
        prices = entry.input_usd_per_million, entry.output_usd_per_million
        hour = sum(
            entry.requests_per_second * 3600 * tokens * usd / 1e6 for tokens, usd in zip(lengths, prices, strict=True)
        )
        blend = sum(rung.share * useful[rung.rung] for rung in entry.rungs)
        pool = plan.pool(model.pool)
        nodes = entry.replicas * model.layout.gpus / pool.hardware.gpus
        assert hour == pytest.approx(nodes * blend, rel=1e-3), entry.model
        assert 0 < entry.prefill_share < 1
        assert entry.all_in_factor > 1
        cheapest, dearest = (pick(rung.output_usd_per_million for rung in entry.rungs) for pick in (min, max))
        assert cheapest <= entry.output_usd_per_million <= dearest


def test_long_prompts_move_the_cost_to_the_input(tmp_path):
    long = {"models.0.traffic.input_tokens": {"mean": 4000, "p99": 9000}, "models.0.traffic.requests_per_second": 1}
    short = {"models.0.traffic.input_tokens": {"mean": 200, "p99": 500}, "models.0.traffic.requests_per_second": 1}
    shares = [
        load_and_plan(changed(tmp_path, "staging", changes))[1].cost.tokens[0].prefill_share
        for changes in (short, long)
    ]
    assert shares[0] < shares[1]


def test_without_traffic_replicas_are_counted_full_and_say_so(tmp_path):
    entry = load_and_plan(changed(tmp_path, "staging", {}, removed=("models.0.traffic",)))[1].cost.tokens[0]
    assert entry.basis == "full replicas"
    assert "no traffic" in entry.explained[0].inputs[-2].source


def test_tokens_above_their_budget_are_refused(tmp_path):
    limit = {"model": "r1-distill-70b", "max_usd_per_million_output_tokens": 0.5}
    ((where, message, help_text),) = problems_of(changed(tmp_path, "staging", {"budget.models": [limit]}))
    assert where == "budget.models[0].max_usd_per_million_output_tokens"
    assert "at the planned load" in message
    assert "a100-spot" in help_text
    generous = {**limit, "max_usd_per_million_output_tokens": 500}
    assert load_and_plan(changed(tmp_path, "staging", {"budget.models": [generous]}))[1]


# Budgets, prices that are missing or old ------------------------------------------------------------------------------


def problems_of(path) -> list[tuple[str, str, str]]:
    with pytest.raises(StackFileError) as caught:
        load_and_plan(path)
    return [(problem.dotted(), problem.message, problem.help or "") for problem in caught.value.problems]


def test_a_plan_over_budget_names_its_largest_part_and_the_nearest_change_that_fits(tmp_path):
    path = changed(tmp_path, "prod", {"budget.monthly_usd": 250_000})
    ((where, message, help_text),) = problems_of(path)
    assert where == "budget.monthly_usd"
    assert "Pool h100 (on demand" in message
    assert "lower `pools[0].capacity[2].nodes.max` from 2 to 1" in help_text
    fitting = changed(tmp_path, "prod", {"budget.monthly_usd": 250_000, "pools.0.capacity.2.nodes.max": 1})
    assert load_and_plan(fitting)[1].cost.peak_usd_per_month <= 250_000


def test_a_budget_that_nothing_fits_says_the_least(tmp_path):
    ((_, _, help_text),) = problems_of(changed(tmp_path, "prod", {"budget.monthly_usd": 1_000}))
    least = int(re.search(r"([\d,]+) \$ is the least", help_text)[1].replace(",", ""))  # type: ignore[index]
    assert 50_000 < least < planned("prod").cost.peak_usd_per_month


def test_a_price_that_nobody_knows_cannot_be_budgeted(tmp_path):
    changes = {
        "pools.0.instance_type": "p5e.48xlarge",
        "pools.0.capacity": [{"kind": "on_demand", "nodes": {"min": 0, "max": 2}}],
        "models.0.replicas": {"min": 1, "max": 1},
        "/aws:region": "us-west-2",
    }
    zones = {f"pools.{index}.availability_zone": "us-west-2c" for index in range(3)}
    everything = {**changes, **zones, "cache.availability_zone": "us-west-2c"}
    try:
        found = problems_of(changed(tmp_path, "prod", everything))
    finally:
        assert load().prices.on_demand("p5e.48xlarge", "us-west-2") is None, "choose another type for this test"
    unknown = [entry for entry in found if "cannot be judged" in entry[1]]
    assert [where for where, _, _ in unknown] == ["pools[0].capacity[0]"]
    assert "prices refresh" in unknown[0][2]


def test_borrowed_prices_are_told_with_their_region(tmp_path):
    zones = {"pools.0.availability_zone": "eu-central-1a"}
    path = changed(tmp_path, "dev", {"/aws:region": "eu-central-1", **zones})
    plan = load_and_plan(path)[1]
    told = {finding.subject: finding.message for finding in plan.findings}
    assert "us-east-1" in told["prices"]
    assert "prices refresh --region eu-central-1" in told["prices"]


@pytest.mark.parametrize(
    ("region", "lender"), [("us-west-1", "us-west-2"), ("eu-west-1", "eu-central-1"), ("sa-east-1", "us-east-1")]
)
def test_prices_are_borrowed_from_the_nearest_region_that_has_them(region, lender):
    price: Price | None = load().prices.spot("g6e.xlarge", region)
    assert price is not None
    assert (price.region, price.borrowed) == (lender, True)


def test_old_prices_are_told_and_new_ones_are_not():
    cost = planned("prod").cost
    dates = [line.price_as_of for line in cost.lines if line.price_as_of]
    assert stale_prices(cost, "us-east-1", min(dates)) == ()
    (finding,) = stale_prices(cost, "us-east-1", date(2030, 1, 1))
    assert "prices refresh --region us-east-1" in finding.message
    assert str(min(dates)) in finding.message


def test_a_model_of_the_budget_must_exist(tmp_path):
    limit = {"model": "nobody", "max_usd_per_million_output_tokens": 1.0}
    found = problems_of(changed(tmp_path, "dev", {"budget": {"monthly_usd": 10_000, "models": [limit]}}))
    assert found[0][0] == "budget.models[0].model"
