"""Prometheus, Alertmanager and Grafana: kube-prometheus-stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components._charts import release
from components._secrets import SecretValues, declare_secret
from planner import naming
from planner.images import registry
from planner.plan import ChartPlan, ObservabilityPlan

ADMIN_USER_KEY = "admin-user"
TIMEOUT_SECONDS = 900
"""The largest chart of the platform, and its volume comes with the first pod."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitoringArgs:
    """What is kept for how long, and Grafana's password."""

    chart: ChartPlan
    image_mirror: str | None
    observability: ObservabilityPlan
    secrets: SecretValues
    after: tuple[pulumi.Resource, ...] = ()


def values(args: MonitoringArgs) -> dict[str, Any]:
    """Chart values; Grafana's password is in a Secret that they only name."""
    plan = args.observability
    # On EKS these listen where no pod reaches them; elsewhere too, a target that is always down hides real ones.
    unreachable = {"enabled": False}
    chart: dict[str, Any] = {
        "kubeControllerManager": unreachable,
        "kubeScheduler": unreachable,
        "kubeEtcd": unreachable,
        "kubeProxy": unreachable,
        "defaultRules": {
            "rules": {
                "etcd": False,
                "kubeControllerManager": False,
                "kubeProxy": False,
                "kubeSchedulerAlerting": False,
                "kubeSchedulerRecording": False,
                "windows": False,
            },
            # A fixed number of replicas is always its own maximum; backlogs have alerts of their own.
            "disabled": {"KubeHpaMaxedOut": True},
        },
        "prometheusOperator": {
            # Rules and monitors come from this program and are checked before they are applied; the webhook would need
            # a certificate that hook Jobs write behind Helm's back.
            "admissionWebhooks": {"enabled": False},
            "tls": {"enabled": False},
        },
        "prometheus": {"prometheusSpec": _prometheus(plan)},
        # Without a list, kube_node_labels carries no label; the dashboard counts nodes by rung.
        "kube-state-metrics": {"metricLabelsAllowlist": [f"nodes=[{naming.POOL_LABEL},{naming.RUNG_LABEL}]"]},
        "grafana": {
            "admin": {
                "existingSecret": plan.grafana_admin.name,
                "userKey": ADMIN_USER_KEY,
                "passwordKey": plan.grafana_admin.key,
            },
            "sidecar": {
                "dashboards": {
                    "enabled": True,
                    "label": "grafana_dashboard",
                    "labelValue": "1",
                    "searchNamespace": "ALL",
                }
            },
            # Dashboards come from ConfigMaps and users from the Secret: nothing in Grafana needs to be kept.
            "persistence": {"enabled": False},
            # A pod of `helm test`, from one more registry.
            "testFramework": {"enabled": False},
        },
    }
    if args.image_mirror is not None:
        _mirror(chart, args.image_mirror)
    return chart


def _prometheus(plan: ObservabilityPlan) -> dict[str, Any]:
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{plan.storage_gib}Gi"}},
    }
    if plan.storage_class is not None:
        claim["storageClassName"] = plan.storage_class
    return {
        # Else Prometheus reads only monitors and rules that carry this release's label.
        "serviceMonitorSelectorNilUsesHelmValues": False,
        "podMonitorSelectorNilUsesHelmValues": False,
        "ruleSelectorNilUsesHelmValues": False,
        "probeSelectorNilUsesHelmValues": False,
        "scrapeConfigSelectorNilUsesHelmValues": False,
        "scrapeInterval": f"{plan.scrape_interval_seconds}s",
        "evaluationInterval": f"{plan.scrape_interval_seconds}s",
        "retention": f"{plan.retention_days}d",
        "retentionSize": f"{plan.retention_size_gib}GiB",
        "storageSpec": {"volumeClaimTemplate": {"spec": claim}},
        "priorityClassName": naming.CONTROLLER_PRIORITY,
        "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}},
    }


def _mirror(chart: dict[str, Any], mirror: str) -> None:
    """Adds the mirror to every image; the chart's `global.imageRegistry` would drop the upstream host from the path."""

    def image(host: str) -> dict[str, Any]:
        return {"registry": registry(host, mirror)}

    chart["alertmanager"] = {"alertmanagerSpec": {"image": image("quay.io")}}
    chart["prometheusOperator"] |= {
        "image": image("quay.io"),
        "prometheusConfigReloader": {"image": image("quay.io")},
        "thanosImage": image("quay.io"),
    }
    chart["prometheus"]["prometheusSpec"]["image"] = image("quay.io")
    chart["grafana"]["image"] = image("docker.io")
    chart["grafana"]["sidecar"]["image"] = image("quay.io")
    chart["kube-state-metrics"]["image"] = image("registry.k8s.io")
    chart["prometheus-node-exporter"] = {"image": image("quay.io")}


class Monitoring(pulumi.ComponentResource):
    """kube-prometheus-stack and Grafana's password.

    Produces `release`, which brings the monitors' and rules' definitions.
    """

    release: pulumi.Resource

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Monitoring", name, None, opts)
        admin = declare_secret(
            f"{name}-grafana-admin",
            args.observability.grafana_admin,
            values=args.secrets,
            after=args.after,
            parent=self,
            fixed={ADMIN_USER_KEY: "admin"},
        )
        # The definitions come from the chart's `crds/` folder: Helm installs them once and never upgrades them.
        self.release = release(
            f"{name}-stack",
            args.chart,
            values(args),
            parent=self,
            after=[*args.after, *([admin] if admin else [])],
            timeout_seconds=TIMEOUT_SECONDS,
        )
        self.register_outputs({})
