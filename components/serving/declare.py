"""All models of a plan: their cache, their warm-up Jobs and one `ModelServer` each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components._secrets import SecretValues, declare_secret
from components.model_cache import FileSystem, ModelCache, ModelCacheArgs, WarmUp, WarmUpArgs
from components.serving import efa_gate, saved_shards, weights_wait
from components.serving.model_server import ModelServer, ModelServerArgs, Monitoring, WeightsBucket
from components.serving.mounted_scripts import MountedScripts
from planner.naming import SERVING_NAMESPACE
from planner.plan import Plan

_OTHER_RUNTIMES = {
    "deployment": {"lws", "kuberay-operator"},
    "leader_worker_set": {"kuberay-operator"},
    "ray_service": {"lws", "keda"},
}
"""Charts that a runtime does without: its models need not wait for them."""
_SCRIPTS = (efa_gate.SCRIPTS, weights_wait.SCRIPTS, saved_shards.SCRIPTS)
_STORES = {"valkey", "kv-store"}
"""Awaited by models that reach them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingArgs:
    """What models stand on."""

    plan: Plan
    platform: Mapping[str, pulumi.Resource]
    """What must exist before and be destroyed after: charts by their catalog name, namespaces and priority classes."""
    node_groups: Mapping[str, Sequence[pulumi.Resource]]
    """By pool: its nodes must outlive its pods, which drain on them."""
    file_system: FileSystem | None
    bucket: WeightsBucket | None
    secrets: SecretValues
    prometheus_labels: Mapping[str, str]
    """Labels by which Prometheus picks its monitors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOutputs:
    """What was declared."""

    servers: Mapping[str, ModelServer]
    cache: ModelCache | None
    warm_ups: Mapping[str, WarmUp]

    @property
    def urls(self) -> dict[str, pulumi.Output[str]]:
        """Base URL of each model inside the cluster."""
        return {name: server.url for name, server in self.servers.items() if server.url is not None}


def declare(args: ServingArgs, opts: pulumi.ResourceOptions) -> ServingOutputs:
    """Declares everything that serves.

    Args:
        args: the plan and what it stands on.
        opts: the providers: Kubernetes always, AWS where models stream from S3.
    """
    plan = args.plan
    everything = tuple(args.platform.values())
    cache = None
    if plan.cache.claim_name is not None:
        cache = ModelCache(
            "model-cache",
            ModelCacheArgs(
                cache=plan.cache, namespace=SERVING_NAMESPACE, file_system=args.file_system, after=everything
            ),
            opts=opts,
        )
    warm_ups = _warm_ups(args, cache, opts)
    mounted = {
        scripts.name: MountedScripts(scripts, SERVING_NAMESPACE, everything, opts).config_map
        for scripts in _SCRIPTS
        if any(map(scripts.runs_for, plan.models))
    }
    servers: dict[str, ModelServer] = {}
    for model in plan.models:
        warmups = plan.warmups_of(model.name)
        prepared: list[pulumi.Resource] = []
        if cache is not None and model.weights.medium != "s3_stream":
            prepared.append(cache.claim)
        prepared += [warm_ups[warmup.name] for warmup in warmups]
        prepared += [mounted[scripts.name] for scripts in _SCRIPTS if scripts.runs_for(model)]
        without = _OTHER_RUNTIMES[model.runtime] | (_STORES - {store.name for store in model.stores})
        needed = [resource for name, resource in args.platform.items() if name not in without]
        servers[model.name] = ModelServer(
            model.name,
            ModelServerArgs(
                model=model,
                stack=plan.stack,
                pool=plan.pool(model.pool),
                cache=plan.cache,
                monitoring=Monitoring(
                    url=plan.observability.prometheus_url,
                    scrape_interval_seconds=plan.observability.scrape_interval_seconds,
                    labels=args.prometheus_labels,
                ),
                secrets=args.secrets,
                ready_timeout_seconds=max(
                    (warmup.timeout_seconds for warmup in warmups), default=model.weights.staged_within_seconds
                ),
                claim_name=cache.claim_name if cache else None,
                bucket=args.bucket,
                after=(*needed, *args.node_groups.get(model.pool, ()), *prepared),
                pull_secret=plan.pull_secret,
            ),
            opts=opts,
        )
    return ServingOutputs(servers=servers, cache=cache, warm_ups=warm_ups)


def _warm_ups(args: ServingArgs, cache: ModelCache | None, opts: pulumi.ResourceOptions) -> dict[str, WarmUp]:
    plan = args.plan
    if cache is None or not plan.warmups:
        return {}
    before: list[pulumi.Resource] = [*args.platform.values(), cache.claim, cache.script]
    tokens = {warmup.hub_token for warmup in plan.warmups if warmup.hub_token is not None}
    if len(tokens) > 1:
        raise ValueError("the plan has more hub tokens than one")
    for token in tokens:
        secret = declare_secret("hub-token", token, values=args.secrets, after=before, parent=cache)
        before += [secret] if secret is not None else []
    return {
        warmup.name: WarmUp(
            warmup.name,
            WarmUpArgs(
                warmup=warmup,
                namespace=warmup.namespace,
                priority_class=warmup.priority_class,
                pool=plan.pool(warmup.pool) if warmup.pool else None,
                cache=plan.cache,
                claim_name=cache.claim_name,
                after=(*before, *(args.node_groups.get(warmup.pool, ()) if warmup.pool else ())),
                pull_secret=plan.pull_secret,
            ),
            opts=opts,
        )
        for warmup in plan.warmups
    }
