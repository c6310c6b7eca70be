"""What Prometheus scrapes of a model."""

from __future__ import annotations

from collections.abc import Mapping

from components.serving.custom_resources import PodMonitor
from components.serving.pods import HTTP_PORT, METRICS_PORT, object_labels, selector_labels
from planner.plan import ModelPlan


def pod_monitor(model: ModelPlan, interval_seconds: int, prometheus_labels: Mapping[str, str]) -> PodMonitor:
    """Every pod of the model that has the metrics port; those without (headless ranks) give no target.

    `prometheus_labels` are those by which Prometheus picks its monitors.
    """
    group = model.disaggregation
    # Both groups answer to one name, and their series would be added up.
    apart = group is not None and group.serves != model.name
    same_port = model.container.metrics_port == model.container.port
    return PodMonitor(
        name=model.name,
        namespace=model.namespace,
        labels={**object_labels(model), **prometheus_labels},
        match_labels=selector_labels(model),
        port=HTTP_PORT if same_port else METRICS_PORT,
        path="/metrics",
        interval=f"{interval_seconds}s",
        renames=(model.metrics.model_label, group.serves, model.name) if group is not None and apart else None,
    )
