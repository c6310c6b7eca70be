"""Alerts of the plan as PrometheusRules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.observability.alerts import RUNBOOK, rules
from planner.plan import AlertPlan
from tests.components.conftest import declared
from tests.factories import ROOT, STACKS, stack_plan

ALERT = AlertPlan(
    name="QueueBacklog",
    expression="sum(x) > 1",
    for_minutes=5,
    summary="too many wait",
)


def test_an_alert_keeps_all_that_was_decided() -> None:
    (rule,) = rules([replace(ALERT, model="llama")])["llama"].spec()["groups"][0]["rules"]
    assert rule == {
        "alert": "QueueBacklog",
        "expr": "sum(x) > 1",
        "for": "5m",
        "labels": {"severity": "warning", "model": "llama"},
        "annotations": {"summary": "too many wait", "runbook_url": "docs/runbooks/alerts.md#queuebacklog"},
    }


def test_models_have_a_rule_of_their_own() -> None:
    found = rules([ALERT, replace(ALERT, model="a"), replace(ALERT, model="b"), replace(ALERT, model="a")])
    assert {model: len(rule.spec()["groups"][0]["rules"]) for model, rule in found.items()} == {None: 1, "a": 2, "b": 1}
    assert {rule.name for rule in found.values()} == {
        "inference-platform",
        "inference-platform-a",
        "inference-platform-b",
    }


@pytest.mark.parametrize("stack", STACKS)
def test_no_two_alerts_are_one_to_alertmanager(stack: str) -> None:
    """Two rules whose aggregated expressions leave no label must differ in name or labels."""
    plan = stack_plan(stack)
    seen = [
        (rule["alert"], tuple(sorted(rule["labels"].items())))
        for found in rules(plan.observability.alerts).values()
        for group in found.spec()["groups"]
        for rule in group["rules"]
    ]
    assert len(seen) == len(plan.observability.alerts)
    assert sorted(set(seen)) == sorted(seen)


@pytest.mark.parametrize("stack", STACKS)
def test_every_alert_of_the_plan_is_declared(stack: str) -> None:
    plan = stack_plan(stack)
    declared_names = [
        rule["alert"]
        for record in declared(plan).objects("PrometheusRule")
        for group in record.inputs["spec"]["groups"]
        for rule in group["rules"]
    ]
    assert sorted(declared_names) == sorted(alert.name for alert in plan.observability.alerts)


@pytest.mark.parametrize("stack", STACKS)
def test_every_alert_leads_to_its_runbook(stack: str) -> None:
    headings = {
        line.removeprefix("## ").lower() for line in (ROOT / RUNBOOK).read_text().splitlines() if line[:3] == "## "
    }
    assert {alert.runbook for alert in stack_plan(stack).observability.alerts} <= headings
