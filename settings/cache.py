"""Where model weights are kept close to the GPUs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from settings.base import AvailabilityZone, Section


class _MountedCache(Section):
    """What files that pods mount can hold beside the weights that are served."""

    keep_revisions: int = Field(default=1, ge=0, le=20)
    """Earlier revisions of each repository that stay, ready to be gone back to: room for them is planned, and
    `python -m ops models evict` leaves the newest so many."""
    compiled_kernels: Literal["shared", "pod"] = "shared"
    """Where kernels go that engines compile at their first start: `shared` keeps them on the cache for later pods of
    the same model, image, layout and GPU, in a directory that pods of no other model mount; `pod` loses them with the
    pod, so that every start compiles."""


class FsxLustreCache(_MountedCache):
    """FSx for Lustre (PERSISTENT_2, SSD) in front of a versioned S3 bucket of weights."""

    kind: Literal["fsx_lustre"]
    storage_gib: int = Field(ge=1200, le=1_000_000)
    """Size in GiB: 1200, 2400, then steps of 2400."""
    throughput_mbps_per_tib: Literal[125, 250, 500, 1000]
    """Disk throughput in MB/s for each TiB of storage."""
    availability_zone: AvailabilityZone | None = None
    """Zone of the file system; the zone of the pool that loads most where left out."""
    load_seconds: int | None = Field(default=None, ge=10, le=7200)
    """Seconds within which every node must have its weights when all minimum replicas start together; a file system
    that is too slow for it is refused, with the smallest one that is not."""
    efa: bool = False
    """Make an EFA-enabled file system, which only comes in large steps and can never be changed to another throughput.
    Nodes reach it over TCP until their image sets Lustre up for EFA; load times are planned over TCP."""


class S3Cache(Section):
    """No file system: every node streams its weights from the S3 bucket."""

    kind: Literal["s3"]


class VolumeClaimCache(_MountedCache):
    """A PersistentVolumeClaim of the target cluster, filled from the model hub by the warm-up Job."""

    kind: Literal["volume_claim"]
    storage_gib: int = Field(ge=10, le=1_000_000)
    """Size of the claim in GiB."""
    storage_class: str | None = None
    """StorageClass; the cluster's default where left out."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteMany"
    """ReadWriteOnce is enough where all serving pods share one node."""
    read_mb_per_s: int = Field(default=1000, ge=50, le=200_000)
    """Sequential read throughput of the volume in MB/s, for the planned load time."""


Cache = Annotated[FsxLustreCache | S3Cache | VolumeClaimCache, Field(discriminator="kind")]
