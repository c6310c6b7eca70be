"""A model on Ray Serve LLM: a RayService, scaled by Serve's own autoscaler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml

from components._pods import pulls_with
from components.serving.custom_resources import GcsStore, RayService, RayWorkerGroup
from components.serving.pods import (
    METRICS_PORT,
    SKIP_AWAIT,
    PodContext,
    PodTemplate,
    group_affinity,
    object_labels,
    pod_labels,
    pod_template,
    selector_labels,
    spread,
)
from components.serving.store_access import certificate
from planner.naming import GROUP_ROLE_LABEL
from planner.plan import DrainPlan, RayPlan, ValkeyPlan

HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
"""KubeRay's names for the ports of the head's Service."""

SERVE_PORT = "serve"
"""KubeRay finds Serve's proxy by this port name when it adds readiness probes."""

_DRAIN = """\
node=$(python -c 'import ray
ray.init(address="auto", logging_level="error", log_to_driver=False)
print(ray.get_runtime_context().get_node_id())') &&
  ray drain-node --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'the pod ends' \
    --deadline-remaining-seconds {deadline}
sleep {pre_stop}
end=$(( $(date +%s) + {running} ))
while [ "$(date +%s)" -lt "$end" ] && grep --quiet --no-messages 'ray::[S]erveReplica' {processes}; do
  sleep 1
done
"""
"""Before a worker ends. `ray stop`, and SIGTERM to a raylet, end a replica at once, and with it what it answers (seen
on Ray 2.60: HTTP 500 in a tenth of a second). A node that drains gets no new replica: Serve starts another elsewhere if
it can, and in time lets this one finish (seen: no request lost). Without a head there is nobody to ask: the pod ends
after the pause."""

_STORE_CA = "/etc/valkey-ca"

REPLICA_LABEL = "ray.io/worker-group-replica-name"
"""One value for the hosts of a multi-host replica (feature gate RayMultiHostIndexing, on since KubeRay 1.7)."""


def workload(context: PodContext, ray: RayPlan) -> RayService:
    """Head on the system nodes, workers on the pool."""
    return RayService(
        name=context.model.name,
        namespace=context.model.namespace,
        labels=object_labels(context.model),
        # Deleted in the background: the name must be free for its successor while the old pods still drain.
        annotations={**SKIP_AWAIT, "pulumi.com/deletionPropagationPolicy": "background"},
        ray_version=ray.ray_version,
        serve_config=yaml.safe_dump(dict(ray.serve_config), sort_keys=False),
        head_template=head_template(context, ray),
        workers=RayWorkerGroup(
            name=ray.worker_group,
            hosts=context.model.layout.nodes,
            min_replicas=ray.min_workers,
            max_replicas=ray.max_workers,
            template=worker_template(context),
        ),
        initializing_timeout_minutes=ray.initializing_timeout_minutes,
        idle_seconds=ray.idle_seconds,
        gcs_store=_gcs_store(ray.gcs_store) if ray.gcs_store else None,
    )


def _gcs_store(store: ValkeyPlan) -> GcsStore:
    return GcsStore(address=store.url, password_secret=store.password.name, password_key=store.password.key)


def _trust(store: ValkeyPlan, container: dict[str, Any], spec: dict[str, Any]) -> None:
    """Has a head trust the store's certificate; KubeRay's clean-up Job is made from the same template."""
    container["env"] = [
        {"name": "RAY_REDIS_CA_CERT", "value": f"{_STORE_CA}/{store.ca_key}"},
        {"name": "RAY_REDIS_SERVER_NAME", "value": store.host},
    ]
    volume, mount = certificate(store, _STORE_CA)
    container["volumeMounts"], spec["volumes"] = [mount], [volume]


def head_template(context: PodContext, ray: RayPlan) -> PodTemplate:
    """The head schedules and takes no model: CPU only, no weights.

    It keeps its service account's token: KubeRay makes the account and lets its autoscaler sidecar change the cluster.
    """
    model = context.model
    memory = f"{ray.head_memory_gib}Gi"
    ports = {**HEAD_PORTS, SERVE_PORT: model.container.port, METRICS_PORT: model.container.metrics_port}
    container: dict[str, Any] = {
        "name": "ray-head",
        "image": model.container.image,
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": {
            "limits": {"memory": memory},
            "requests": {"cpu": str(ray.head_cpu), "memory": memory},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", "ray stop"]}}},
    }
    spec: dict[str, Any] = {
        "enableServiceLinks": False,
        **pulls_with(context.pull_secret),
        "priorityClassName": model.priority_class,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if ray.gcs_store is not None:
        _trust(ray.gcs_store, container, spec)
    annotations = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    return {"metadata": {"labels": pod_labels(model, "ray-head"), "annotations": annotations}, "spec": spec}


def worker_template(context: PodContext) -> PodTemplate:
    """Workers are the shared GPU pod; KubeRay adds `ray start` and the probes."""
    model = context.model
    affinity = group_affinity(context, REPLICA_LABEL) if model.layout.nodes > 1 else None
    template = pod_template(context, model.container, "worker", affinity=affinity)
    if model.layout.nodes == 1:
        workers = {**selector_labels(model), GROUP_ROLE_LABEL: "worker"}
        template["spec"]["topologySpreadConstraints"] = spread(context, workers)
    container = template["spec"]["containers"][0]
    for key in ("startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(key, None)
    container["ports"] = [
        {"name": SERVE_PORT, "containerPort": model.container.port},
        {"name": METRICS_PORT, "containerPort": model.container.metrics_port},
    ]
    container["lifecycle"]["preStop"]["exec"]["command"] = ["/bin/sh", "-c", drain_script(model.drain)]
    return template


def drain_script(drain: DrainPlan, processes: str = "/proc/[0-9]*/cmdline") -> str:
    """Shell lines that let a worker's replica finish. `processes`: files with the command lines of what runs."""
    return _DRAIN.format(
        deadline=drain.pre_stop_seconds + drain.drain_seconds,
        pre_stop=drain.pre_stop_seconds,
        running=drain.drain_seconds,
        processes=processes,
    )


def declare(
    name: str, context: PodContext, ray: RayPlan, *, parent: pulumi.Resource, after: Sequence[pulumi.Resource]
) -> k8s.apiextensions.CustomResource:
    """The RayService.

    With upgrade strategy None, KubeRay applies changes of the Serve application in place and ignores changes of the
    cluster. Those must replace the object, the old one first: two clusters would need twice the GPUs.
    """
    service = workload(context, ray)
    return k8s.apiextensions.CustomResource(
        name,
        api_version=service.api_version,
        kind=service.kind,
        metadata=service.metadata(),
        spec=service.spec(),
        opts=pulumi.ResourceOptions(
            parent=parent,
            depends_on=list(after),
            replace_on_changes=["spec.rayClusterConfig"],
            delete_before_replace=True,
        ),
    )
