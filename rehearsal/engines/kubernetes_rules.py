"""How the Pulumi Kubernetes provider treats kinds: names, what replaces an object, what it waits for.

Source of all rules: pulumi/pulumi-kubernetes (July 2026), provider/pkg/{provider/diff.go,await/*.go,metadata/*.go}.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, cast

RELEASE: Final = "kubernetes:helm.sh/v3:Release"
CERT_MANAGER: Final = "kubernetes-cert-manager:index:CertManager"

Object = Mapping[str, Any]

_SELECTOR: Final = ("spec.selector",)
_JOB: Final = ("spec.completions", "spec.parallelism", "spec.selector", "spec.template")
_STATEFUL_SET: Final = (
    "spec.podManagementPolicy",
    "spec.revisionHistoryLimit",
    "spec.selector",
    "spec.serviceName",
    "spec.volumeClaimTemplates",
)
_VOLUME_SOURCES: Final = ("spec.csi", "spec.hostPath", "spec.local", "spec.nfs", "spec.awsElasticBlockStore")

# provider/pkg/provider/diff.go, by (group, kind); the versions we use are all v1.
_REPLACES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("apps", "DaemonSet"): _SELECTOR,
    ("apps", "Deployment"): _SELECTOR,
    ("apps", "StatefulSet"): _STATEFUL_SET,
    ("batch", "Job"): _JOB,
    ("", "PersistentVolume"): _VOLUME_SOURCES,
    ("", "PersistentVolumeClaim"): ("spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeName"),
    ("", "Pod"): ("spec",),
    ("", "ResourceQuota"): ("spec.scopes",),
    ("", "Service"): ("spec.clusterIP",),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): ("roleRef",),
    ("rbac.authorization.k8s.io", "RoleBinding"): ("roleRef",),
    ("storage.k8s.io", "StorageClass"): ("parameters", "provisioner"),
}


def is_object(type_token: str) -> bool:
    """Whether the type is an object of the Kubernetes API (and not a chart, a provider or a component)."""
    return type_token.startswith("kubernetes:") and type_token != RELEASE


def in_cluster(type_token: str) -> bool:
    """Whether the resource is made through a Kubernetes provider: an object or a chart."""
    return type_token == RELEASE or is_object(type_token)


def is_patch(type_token: str, declared: Object) -> bool:
    """Whether the resource only owns some fields of an object that somebody else creates (`...Patch` types)."""
    return type_token.endswith("Patch") and not str(declared.get("kind", "")).endswith("Patch")


def named(declared: Object, logical_name: str, urn: str) -> dict[str, Any]:
    """The object with a name: its own, or the logical name with 8 digits as the provider would add."""
    metadata = dict(cast(Object, declared.get("metadata") or {}))
    if "name" not in metadata and "generateName" not in metadata:
        metadata["name"] = f"{logical_name}-{hashlib.sha256(urn.encode()).hexdigest()[:8]}"
    return {**declared, "metadata": metadata}


def release_name(declared: Object, logical_name: str, urn: str) -> str:
    """The name of a Helm release: its own, or the logical name with 8 digits."""
    return str(declared.get("name") or f"{logical_name}-{hashlib.sha256(urn.encode()).hexdigest()[:8]}")


def group_of(api_version: str) -> str:
    """The API group of `apiVersion`; empty for the core group."""
    return api_version.rpartition("/")[0]


def replaces_on(declared: Object, provider: Object) -> tuple[str, ...]:
    """The property paths whose change replaces the object.

    Args:
        declared: the object's inputs.
        provider: inputs of its provider; ConfigMaps and Secrets are replaced unless it calls them mutable.
    """
    kind = str(declared.get("kind", ""))
    paths: list[str] = ["metadata.name", "metadata.namespace"]
    paths += _REPLACES.get((group_of(str(declared.get("apiVersion", ""))), kind), ())
    immutable = bool(declared.get("immutable"))
    if kind == "Secret" and (immutable or not _truthy(provider.get("enableSecretMutable"))):
        paths += ["type", "stringData", "data"]
    if kind == "ConfigMap" and (immutable or not _truthy(provider.get("enableConfigMapMutable"))):
        paths += ["binaryData", "data"]
    return tuple(paths)


def annotation(declared: Object, name: str) -> str | None:
    """The value of `pulumi.com/<name>`."""
    metadata = cast(Object, declared.get("metadata") or {})
    value = cast(Object, metadata.get("annotations") or {}).get(f"pulumi.com/{name}")
    return None if value is None else str(value)


def skips_await(declared: Object) -> bool:
    """Whether `pulumi.com/skipAwait` says not to wait for the object."""
    return annotation(declared, "skipAwait") == "true"


def _truthy(value: Any) -> bool:
    return value is True or value == "true"
