"""The router of a model: two proxies that find its pods, with the little that they may do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components._objects import custom_resource
from components._pods import confined, pulls_with
from components.serving.custom_resources import PodMonitor
from components.serving.pods import SKIP_AWAIT, selector_labels
from planner.naming import CLIENT_LABEL, MODEL_LABEL, MONITORING_NAMESPACE, PART_OF_LABEL, PROJECT, SYSTEM_NAMESPACE
from planner.plan import ActivatorPlan, ModelPlan, RouterPlan
from planner.router import API_KEY_VARIABLE, COMPONENT_LABEL
from planner.routing import router_name

COMPONENT = "router"
ENTRY_PORT = "entry"
METRICS_PORT, ACTIVATOR_METRICS_PORT = "metrics", "held"
_ROUTER_PORT = "router"
_MOUNT = "/opt/activator"
_SCRIPTS = Path(__file__).parents[1] / "scripts"
_FILES = ("activator.py", "activator_http.py")
_STANDBY_KEY_VARIABLE = "STANDBY_API_KEY"

# The image's own user. Source: docker/Dockerfile of the router's repository.
_USER = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


def selector(model: ModelPlan) -> dict[str, str]:
    """Labels of the router's pods alone: not the model's own name, or they would count as replicas."""
    return {MODEL_LABEL: router_name(model.name), COMPONENT_LABEL: COMPONENT}


def labels(model: ModelPlan) -> dict[str, str]:
    """Labels of every object of the router."""
    return {
        **selector(model),
        "app.kubernetes.io/name": "smg",
        PART_OF_LABEL: PROJECT,
        "app.kubernetes.io/managed-by": "pulumi",
    }


def role_rules() -> list[dict[str, Any]]:
    """What discovery needs, in the models' namespace (tests/router tries it); RBAC knows no labels."""
    return [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]


def pod_spec(model: ModelPlan, router: RouterPlan, pull_secret: str | None = None) -> dict[str, Any]:
    """The router, and before it the activator where requests may have to wait."""
    containers = [_router(model, router)]
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    if router.activator is not None:
        containers.append(_activator(model, router, router.activator))
        items = [{"key": name, "path": f"components/scripts/{name}"} for name in _FILES]
        volumes.append({"name": "activator", "configMap": {"name": router.name, "items": items}})
    return {
        "serviceAccountName": router.name,
        "priorityClassName": router.priority_class,
        "enableServiceLinks": False,
        **pulls_with(pull_secret),
        "terminationGracePeriodSeconds": router.grace_seconds,
        "securityContext": dict(_USER),
        "containers": containers,
        "volumes": volumes,
        # Never both on one node or in one zone while there is another.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(model)},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
    }


def _router(model: ModelPlan, router: RouterPlan) -> dict[str, Any]:
    behind = router.activator is not None
    ports = [
        {"name": _ROUTER_PORT if behind else ENTRY_PORT, "containerPort": router.port},
        {"name": METRICS_PORT, "containerPort": router.metrics_port},
    ]
    alive = {"path": "/liveness", "port": router.port}
    container: dict[str, Any] = {
        "name": "router",
        "image": router.image,
        "command": list(router.command),
        "args": [*router.args, f"--api-key=$({API_KEY_VARIABLE})"],
        "env": [_secret(API_KEY_VARIABLE, model.api_key.name, model.api_key.key)],
        "ports": ports,
        "startupProbe": {"httpGet": alive, "periodSeconds": 2, "failureThreshold": 30},
        "livenessProbe": {"httpGet": alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(router.pre_stop_seconds)]}}},
        "resources": {
            "requests": {"cpu": f"{router.cpu_millis}m", "memory": f"{router.memory_mib}Mi"},
            "limits": {"memory": f"{router.memory_limit_mib}Mi"},
        },
        "securityContext": confined(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the container's own
    }
    if not behind:
        # Ready once it has found a replica: a new router that knows none answers 404.
        container["readinessProbe"] = {
            "httpGet": {"path": "/readiness", "port": router.port},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        }
    return container


def _activator(model: ModelPlan, router: RouterPlan, plan: ActivatorPlan) -> dict[str, Any]:
    standby = plan.standby
    env = [
        _secret(API_KEY_VARIABLE, model.api_key.name, model.api_key.key),
        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
    ]
    args = [
        f"--model={model.name}",
        f"--port={plan.port}",
        f"--metrics-port={plan.metrics_port}",
        f"--router-port={router.port}",
        f"--hold-seconds={plan.hold_seconds}",
        f"--held-requests={plan.held_requests}",
        f"--held-bytes={plan.held_bytes}",
        f"--check-seconds={plan.check_seconds}",
        f"--failures={plan.failures}",
        f"--drain-seconds={model.drain.drain_seconds}",
    ]
    if standby is not None:
        args += [
            f"--standby-model={standby.model}",
            f"--standby-host={standby.host}",
            f"--standby-port={standby.port}",
        ]
        env.append(_secret(_STANDBY_KEY_VARIABLE, standby.api_key.name, standby.api_key.key))
    probe = {"httpGet": {"path": "/healthz", "port": plan.metrics_port}, "periodSeconds": 5, "timeoutSeconds": 2}
    return {
        "name": "activator",
        "image": router.image,
        "command": ["python3", "-m", "components.scripts.activator"],
        "workingDir": _MOUNT,
        "args": args,
        "env": env,
        "ports": [
            {"name": ENTRY_PORT, "containerPort": plan.port},
            {"name": ACTIVATOR_METRICS_PORT, "containerPort": plan.metrics_port},
        ],
        # Ready without any replica: waiting for one is what it is for.
        "readinessProbe": {**probe, "failureThreshold": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(router.pre_stop_seconds)]}}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}},
        "securityContext": confined(),
        "volumeMounts": [{"name": "activator", "mountPath": _MOUNT, "readOnly": True}],
    }


def network_policy(model: ModelPlan, router: RouterPlan) -> dict[str, Any]:
    """Clients come in; out it goes to the model's pods, its standby's and the API server."""
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": MONITORING_NAMESPACE}}}
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    system = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SYSTEM_NAMESPACE}}}
    observed = [router.metrics_port, *([router.activator.metrics_port] if router.activator else [])]
    egress: list[dict[str, Any]] = [
        *(
            {"to": [{"podSelector": {"matchLabels": labels}}], "ports": _tcp(model.container.port)}
            for labels in _asked(model)
        ),
        {"to": [system], "ports": dns},
        # Discovery watches the API server: 443, or 6443 outside EKS.
        {"ports": _tcp(443, 6443)},
    ]
    standby = router.activator.standby if router.activator else None
    if standby is not None:
        # Its pods, or its router's; the policy sees a pod's port, not the Service's.
        names = [standby.model, router_name(standby.model)]
        pods = {"matchExpressions": [{"key": MODEL_LABEL, "operator": "In", "values": names}]}
        egress.append({"to": [{"podSelector": pods}]})
    return {
        "podSelector": {"matchLabels": selector(model)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {CLIENT_LABEL: "true"}}}], "ports": _tcp(router.entry_port)},
            {"from": [monitoring], "ports": _tcp(*observed)},
        ],
        "egress": egress,
    }


def _asked(model: ModelPlan) -> list[dict[str, str]]:
    """Labels of the pods that requests go to."""
    own = selector_labels(model)
    return [own, *([{**own, MODEL_LABEL: model.disaggregation.peer}] if model.disaggregation else [])]


def service_spec(model: ModelPlan) -> dict[str, Any]:
    """The model's endpoint, where a router stands before its pods."""
    port = {"name": "http", "port": model.service_port, "targetPort": ENTRY_PORT, "appProtocol": "http"}
    return {"type": "ClusterIP", "selector": selector(model), "ports": [port]}


class Router(pulumi.ComponentResource):
    """The router of one model with account, rights, policy, budget and monitors."""

    def __init__(
        self,
        name: str,
        model: ModelPlan,
        router: RouterPlan,
        *,
        interval_seconds: int,
        prometheus_labels: Mapping[str, str],
        pull_secret: str | None,
        after: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("inference:index:Router", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, depends_on=list(after))
        metadata = _metadata(model, router)
        guards: list[pulumi.Resource] = [
            k8s.core.v1.ServiceAccount(f"{name}-account", metadata=metadata, opts=child),
            k8s.networking.v1.NetworkPolicy(
                f"{name}-network-policy", metadata=metadata, spec=_as_input(network_policy(model, router)), opts=child
            ),
            *_rights(name, model, router, child),
        ]
        annotations: dict[str, str] = {}
        if router.activator is not None:
            data = {file: (_SCRIPTS / file).read_text(encoding="utf-8") for file in _FILES}
            guards.append(k8s.core.v1.ConfigMap(f"{name}-activator", metadata=metadata, data=data, opts=child))
            annotations["checksum/activator"] = hashlib.sha256("".join(data.values()).encode()).hexdigest()[:16]
        k8s.apps.v1.Deployment(
            name,
            metadata=k8s.meta.v1.ObjectMetaArgs(
                # It is ready when a replica is, which may be tomorrow.
                name=router.name,
                namespace=model.namespace,
                labels=labels(model),
                annotations=SKIP_AWAIT,
            ),
            spec=_as_input(
                {
                    "replicas": router.replicas,
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                    "selector": {"matchLabels": selector(model)},
                    "template": {
                        # Its pods may call the engines, and a standby's router.
                        "metadata": {"labels": {**labels(model), CLIENT_LABEL: "true"}, "annotations": annotations},
                        "spec": pod_spec(model, router, pull_secret),
                    },
                }
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*after, *guards]),
        )
        k8s.policy.v1.PodDisruptionBudget(
            f"{name}-disruption-budget",
            metadata=metadata,
            spec=_as_input(
                {
                    "maxUnavailable": 1,
                    "unhealthyPodEvictionPolicy": "AlwaysAllow",
                    "selector": {"matchLabels": selector(model)},
                }
            ),
            opts=child,
        )
        for port in (METRICS_PORT, *([ACTIVATOR_METRICS_PORT] if router.activator else [])):
            monitor = PodMonitor(
                name=router.name if port == METRICS_PORT else f"{router.name}-{port}",
                namespace=model.namespace,
                labels={**labels(model), **prometheus_labels},
                match_labels=selector(model),
                port=port,
                path="/metrics",
                interval=f"{interval_seconds}s",
            )
            custom_resource(f"{name}-monitor-{port}", monitor, parent=self, after=after)
        self.register_outputs({})


def _rights(
    name: str, model: ModelPlan, router: RouterPlan, opts: pulumi.ResourceOptions
) -> tuple[pulumi.Resource, pulumi.Resource]:
    metadata = _metadata(model, router)
    role = k8s.rbac.v1.Role(f"{name}-role", metadata=metadata, rules=_as_input(role_rules()), opts=opts)
    binding = k8s.rbac.v1.RoleBinding(
        f"{name}-binding",
        metadata=metadata,
        role_ref=_as_input({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": router.name}),
        subjects=_as_input([{"kind": "ServiceAccount", "name": router.name, "namespace": model.namespace}]),
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[role])),
    )
    return role, binding


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _secret(variable: str, name: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _metadata(model: ModelPlan, router: RouterPlan) -> k8s.meta.v1.ObjectMetaArgs:
    return k8s.meta.v1.ObjectMetaArgs(name=router.name, namespace=model.namespace, labels=labels(model))


def _as_input(spec: Any) -> Any:
    """A spec in the API's own words, where the SDK's types want theirs."""
    return spec
