"""Metric names in the catalog, dashboards, alerts and triggers exist in the pinned engine versions."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml

from catalog.engine_flags import parser_data
from catalog.load import load
from components.observability.dashboard import dashboard
from planner import load_and_plan
from planner.engines.matrix import matrix
from planner.plan import Plan
from planner.router import ROUTER_ALIVE
from tests.factories import ROOT, STACKS, stack_plan

EXAMPLES = sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("examples/*/Pulumi.*.yaml"))

NAME = re.compile(r"\b(?:vllm:|sglang:|lmcache:|ray_vllm_|ray_serve_|smg_)[a-zA-Z0-9_]+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def exported(engine: str) -> frozenset[str]:
    """Names as scraped; Ray writes vLLM's with `_` for the colon and `ray_` before."""
    names = parser_data(engine).metrics
    return frozenset(f"ray_{name.replace(':', '_', 1)}" for name in names) if engine == "ray-llm" else names


ROUTER = yaml.safe_load(next((ROOT / "catalog" / "router_flags").glob("smg-*.yaml")).read_text(encoding="utf-8"))

# None of Ray Serve's own is recorded: none is used.
EXPORTED = frozenset(ROUTER["metrics_at_start"]).union(
    *(exported(engine) for engine in ("vllm", "sglang", "ray-llm", "lmcache"))
)


def unknown(text: str) -> set[str]:
    """Names in a query that no pinned engine exports."""
    return {name for name in NAME.findall(text) if name not in EXPORTED and SUFFIX.sub("", name) not in EXPORTED}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "ray-llm"])
def test_names_of_the_catalog_exist(engine: str) -> None:
    metrics = load().engines[engine].metrics
    for field in dataclasses.fields(metrics):
        value = getattr(metrics, field.name)
        if value is not None and field.name != "model_label":
            assert value.partition("{")[0] in exported(engine), field.name


def queries(plan: Plan) -> list[str]:
    panels = dashboard(plan)["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    alerts = [alert.expression for alert in plan.observability.alerts]
    triggers = [trigger.query for model in plan.models for trigger in model.scaling.triggers]
    return [*shown, *alerts, *triggers]


@pytest.mark.parametrize("stack", [*STACKS, *EXAMPLES])
def test_queries_of_the_committed_stacks_name_what_exists(stack: str) -> None:
    asked = queries(stack_plan(stack) if stack in STACKS else load_and_plan(ROOT / stack)[1])
    assert any(NAME.search(query) for query in asked)
    assert {name for query in asked for name in unknown(query)} == set()


def test_triggers_of_the_matrix_name_what_exists() -> None:
    triggers = [t.query for row in matrix() if row.plan for t in row.plan.scaling.triggers]
    assert len(triggers) > 100
    assert {name for query in triggers for name in unknown(query)} == set()


def test_a_typo_is_found() -> None:
    assert unknown("sum(vllm:num_request_running) + vllm:gpu_cache_usage_perc") == {
        "vllm:num_request_running",
        "vllm:gpu_cache_usage_perc",
    }


def test_the_router_is_watched_by_what_it_has_without_a_replica() -> None:
    """The gauge of its pool is there first when it has found one: a model at zero would be called down."""
    assert ROUTER_ALIVE in ROUTER["metrics_at_start"]
    assert "smg_worker_pool_size" not in ROUTER["metrics_at_start"]


def test_tiers_are_recorded_though_their_names_are_constants() -> None:
    assert "vllm:kv_offload_load_bytes_total" in exported("vllm")
    assert "ray_vllm_kv_offload_load_bytes_total" in exported("ray-llm")
    assert "lmcache:num_hit_tokens_total" in exported("lmcache")
