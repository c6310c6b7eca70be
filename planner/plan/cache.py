"""The Plan: the model cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class FsxPlan:
    """The FSx for Lustre file system."""

    zone: str
    storage_gib: int
    throughput_mbps_per_tib: int
    disk_mb_per_s: float
    network_mb_per_s: float
    file_system_type_version: str
    efa: bool = False
    """EFA-enabled: fixed at creation, as is its throughput from then on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeClaimPlan:
    """A PersistentVolumeClaim that holds weights on a cluster that exists."""

    storage_gib: int
    storage_class: str | None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """Where weights live."""

    bucket: bool
    """Whether an S3 bucket of weights is made."""
    fsx: FsxPlan | None
    volume_claim: VolumeClaimPlan | None
    claim_name: str | None
    """PersistentVolumeClaim in the serving namespace; None where weights are streamed."""
    mount_path: str
    data_repository_path: str
    """Directory of the file system that mirrors the bucket's prefix of the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How long one node needs to get its weights, with every node of a start-up counted."""

    gigabytes_per_node: float
    readers: int
    """Nodes that read at the same time when all minimum replicas start together."""
    bottleneck: str
    """Which of the limits binds, in words."""
    limits_mb_per_s: Mapping[str, float]
    """Each limit on one node's rate, by name."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPlan:
    """Where a model's weights come from and how they get into GPU memory."""

    medium: Literal["lustre", "s3_stream", "volume"]
    hub_id: str
    revision: str
    gigabytes: float
    object_prefix: str
    """Prefix in the bucket: `models/<hub id>/<revision>`."""
    directory: str
    """Path in the pod; for `s3_stream` the directory of the mount is not used."""
    ready_marker: str
    """File that the warm-up Job writes when the revision is complete."""
    load: LoadPlan
