"""Alerts of the Plan as PrometheusRules: one for the platform, one for each model that has its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components._objects import AlertRule, PrometheusRule, custom_resource
from planner import naming
from planner.plan import AlertPlan

RUNBOOK = "docs/runbooks/alerts.md"
PLATFORM = "platform"


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertsArgs:
    """What people are called for."""

    alerts: tuple[AlertPlan, ...]
    after: tuple[pulumi.Resource, ...] = ()


def rules(alerts: Sequence[AlertPlan]) -> dict[str | None, PrometheusRule]:
    """The rules by model, None for the platform's.

    One object a model: all alerts of a few hundred models would not fit into one (etcd takes 1.5 MiB).
    """
    grouped: dict[str | None, list[AlertPlan]] = defaultdict(list)
    for alert in alerts:
        grouped[alert.model].append(alert)
    return {model: _rule(model, tuple(found)) for model, found in grouped.items()}


def _rule(model: str | None, alerts: tuple[AlertPlan, ...]) -> PrometheusRule:
    return PrometheusRule(
        name=naming.PROJECT if model is None else f"{naming.PROJECT}-{model}",
        namespace=naming.MONITORING_NAMESPACE,
        labels={naming.PART_OF_LABEL: naming.PROJECT},
        groups={f"{naming.PROJECT}.{model or PLATFORM}": tuple(_alert(alert) for alert in alerts)},
    )


def _alert(alert: AlertPlan) -> AlertRule:
    # Without them two alerts of one name and severity would be one and the same to Alertmanager.
    about = {key: value for key, value in (("model", alert.model), ("pool", alert.pool)) if value is not None}
    return AlertRule(
        name=alert.name,
        expression=alert.expression,
        for_minutes=alert.for_minutes,
        labels={"severity": alert.severity, **about},
        annotations={"summary": alert.summary, "runbook_url": f"{RUNBOOK}#{alert.runbook}"},
    )


class Alerts(pulumi.ComponentResource):
    """PrometheusRules of the Plan."""

    def __init__(self, name: str, args: AlertsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Alerts", name, None, opts)
        for model, rule in rules(args.alerts).items():
            logical = f"{name}-{PLATFORM}" if model is None else f"{name}-model-{model}"
            custom_resource(logical, rule, parent=self, after=args.after)
        self.register_outputs({})
