"""AWS's own watch over a stack's bill: a budget with mails, and a look for anomalies."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from planner.plan import SpendGuardPlan

# (share of the budget in %, of what was spent or of what is forecast): time to look, time to act, too late.
_MAILS = ((50, "ACTUAL"), (80, "ACTUAL"), (100, "ACTUAL"), (100, "FORECASTED"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendGuardArgs:
    """What is watched and who is told."""

    plan: SpendGuardPlan


class SpendGuard(pulumi.ComponentResource):
    """A monthly budget of the stack's tag and, where asked for, an anomaly monitor with its subscription.

    Bills are hours late: it tells what the plan did not foresee, and stops nothing.
    """

    def __init__(self, name: str, args: SpendGuardArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:SpendGuard", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        plan = args.plan
        key, value = plan.tag
        aws.budgets.Budget(
            f"{name}-budget",
            budget_type="COST",
            limit_amount=f"{plan.monthly_usd:.2f}",
            limit_unit="USD",
            time_unit="MONTHLY",
            cost_filters=[aws.budgets.BudgetCostFilterArgs(name="TagKeyValue", values=[f"user:{key}${value}"])],
            notifications=[
                aws.budgets.BudgetNotificationArgs(
                    comparison_operator="GREATER_THAN",
                    notification_type=kind,
                    threshold=share,
                    threshold_type="PERCENTAGE",
                    subscriber_email_addresses=list(plan.emails),
                )
                for share, kind in _MAILS
            ],
            opts=child,
        )
        if plan.anomaly_usd is not None:
            self._anomalies(name, plan, plan.anomaly_usd, child)
        self.register_outputs({})

    def _anomalies(self, name: str, plan: SpendGuardPlan, least_usd: float, child: pulumi.ResourceOptions) -> None:
        key, value = plan.tag
        monitor = aws.costexplorer.AnomalyMonitor(
            f"{name}-anomalies",
            monitor_type="CUSTOM",
            monitor_specification=_costs_tagged(key, value),
            opts=child,
        )
        aws.costexplorer.AnomalySubscription(
            f"{name}-anomaly-mails",
            # Single mails at once exist for SNS topics only.
            frequency="DAILY",
            monitor_arn_lists=[monitor.arn],
            subscribers=[
                aws.costexplorer.AnomalySubscriptionSubscriberArgs(type="EMAIL", address=email) for email in plan.emails
            ],
            threshold_expression=aws.costexplorer.AnomalySubscriptionThresholdExpressionArgs(
                dimension=aws.costexplorer.AnomalySubscriptionThresholdExpressionDimensionArgs(
                    key="ANOMALY_TOTAL_IMPACT_ABSOLUTE",
                    match_options=["GREATER_THAN_OR_EQUAL"],
                    values=[f"{least_usd:.2f}"],
                )
            ),
            opts=child,
        )


def _costs_tagged(key: str, value: str) -> str:
    """Cost Explorer's expression, spelled as the provider reads it back.

    It compares JSON as it is and replaces the monitor where one differs, so every `up` would lose what the monitor has
    learned. Nulls and the prefix `user:` are what it reads back for a tag. Source: terraform-provider-aws,
    internal/service/ce/anomaly_monitor.go and its acceptance tests.
    """
    unused = dict.fromkeys(("And", "CostCategories", "Dimensions", "Not", "Or"))
    return json.dumps({**unused, "Tags": {"Key": f"user:{key}", "MatchOptions": None, "Values": [value]}})
