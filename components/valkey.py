"""Valkey: key-value stores beside the models, over TLS, behind a password and a network policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components import store_password
from components._charts import release
from components._objects import custom_resource, object_metadata
from components._secrets import SecretValues, declare_secret
from components.certificates import CA_ISSUER
from planner import naming
from planner.images import DEFAULT_REGISTRY, registry
from planner.plan import ChartPlan, ValkeyPlan
from settings.secrets import PulumiSecret, SecretsManagerSecret

_HOURS_A_YEAR = 8760
_IO_THREADS = 4
_PATIENT = {"timeoutSeconds": 5, "failureThreshold": 6}
"""The chart's probes run a program that speaks TLS, and wait 1 s for it: on a busy node that ends a healthy store, and
what it keeps."""
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+")
"""RFC 3986, section 2.3."""
_USER = "default"
"""The user that clients without a name are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCertificate:
    """A Certificate by which a server inside the cluster is known.

    Valkey reads it at its start alone, so it lasts far longer than a pod should.
    """

    name: str
    namespace: str
    secret_name: str
    dns_names: tuple[str, ...]
    lifetime_hours: int = 5 * _HOURS_A_YEAR
    renew_before_hours: int = _HOURS_A_YEAR
    api_version: str = field(default="cert-manager.io/v1", init=False)
    kind: str = field(default="Certificate", init=False)

    def metadata(self) -> dict[str, Any]:
        """Lives beside its Secret."""
        return object_metadata(self.name, self.namespace)

    def spec(self) -> dict[str, Any]:
        """Signed by the platform's own CA."""
        return {
            "secretName": self.secret_name,
            "dnsNames": list(self.dns_names),
            "duration": f"{self.lifetime_hours}h0m0s",
            "renewBefore": f"{self.renew_before_hours}h0m0s",
            "usages": ["digital signature", "key encipherment", "server auth"],
            "privateKey": {"algorithm": "ECDSA", "size": 256},
            "issuerRef": {"name": CA_ISSUER, "kind": "ClusterIssuer", "group": "cert-manager.io"},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ValkeyArgs:
    """The store and where it comes from."""

    chart: ChartPlan
    image_mirror: str | None
    plan: ValkeyPlan
    secrets: SecretValues
    pull_secret: str | None
    issuer: pulumi.Resource
    """cert-manager's issuer, once certificates can be asked for."""
    after: tuple[pulumi.Resource, ...] = ()


def values(plan: ValkeyPlan, mirror: str | None, pull_secret: str | None = None) -> dict[str, Any]:
    """Chart values."""
    chart: dict[str, Any] = {
        "fullnameOverride": plan.name,
        "image": {"registry": registry(DEFAULT_REGISTRY, mirror)},
        "priorityClassName": naming.CONTROLLER_PRIORITY,
        "auth": {
            "enabled": True,
            "usersExistingSecret": plan.password.name,
            "aclUsers": {_USER: {"permissions": "~* &* +@all", "passwordKey": plan.password.key}},
        },
        "tls": {
            "enabled": True,
            "existingSecret": plan.tls_secret,
            "serverPublicKey": "tls.crt",
            "serverKey": "tls.key",
            "caPublicKey": plan.ca_key,
        },
        "valkeyConfig": _configuration(plan),
        "resources": {
            "requests": {"cpu": plan.cpu, "memory": f"{plan.pod_memory_gib}Gi"},
            "limits": {"memory": f"{plan.pod_memory_gib}Gi"},
        },
        "readinessProbe": {"enabled": True, **_PATIENT},
        "startupProbe": {"enabled": True, **_PATIENT},
        "livenessProbe": {"enabled": True, **_PATIENT},
        # Of one pod alone: a second one beside it would take as much RAM again, hold a volume that is bound to the
        # first, or answer clients of one store from two. (Copies are a StatefulSet, which does not read it.)
        "deploymentStrategy": "Recreate",
        "extraContainers": [store_password.container(plan)],
    }
    if pull_secret is not None:
        chart["imagePullSecrets"] = [pull_secret]
    if plan.zones:
        chart["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [_near(plan)]}}
    if plan.replicas:
        chart["replica"] = {
            "enabled": True,
            "replicas": plan.replicas,
            "replicationUser": _USER,
            "persistence": _volume(plan, "size", "storageClass"),
        }
        chart["podDisruptionBudget"] = {"enabled": True, "maxUnavailable": 1}
    elif plan.storage_gib is not None:
        chart["dataStorage"] = {"enabled": True, **_volume(plan, "requestedSize", "className")}
    return chart


def _near(plan: ValkeyPlan) -> dict[str, Any]:
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": list(plan.zones)}
    return {"weight": 100, "preference": {"matchExpressions": [zone]}}


def _configuration(plan: ValkeyPlan) -> str:
    """State of clusters is never thrown away to make room: a write that finds none fails and is seen. A cache throws
    away what was used longest ago, writes no file (a snapshot's fork would take as much memory again), and sends and
    encrypts its large values in several threads."""
    memory = f"maxmemory {plan.memory_gib}gb\n"
    if plan.evicts:
        return f'{memory}maxmemory-policy allkeys-lru\nappendonly no\nsave ""\nio-threads {_IO_THREADS}\n'
    return f"{memory}maxmemory-policy noeviction\nappendonly yes\n"


def _volume(plan: ValkeyPlan, size: str, storage_class: str) -> dict[str, str]:
    return {size: f"{plan.storage_gib}Gi", **({storage_class: plan.storage_class} if plan.storage_class else {})}


def network_policy(plan: ValkeyPlan) -> dict[str, Any]:
    """Its clients, KubeRay's clean-up Jobs among them, and its own copies get in; nothing gets out but to those."""
    own = {"podSelector": {"matchLabels": _selector(plan)}}
    clients = [{"podSelector": {"matchLabels": {naming.MODEL_LABEL: name}}} for name in plan.clients]
    port = [{"protocol": "TCP", "port": plan.port}]
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {
        "podSelector": {"matchLabels": _selector(plan)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [own, *clients], "ports": port}],
        "egress": [{"to": [own], "ports": port}, {"ports": dns}],
    }


def _selector(plan: ValkeyPlan) -> Mapping[str, str]:
    """Labels of the chart's pods (`valkey.selectorLabels`)."""
    return {"app.kubernetes.io/name": "valkey", "app.kubernetes.io/instance": plan.name}


@dataclass(frozen=True, kw_only=True, slots=True)
class ForUrls:
    """Secrets that become part of a URL: a `/` or `@` would end a password there, and no client would say why."""

    values: SecretValues
    setting: str

    def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
        """The value; raises pulumi.RunError where a URL would not carry it as it is."""
        return self.values.value(source).apply(self._as_it_is)

    def _as_it_is(self, text: str) -> str:
        if _UNRESERVED.fullmatch(text) is None:
            raise pulumi.RunError(
                f"{self.setting}.password has characters that a URL does not carry, or a line's end: no client could "
                "log in\n  use letters, digits, `-`, `_`, `.` and `~`, or leave it out: one is generated"
            )
        return text


class Valkey(pulumi.ComponentResource):
    """The store. Produces `release`: clients that start before it wait for it."""

    release: pulumi.Resource

    def __init__(self, name: str, args: ValkeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Valkey", name, None, opts)
        plan = args.plan
        # Ray takes its store's password apart from the address, LMCache inside it.
        secrets = ForUrls(values=args.secrets, setting="kv_store") if plan.evicts else args.secrets
        password = declare_secret(f"{name}-password", plan.password, values=secrets, after=args.after, parent=self)
        certificate = custom_resource(
            f"{name}-certificate",
            ServerCertificate(
                name=plan.name,
                namespace=plan.namespace,
                secret_name=plan.tls_secret,
                dns_names=(plan.host, f"{plan.name}.{plan.namespace}.svc", plan.name),
            ),
            parent=self,
            after=[*args.after, args.issuer],
        )
        policy = kubernetes.networking.v1.NetworkPolicy(
            f"{name}-network-policy",
            metadata=kubernetes.meta.v1.ObjectMetaArgs(name=plan.name, namespace=plan.namespace),
            spec=network_policy(plan),  # type: ignore[arg-type]
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        guards = [item for item in (password, certificate, policy) if item is not None]
        self.release = release(
            f"{name}-store",
            args.chart,
            values(plan, args.image_mirror, args.pull_secret),
            parent=self,
            after=[*args.after, *guards],
        )
        self.register_outputs({})
