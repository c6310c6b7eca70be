"""The pod template that Deployment, LeaderWorkerSet and RayService share, as plain data in the API's own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pulumi

from components._pods import pulls_with
from components.serving import efa_gate, kept_kernels, saved_shards, warm_prompts, weights_wait
from components.serving.store_access import certificate
from components.serving.weights_wait import WARMUP_COMPONENT
from planner.engines.lmcache import STORE_CA_DIRECTORY
from planner.engines.request import CACHE_DIRECTORY
from planner.naming import (
    GROUP_ROLE_LABEL,
    MODEL_LABEL,
    PART_OF_LABEL,
    PROJECT,
    RUNG_LABEL,
)
from planner.plan import CachePlan, ContainerPlan, EnvVar, ModelPlan, PoolPlan, ProbePlan, Taint
from planner.router import COMPONENT_LABEL, MODEL_SERVER

Role = Literal["server", "leader", "worker", "ray-head"]
PodTemplate = dict[str, Any]
"""A PodTemplateSpec: dictionaries and lists, camelCase keys; values may be Pulumi outputs."""

COMPONENT = MODEL_SERVER

SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
"""`pulumi up` must not wait for capacity that may come tomorrow; `ops wait` does."""

ENGINE_CONTAINER = "engine"
HTTP_PORT = "http"
METRICS_PORT = "metrics"
SCRATCH_DIRECTORY = "/tmp"  # noqa: S108
"""Temporary files of an engine whose root file system is read-only; its home is its cache directory."""

# Users that may run the engine in the project's own images. vLLM's since vllm-project/vllm#40275: user 2000 of group 0
# and everything that it writes below $HOME. Ray's have always run as `ray`. SGLang's are only ever run as root.
_VLLM_USER = {"runAsNonRoot": True, "runAsUser": 2000, "runAsGroup": 0}
_RAY_USER = {"runAsNonRoot": True, "runAsUser": 1000}

# EC2's layers of network nodes, from the switch next to an instance outwards: fewer hops between a group's nodes. EKS
# labels nodes with them. Source: EC2 user guide, "Instance topology"; EKS cloud controller, topology labels.
_NETWORK_LAYERS = tuple(
    (f"topology.k8s.aws/network-node-layer-{layer}", weight) for layer, weight in ((3, 100), (2, 50), (1, 25))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodContext:
    """What pods of a model need to know beyond the container's own plan."""

    model: ModelPlan
    stack: str
    """Its name, for what a pod tells people to run."""
    pool: PoolPlan
    cache: CachePlan
    ready_timeout_seconds: int | None
    """How long a pod waits for its weights before it says so; None where nothing prepares them."""
    claim_name: pulumi.Input[str] | None = None
    """Claim of the cache; None where pods mount none."""
    bucket: pulumi.Input[str] | None = None
    """Name of the bucket of weights, where pods stream from it."""
    region: str | None = None
    pull_secret: str | None = None

    @property
    def mounts_cache(self) -> bool:
        """Whether weights are files on a mounted volume."""
        return self.model.weights.medium != "s3_stream"


def selector_labels(model: ModelPlan) -> dict[str, str]:
    """Labels that all pods of a model carry and no other pod does."""
    return {MODEL_LABEL: model.name, COMPONENT_LABEL: COMPONENT}


def object_labels(model: ModelPlan) -> dict[str, str]:
    """Labels of every object of a model."""
    return {
        **selector_labels(model),
        "app.kubernetes.io/name": model.engine,
        PART_OF_LABEL: PROJECT,
        "app.kubernetes.io/managed-by": "pulumi",
    }


def pod_labels(model: ModelPlan, role: Role) -> dict[str, str]:
    """Labels of a pod; the role tells leaders from workers."""
    return {**object_labels(model), GROUP_ROLE_LABEL: role}


def warmup_labels(job: str) -> dict[str, str]:
    """Labels of a warm-up Job's pods."""
    return {MODEL_LABEL: job, COMPONENT_LABEL: WARMUP_COMPONENT}


def tolerations(taints: tuple[Taint, ...]) -> list[dict[str, Any]]:
    """Tolerations of exactly these taints."""
    return [
        {"key": taint.key, "operator": "Equal", "value": taint.value, "effect": taint.effect}
        if taint.value
        else {"key": taint.key, "operator": "Exists", "effect": taint.effect}
        for taint in taints
    ]


def engine_user(model: ModelPlan, plan: ContainerPlan) -> dict[str, Any]:
    """The user that the engine runs as, where not the image's own.

    Capabilities reach only root's processes, so a pod that needs one (IPC_LOCK, for the memory that EFA pins) keeps it.
    """
    if plan.capabilities:
        return {}
    if model.runtime == "ray_service":
        return dict(_RAY_USER)
    return dict(_VLLM_USER) if model.engine == "vllm" else {}


def container_security(plan: ContainerPlan) -> dict[str, Any]:
    """Nothing but what the plan grants."""
    capabilities: dict[str, list[str]] = {"drop": ["ALL"]}
    if plan.capabilities:
        capabilities["add"] = list(plan.capabilities)
    return {"allowPrivilegeEscalation": False, "privileged": False, "capabilities": capabilities}


def probe(plan: ProbePlan) -> dict[str, Any]:
    """An HTTP probe."""
    return {
        "httpGet": {"path": plan.path, "port": plan.port},
        "periodSeconds": plan.period_seconds,
        "timeoutSeconds": plan.timeout_seconds,
        "failureThreshold": plan.failure_threshold,
        **({"successThreshold": plan.success_threshold} if plan.success_threshold > 1 else {}),
    }


def resources(plan: ContainerPlan) -> dict[str, Any]:
    """Requests and limits; extended resources and huge pages must be equal in both."""
    limits: dict[str, str] = {"memory": f"{plan.memory_gib}Gi"}
    if plan.gpus:
        limits["nvidia.com/gpu"] = str(plan.gpus)
    if plan.efa_devices:
        limits["vpc.amazonaws.com/efa"] = str(plan.efa_devices)
    if plan.hugepages_mib:
        limits["hugepages-2Mi"] = f"{plan.hugepages_mib}Mi"
    # No CPU limit: throttling the engine's scheduler thread costs more than a noisy neighbor on a GPU node could.
    return {"limits": limits, "requests": {"cpu": str(plan.cpu), **limits}}


def environment(context: PodContext, variables: tuple[EnvVar, ...]) -> list[dict[str, Any]]:
    """Environment variables, in the plan's order: later ones may refer to earlier ones."""
    return [_variable(context, variable) for variable in variables]


def _variable(context: PodContext, variable: EnvVar) -> dict[str, Any]:
    if variable.secret is not None:
        name, key = variable.secret
        return {"name": variable.name, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}
    if variable.field_path is not None:
        return {"name": variable.name, "valueFrom": {"fieldRef": {"fieldPath": variable.field_path}}}
    if variable.output is not None:
        value = {"bucket": context.bucket, "region": context.region}[variable.output]
        if value is None:
            raise ValueError(
                f"model {context.model.name}: {variable.name} asks for the {variable.output}, which is not"
            )
        return {"name": variable.name, "value": value}
    return {"name": variable.name, "value": variable.value or ""}


def _volumes(context: PodContext, plan: ContainerPlan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = [{"name": "engine-cache", "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": "engine-cache", "mountPath": CACHE_DIRECTORY}]
    if plan.read_only_root:
        volumes.append({"name": "scratch", "emptyDir": {}})
        mounts.append({"name": "scratch", "mountPath": SCRATCH_DIRECTORY})
    if plan.shared_memory_gib:
        size = f"{plan.shared_memory_gib}Gi"
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108
    tiers = context.model.kv_tiers
    if tiers is not None and tiers.store is not None:
        volume, mount = certificate(tiers.store, STORE_CA_DIRECTORY)
        volumes.append(volume)
        mounts.append(mount)
    if context.mounts_cache and plan.gpus:
        if context.claim_name is None:
            raise ValueError(f"model {context.model.name}: its weights are files, and no claim is given")
        volumes.append(cache_volume(context.claim_name))
        mounts.append({"name": "models", "mountPath": context.cache.mount_path, "readOnly": True})
        # The warm-up Job has made them; what pods of other models compile is out of reach.
        mounts += [
            {
                "name": "models",
                "mountPath": one.mount_path,
                "subPath": one.sub_path,
                **({"readOnly": True} if one.read_only else {}),
            }
            for one in context.model.weights.directories
        ]
    return volumes, mounts


def cache_volume(claim_name: pulumi.Input[str]) -> dict[str, Any]:
    """The volume of weights; who only reads mounts it read-only."""
    return {"name": "models", "persistentVolumeClaim": {"claimName": claim_name}}


def engine_container(context: PodContext, plan: ContainerPlan, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """The engine; a container without readiness probe serves no HTTP and declares no port."""
    env = environment(context, plan.env)
    if engine_user(context.model, plan) == _VLLM_USER:
        # Images of one's own may not know user 2000, and torch asks for the user's name when it is imported.
        env.append({"name": "USER", "value": "vllm"})
    container: dict[str, Any] = {
        "name": ENGINE_CONTAINER,
        "image": plan.image,
        "env": env,
        "resources": resources(plan),
        "securityContext": {
            **container_security(plan),
            **({"readOnlyRootFilesystem": True} if plan.read_only_root else {}),
        },
        "volumeMounts": mounts,
        "lifecycle": {
            "preStop": {"exec": {"command": ["sleep", str(context.model.drain.pre_stop_seconds)]}},
            **(kept_kernels.post_start(context.model) if context.mounts_cache and plan.gpus else {}),
        },
    }
    if plan.command:
        container["command"] = list(plan.command)
    if plan.args:
        container["args"] = list(plan.args)
    if plan.readiness is not None:
        container["ports"] = [{"name": HTTP_PORT, "containerPort": plan.port}]
        if plan.metrics_port != plan.port:
            container["ports"].append({"name": METRICS_PORT, "containerPort": plan.metrics_port})
    probes = {"startupProbe": plan.startup, "readinessProbe": plan.readiness, "livenessProbe": plan.liveness}
    container.update({key: probe(value) for key, value in probes.items() if value is not None})
    prompts = context.model.warm_prompts
    if prompts is not None and plan.startup is not None and plan is not context.model.worker:
        container["startupProbe"] = warm_prompts.probe(plan.startup, prompts)
        container["volumeMounts"] = [*mounts, warm_prompts.mount(context.model)[1]]
    return container


def pod_template(
    context: PodContext, plan: ContainerPlan, role: Role, *, affinity: Mapping[str, Any] | None = None
) -> PodTemplate:
    """A pod with GPUs.

    Args:
        context: the model, its pool and the cache.
        plan: the engine's container in this role.
        role: told apart by label.
        affinity: for pods that must be near or far from each other.
    """
    model = context.model
    volumes, mounts = _volumes(context, plan)
    spec: dict[str, Any] = {
        "serviceAccountName": model.name,
        "automountServiceAccountToken": False,
        # Service names as environment variables would collide with the engines' own (VLLM_PORT and the like).
        "enableServiceLinks": False,
        **pulls_with(context.pull_secret),
        "priorityClassName": model.priority_class,
        "terminationGracePeriodSeconds": model.drain.grace_seconds,
        "nodeSelector": dict(context.pool.node_selector),
        "tolerations": tolerations(context.pool.taints),
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, **engine_user(model, plan)},
        "containers": [engine_container(context, plan, mounts)],
        "volumes": volumes,
    }
    before: list[dict[str, Any]] = []
    if model.efa_gate is not None:
        # First: it needs no weights, so it runs while the warm-up Job fetches them.
        before.append(efa_gate.container(model.efa_gate, plan, resources(plan), container_security(plan)))
        spec["volumes"] += efa_gate.volumes(model.efa_gate)
    if model.warm_prompts is not None and plan is not model.worker:
        spec["volumes"].append(warm_prompts.mount(model)[0])
    if context.ready_timeout_seconds is not None:
        if context.mounts_cache:
            before.append(weights_wait.on_cache(model, plan, context.cache.mount_path, context.ready_timeout_seconds))
        else:
            # Bucket and region, as the engine has them.
            env = environment(context, tuple(one for one in plan.env if one.output is not None))
            before.append(weights_wait.in_bucket(model, plan, env, context.stack, context.ready_timeout_seconds))
            spec["volumes"].append(weights_wait.SCRIPTS.volume())
    if plan.saving_args:
        before.append(saved_shards.container(model, plan, spec["containers"][0]))
        spec["volumes"].append(saved_shards.SCRIPTS.volume())
    if before:
        spec["initContainers"] = before
    if affinity:
        spec["affinity"] = dict(affinity)
    annotations = {
        # A replica takes minutes to come back: cluster-autoscaler must not move it to tidy up.
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
        # Other prompts are other pods: a ConfigMap that changes restarts nothing.
        **({warm_prompts.ANNOTATION: warm_prompts.digest(model.warm_prompts)} if model.warm_prompts else {}),
        **(model.disaggregation.annotations if model.disaggregation else {}),
    }
    return {"metadata": {"labels": pod_labels(model, role), "annotations": annotations}, "spec": spec}


def spread(context: PodContext, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Replicas on different nodes, and in different zones of a pool that has several: together they would go down.

    Preferred, not required: a replica beside another one serves more than one that waits. (`minDomains` exists for
    required spreading alone.) The zone comes first: nodes of two zones are two nodes, too. Groups over several nodes
    fill theirs and stay in one zone.
    """
    keys = (["topology.kubernetes.io/zone"] if len(context.pool.zones) > 1 else []) + ["kubernetes.io/hostname"]
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(labels)},
        }
        for key in keys
    ]


def group_affinity(context: PodContext, group_label: str) -> dict[str, Any]:
    """Keeps all pods of one multi-node replica on one rung of the pool, each on its own node, as near as can be had.

    `group_label` has one value for each group and is on its pods when they are created, so `matchLabelKeys`
    (Kubernetes 1.31 and newer) compares pods of the same group only. See ADR 1.
    """
    model = context.model
    same_group = {"labelSelector": {"matchLabels": selector_labels(model)}, "matchLabelKeys": [group_label]}
    near = [
        {"weight": weight, "podAffinityTerm": {**same_group, "topologyKey": key}} for key, weight in _NETWORK_LAYERS
    ]
    affinity: dict[str, Any] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{**same_group, "topologyKey": "kubernetes.io/hostname"}]
        },
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": near},
    }
    # Nodes that exist already carry no rung label; a required affinity to it could never be met.
    if all(rung.kind != "existing" for rung in context.pool.rungs):
        affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = [
            {**same_group, "topologyKey": RUNG_LABEL}
        ]
    return affinity
