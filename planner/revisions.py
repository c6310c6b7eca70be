"""What lies in the bucket and on the cache: revisions, what is read beside them, and what pods write there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import ceil
from typing import Literal

from catalog.assumptions import assumed
from catalog.load import Catalog
from planner.cache import nearest_size
from planner.drafts import Draft
from planner.engines.checks import options_of
from planner.engines.held import adapter_files_gb
from planner.engines.request import KEPT_DIRECTORY, SHARDS_DIRECTORY, saved_shards
from planner.naming import SERVING_PRIORITY, kubernetes_name
from planner.plan import (
    CachePlan,
    EksPlan,
    ExistingClusterPlan,
    LoadPlan,
    ModelPlan,
    RevisionPlan,
    SecretPlan,
    ShardsPlan,
    SharedDirectoryPlan,
    WarmupPlan,
    WeightsPlan,
)
from planner.problems import Findings
from settings.cache import FsxLustreCache, VolumeClaimCache
from settings.engines import DraftSpeculation
from settings.root import Settings

BUCKET_URL = "s3://$(WEIGHTS_BUCKET)"

_WARMUP_MARGIN = 4
"""A warm-up reads everything once and checks it; the cache fetches it from S3 meanwhile."""

_HUB_MB_PER_S = 50
"""What a download from the hub is given at least before it counts as stuck."""

_FILLED = 0.95
"""Share of a file system that may be planned for: a full one fails, and Lustre's targets do not fill evenly."""

Kind = Literal["model", "draft", "adapter"]


def revision_of(
    cache: CachePlan, medium: str, kind: Kind, hub_id: str, revision: str, gigabytes: float
) -> RevisionPlan:
    """Where one repository at one commit lies."""
    prefix = f"{cache.data_repository_path.strip('/')}/{hub_id}/{revision}"
    mounted = f"{cache.mount_path}/{prefix}"
    return RevisionPlan(
        kind=kind,
        hub_id=hub_id,
        revision=revision,
        gigabytes=gigabytes,
        object_prefix=prefix,
        directory=f"{BUCKET_URL}/{prefix}" if medium == "s3_stream" else mounted,
        ready_marker=f"{mounted}/.ready",
    )


def plan_weights(
    sketch: Draft,
    settings: Settings,
    cache: CachePlan,
    medium: str,
    load: LoadPlan,
    *,
    image: str,
    shards: ShardsPlan | None,
) -> WeightsPlan:
    """The weights of a model with all that is read or kept beside them."""
    model, card = sketch.model, sketch.card
    own = revision_of(cache, medium, "model", sketch.hub_id, model.revision, card.checkpoint.gigabytes)
    upcoming = None
    if model.next_revision is not None:
        upcoming = revision_of(cache, medium, "model", sketch.hub_id, model.next_revision, card.checkpoint.gigabytes)
    return WeightsPlan(
        hub_id=own.hub_id,
        revision=own.revision,
        gigabytes=own.gigabytes,
        object_prefix=own.object_prefix,
        directory=own.directory,
        ready_marker=own.ready_marker,
        medium=medium,  # type: ignore[arg-type]
        load=load,
        beside=_beside(sketch, cache, medium),
        upcoming=upcoming,
        shards=shards,
        directories=_directories(sketch, settings, own, medium, image, shards),
        staged_within_seconds=_staged_within(own.gigabytes) if medium == "s3_stream" else None,
    )


def _staged_within(gigabytes: float) -> int:
    """An upload of it all at the least rate that a download from the hub is given."""
    return max(3600, int(gigabytes * 1000 / _HUB_MB_PER_S))


def _beside(sketch: Draft, cache: CachePlan, medium: str) -> tuple[RevisionPlan, ...]:
    options, found = options_of(sketch.model), list[RevisionPlan]()
    speculation = options.speculation
    if isinstance(speculation, DraftSpeculation):
        found.append(
            revision_of(cache, medium, "draft", speculation.model, speculation.revision, speculation.gigabytes)
        )
    for adapter in options.lora.adapters if options.lora else ():
        size = adapter_files_gb(sketch.card, adapter.rank)
        found.append(revision_of(cache, medium, "adapter", adapter.source, adapter.revision, size))
    # One repository may serve twice, under two names.
    return tuple({one.object_prefix: one for one in found}.values())


def _directories(
    sketch: Draft, settings: Settings, own: RevisionPlan, medium: str, image: str, shards: ShardsPlan | None
) -> tuple[SharedDirectoryPlan, ...]:
    """Directories that the model's pods write. Kernels and shards are of one engine, revision, layout and GPU: what
    differs in any of these must not find them. The engines tell finer differences themselves, by their own digests."""
    cache, layout = settings.cache, sketch.fit.layout
    if medium == "s3_stream" or not isinstance(cache, FsxLustreCache | VolumeClaimCache):
        return ()
    alike = (
        image, sketch.engine.engine_version, sketch.hub_id, sketch.model.revision, sketch.model.quantization,
        sketch.facts.gpu.name, str(layout),
    )  # fmt: skip
    found: list[SharedDirectoryPlan] = []
    if cache.compiled_kernels == "shared":
        found.append(
            SharedDirectoryPlan(
                name="compiled", sub_path=f"compiled/{sketch.model.name}/{_digest(alike)}", mount_path=KEPT_DIRECTORY
            )
        )
    if shards is not None:
        by_itself = not shards.init_seconds
        # vLLM's shards tell nothing of themselves: any option that only the user knows may change what ranks hold.
        digest = _digest(alike if by_itself else (*alike, *options_of(sketch.model).extra_args))
        found.append(
            SharedDirectoryPlan(
                name="shards",
                sub_path=f"shards/{sketch.model.name}/{digest}",
                mount_path=SHARDS_DIRECTORY if by_itself else saved_shards(own),
                read_only=not by_itself,
            )
        )
    return tuple(found)


def _digest(alike: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(alike).encode()).hexdigest()[:12]


def check_cache_size(settings: Settings, models: Iterable[ModelPlan], findings: Findings) -> float:
    """Refuses a cache that is too small for what will lie on it; returns that in decimal GB.

    Counted are all revisions that are served or come next, `keep_revisions` earlier ones of each repository as large
    as these, shards, and room for compiled kernels.
    """
    cache = settings.cache
    if not isinstance(cache, FsxLustreCache | VolumeClaimCache):
        return 0.0
    mounted = [model for model in models if model.weights.medium != "s3_stream"]
    held = {one.object_prefix: one for model in mounted for one in model.weights.held}
    largest: dict[str, float] = {}
    for one in held.values():
        largest[one.hub_id] = max(one.gigabytes, largest.get(one.hub_id, 0.0))
    now = sum(one.gigabytes for one in held.values())
    earlier = cache.keep_revisions * sum(largest.values())
    shards = sum(model.weights.shards.gigabytes for model in mounted if model.weights.shards)
    kernels = sum(assumed("compiled_kernels_gb") for model in mounted if model.weights.directories)
    needed = now + earlier + shards + kernels
    room = cache.storage_gib * 2**30 / 1e9 * _FILLED
    if needed > room:
        what = f"{now:.0f} GB of revisions that are served or come next"
        what += f", {earlier:.0f} GB of {cache.keep_revisions} earlier one(s) of each" if earlier else ""
        what += f", {shards:.0f} GB of shards" if shards else ""
        what += f", {kernels:.0f} GB for kernels" if kernels else ""
        enough = nearest_size(cache, ceil(needed / _FILLED * 1e9 / 2**30))
        fewer = f", or `keep_revisions: {cache.keep_revisions - 1}`" if cache.keep_revisions else ""
        findings.problem(
            ("cache", "storage_gib"),
            f"{cache.storage_gib} GiB hold {room:.0f} GB at {_FILLED:.0%}, and {needed:.0f} GB will lie there: {what}",
            f"`storage_gib: {enough}` is the nearest that does{fewer}",
        )
    return round(needed, 1)


def plan_warmups(
    models: tuple[ModelPlan, ...],
    hub_token: SecretPlan | None,
    image: str,
    target: EksPlan | ExistingClusterPlan,
    catalog: Catalog,
) -> tuple[WarmupPlan, ...]:
    """One Job for each revision that lies on a mounted cache, however many models read it.

    Lustre is mounted by every node, so its Jobs run on system nodes, with `image`, at what such a node's network
    sustains. A claim may be bound to the pool's node, and its weights come from the hub.
    """
    rate = _warmup_rate(target, catalog)
    first: dict[str, tuple[RevisionPlan, ModelPlan]] = {}
    readers: dict[str, list[ModelPlan]] = {}
    for model in models:
        if model.weights.medium == "s3_stream":
            continue
        for one in model.weights.held:
            first.setdefault(one.object_prefix, (one, model))
            waiting = readers.setdefault(one.object_prefix, [])
            if one in model.weights.read:
                waiting.append(model)
    return tuple(
        _warmup(one, model, tuple(readers[prefix]), hub_token, image, rate) for prefix, (one, model) in first.items()
    )


def _warmup(
    one: RevisionPlan,
    model: ModelPlan,
    readers: tuple[ModelPlan, ...],
    hub_token: SecretPlan | None,
    image: str,
    rate: float,
) -> WarmupPlan:
    on_lustre = model.weights.medium == "lustre"
    directories = [
        directory.sub_path
        for reader in readers
        if reader.weights.object_prefix == one.object_prefix
        for directory in reader.weights.directories
    ]
    return WarmupPlan(
        name=warmup_name(one),
        weights=one,
        source="files" if on_lustre else "hub",
        models=tuple(reader.name for reader in readers),
        namespace=model.namespace,
        priority_class=SERVING_PRIORITY,
        directories=tuple(directories),
        # The Job's own node may be slower than those that serve, and what S3 or the hub gives it comes through it.
        seconds=max(
            model.weights.load.seconds * one.gigabytes / model.weights.load.gigabytes_per_node,
            one.gigabytes * 1000 / rate,
        ),
        hub_token=hub_token,
        timeout_seconds=max(3600, int(_WARMUP_MARGIN * one.gigabytes * 1000 / rate)),
        image=image if on_lustre else model.container.image,
        pool=None if on_lustre else model.pool,
    )


def warmup_name(one: RevisionPlan) -> str:
    """Unique for each revision of each repository, and short enough for a Job."""
    digest = hashlib.sha256(one.object_prefix.encode()).hexdigest()[:4]
    model = kubernetes_name(one.hub_id.split("/")[-1], limit=40)
    return f"warm-{model}-{digest}-{one.revision[:8]}"


def _warmup_rate(target: EksPlan | ExistingClusterPlan, catalog: Catalog) -> float:
    """MB/s at which a warm-up Job reads: a system node's network, or the hub."""
    if isinstance(target, EksPlan):
        return catalog.instances[target.system.instance_type].card0_gbps * 125
    return _HUB_MB_PER_S
