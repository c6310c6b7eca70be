"""What AWS is asked to watch of the bill."""

from __future__ import annotations

from planner.naming import PROJECT
from planner.plan import SpendGuardPlan
from planner.problems import Findings
from settings.root import Settings
from settings.target import EksTarget


def plan_spend_guard(settings: Settings, stack: str, findings: Findings) -> SpendGuardPlan | None:
    """The watch of a stack on AWS; None where nobody is to be told."""
    budget = settings.budget
    if budget is None or not budget.notify or not isinstance(settings.target, EksTarget):
        return None
    tag = (f"{PROJECT}/stack", stack)
    findings.remark(
        "budget.notify",
        f"activate the cost allocation tag `{tag[0]}` once (billing console, a day after the first `up`): until then "
        "the budget sees no costs",
    )
    return SpendGuardPlan(
        monthly_usd=budget.monthly_usd, emails=tuple(budget.notify), anomaly_usd=budget.anomaly_usd, tag=tag
    )
