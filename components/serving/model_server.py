"""One model behind one OpenAI-compatible endpoint inside the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components._objects import custom_resource
from components._secrets import SecretValues, declare_secret
from components.serving import deployment, leader_worker_set, network_policy, ray_service, warm_prompts
from components.serving import router as routing
from components.serving.monitors import pod_monitor
from components.serving.pods import HTTP_PORT, SKIP_AWAIT, PodContext, object_labels, selector_labels
from components.serving.scaling import scaled_object
from infra.identity import PodIdentity, PodIdentityArgs
from infra.permissions import read_weights
from planner.naming import GROUP_ROLE_LABEL
from planner.plan import CachePlan, ModelPlan, PoolPlan
from planner.router import WORKER_INDEX_LABEL


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsBucket:
    """The bucket that pods stream weights from, and the cluster whose pods may."""

    name: pulumi.Input[str]
    arn: pulumi.Input[str]
    key_arn: pulumi.Input[str]
    region: str
    cluster_name: pulumi.Input[str]
    cluster_arn: pulumi.Input[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """How Prometheus finds and is found."""

    url: str
    scrape_interval_seconds: int
    labels: Mapping[str, str]
    """Labels by which Prometheus picks its monitors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServerArgs:
    """A planned model and where it runs."""

    model: ModelPlan
    stack: str
    """Its name, for what a pod tells people to run."""
    pool: PoolPlan
    cache: CachePlan
    monitoring: Monitoring
    secrets: SecretValues
    ready_timeout_seconds: int | None
    """How long a pod waits for its weights; None where nothing prepares them."""
    claim_name: pulumi.Input[str] | None
    """Claim of the cache; None where the stack has none."""
    bucket: WeightsBucket | None
    """None where nothing is streamed from S3."""
    after: tuple[pulumi.Resource, ...]
    """What must exist before any object: namespace, operators, cache, warm-up Job, node groups."""
    pull_secret: str | None = None


class ModelServer(pulumi.ComponentResource):
    """The workload and all that it needs to be reached, watched, scaled and guarded.

    Every object of a model is a descendant, so `--target '<urn prefix>inference:index:ModelServer**'` is a model's
    whole blast radius.
    """

    url: pulumi.Output[str] | None = None
    """Base URL inside the cluster; None of a group that clients do not ask."""
    workload: pulumi.Resource

    def __init__(self, name: str, args: ModelServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:ModelServer", name, None, opts)
        model = args.model
        first = pulumi.ResourceOptions(parent=self, depends_on=list(args.after))
        guards: list[pulumi.Resource] = [
            k8s.core.v1.ServiceAccount(
                f"{name}-account",
                metadata=_metadata(model),
                automount_service_account_token=False,
                opts=first,
            ),
            k8s.networking.v1.NetworkPolicy(
                f"{name}-network-policy",
                metadata=network_policy.metadata(model),
                spec=_as_input(network_policy.rules(model)),
                opts=first,
            ),
        ]
        # Ray Serve LLM checks no key: a Secret that nothing enforces would only look like a guard. Of two groups, the
        # one with the endpoint has the key of both.
        if model.runtime != "ray_service" and model.is_endpoint:
            key = declare_secret(f"{name}-api-key", model.api_key, values=args.secrets, after=args.after, parent=self)
            guards += [key] if key is not None else []
        if args.bucket is not None and model.weights.medium == "s3_stream":
            guards.append(self._identity(name, model, args.bucket))

        if model.warm_prompts is not None:
            guards.append(
                k8s.core.v1.ConfigMap(
                    f"{name}-warm-prompts",
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        name=warm_prompts.config_map_name(model), namespace=model.namespace, labels=object_labels(model)
                    ),
                    data=warm_prompts.data(model, model.warm_prompts),
                    opts=first,
                )
            )

        # After its guards: a pod must neither start without credentials nor be reachable before the policy is there.
        self.workload = self._workload(name, args, after=(*args.after, *guards))
        behind: list[pulumi.Resource] = []
        if model.router is not None:
            router = routing.Router(
                model.router.name,
                model,
                model.router,
                interval_seconds=args.monitoring.scrape_interval_seconds,
                prometheus_labels=args.monitoring.labels,
                pull_secret=args.pull_secret,
                after=(*args.after, *guards),
                opts=pulumi.ResourceOptions(parent=self),
            )
            behind.append(router)
        if model.is_endpoint:
            # Last: a model that gets a router keeps answering without it until it is there.
            self.url = self._endpoint(name, model, [*args.after, *behind])
        k8s.policy.v1.PodDisruptionBudget(
            f"{name}-disruption-budget", metadata=_metadata(model), spec=_as_input(disruption_budget(model)), opts=first
        )
        monitor = pod_monitor(model, args.monitoring.scrape_interval_seconds, args.monitoring.labels)
        custom_resource(f"{name}-monitor", monitor, parent=self, after=args.after)
        if model.scaling.owner == "keda":
            scaler = scaled_object(model, args.monitoring.url)
            custom_resource(f"{name}-scaler", scaler, parent=self, after=(*args.after, self.workload))
        self.register_outputs({"url": self.url})

    def _endpoint(self, name: str, model: ModelPlan, after: Sequence[pulumi.Resource]) -> pulumi.Output[str]:
        service = k8s.core.v1.Service(
            f"{name}-service",
            # Awaiting it would wait for a ready pod.
            metadata=_metadata(model, annotations=SKIP_AWAIT),
            spec=_as_input(service_spec(model)),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(after)),
        )
        return service.metadata.apply(
            lambda metadata: f"http://{metadata.name}.{metadata.namespace}.svc:{model.service_port}/v1"
        )

    def _workload(self, name: str, args: ModelServerArgs, after: Sequence[pulumi.Resource]) -> pulumi.Resource:
        model, bucket = args.model, args.bucket
        context = PodContext(
            model=model,
            stack=args.stack,
            pool=args.pool,
            cache=args.cache,
            ready_timeout_seconds=args.ready_timeout_seconds,
            claim_name=args.claim_name,
            bucket=bucket.name if bucket else None,
            region=bucket.region if bucket else None,
            pull_secret=args.pull_secret,
        )
        logical_name = f"{name}-workload"
        if model.runtime == "deployment":
            return deployment.declare(logical_name, context, parent=self, after=after)
        if model.runtime == "leader_worker_set":
            return leader_worker_set.declare(logical_name, context, parent=self, after=after)
        if model.ray is None:
            raise ValueError(f"model {model.name}: a RayService without its Ray plan")
        return ray_service.declare(logical_name, context, model.ray, parent=self, after=after)

    def _identity(self, name: str, model: ModelPlan, bucket: WeightsBucket) -> PodIdentity:
        return PodIdentity(
            f"{name}-identity",
            PodIdentityArgs(
                cluster_name=bucket.cluster_name,
                cluster_arn=bucket.cluster_arn,
                namespace=model.namespace,
                service_account=model.name,
                statements=read_weights(bucket.arn, bucket.key_arn, *(one.object_prefix for one in model.weights.read)),
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )


def service_spec(model: ModelPlan) -> dict[str, Any]:
    """The endpoint: the router, or else only pods that answer HTTP requests for the whole replica."""
    if model.router is not None:
        return routing.service_spec(model)
    selector, target = selector_labels(model), HTTP_PORT
    if model.runtime == "leader_worker_set":
        selector |= {GROUP_ROLE_LABEL: "leader", WORKER_INDEX_LABEL: "0"}
    elif model.runtime == "ray_service":
        # Serve's proxy runs on every worker; the head is kept for scheduling.
        selector |= {GROUP_ROLE_LABEL: "worker"}
        target = ray_service.SERVE_PORT
    port = {"name": "http", "port": model.service_port, "targetPort": target, "appProtocol": "http"}
    return {"type": "ClusterIP", "selector": selector, "ports": [port]}


def disruption_budget(model: ModelPlan) -> dict[str, Any]:
    """One replica at a time may be drained; pods that do not serve yet may always be."""
    selector = selector_labels(model)
    budget: dict[str, Any] = {"unhealthyPodEvictionPolicy": "AlwaysAllow"}
    if model.ray is not None:
        # A RayCluster has no scale subresource, without which only a count of pods is allowed.
        selector |= {GROUP_ROLE_LABEL: "worker"}
        budget["minAvailable"] = model.ray.min_workers * model.layout.nodes - 1
    else:
        if model.runtime == "leader_worker_set":
            # A group without its leader is recreated as a whole: the leaders stand for the groups.
            selector |= {GROUP_ROLE_LABEL: "leader"}
        budget["maxUnavailable"] = 1
    return {**budget, "selector": {"matchLabels": selector}}


def _metadata(model: ModelPlan, annotations: Mapping[str, str] | None = None) -> k8s.meta.v1.ObjectMetaArgs:
    return k8s.meta.v1.ObjectMetaArgs(
        name=model.name,
        namespace=model.namespace,
        labels=object_labels(model),
        annotations=dict(annotations) if annotations else None,
    )


def _as_input(spec: dict[str, Any]) -> Any:
    """A spec in the API's own words, where the SDK's types want theirs."""
    return spec
