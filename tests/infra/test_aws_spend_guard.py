"""AWS's watch over the bill: there when somebody is to be told, bound to the stack's own costs."""

from __future__ import annotations

import json
from typing import Any

import pytest

import program
from planner import StackFileError, plan_document
from settings.load import Document
from tests.harness import World, deploy
from tests.stacks import document

BUDGET = "aws:budgets/budget:Budget"
MONITOR = "aws:costexplorer/anomalyMonitor:AnomalyMonitor"
MAILS = "aws:costexplorer/anomalySubscription:AnomalySubscription"


def world_with(**budget: Any) -> World:
    platform = {**document("dev")["config"]["inference-platform:platform"], "budget": {"monthly_usd": 9000, **budget}}
    found = Document(file="Pulumi.dev.yaml", platform=platform, region="us-east-1", text=None)
    _, plan = plan_document(found, stack="dev")
    return deploy(lambda: program.build(plan), stack="dev")


def test_mails_come_before_the_money_is_gone_and_only_for_this_stack() -> None:
    world = world_with(notify=["platform@example.com"])
    (budget,) = world.of_type(BUDGET)
    assert budget.inputs["limitAmount"] == "9000.00"
    assert budget.inputs["costFilters"] == [{"name": "TagKeyValue", "values": ["user:inference-platform/stack$dev"]}]
    mails = budget.inputs["notifications"]
    assert min(mail["threshold"] for mail in mails if mail["notificationType"] == "ACTUAL") < 100
    assert any(mail["notificationType"] == "FORECASTED" for mail in mails)
    assert all(mail["subscriberEmailAddresses"] == ["platform@example.com"] for mail in mails)
    # The tag that is watched is the one that everything carries.
    tags = json.loads(world["pulumi:providers:aws", "aws"].inputs["defaultTags"])["tags"]
    assert tags["inference-platform/stack"] == "dev"
    assert not world.of_type(MONITOR)


def test_anomalies_are_told_from_the_named_cost_on() -> None:
    world = world_with(notify=["platform@example.com"], anomaly_usd=200)
    (monitor,) = world.of_type(MONITOR)
    # The provider replaces a monitor whose expression is not written as it reads it back: nulls, and `user:`.
    assert json.loads(monitor.inputs["monitorSpecification"]) == {
        "And": None,
        "CostCategories": None,
        "Dimensions": None,
        "Not": None,
        "Or": None,
        "Tags": {"Key": "user:inference-platform/stack", "MatchOptions": None, "Values": ["dev"]},
    }
    (mails,) = world.of_type(MAILS)
    assert mails.inputs["thresholdExpression"]["dimension"]["values"] == ["200.00"]
    assert monitor.urn in mails.depends_on


def test_without_readers_nothing_is_made() -> None:
    assert not world_with().of_type(BUDGET)


def test_an_anomaly_that_nobody_reads_is_refused() -> None:
    with pytest.raises(StackFileError, match="notify"):
        world_with(anomaly_usd=200)
