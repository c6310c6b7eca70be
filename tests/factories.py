"""Plans for tests: those of the committed stack files, as the planner makes them, and small changes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from planner import load_and_plan
from planner.plan import ChartPlan, ModelPlan, Plan, PoolPlan

ROOT = Path(__file__).resolve().parent.parent
STACKS = ("dev", "staging", "prod", "local")


@cache
def stack_plan(stack: str) -> Plan:
    """The plan of a committed stack file. Plans are frozen, so tests share it."""
    return load_and_plan(ROOT / f"Pulumi.{stack}.yaml")[1]


@cache
def example_plan(name: str) -> Plan:
    """The plan of the stack file in a folder of examples/."""
    (file,) = (ROOT / "examples" / name).glob("Pulumi.*.yaml")
    return load_and_plan(file)[1]


def mirrored_plan(stack: str, *, images: str = "registry.example.com/mirror") -> Plan:
    """The same plan on a cluster that pulls images through a mirror."""
    return replace(stack_plan(stack), image_mirror=images)


def chart_of(plan: Plan, name: str, **changes: Any) -> ChartPlan:
    """A chart of the plan, with fields changed."""
    return replace(plan.charts[name], **changes)


def with_models(plan: Plan, *models: ModelPlan) -> Plan:
    """The plan with other models; alerts, charts and cost stay as they were."""
    return replace(plan, models=models)


def model_of(plan: Plan, name: str, **changes: Any) -> ModelPlan:
    """A model of the plan, with fields changed."""
    return replace(next(model for model in plan.models if model.name == name), **changes)


def pool_of(plan: Plan, name: str, **changes: Any) -> PoolPlan:
    """A pool of the plan, with fields changed."""
    return replace(plan.pool(name), **changes)


def with_charts(plan: Plan, charts: Mapping[str, ChartPlan]) -> Plan:
    """The plan with other charts."""
    return replace(plan, charts=charts)
