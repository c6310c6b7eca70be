"""Chart values with fixed inputs, so that goldens change with our code and the pins, not with the stack files."""

from __future__ import annotations

from functools import cache
from typing import Any

from catalog import load
from components import certificates, cluster_autoscaler, efa, gpu, karpenter, keda, kuberay, load_balancers, lws
from components.observability import stack
from planner.ladder import autoscaler_times
from planner.plan import ChartPlan, KarpenterPlan, ObservabilityPlan, PoolPlan, SecretPlan
from settings.secrets import GeneratedSecret
from tests.components.conftest import GivenSecrets
from tests.factories import stack_plan

MIRROR = "registry.example.com/mirror"


@cache
def pinned(name: str) -> ChartPlan:
    """The catalog's chart."""
    chart = load().versions.charts[name]
    return ChartPlan(
        name=name,
        version=chart.version,
        namespace=name,
        chart=chart.chart,
        repository=chart.repository,
        directory=None,
    )


def observability(**changes: Any) -> ObservabilityPlan:
    """Fifteen days in 50 GiB."""
    fields: dict[str, Any] = {
        "scrape_interval_seconds": 15,
        "retention_days": 15,
        "storage_gib": 50,
        "retention_size_gib": 42,
        "storage_class": "gp3-retain",
        "prometheus_url": "http://prometheus-operated.monitoring.svc:9090",
        "grafana_admin": SecretPlan(
            namespace="monitoring", name="grafana-admin", key="admin-password", source=GeneratedSecret()
        ),
        "alerts": (),
    }
    return ObservabilityPlan(**(fields | changes))


def monitoring_values(mirror: str | None = None, **changes: Any) -> dict[str, Any]:
    """kube-prometheus-stack's values."""
    return stack.values(
        stack.MonitoringArgs(
            chart=pinned("kube-prometheus-stack"),
            image_mirror=mirror,
            observability=observability(**changes),
            secrets=GivenSecrets(),
        )
    )


def gpu_values(host_software: Any = "preinstalled", mirror: str | None = None, interval: int = 15) -> dict[str, Any]:
    """The GPU operator's values."""
    return gpu.values(
        gpu.GpuArgs(
            chart=pinned("gpu-operator"),
            image_mirror=mirror,
            host_software=host_software,
            scrape_interval_seconds=interval,
        )
    )


def autoscaler_values(mirror: str | None = None, pools: tuple[PoolPlan, ...] = ()) -> dict[str, Any]:
    """cluster-autoscaler's values."""
    return cluster_autoscaler.values(
        cluster_autoscaler.ClusterAutoscalerArgs(
            chart=pinned("cluster-autoscaler"),
            image_mirror=mirror,
            cluster_name="inference-platform-test",
            cluster_arn="arn:aws:eks:us-east-1:111122223333:cluster/inference-platform-test",
            region="us-east-1",
            pools=pools,
            times=autoscaler_times(pools or stack_plan("prod").pools),
            grace_seconds=600,
            statements=(),
        )
    )


def karpenter_values(mirror: str | None = None, **changes: Any) -> dict[str, Any]:
    """Karpenter's values."""
    fields: dict[str, Any] = {
        "chart": pinned("karpenter"),
        "image_mirror": mirror,
        "plan": KarpenterPlan(replicas=2, isolated=False),
        "cluster_name": "inference-platform-test",
        "endpoint": "https://0123456789ABCDEF.gr7.us-east-1.eks.amazonaws.com",
        "region": "us-east-1",
        "queue_name": "karpenter-interruptions-0123456",
    }
    return karpenter.values(karpenter.ControllerArgs(**(fields | changes)))


def certificate_values(mirror: str | None = None) -> dict[str, Any]:
    """What cert-manager's chart gets: our values and the component's inputs."""
    args = certificates.CertificatesArgs(chart=pinned("cert-manager"), image_mirror=mirror)
    return certificates.values(args) | certificates.inputs()


def all_values(mirror: str | None = None) -> dict[str, dict[str, Any]]:
    """Values of every chart by catalog name."""
    return {
        "cert-manager": certificate_values(mirror),
        "kube-prometheus-stack": monitoring_values(mirror),
        "gpu-operator": gpu_values("operator", mirror),
        "aws-efa-k8s-device-plugin": efa.values(
            efa.EfaArgs(chart=pinned("aws-efa-k8s-device-plugin"), image_mirror=mirror, region="eu-west-1")
        ),
        "kuberay-operator": kuberay.values(kuberay.KubeRayArgs(chart=pinned("kuberay-operator"), image_mirror=mirror)),
        "lws": lws.values(lws.LeaderWorkerSetsArgs(chart=pinned("lws"), image_mirror=mirror)),
        "keda": keda.values(keda.KedaArgs(chart=pinned("keda"), image_mirror=mirror)),
        "cluster-autoscaler": autoscaler_values(mirror),
        "karpenter": karpenter_values(mirror),
        "aws-load-balancer-controller": load_balancers.values(
            load_balancers.LoadBalancersArgs(
                chart=pinned("aws-load-balancer-controller"),
                image_mirror=mirror,
                cluster_name="inference-platform-test",
                cluster_arn="arn:aws:eks:us-east-1:111122223333:cluster/inference-platform-test",
                region="us-east-1",
                vpc_id="vpc-0a1b2c3d",
                tags={"inference-platform/stack": "test"},
                statements=(),
            )
        ),
    }
