"""What every model stands on, in the order in which it must exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pulumi

from components._secrets import SecretValues
from components.certificates import Certificates, CertificatesArgs
from components.cluster_autoscaler import ClusterAutoscaler, ClusterAutoscalerArgs
from components.efa import Efa, EfaArgs
from components.gpu import Gpu, GpuArgs
from components.image_pull import ImagePull, ImagePullArgs
from components.karpenter import ControllerArgs, Karpenter, KarpenterArgs, KarpenterNodes
from components.keda import Keda, KedaArgs
from components.kuberay import KubeRay, KubeRayArgs
from components.ladder_keeper import LadderKeeper, LadderKeeperArgs
from components.load_balancers import LoadBalancers, LoadBalancersArgs
from components.lws import LeaderWorkerSets, LeaderWorkerSetsArgs
from components.namespaces import Namespaces, NamespacesArgs, levels
from components.observability.alerts import Alerts, AlertsArgs
from components.observability.dashboard import Dashboard, DashboardArgs
from components.observability.stack import Monitoring, MonitoringArgs
from components.priorities import Priorities, PrioritiesArgs
from components.storage import Storage, StorageArgs
from components.valkey import Valkey, ValkeyArgs
from components.warm_capacity import WarmCapacity, WarmCapacityArgs
from infra import permissions
from infra.load_balancer_permissions import load_balancer_controller
from infra.providers import Account
from planner import naming
from planner.plan import ChartPlan, EksPlan, Plan

SHORTEST_DRAIN_SECONDS = 600
"""cluster-autoscaler's default: what it gives the pods of a node that it removes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformAws:
    """What the cluster's controllers need of the AWS side; there is none on a cluster that exists."""

    provider: pulumi.ProviderResource
    account: Account
    cluster_arn: pulumi.Input[str]
    vpc_id: pulumi.Input[str]
    volume_key_arn: pulumi.Input[str]
    """KMS key of volumes."""
    karpenter: KarpenterNodes | None = None
    """There where a pool is Karpenter's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformOutputs:
    """What serving may depend on. No key of one is a key of another, so that all can lie in one mapping."""

    namespaces: Mapping[str, pulumi.Resource]
    """By `namespace/<name>`: several charts are called like their namespace."""
    priority_classes: Mapping[str, pulumi.Resource]
    """By name."""
    charts: Mapping[str, pulumi.Resource]
    """Releases by the chart's name in the Plan; each brings its custom resources. Certificates can be asked for once
    `cert-manager` is there."""
    node_pools: Mapping[str, tuple[pulumi.Resource, ...]]
    """Karpenter's NodePools by pool: its nodes must outlive the pods on them."""
    image_pulls: Mapping[str, pulumi.Resource]
    """By `image-pull/<pool>`: asked for before the replicas that need the images."""


def declare(
    plan: Plan,
    *,
    provider: pulumi.ProviderResource,
    after: tuple[pulumi.Resource, ...],
    secrets: SecretValues,
    aws: PlatformAws | None,
) -> PlatformOutputs:
    """Declares namespaces, priorities, storage, controllers and observability of a plan.

    Args:
        plan: the plan.
        provider: the cluster's Kubernetes provider.
        after: what makes the cluster usable: system nodes, add-ons and the deployer's access.
        secrets: values that only the user knows.
        aws: the AWS side of a cluster made here; None for a cluster that exists.

    Raises:
        pulumi.RunError: a chart is not in the mirror directory, or a given secret is missing.
        ValueError: the plan makes a cluster, but `aws` is None.
    """
    if isinstance(plan.target, EksPlan) and aws is None:
        raise ValueError("a cluster made here needs its AWS side")
    opts = pulumi.ResourceOptions(providers=[provider, aws.provider] if aws else [provider])
    mirror, charts = plan.image_mirror, plan.charts

    namespaces = Namespaces("namespaces", NamespacesArgs(levels=levels(plan), after=after), opts).by_name
    priorities = Priorities("priorities", PrioritiesArgs(after=after, warm=bool(plan.warm)), opts).by_name
    classes = Storage("storage", StorageArgs(key_arn=aws.volume_key_arn, after=after), opts).classes if aws else ()
    ready: dict[str, pulumi.Resource] = {}

    def before(chart: str) -> tuple[pulumi.Resource, ...]:
        """What a controller needs: the cluster, its namespace and its priority."""
        own = namespaces.get(charts[chart].namespace)
        return (*after, priorities[naming.CONTROLLER_PRIORITY], *([own] if own else []))

    # First: it brings the ServiceMonitor, which most other charts declare.
    monitoring = Monitoring(
        "monitoring",
        MonitoringArgs(
            chart=charts["kube-prometheus-stack"],
            image_mirror=mirror,
            observability=plan.observability,
            secrets=secrets,
            after=(*before("kube-prometheus-stack"), *classes),
        ),
        opts,
    ).release
    ready["kube-prometheus-stack"] = monitoring
    Alerts("alerts", AlertsArgs(alerts=plan.observability.alerts, after=(monitoring,)), opts)
    Dashboard("dashboard", DashboardArgs(plan=plan, after=(namespaces[naming.MONITORING_NAMESPACE],)), opts)

    if chart := charts.get("cert-manager"):
        ready["cert-manager"] = Certificates(
            "certificates", CertificatesArgs(chart=chart, image_mirror=mirror, after=before("cert-manager")), opts
        ).issuer
    if chart := charts.get("gpu-operator"):
        ready["gpu-operator"] = Gpu(
            "gpu",
            GpuArgs(
                chart=chart,
                image_mirror=mirror,
                # Our node groups run EKS's NVIDIA image, which has both.
                host_software="preinstalled" if isinstance(plan.target, EksPlan) else plan.target.gpu_driver,
                scrape_interval_seconds=plan.observability.scrape_interval_seconds,
                sharing=tuple(pool.sharing for pool in plan.pools if pool.sharing),
                after=(*before("gpu-operator"), monitoring),
            ),
            opts,
        ).release
    if chart := charts.get("aws-efa-k8s-device-plugin"):
        ready["aws-efa-k8s-device-plugin"] = Efa(
            "efa",
            EfaArgs(chart=chart, image_mirror=mirror, region=plan.region, after=before("aws-efa-k8s-device-plugin")),
            opts,
        ).release
    if chart := charts.get("kuberay-operator"):
        ready["kuberay-operator"] = KubeRay(
            "kuberay",
            KubeRayArgs(chart=chart, image_mirror=mirror, after=(*before("kuberay-operator"), monitoring)),
            opts,
        ).release
    if chart := charts.get("lws"):
        ready["lws"] = LeaderWorkerSets(
            "lws", LeaderWorkerSetsArgs(chart=chart, image_mirror=mirror, after=before("lws")), opts
        ).release
    if chart := charts.get("keda"):
        ready["keda"] = Keda(
            "keda", KedaArgs(chart=chart, image_mirror=mirror, after=(*before("keda"), monitoring)), opts
        ).release
    if chart := charts.get("valkey"):
        ready |= _stores(plan, chart, secrets, ready["cert-manager"], after=(*before("valkey"), *classes), opts=opts)
    if isinstance(plan.target, EksPlan) and aws:
        monitored = (namespaces[naming.MONITORING_NAMESPACE], monitoring)
        ready |= _of_eks(plan, plan.target, aws, before=before, monitored=monitored, opts=opts)
    karpenter = _karpenter(plan, aws, after=(*before("karpenter"), monitoring), opts=opts) if plan.karpenter else None
    if karpenter:
        ready["karpenter"] = karpenter.release
    _keep_ladder(plan, after=(*after, *priorities.values(), monitoring, *namespaces.values()), opts=opts)
    node_pools: Mapping[str, tuple[pulumi.Resource, ...]] = karpenter.node_pools if karpenter else {}
    _keep_warm(plan, after=(*after, *priorities.values(), *namespaces.values()), node_pools=node_pools, opts=opts)
    pulls = _pull_images(plan, after=(*after, *namespaces.values()), opts=opts)
    return PlatformOutputs(
        image_pulls={f"image-pull/{pool}": pull for pool, pull in pulls.items()},
        namespaces={f"namespace/{name}": namespace for name, namespace in namespaces.items()},
        priority_classes=priorities,
        charts=ready,
        node_pools=node_pools,
    )


def _stores(
    plan: Plan,
    chart: ChartPlan,
    secrets: SecretValues,
    issuer: pulumi.Resource,
    *,
    after: tuple[pulumi.Resource, ...],
    opts: pulumi.ResourceOptions,
) -> dict[str, pulumi.Resource]:
    """Stores by name, which is also their release's."""
    return {
        store.name: Valkey(
            store.name,
            ValkeyArgs(
                chart=replace(chart, name=store.name),
                image_mirror=plan.image_mirror,
                plan=store,
                secrets=secrets,
                pull_secret=plan.pull_secret,
                issuer=issuer,
                after=after,
            ),
            opts,
        ).release
        for store in (plan.valkey, plan.kv_store)
        if store is not None
    }


def _of_eks(
    plan: Plan,
    target: EksPlan,
    aws: PlatformAws,
    *,
    before: Callable[[str], tuple[pulumi.Resource, ...]],
    monitored: tuple[pulumi.Resource, ...],
    opts: pulumi.ResourceOptions,
) -> dict[str, pulumi.Resource]:
    """Controllers that change what AWS has for the cluster. `monitored` is what a ServiceMonitor needs."""
    ready: dict[str, pulumi.Resource] = {}
    if chart := plan.charts.get("cluster-autoscaler"):
        ready["cluster-autoscaler"] = ClusterAutoscaler(
            "cluster-autoscaler",
            ClusterAutoscalerArgs(
                chart=chart,
                image_mirror=plan.image_mirror,
                cluster_name=target.cluster_name,
                cluster_arn=aws.cluster_arn,
                region=aws.account.region,
                pools=tuple(pool for pool in plan.pools if pool.provisioner == "node_group"),
                times=plan.ladder.autoscaler if plan.ladder else None,
                grace_seconds=max([SHORTEST_DRAIN_SECONDS, *(model.drain.grace_seconds for model in plan.models)]),
                statements=permissions.cluster_autoscaler(target.cluster_name, aws.account),
                # Its ServiceMonitor lies in the namespace of Prometheus.
                after=(*before("cluster-autoscaler"), *monitored),
            ),
            opts,
        ).release
    if chart := plan.charts.get("aws-load-balancer-controller"):
        ready["aws-load-balancer-controller"] = LoadBalancers(
            "load-balancers",
            LoadBalancersArgs(
                chart=chart,
                image_mirror=plan.image_mirror,
                cluster_name=target.cluster_name,
                cluster_arn=aws.cluster_arn,
                region=aws.account.region,
                vpc_id=aws.vpc_id,
                tags=plan.own_tags,
                statements=load_balancer_controller(target.cluster_name, aws.vpc_id, aws.account),
                after=before("aws-load-balancer-controller"),
            ),
            opts,
        ).release
    return ready


def _keep_warm(
    plan: Plan,
    *,
    after: tuple[pulumi.Resource, ...],
    node_pools: Mapping[str, tuple[pulumi.Resource, ...]],
    opts: pulumi.ResourceOptions,
) -> None:
    """Placeholders; after the NodePools, so that they go before these."""
    if plan.warm:
        pools = (pool for held in node_pools.values() for pool in held)
        WarmCapacity(
            "warm-capacity",
            WarmCapacityArgs(plans=plan.warm, after=(*after, *pools), pull_secret=plan.pull_secret),
            opts,
        )


def _pull_images(
    plan: Plan, *, after: tuple[pulumi.Resource, ...], opts: pulumi.ResourceOptions
) -> Mapping[str, pulumi.Resource]:
    if not plan.image_pulls:
        return {}
    return ImagePull(
        "image-pull", ImagePullArgs(plans=plan.image_pulls, after=after, pull_secret=plan.pull_secret), opts
    ).by_pool


def _karpenter(
    plan: Plan, aws: PlatformAws | None, *, after: tuple[pulumi.Resource, ...], opts: pulumi.ResourceOptions
) -> Karpenter:
    if plan.karpenter is None or not isinstance(plan.target, EksPlan) or aws is None or aws.karpenter is None:
        raise ValueError("Karpenter needs its AWS side")
    controller = ControllerArgs(
        chart=plan.charts["karpenter"],
        image_mirror=plan.image_mirror,
        plan=plan.karpenter,
        cluster_name=plan.target.cluster_name,
        endpoint=aws.karpenter.endpoint,
        region=aws.account.region,
        queue_name=aws.karpenter.queue_name,
    )
    return Karpenter(
        "karpenter",
        KarpenterArgs(
            controller=controller,
            definitions=plan.charts["karpenter-crd"],
            nodes=aws.karpenter,
            pools=plan.pools,
            tags=plan.tags,
            after=(*after, *aws.karpenter.ready),
        ),
        opts,
    )


def _keep_ladder(plan: Plan, *, after: tuple[pulumi.Resource, ...], opts: pulumi.ResourceOptions) -> None:
    if plan.ladder is None or plan.ladder.keeper is None:
        return
    LadderKeeper(
        "ladder-keeper",
        LadderKeeperArgs(
            plan=plan.ladder.keeper,
            priority_class=naming.CONTROLLER_PRIORITY,
            scrape_interval_seconds=plan.observability.scrape_interval_seconds,
            after=after,
            pull_secret=plan.pull_secret,
        ),
        opts,
    )
