"""Which charts a stack needs and where they come from."""

from __future__ import annotations

from collections.abc import Mapping

from catalog.types import Chart
from planner.naming import GPU_NAMESPACE, MONITORING_NAMESPACE, SERVING_NAMESPACE, SYSTEM_NAMESPACE
from planner.plan import ChartPlan, ModelPlan, PoolPlan

_NAMESPACES = {
    "cert-manager": "cert-manager",
    "gpu-operator": GPU_NAMESPACE,
    "kube-prometheus-stack": MONITORING_NAMESPACE,
    "aws-efa-k8s-device-plugin": SYSTEM_NAMESPACE,
    "cluster-autoscaler": SYSTEM_NAMESPACE,
    "karpenter-crd": SYSTEM_NAMESPACE,
    "karpenter": SYSTEM_NAMESPACE,
    "aws-load-balancer-controller": SYSTEM_NAMESPACE,
    "kuberay-operator": "kuberay-system",
    "lws": "lws-system",
    "keda": "keda",
    "valkey": SERVING_NAMESPACE,
}


def plan_charts(
    known: Mapping[str, Chart],
    mirror: str | None,
    *,
    on_eks: bool,
    load_balancers: bool,
    pools: tuple[PoolPlan, ...],
    models: tuple[ModelPlan, ...],
    valkey: bool = False,
) -> Mapping[str, ChartPlan]:
    """Charts by catalog name: what every stack has, and what its pools and models need."""
    runtimes = {model.runtime for model in models}
    wanted = ["cert-manager", "kube-prometheus-stack", "gpu-operator"]
    if on_eks:
        wanted.append("cluster-autoscaler")
    if load_balancers:
        wanted.append("aws-load-balancer-controller")
    if any(pool.karpenter for pool in pools):
        wanted += ["karpenter-crd", "karpenter"]
    if any(pool.hardware.efa_devices for pool in pools):
        wanted.append("aws-efa-k8s-device-plugin")
    if "ray_service" in runtimes:
        wanted.append("kuberay-operator")
    if "leader_worker_set" in runtimes:
        wanted.append("lws")
    if any(model.scaling.owner == "keda" for model in models):
        wanted.append("keda")
    if valkey:
        wanted.append("valkey")
    return {name: _source(known[name], mirror, _NAMESPACES[name]) for name in wanted}


def _source(chart: Chart, mirror: str | None, namespace: str) -> ChartPlan:
    """The chart's own upstream, or the mirror: an OCI registry, a chart repository or a directory."""
    name = chart.chart.rsplit("/", 1)[-1]
    reference, repository, directory = chart.chart, chart.repository, None
    if mirror is not None:
        if mirror.startswith("oci://"):
            reference, repository = f"{mirror.rstrip('/')}/{name}", None
        elif mirror.startswith(("https://", "http://")):
            reference, repository = name, mirror
        else:
            reference, repository, directory = name, None, mirror
    return ChartPlan(
        name=chart.name,
        version=chart.version,
        namespace=namespace,
        chart=reference,
        repository=repository,
        directory=directory,
    )
