"""What pods in each namespace may do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.namespaces import levels, pod_security_labels
from planner import naming
from tests.factories import STACKS, model_of, stack_plan, with_models


@pytest.mark.parametrize("stack", STACKS)
def test_every_chart_and_model_has_its_namespace(stack: str) -> None:
    plan = stack_plan(stack)
    found = levels(plan)
    wanted = {chart.namespace for chart in plan.charts.values()} | {model.namespace for model in plan.models}
    wanted |= {naming.LADDER_KEEPER} if plan.ladder and plan.ladder.keeper else set()
    wanted |= {pull.namespace for pull in plan.image_pulls}
    assert set(found) == (wanted | {naming.SERVING_NAMESPACE, naming.MONITORING_NAMESPACE}) - {"kube-system"}


def test_serving_is_privileged_only_for_locked_memory() -> None:
    plan = stack_plan("prod")
    assert levels(plan)["inference"] == "privileged"
    without = replace(plan, models=tuple(model for model in plan.models if not model.container.capabilities))
    assert levels(without)["inference"] == "baseline"


def test_an_unknown_chart_gets_no_privileges() -> None:
    plan = stack_plan("dev")
    other = replace(plan.charts["cert-manager"], namespace="elsewhere")
    moved = replace(plan, charts={**plan.charts, "cert-manager": other})
    assert levels(moved)["elsewhere"] == "baseline"


def test_less_than_restricted_still_warns() -> None:
    assert pod_security_labels("baseline") == {
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/audit": "restricted",
    }
    assert list(pod_security_labels("restricted")) == ["pod-security.kubernetes.io/enforce"]


def test_a_models_own_namespace_is_made() -> None:
    plan = stack_plan("dev")
    moved = with_models(plan, model_of(plan, plan.models[0].name, namespace="team-a"))
    assert levels(moved)["team-a"] == "baseline"
