"""What a pod's specification names and a kubelet would look for before it starts the pod."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Spec = Mapping[str, Any]

_FOR_REGISTRIES = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg")
"""Secrets of other types a kubelet passes over in silence, and pulls without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One name in a pod's specification."""

    kind: Literal["Secret", "ConfigMap", "PersistentVolumeClaim"]
    name: str
    key: str | None
    """Key that must be there; None where the object is enough."""
    field: str
    """Path inside the pod's specification."""
    types: tuple[str, ...] = ()
    """Of a Secret, those that do; empty for any."""


def containers(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Every container with its path, init containers first."""
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group, ())):
            yield f"{group}[{index}]", container


def references(spec: Spec) -> Iterator[Reference]:
    """Every Secret, ConfigMap and claim that a pod needs; optional ones are left out."""
    for path, container in containers(spec):
        for index, variable in enumerate(container.get("env", ())):
            source = variable.get("valueFrom", {})
            where = f"{path}.env[{index}]"
            yield from _one("Secret", source.get("secretKeyRef"), f"{where}.valueFrom.secretKeyRef")
            yield from _one("ConfigMap", source.get("configMapKeyRef"), f"{where}.valueFrom.configMapKeyRef")
        for index, source in enumerate(container.get("envFrom", ())):
            yield from _one("Secret", source.get("secretRef"), f"{path}.envFrom[{index}].secretRef")
            yield from _one("ConfigMap", source.get("configMapRef"), f"{path}.envFrom[{index}].configMapRef")
    for index, volume in enumerate(spec.get("volumes", ())):
        yield from _of_volume(volume, f"volumes[{index}]")
    for index, secret in enumerate(spec.get("imagePullSecrets", ())):
        field = f"imagePullSecrets[{index}]"
        yield Reference(kind="Secret", name=secret["name"], key=None, field=field, types=_FOR_REGISTRIES)


def _of_volume(volume: Spec, path: str) -> Iterator[Reference]:
    if claim := volume.get("persistentVolumeClaim"):
        yield Reference(kind="PersistentVolumeClaim", name=claim["claimName"], key=None, field=path)
    sources: list[tuple[str, Spec]] = [(path, volume)]
    projected = volume.get("projected", {}).get("sources", ())
    sources += [(f"{path}.projected.sources[{index}]", source) for index, source in enumerate(projected)]
    for where, source in sources:
        yield from _of_files("Secret", source.get("secret"), f"{where}.secret")
        yield from _of_files("ConfigMap", source.get("configMap"), f"{where}.configMap")


def _of_files(kind: Literal["Secret", "ConfigMap"], source: Spec | None, field: str) -> Iterator[Reference]:
    if source is None or source.get("optional"):
        return
    # A volume says `secretName`, a projected source says `name`.
    name = source.get("secretName") or source["name"]
    for key in [item["key"] for item in source.get("items", ())] or [None]:
        yield Reference(kind=kind, name=name, key=key, field=field)


def _one(kind: Literal["Secret", "ConfigMap"], source: Spec | None, field: str) -> Iterator[Reference]:
    if source and not source.get("optional"):
        yield Reference(kind=kind, name=source["name"], key=source.get("key"), field=field)
