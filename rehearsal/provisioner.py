"""A stand-in for CSI provisioners: makes the volume of a claim that no real driver serves here.

Claims that name a volume, or whose class makes none, are left to the real volume controller. A class that waits for the
first consumer gets its volume when the scheduler has chosen a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rehearsal.kube import CLAIMS, STORAGE_CLASSES, VOLUMES, Caches, Json, Kind, Kube

_CHOSEN_NODE: Final = "volume.kubernetes.io/selected-node"
_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
PROVISIONED_BY: Final = "pv.kubernetes.io/provisioned-by"


class Provisioner:
    """Makes volumes for pending claims and removes those that nobody claims any more."""

    kinds: Sequence[Kind] = (CLAIMS, VOLUMES, STORAGE_CLASSES)

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Serve every claim that waits for a provisioner."""
        classes = {item["metadata"]["name"]: item for item in caches.all(STORAGE_CLASSES)}
        for claim in caches.all(CLAIMS):
            spec = claim["spec"]
            if spec.get("volumeName") or claim.get("status", {}).get("phase") == "Bound":
                continue
            storage_class = classes.get(spec.get("storageClassName", ""))
            if storage_class and _due(claim, storage_class):
                self._kube.create(VOLUMES, _volume(claim, storage_class))
        for volume in caches.all(VOLUMES):
            released = volume.get("status", {}).get("phase") == "Released"
            ours = PROVISIONED_BY in volume["metadata"].get("annotations", {})
            if released and ours and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
                self._kube.delete(VOLUMES, ("", volume["metadata"]["name"]))
        return None


def default_class(name: str) -> Json:
    """The default StorageClass that a cluster which exists is assumed to have."""
    return {
        "metadata": {"name": name, "annotations": {_DEFAULT_CLASS: "true"}},
        "provisioner": "volumes.rehearsal.example.com",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _due(claim: Json, storage_class: Json) -> bool:
    if storage_class["provisioner"] == "kubernetes.io/no-provisioner":
        return False
    waits = storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"
    return not waits or _CHOSEN_NODE in claim["metadata"].get("annotations", {})


def _volume(claim: Json, storage_class: Json) -> Json:
    metadata = claim["metadata"]
    return {
        "metadata": {
            "name": f"pvc-{metadata['uid']}",
            "annotations": {PROVISIONED_BY: storage_class["provisioner"]},
        },
        "spec": {
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": claim["spec"]["accessModes"],
            "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"),
            "storageClassName": storage_class["metadata"]["name"],
            "mountOptions": storage_class.get("mountOptions", []),
            "csi": {"driver": storage_class["provisioner"], "volumeHandle": metadata["uid"]},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }
