"""All live objects of the cluster at one moment, and who runs pods among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from rehearsal.kube import Json, Key, Kind, Kube, key_of

_THREADS: Final = 8
# Of no interest to any check, and many or large.
_SKIPPED: Final = {"Event", "Lease", "CustomResourceDefinition", "EndpointSlice", "Endpoints", "ControllerRevision"}
# Kinds with a pod template, and where it is.
_TEMPLATES: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
_MADE_BY_THEM: Final = {"ReplicaSet", "StatefulSet", "DaemonSet", "Job"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Something that pods come from: a workload with a template, or a pod that a stand-in or nobody made."""

    subject: str
    """`Kind namespace/name` of what a person would change."""
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    """A pod's specification."""
    from_chart: bool = False
    """Whether helm made it."""


class Snapshot:
    """Objects by kind, namespace and name."""

    def __init__(self, objects: Mapping[str, Sequence[Json]]) -> None:
        self._objects = {kind: {key_of(item): item for item in items} for kind, items in objects.items()}

    @classmethod
    def take(cls, kube: Kube) -> Snapshot:
        """List everything that the API serves."""
        kinds = [kind for kind in kube.kinds() if kind.kind not in _SKIPPED]
        with ThreadPoolExecutor(_THREADS) as pool:
            listed: list[list[Json]] = list(pool.map(kube.list, kinds))
        return cls({kind.kind: items for kind, items in zip(kinds, listed, strict=True)})

    def all(self, kind: str) -> list[Json]:
        """All objects of a kind."""
        return list(self._objects.get(kind, {}).values())

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """One object; the namespace of a cluster-scoped one is empty."""
        return self._objects.get(kind, {}).get((namespace, name))

    def knows(self, kind: str) -> bool:
        """Whether objects of this kind were listed."""
        return kind in self._objects

    def keys(self) -> set[tuple[str, str, str]]:
        """(kind, namespace, name) of everything."""
        return {(kind, *key) for kind, items in self._objects.items() for key in items}

    @cached_property
    def runners(self) -> tuple[Runner, ...]:
        """Every template, and every pod that comes from none of them."""
        return tuple(self._runners())

    def _runners(self) -> Iterator[Runner]:
        for kind in _TEMPLATES:
            for item in self.all(kind):
                spec = item["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else item["spec"]
                yield _runner(f"{kind} {_name(item)}", item, spec["template"])
        for pod in self.all("Pod"):
            owners = pod["metadata"].get("ownerReferences", ())
            if not any(owner["kind"] in _MADE_BY_THEM for owner in owners):
                maker = f"{owners[0]['kind']} {pod['metadata']['namespace']}/{owners[0]['name']}" if owners else ""
                yield _runner(maker or f"Pod {_name(pod)}", pod, pod)


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector picks these labels; an empty one picks all, none at all picks nothing."""
    if selector is None:
        return False
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", ()):
        value, values = labels.get(expression["key"]), expression.get("values", ())
        held = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not held[expression["operator"]]:
            return False
    return True


def subject(kind: Kind | str, key: Key) -> str:
    """How a finding names an object."""
    name = kind if isinstance(kind, str) else kind.kind
    return f"{name} {key[0]}/{key[1]}" if key[0] else f"{name} {key[1]}"


def _name(item: Json) -> str:
    return "/".join(part for part in key_of(item) if part)


def _runner(subject: str, item: Json, template: Mapping[str, Any]) -> Runner:
    metadata = template.get("metadata", {})
    return Runner(
        subject=subject,
        namespace=item["metadata"]["namespace"],
        labels=metadata.get("labels", {}),
        annotations=metadata.get("annotations", {}),
        spec=template["spec"],
        from_chart="meta.helm.sh/release-name" in item["metadata"].get("annotations", {}),
    )
