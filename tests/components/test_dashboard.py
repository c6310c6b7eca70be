"""The dashboard: a pure function of the plan, in Grafana's model."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.observability import dashboard as module
from components.observability.dashboard import dashboard, rendered
from components.observability.queries import families
from tests.components.conftest import declared
from tests.factories import STACKS, stack_plan
from tests.router.plans import planned


def panels(stack: str) -> list[dict[str, Any]]:
    return dashboard(stack_plan(stack))["panels"]


def expressions(stack: str) -> list[str]:
    return [target["expr"] for panel in panels(stack) for target in panel.get("targets", [])]


@pytest.mark.parametrize("stack", STACKS)
def test_panels_do_not_overlap_and_stay_on_the_grid(stack: str) -> None:
    places = [panel["gridPos"] for panel in panels(stack)]
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart or below, (a, b)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in panels(stack)}) == len(places)


@pytest.mark.parametrize("stack", STACKS)
def test_brackets_of_every_query_are_balanced(stack: str) -> None:
    closing = {")": "(", "}": "{", "]": "["}
    assert expressions(stack)
    for expression in expressions(stack):
        waiting: list[str] = []
        for character in expression:
            if character in "({[":
                waiting.append(character)
            elif character in closing:
                assert waiting.pop() == closing[character], expression
        assert waiting == [], expression


@pytest.mark.parametrize("stack", STACKS)
def test_every_model_can_be_chosen(stack: str) -> None:
    plan = stack_plan(stack)
    variable = dashboard(plan)["templating"]["list"][0]
    assert variable["query"].split(",") == [model.name for model in plan.models]


def test_each_engine_has_its_row_with_its_own_metric_names() -> None:
    plan = stack_plan("prod")
    rows = [panel["title"] for panel in panels("prod") if panel["type"] == "row"]
    assert {"vLLM", "SGLang"} <= set(rows)
    joined = "\n".join(expressions("prod"))
    for model in plan.models:
        for metric in (model.metrics.running, model.metrics.waiting, model.metrics.kv_usage):
            assert metric in joined
        assert f"{model.metrics.ttft_histogram}_bucket" in joined


@pytest.mark.parametrize("stack", STACKS)
def test_each_engine_shows_all_latencies_and_what_it_turns_away(stack: str) -> None:
    joined = "\n".join(expressions(stack))
    for model in stack_plan(stack).models:
        metrics = model.metrics
        for histogram in (metrics.ttft_histogram, metrics.tpot_histogram, metrics.itl_histogram, metrics.e2e_histogram):
            assert f"histogram_quantile(0.99, sum by (le, {metrics.model_label}) (rate({histogram}_bucket" in joined
        assert metrics.rejections is None or f"rate({metrics.rejections}{{" in joined


def test_ray_metrics_are_told_apart_from_plain_vllm() -> None:
    rows = [panel["title"] for panel in panels("staging") if panel["type"] == "row"]
    assert "vLLM on Ray Serve" in rows


def test_sglangs_gauges_count_the_first_pipeline_stage_only() -> None:
    family = next(f for f in families(stack_plan("prod").models) if f.title == "SGLang")
    assert 'pp_rank="0"' in family.total(family.metrics.running)
    assert "pp_rank" not in family.quantile(family.metrics.ttft_histogram, 0.99)


def test_a_counter_with_labels_keeps_them() -> None:
    family = next(f for f in families(stack_plan("prod").models) if f.title == "vLLM")
    query = family.rate('vllm:request_success_total{finished_reason="error"}')
    assert 'vllm:request_success_total{finished_reason="error",namespace=~"inference",model_name=~"$model"}' in query


def test_what_the_plan_does_not_have_is_not_shown() -> None:
    titles = {stack: {panel["title"] for panel in panels(stack)} for stack in STACKS}
    assert "EFA devices: there and asked for" in titles["prod"]
    assert "EFA devices: there and asked for" not in titles["dev"]
    plan = stack_plan("prod")
    without = replace(plan, cache=replace(plan.cache, claim_name=None))
    shown = {panel["title"] for panel in dashboard(without)["panels"]}
    assert titles["prod"] - shown == {"Model cache in use"}


def test_the_config_map_is_found_by_grafana_and_is_stable() -> None:
    world = declared(stack_plan("prod"))
    found = next(r for r in world.objects("ConfigMap") if "dashboard" in r.inputs["metadata"]["name"])
    assert found.inputs["metadata"]["labels"]["grafana_dashboard"] == "1"
    (text,) = found.inputs["data"].values()
    assert text == rendered(stack_plan("prod"))
    assert json.loads(text)["uid"] == module.UID


def test_four_hundred_models_fit_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = stack_plan("prod")
    many = replace(plan, models=tuple(replace(plan.models[0], name=f"model-{n:03d}") for n in range(400)))
    assert len(rendered(many)) < 100_000
    monkeypatch.setattr(module, "LARGEST_CONFIG_MAP_BYTES", 1000)
    with pytest.raises(pulumi.RunError, match="split the models"):
        rendered(many)


def test_scaling_has_a_row_where_something_scales_and_what_it_shows_is_there() -> None:
    def titles(plan: Any) -> set[str]:
        return {panel["title"] for panel in dashboard(plan)["panels"]}

    prod = titles(stack_plan("prod"))
    assert {"Replicas wanted, and the most", "Replicas that the routers know"} <= prod
    assert "Requests at once, and held without a replica" not in prod
    assert "Requests at once, and held without a replica" in titles(planned(replicas={"min": 0, "max": 4}))
    models = tuple(
        replace(model, router=None, scaling=replace(model.scaling, owner="none")) for model in stack_plan("prod").models
    )
    assert "Scaling and routers" not in titles(replace(stack_plan("prod"), models=models))
    shown = " ".join(expressions("prod"))
    assert "keda-hpa-$model" in shown
