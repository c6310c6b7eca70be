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
    """PersistentVolumeClaim in the serving namespace, followed by the id of a file system; None where weights are
    streamed."""
    mount_path: str
    data_repository_path: str
    """Directory of the file system that mirrors the bucket's prefix of the same name."""
    keep_revisions: int = 0
    """Earlier revisions of each repository that stay on the cache."""
    planned_gigabytes: float = 0.0
    """All that lies on the cache: revisions that are served or come next, earlier ones, shards, kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderShare:
    """Nodes of one model that read while another one does."""

    model: str
    nodes: int
    gigabytes: float
    """Of each: all of its own, or as much as the one that is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How long one node needs to get its weights, with every node of a start-up counted."""

    gigabytes_per_node: float
    readers: int
    """Nodes that read at the same time when all minimum replicas start together."""
    shares: tuple[ReaderShare, ...] = ()
    """What each of them has been given when this one is done."""
    served_gigabytes: float = 0.0
    """By the medium until then, to all together."""
    bottleneck: str
    """Which of the limits binds, in words."""
    limits_mb_per_s: Mapping[str, float]
    """Each limit on one node's rate, by name."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionPlan:
    """One repository at one commit: a model, its draft model or an adapter."""

    kind: Literal["model", "draft", "adapter"] = "model"
    hub_id: str
    revision: str
    gigabytes: float
    object_prefix: str
    """Prefix in the bucket: `models/<hub id>/<revision>`."""
    directory: str
    """Path in the pod; for weights that are streamed, the bucket's own."""
    ready_marker: str
    """File that the warm-up Job writes when the revision is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDirectoryPlan:
    """A directory of the cache that pods of one model write: a mount of its own beside the read-only weights."""

    name: Literal["compiled", "shards"]
    sub_path: str
    """Below the cache's root; its last part is a digest of all that must be alike for pods to share it."""
    mount_path: str
    read_only: bool = False
    """To the engine: an init container of the same pod writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsPlan:
    """What ranks hold, written by the first start: later ones read that alone."""

    gigabytes: float
    """On the cache, beside the checkpoint."""
    gigabytes_per_node: float
    read_seconds: float
    """Until every node has its part in its memory, once they are written."""
    copy_seconds: float
    """From there into its GPUs."""
    seconds: float
    """Both: at once, or one after the other where an init container reads."""
    write_seconds: float
    """Of the first start, to write them."""
    before_seconds: float = 0.0
    """Of the first start, for an init container to load the checkpoint; 0: the engine itself writes what it holds."""
    limit_seconds: int = 0
    """After which that init container gives up, also where it waits for another replica's."""

    @property
    def init_seconds(self) -> float:
        """Of the first start, before the engine's container begins its own."""
        return self.before_seconds + self.write_seconds if self.before_seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPlan(RevisionPlan):
    """Where a model's weights come from and how they get into GPU memory."""

    medium: Literal["lustre", "s3_stream", "volume"]
    load: LoadPlan
    beside: tuple[RevisionPlan, ...] = ()
    """Its draft model and adapters: read by the same pods, and waited for as the weights are."""
    upcoming: RevisionPlan | None = None
    """Staged and warmed, not served yet."""
    shards: ShardsPlan | None = None
    directories: tuple[SharedDirectoryPlan, ...] = ()
    """What its pods write to the cache."""
    staged_within_seconds: int | None = None
    """How long a pod that streams looks for them in the bucket before it ends and says what is missing (it is then
    started again); None where a warm-up Job prepares them."""

    @property
    def read(self) -> tuple[RevisionPlan, ...]:
        """All that a pod needs before its engine starts."""
        return (self, *self.beside)

    @property
    def held(self) -> tuple[RevisionPlan, ...]:
        """All that must lie in the bucket and on the cache."""
        return (*self.read, self.upcoming) if self.upcoming else self.read
