"""The model cache: legal sizes, and how long every node needs to get its weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from catalog.assumptions import assumed
from planner.plan import CachePlan, FsxPlan, Hardware, LoadPlan, PoolPlan, ReaderShare, VolumeClaimPlan
from planner.problems import Findings
from settings.cache import Cache, FsxLustreCache, S3Cache, VolumeClaimCache
from settings.root import Settings
from settings.target import EksTarget

MOUNT_PATH = "/cache"
DATA_REPOSITORY_PATH = "/models"
CLAIM_NAME = "model-cache"
CLIENT_LIMIT = "client network"
SERVER_LIMIT = "file system, shared by all readers"
RANKS_LIMIT = "copy from a node's memory into its GPUs"
OWN_LIMITS = frozenset({CLIENT_LIMIT, RANKS_LIMIT})
"""Limits on what a node reads for itself, whoever reads beside it."""

# Baseline network throughput of PERSISTENT_2 SSD, MB/s for each TiB, by its disk throughput class.
# Source: FSx for Lustre user guide, "Aggregate file system performance".
_NETWORK_MBPS_PER_TIB = {125: 320, 250: 640, 500: 1300, 1000: 2600}
_FSX_STEP_GIB = 2400
# Steps of an EFA-enabled file system in GiB, by its disk throughput class. Source: FSx for Lustre user guide,
# "EFA-enabled file systems".
_FSX_EFA_STEP_GIB = {125: 38400, 250: 19200, 500: 9600, 1000: 4800}
_FSX_LARGEST_GIB = 1_000_000
_LARGEST_CLAIM_GIB = 1_000_000
_GBPS_TO_MB_PER_S = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One model's share of a start-up: how many nodes read how much, over which network card."""

    model: str = ""
    gigabytes: float
    nodes: int
    ranks: int
    """On each node."""
    hardware: Hardware


class Crowd:
    """All nodes that read at the same time when a stack starts. Sorted once: every model asks it about itself."""

    def __init__(self, readers: Iterable[Reader]) -> None:
        self._readers = tuple(readers)
        by_size = sorted(self._readers, key=lambda reader: reader.gigabytes)
        self._sizes = [reader.gigabytes for reader in by_size]
        self._nodes = [0, *accumulate(reader.nodes for reader in by_size)]
        self._gigabytes = [0.0, *accumulate(reader.nodes * reader.gigabytes for reader in by_size)]

    @property
    def nodes(self) -> int:
        """Nodes that read."""
        return self._nodes[-1]

    def shares(self, own: float) -> tuple[ReaderShare, ...]:
        """The same, reader by reader."""
        return tuple(
            ReaderShare(model=one.model, nodes=one.nodes, gigabytes=min(one.gigabytes, own)) for one in self._readers
        )

    def served_gigabytes(self, own: float) -> float:
        """What all of them have been given, in GB, when each has min(its bytes, `own`)."""
        done = bisect_right(self._sizes, own)
        return self._gigabytes[done] + own * (self.nodes - self._nodes[done])


def with_possible_cache(settings: Settings, findings: Findings) -> Settings:
    """The settings; with a problem and a cache that the target can have in place of one that it cannot, so that the
    rest of the stack is judged."""
    cache, on_eks = settings.cache, isinstance(settings.target, EksTarget)
    if on_eks and isinstance(cache, VolumeClaimCache) and cache.access_mode == "ReadWriteMany":
        findings.problem(
            ("cache", "access_mode"),
            "an EKS cluster of ours has EBS volumes only, which one node mounts",
            "use `kind: fsx_lustre` or `kind: s3`",
        )
    if on_eks or isinstance(cache, VolumeClaimCache):
        return settings
    findings.problem(
        ("cache", "kind"),
        f"`{cache.kind}` needs AWS, and the target is an existing cluster",
        "use `kind: volume_claim` with a StorageClass of that cluster",
    )
    large = VolumeClaimCache(kind="volume_claim", storage_gib=_LARGEST_CLAIM_GIB)
    return settings.model_copy(update={"cache": large})


def plan_cache(
    settings: Settings, pool_zones: tuple[str, ...], default_zone: str | None, findings: Findings
) -> CachePlan:
    """The cache of a stack.

    `pool_zones` are those of pools in one zone: a file system is in one, so pools in several stream from S3.
    `default_zone` is the zone of the pool that loads most.
    """
    cache, on_eks = settings.cache, isinstance(settings.target, EksTarget)
    fsx = claim = None
    if isinstance(cache, FsxLustreCache):
        fsx = _fsx(cache, pool_zones, default_zone, findings)
    elif isinstance(cache, VolumeClaimCache):
        claim = VolumeClaimPlan(
            storage_gib=cache.storage_gib, storage_class=cache.storage_class, access_mode=cache.access_mode
        )
    return CachePlan(
        bucket=on_eks and not isinstance(cache, VolumeClaimCache),
        fsx=fsx,
        volume_claim=claim,
        claim_name=CLAIM_NAME if fsx or claim else None,
        mount_path=MOUNT_PATH,
        data_repository_path=DATA_REPOSITORY_PATH,
        keep_revisions=0 if isinstance(cache, S3Cache) else cache.keep_revisions,
    )


def _fsx(cache: FsxLustreCache, pool_zones: tuple[str, ...], default_zone: str | None, findings: Findings) -> FsxPlan:
    _check_size(cache, findings)
    if not pool_zones:
        findings.problem(
            ("cache", "kind"),
            "a file system is in one zone, and every pool is in several: nobody would mount it",
            "use `kind: s3`, from which pods stream in any zone",
        )
    zone = cache.availability_zone or default_zone or ""
    if cache.availability_zone and pool_zones and cache.availability_zone not in pool_zones:
        findings.problem(
            ("cache", "availability_zone"),
            f"no pool runs in {cache.availability_zone}",
            "put the file system where the GPUs are: " + ", ".join(dict.fromkeys(pool_zones)),
        )
    tib = cache.storage_gib / 1024
    return FsxPlan(
        zone=zone,
        storage_gib=cache.storage_gib,
        throughput_mbps_per_tib=cache.throughput_mbps_per_tib,
        disk_mb_per_s=tib * cache.throughput_mbps_per_tib,
        network_mb_per_s=tib * _NETWORK_MBPS_PER_TIB[cache.throughput_mbps_per_tib],
        file_system_type_version="2.15",
        efa=cache.efa,
    )


def _check_size(cache: FsxLustreCache, findings: Findings) -> None:
    """Refuses a size that FSx does not make, EFA-enabled or not."""
    step = _FSX_EFA_STEP_GIB[cache.throughput_mbps_per_tib] if cache.efa else _FSX_STEP_GIB
    smallest = step if cache.efa else 1200
    if cache.storage_gib == smallest or cache.storage_gib % step == 0:
        return
    below = max(smallest, cache.storage_gib // step * step)
    above = (cache.storage_gib // step + 1) * step
    near = f"{below} and {above}" if below < cache.storage_gib else f"{above}"
    what = (
        f"EFA-enabled FSx for Lustre at {cache.throughput_mbps_per_tib} MB/s a TiB" if cache.efa else "FSx for Lustre"
    )
    legal = f"multiples of {step}" if cache.efa else "1200, 2400, then steps of 2400"
    findings.problem(
        ("cache", "storage_gib"),
        f"{cache.storage_gib} GiB is no size that {what} has",
        f"nearest: {near} ({legal})",
    )


def check_load_target(settings: Settings, loads: Mapping[str, LoadPlan], findings: Findings) -> None:
    """Refuses a file system that gives some model its weights later than `cache.load_seconds`.

    `loads` are those of the models that read the file system, by the model's name. A node's own network card bounds
    the time whatever the file system; else the smallest size and the lowest throughput that reach the target are told.
    """
    cache = settings.cache
    if not isinstance(cache, FsxLustreCache) or cache.load_seconds is None or not loads:
        return
    slowest, load = max(loads.items(), key=lambda item: item[1].seconds)
    if load.seconds <= cache.load_seconds:
        return
    least, limit, model = max(
        (one.gigabytes_per_node * 1000 / one.limits_mb_per_s[limit], limit, model)
        for model, one in loads.items()
        for limit in OWN_LIMITS
    )
    if least > cache.load_seconds:
        card = "use an instance type with a faster first card"
        shards = "let more nodes share a replica, each with its ranks' shards (`engine_options.load: sharded`)"
        findings.problem(
            ("cache", "load_seconds"),
            f"no file system loads {model} in {cache.load_seconds} s: the {limit} alone needs {least:.0f} s",
            f"ask for {ceil(least)} or more, or {card if limit == CLIENT_LIMIT else shards}",
        )
        return
    needed = load.seconds * load.limits_mb_per_s[SERVER_LIMIT] / cache.load_seconds
    findings.problem(
        ("cache", "load_seconds"),
        f"{slowest} has its weights after {load.seconds:.0f} s, all {load.readers} reading nodes counted",
        _large_enough(cache, needed),
    )


def _large_enough(cache: FsxLustreCache, megabytes_per_second: float) -> str:
    """The nearest file systems that sustain a rate: more storage, or more throughput for each TiB."""
    ways: list[str] = []
    for tier in (tier for tier in _NETWORK_MBPS_PER_TIB if tier >= cache.throughput_mbps_per_tib):
        step = _FSX_EFA_STEP_GIB[tier] if cache.efa else _FSX_STEP_GIB
        size = max(ceil(megabytes_per_second / tier * 1024 / step) * step, ceil(cache.storage_gib / step) * step)
        if size <= _FSX_LARGEST_GIB:
            ways.append(f"storage_gib: {size} at throughput_mbps_per_tib: {tier}")
    return f"use {', or '.join(ways[:2])}" if ways else "no file system is that fast: allow more seconds"


def network_mbps_per_tib(throughput_mbps_per_tib: int) -> int:
    """What file servers send from memory, MB/s for each TiB of storage."""
    return _NETWORK_MBPS_PER_TIB[throughput_mbps_per_tib]


def nearest_size(cache: FsxLustreCache | VolumeClaimCache, least_gib: int) -> int:
    """The smallest size from `least_gib` on that the cache can have, GiB."""
    if isinstance(cache, VolumeClaimCache):
        return ceil(least_gib / 10) * 10
    if not cache.efa and least_gib <= 1200:
        return 1200
    step = _FSX_EFA_STEP_GIB[cache.throughput_mbps_per_tib] if cache.efa else _FSX_STEP_GIB
    return ceil(least_gib / step) * step


def check_sharing(settings: Settings, pods: int, nodes: int, findings: Findings) -> None:
    """Refuses a volume that one node mounts where `pods` of the models can come to lie on `nodes` of them."""
    cache = settings.cache
    if not isinstance(cache, VolumeClaimCache) or cache.access_mode == "ReadWriteMany" or min(pods, nodes) < 2:
        return
    on_eks = isinstance(settings.target, EksTarget)
    findings.problem(
        ("cache", "access_mode"),
        f"one node mounts a ReadWriteOnce volume, and {pods} pods of the models may lie on {nodes} nodes: on all but "
        "the first they would wait for ever",
        "use `kind: fsx_lustre` or `kind: s3`" if on_eks else "use ReadWriteMany, or one node",
    )


def medium_of(settings: Settings, cache: CachePlan, pool_zone: str | None) -> str:
    """How a pool gets weights: from the file system in its zone, streamed from S3, or from the claim."""
    if isinstance(settings.cache, VolumeClaimCache):
        return "volume"
    if isinstance(settings.cache, S3Cache) or cache.fsx is None or cache.fsx.zone != pool_zone:
        return "s3_stream"
    return "lustre"


def tell_streaming(pools: Iterable[PoolPlan], cache: CachePlan, findings: Findings) -> None:
    """Tells which pools do without the file system because they are in several zones."""
    if cache.fsx is None:
        return
    for index, pool in enumerate(pools):
        if pool.several_zones:
            findings.remark(
                f"pools[{index}]",
                f"streams weights from S3, in {' and '.join(pool.several_zones)} alike: the file system is in "
                f"{cache.fsx.zone} alone, and would be lost with it",
            )


def into_gpus(ranks: int, *, shards: bool = False) -> str:
    """The assumption that says how much of a checkpoint so many ranks of one node take out of its memory together, each
    its part of every tensor, or files of its own (shards). Measured are powers of two; a number between counts as the
    smaller one."""
    measured = 1 << min(3, ranks.bit_length() - 1)
    return f"{'shards_' if shards else ''}into_gpus_mb_per_s_{measured}_rank" + ("s" if measured > 1 else "")


def plan_load(cache: Cache, plan: CachePlan, medium: str, reader: Reader, everyone: Crowd) -> LoadPlan:
    """Seconds until one node has its weights when all minimum replicas start together.

    A file server shares its rate equally among those that still read, each checkpoint is read once a node (prefetch),
    and nothing is counted as cached in the server's memory. So a node of `own` bytes is done when the server has given
    every reader min(its bytes, own): time = max(own / client rate, sum of min(bytes, own) / server rate). Ranks take
    files out of the node's memory while others arrive: the slower of both counts. Streams from S3 skip that.
    """
    readers = everyone.nodes
    served_mb = everyone.served_gigabytes(reader.gigabytes) * 1000
    own_mb = reader.gigabytes * 1000
    client = reader.hardware.card0_gbps * _GBPS_TO_MB_PER_S
    limits: dict[str, float]
    seconds: dict[str, float]
    if medium == "lustre":
        assert plan.fsx is not None  # noqa: S101 - medium_of says lustre only with a file system
        client = min(client, assumed("client_lustre_mb_per_s"))
        server = min(plan.fsx.disk_mb_per_s, plan.fsx.network_mb_per_s)
        limits = {CLIENT_LIMIT: client, RANKS_LIMIT: assumed(into_gpus(reader.ranks)), SERVER_LIMIT: server}
        seconds = {name: (own_mb if name in OWN_LIMITS else served_mb) / rate for name, rate in limits.items()}
    elif medium == "s3_stream":
        client *= assumed("s3_client_share")
        limits, seconds, readers = {CLIENT_LIMIT: client}, {CLIENT_LIMIT: own_mb / client}, reader.nodes
    else:
        assert isinstance(cache, VolumeClaimCache)  # noqa: S101 - medium_of says volume only for a claim
        limits = {RANKS_LIMIT: assumed(into_gpus(reader.ranks)), "volume": float(cache.read_mb_per_s)}
        seconds = {name: (own_mb if name in OWN_LIMITS else served_mb) / rate for name, rate in limits.items()}
    bottleneck = max(seconds, key=lambda name: seconds[name])
    alone = medium == "s3_stream"
    return LoadPlan(
        gigabytes_per_node=reader.gigabytes,
        readers=readers,
        shares=() if alone else everyone.shares(reader.gigabytes),
        served_gigabytes=round(reader.gigabytes * readers if alone else served_mb / 1000, 1),
        bottleneck=bottleneck,
        limits_mb_per_s=limits,
        seconds=round(seconds[bottleneck], 1),
    )
