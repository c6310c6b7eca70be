"""A Kubernetes API of dictionaries, for stand-ins whose decisions are under test."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from rehearsal.kube import Json, Key, Kind, key_of


class FakeKube:
    """Keeps objects by kind; also answers as `Caches` do, always up to date."""

    def __init__(self) -> None:
        self.objects: dict[Kind, dict[Key, Json]] = {}
        self._serial = 0

    def all(self, kind: Kind) -> list[Json]:
        return list(self.objects.get(kind, {}).values())

    def list(self, kind: Kind) -> list[Json]:
        return self.all(kind)

    def get(self, kind: Kind, key: Key) -> Json | None:
        return self.objects.get(kind, {}).get(key)

    def create(self, kind: Kind, body: Json) -> bool:
        stored = self.objects.setdefault(kind, {})
        if key_of(body) in stored:
            return False
        self._serial += 1
        versions = {"uid": f"uid-{self._serial}", "generation": 1, "resourceVersion": str(self._serial)}
        metadata = {**versions, "labels": {}, **body["metadata"]}
        stored[key_of(body)] = {"status": {}, **copy.deepcopy(body), "metadata": metadata}
        return True

    def patch(
        self, kind: Kind, key: Key, change: Json, *, subresource: str | None = None, seen: str | None = None
    ) -> None:
        item = self.get(kind, key)
        if item is not None and seen in {None, item["metadata"]["resourceVersion"]}:
            self._serial += 1
            _merge(item, {**change, "metadata": {**change.get("metadata", {}), "resourceVersion": str(self._serial)}})

    def delete(self, kind: Kind, key: Key) -> None:
        self.objects.get(kind, {}).pop(key, None)

    def add(self, kind: Kind, items: Iterable[Json]) -> None:
        for item in items:
            self.create(kind, item)


def _merge(item: dict[str, Any], change: dict[str, Any]) -> None:
    for name, value in change.items():
        if value is None:
            item.pop(name, None)
        elif isinstance(value, dict) and isinstance(item.get(name), dict):
            _merge(item[name], value)
        else:
            item[name] = copy.deepcopy(value)


def container(**changes: Any) -> Json:
    return {"name": "engine", "image": "vllm/vllm-openai:v0.33.0", **changes}


def pod(name: str = "pod", namespace: str = "inference", **changes: Any) -> Json:
    """A pod; `labels`, `annotations`, `owner`, `node`, `phase` and `conditions` go where they belong."""
    metadata: Json = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-of-{name}",
        "labels": changes.pop("labels", {}),
        "annotations": changes.pop("annotations", {}),
        "ownerReferences": changes.pop("owners", []),
    }
    status = {"phase": changes.pop("phase", "Pending"), "conditions": changes.pop("conditions", [])}
    status |= {"containerStatuses": changes.pop("statuses", [])}
    spec: Json = {"containers": [container()], **changes}
    return {"metadata": metadata, "spec": spec, "status": status}


UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}]
READY = [{"type": "Ready", "status": "True"}]
