"""The keeper of the capacity ladder: a small controller that keeps groups of nodes whole (docs/adr/0005)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components._objects import custom_resource
from components._pods import confined, pulls_with
from components.serving.custom_resources import PodMonitor
from planner import naming
from planner.plan import KeeperPlan

_SCRIPTS = Path(__file__).parent / "scripts"
_MODULES = ("ladder_keeper.py", "ladder_decisions.py", "ladder_actions.py", "ladder_world.py")
_MODULE = "components.scripts.ladder_keeper"
_MOUNT = "/opt/keeper"
ORDERS = "orders.json"
_LABELS = {
    "app.kubernetes.io/name": naming.LADDER_KEEPER,
    naming.PART_OF_LABEL: naming.PROJECT,
    "app.kubernetes.io/managed-by": "pulumi",
}
_SELECTOR = {"app.kubernetes.io/name": naming.LADDER_KEEPER}
_METRICS = "metrics"


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderKeeperArgs:
    """The keeper's orders and what must exist before."""

    plan: KeeperPlan
    priority_class: str
    scrape_interval_seconds: int
    after: tuple[pulumi.Resource, ...] = ()
    pull_secret: str | None = None


def files(plan: KeeperPlan) -> dict[str, str]:
    """The ConfigMap: the scripts and the orders."""
    scripts = {name: (_SCRIPTS / name).read_text(encoding="utf-8") for name in _MODULES}
    return {**scripts, ORDERS: json.dumps(asdict(plan), indent=1)}


def rules(plan: KeeperPlan) -> dict[str, list[dict[str, Any]]]:
    """What it may do, by namespace; the empty name is the cluster.

    Nodes have no namespace, and RBAC knows no labels: it may cordon any node, and evicts in the models' namespaces
    alone. The API cannot bind `create` to a name.
    """
    found: dict[str, list[dict[str, Any]]] = {
        "": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "patch"]}],
        plan.namespace: [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [naming.LADDER_KEEPER],
                "verbs": ["get", "update"],
            },
        ],
        plan.autoscaler_namespace: [
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [naming.AUTOSCALER_STATUS],
                "verbs": ["get"],
            }
        ],
    }
    for namespace in sorted({model.namespace for model in plan.models}):
        found[namespace] = [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
        ]
    return found


def pod_spec(plan: KeeperPlan, priority_class: str, pull_secret: str | None = None) -> dict[str, Any]:
    """One container of the standard library, without a right on its node."""
    probe = {"httpGet": {"path": "/healthz", "port": _METRICS}, "periodSeconds": 15, "failureThreshold": 4}
    return {
        "serviceAccountName": naming.LADDER_KEEPER,
        "priorityClassName": priority_class,
        "enableServiceLinks": False,
        **pulls_with(pull_secret),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "keeper",
                "image": plan.image,
                "command": ["python3", "-m", _MODULE],
                "args": [f"--orders={_MOUNT}/{ORDERS}"],
                "workingDir": _MOUNT,
                "env": [{"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}, {"name": "PYTHONUNBUFFERED", "value": "1"}],
                "ports": [{"name": _METRICS, "containerPort": plan.port}],
                "livenessProbe": {**probe, "initialDelaySeconds": 30},
                "readinessProbe": probe,
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                "securityContext": confined(),
                "volumeMounts": [{"name": "files", "mountPath": _MOUNT, "readOnly": True}],
            }
        ],
        "volumes": [
            {
                "name": "files",
                "configMap": {
                    "name": naming.LADDER_KEEPER,
                    "items": [
                        {"key": ORDERS, "path": ORDERS},
                        *({"key": name, "path": f"components/scripts/{name}"} for name in _MODULES),
                    ],
                },
            }
        ],
    }


def network_policy(plan: KeeperPlan) -> dict[str, Any]:
    """Prometheus may come in; out it goes to the API server alone: 443, or 6443 outside EKS."""
    monitoring = {"kubernetes.io/metadata.name": naming.MONITORING_NAMESPACE}
    tcp = [{"protocol": "TCP", "port": port} for port in (443, 6443)]
    return {
        "podSelector": {"matchLabels": _SELECTOR},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"namespaceSelector": {"matchLabels": monitoring}}],
                "ports": [{"protocol": "TCP", "port": plan.port}],
            }
        ],
        "egress": [{"ports": tcp}],
    }


class LadderKeeper(pulumi.ComponentResource):
    """The keeper with its account, rights, scripts, policy and monitor."""

    def __init__(self, name: str, args: LadderKeeperArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:LadderKeeper", name, None, opts)
        self._name = name
        self._child = pulumi.ResourceOptions(parent=self, depends_on=list(args.after))
        plan = args.plan
        account = kubernetes.core.v1.ServiceAccount(f"{name}-account", metadata=_metadata(plan), opts=self._child)
        bindings = [self._bind(namespace, rule, plan) for namespace, rule in rules(plan).items()]
        data = files(plan)
        script = kubernetes.core.v1.ConfigMap(f"{name}-files", metadata=_metadata(plan), data=data, opts=self._child)
        policy = kubernetes.networking.v1.NetworkPolicy(
            f"{name}-policy", metadata=_metadata(plan), spec=_as_input(network_policy(plan)), opts=self._child
        )
        kubernetes.apps.v1.Deployment(
            name,
            metadata=_metadata(plan),
            spec=_as_input(
                {
                    "replicas": 1,
                    # Two would do no harm, but one of them would only wait.
                    "strategy": {"type": "Recreate"},
                    "selector": {"matchLabels": _SELECTOR},
                    "template": {
                        "metadata": {"labels": _LABELS, "annotations": {"checksum/files": _checksum(data)}},
                        "spec": pod_spec(plan, args.priority_class, args.pull_secret),
                    },
                }
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*args.after, account, *bindings, script, policy]),
        )
        monitor = PodMonitor(
            name=naming.LADDER_KEEPER,
            namespace=plan.namespace,
            labels=_LABELS,
            match_labels=_SELECTOR,
            port=_METRICS,
            path="/metrics",
            interval=f"{args.scrape_interval_seconds}s",
        )
        custom_resource(f"{name}-monitor", monitor, parent=self, after=args.after)
        self.register_outputs({})

    def _bind(self, namespace: str, rule: Sequence[Mapping[str, Any]], plan: KeeperPlan) -> pulumi.Resource:
        """A role and its binding, in a namespace or for the cluster."""
        rbac = kubernetes.rbac.v1
        subject = {"kind": "ServiceAccount", "name": naming.LADDER_KEEPER, "namespace": plan.namespace}
        name = f"{naming.PROJECT}-{naming.LADDER_KEEPER}"
        metadata = kubernetes.meta.v1.ObjectMetaArgs(name=name, namespace=namespace or None, labels=_LABELS)
        logical = f"{self._name}-{namespace or 'cluster'}"
        role_class, binding_class = (
            (rbac.Role, rbac.RoleBinding) if namespace else (rbac.ClusterRole, rbac.ClusterRoleBinding)
        )
        role = role_class(f"{logical}-role", metadata=metadata, rules=_as_input(list(rule)), opts=self._child)
        reference = {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role" if namespace else "ClusterRole",
            "name": name,
        }
        return binding_class(
            f"{logical}-binding",
            metadata=metadata,
            role_ref=_as_input(reference),
            subjects=_as_input([subject]),
            opts=pulumi.ResourceOptions.merge(self._child, pulumi.ResourceOptions(depends_on=[role])),
        )


def _metadata(plan: KeeperPlan) -> kubernetes.meta.v1.ObjectMetaArgs:
    return kubernetes.meta.v1.ObjectMetaArgs(name=naming.LADDER_KEEPER, namespace=plan.namespace, labels=_LABELS)


def _checksum(data: Mapping[str, str]) -> str:
    """Changes with the files, so that the pod starts again with them."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _as_input(spec: Any) -> Any:
    """A spec in the API's own words, where the SDK's types want theirs."""
    return spec
