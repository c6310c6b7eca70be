"""Custom resources as small frozen typed specs.

No webhook checks them before they reach a cluster, so each spec takes only what the platform uses, in types that cannot
be wrong, and tests hold what it renders against the upstream schemas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pulumi
import pulumi_kubernetes as kubernetes


class CustomObject(Protocol):
    """What every spec renders."""

    @property
    def api_version(self) -> str:
        """Group and version."""
        ...

    @property
    def kind(self) -> str:
        """Kind."""
        ...

    def metadata(self) -> dict[str, Any]:
        """Name, namespace, labels and annotations, as in a manifest."""
        ...

    def spec(self) -> dict[str, Any]:
        """The manifest's `spec`."""
        ...


def manifest(item: CustomObject) -> dict[str, Any]:
    """The whole object as it goes to the API server."""
    return {"apiVersion": item.api_version, "kind": item.kind, "metadata": item.metadata(), "spec": item.spec()}


def custom_resource(
    name: str,
    item: CustomObject,
    *,
    parent: pulumi.Resource,
    after: Sequence[pulumi.Resource],
    delete_minutes: int | None = None,
) -> kubernetes.apiextensions.CustomResource:
    """Declares a custom resource.

    Args:
        name: logical name.
        item: its spec.
        parent: the component; its Kubernetes provider is used.
        after: the release that brings its definition, and what else must exist before.
        delete_minutes: how long its finalizers may take; the provider's own patience where left out.
    """
    timeouts = pulumi.CustomTimeouts(delete=f"{delete_minutes}m") if delete_minutes else None
    return kubernetes.apiextensions.CustomResource(
        name,
        api_version=item.api_version,
        kind=item.kind,
        metadata=item.metadata(),
        spec=item.spec(),
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(after), custom_timeouts=timeouts),
    )


def object_metadata(name: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`metadata` without empty keys: a server-side apply would own them."""
    rendered: dict[str, Any] = {"name": name}
    if namespace is not None:
        rendered["namespace"] = namespace
    if labels:
        rendered["labels"] = dict(labels)
    return rendered


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfSignedIssuer:
    """A ClusterIssuer whose certificates sign themselves: the root of a CA of our own."""

    name: str
    api_version: str = field(default="cert-manager.io/v1", init=False)
    kind: str = field(default="ClusterIssuer", init=False)

    def metadata(self) -> dict[str, Any]:
        """Cluster-scoped."""
        return object_metadata(self.name)

    def spec(self) -> dict[str, Any]:
        """As in cert-manager's documentation of `SelfSigned`."""
        return {"selfSigned": {}}


@dataclass(frozen=True, kw_only=True, slots=True)
class CaIssuer:
    """A ClusterIssuer that signs with the key pair of a Secret.

    cert-manager looks for the Secret of a cluster-scoped issuer in its own namespace.
    """

    name: str
    secret_name: str
    api_version: str = field(default="cert-manager.io/v1", init=False)
    kind: str = field(default="ClusterIssuer", init=False)

    def metadata(self) -> dict[str, Any]:
        """Cluster-scoped."""
        return object_metadata(self.name)

    def spec(self) -> dict[str, Any]:
        """As in cert-manager's documentation of `CA`."""
        return {"ca": {"secretName": self.secret_name}}


@dataclass(frozen=True, kw_only=True, slots=True)
class CaCertificate:
    """A Certificate that may sign others."""

    name: str
    namespace: str
    common_name: str
    secret_name: str
    issuer: str
    """Name of a ClusterIssuer."""
    lifetime_hours: int
    renew_before_hours: int
    api_version: str = field(default="cert-manager.io/v1", init=False)
    kind: str = field(default="Certificate", init=False)

    def __post_init__(self) -> None:
        if not 0 < self.renew_before_hours < self.lifetime_hours:
            raise ValueError(f"certificate {self.name}: it must be renewed within its lifetime")
        if len(self.common_name) > 64:
            raise ValueError(f"certificate {self.name}: a common name has at most 64 characters (RFC 5280)")

    def metadata(self) -> dict[str, Any]:
        """Lives beside its Secret."""
        return object_metadata(self.name, self.namespace)

    def spec(self) -> dict[str, Any]:
        """An ECDSA key that renewal keeps: a new one would distrust all that the old one signed."""
        return {
            "isCA": True,
            "commonName": self.common_name,
            "secretName": self.secret_name,
            "duration": f"{self.lifetime_hours}h0m0s",
            "renewBefore": f"{self.renew_before_hours}h0m0s",
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
            "issuerRef": {"name": self.issuer, "kind": "ClusterIssuer", "group": "cert-manager.io"},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRule:
    """One alert of a PrometheusRule."""

    name: str
    expression: str
    for_minutes: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    def rendered(self) -> dict[str, Any]:
        """As in Prometheus' rule files."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": f"{self.for_minutes}m",
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PrometheusRule:
    """Alerts for the Prometheus operator."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    groups: Mapping[str, tuple[AlertRule, ...]]
    """By group name; a group is evaluated in order, groups at the same time."""
    api_version: str = field(default="monitoring.coreos.com/v1", init=False)
    kind: str = field(default="PrometheusRule", init=False)

    def metadata(self) -> dict[str, Any]:
        """With the labels that rule selectors look for."""
        return object_metadata(self.name, self.namespace, self.labels)

    def spec(self) -> dict[str, Any]:
        """Groups without rules are left out."""
        groups = [
            {"name": name, "rules": [rule.rendered() for rule in rules]} for name, rules in self.groups.items() if rules
        ]
        return {"groups": groups}
