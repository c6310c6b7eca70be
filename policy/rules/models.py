"""Models: what every workload that serves one has beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policy.pods import PodTemplate, pod_templates
from policy.records import UNKNOWN, Resource, Rule, StackReport, StackRule, at, mapping

COMPONENT_LABEL = "app.kubernetes.io/component"
MODEL_SERVER = "model-server"
_GUARDED = {MODEL_SERVER, "router"}
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def models_guarded(resources: Sequence[Resource], report: StackReport) -> None:
    """A model's pods are evicted a few at a time, reached by those who may, and watched."""
    budgets = [item for item in resources if item.kind == "PodDisruptionBudget"]
    policies = [item for item in resources if item.kind == "NetworkPolicy"]
    for workload in resources:
        templates = [item for item in pod_templates(workload) if item.labels.get(COMPONENT_LABEL) in _GUARDED]
        if not templates:
            continue
        if not any(_selects(budget, "spec.selector", workload, item) for budget in budgets for item in templates):
            report("no PodDisruptionBudget selects its pods: a drained zone may take all of them at once", workload)
        for template in templates:
            if not any(_selects(policy, "spec.podSelector", workload, template) for policy in policies):
                report(f"{template.role}: no NetworkPolicy selects the pods: all pods may call them", workload)
        for template in templates:
            if template.labels.get(COMPONENT_LABEL) != MODEL_SERVER:
                continue  # which of a router's containers is asked whether it is ready depends on what it holds
            # KubeRay adds the probes of its pods itself; the other pods of a group may answer no HTTP.
            if workload.kind != "RayService" and template.role != "worker":
                for lacking in _missing_probes(template):
                    report(f"{template.role}: {lacking}", workload)


def _missing_probes(template: PodTemplate) -> list[str]:
    return [
        f"container {container.get('name')} has no {probe}"
        for container in template.containers[:1]
        for probe in _PROBES
        if container.get(probe) is None
    ]


def _selects(selecting: Resource, path: str, workload: Resource, template: PodTemplate) -> bool:
    """Whether a selector takes in the template's pods; an empty one takes every pod of its namespace."""
    selector: Any = at(selecting.props, path)
    if at(selecting.props, "metadata.namespace") != at(workload.props, "metadata.namespace"):
        return False
    if selector is UNKNOWN:
        return True
    if selector is None or mapping(selector).get("matchExpressions"):
        return False
    wanted: Mapping[str, Any] = mapping(mapping(selector).get("matchLabels"))
    return all(template.labels.get(key) == value for key, value in wanted.items())


RULES: tuple[Rule, ...] = (
    StackRule(
        name="models-guarded",
        description="Every model has a disruption budget, a network policy and probes.",
        check=models_guarded,
    ),
)
