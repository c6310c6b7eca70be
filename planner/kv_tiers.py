"""Tiers of the KV cache behind the GPUs' own: RAM of the nodes, and a store that all replicas share.

What the engines do, read in their pinned sources. vLLM maps its blocks into files in /dev/shm, on each of an engine's
nodes large enough for the ranks of all (v1/kv_offload/cpu/shared_offload_region.py), and keeps what tensor ranks of
latent attention have in common once (offloading/config.py, `replicated_layout`). SGLang gives each rank a pool of its
own and leaves 10 GiB free (mem_cache/pool_host/base.py). LMCache gives each rank its own (`max_local_cpu_size`), and of
latent attention only the first rank keeps blocks (v1/storage_backend/local_cpu_backend.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from catalog.assumptions import assumed
from catalog.load import Catalog
from catalog.types import ModelCard
from planner.engines.checks import options_of
from planner.engines.lmcache import STAGING_GIB, first_rank_gib
from planner.engines.request import sglang_gigabytes
from planner.memory import GIB
from planner.performance import Replica, prefill_ms
from planner.plan import ContainerPlan, KvTiersPlan, LayoutPlan, MemoryBudget, PoolPlan, ValkeyPlan
from planner.problems import Findings
from settings.engines import SglangOptions, VllmOptions
from settings.errors import Path
from settings.kv_tiers import KvOffload
from settings.root import Settings
from settings.serving import Model
from settings.target import EksTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiered:
    """A model and what its tiers are judged by."""

    path: Path
    model: Model
    card: ModelCard
    runtime: str
    layout: LayoutPlan
    memory: MemoryBudget
    options: VllmOptions | SglangOptions


def plan_kv_tiers(asked: Tiered, store: ValkeyPlan | None, findings: Findings) -> KvTiersPlan | None:
    """The tiers that a model asks for; None where it asks for none. `store` is the stack's, where it has one."""
    wanted = asked.model.kv_offload
    if wanted is None:
        return None
    layout, per_token = asked.layout, asked.memory.kv_bytes_per_token
    tensor_alone = layout.nodes == layout.pipeline == layout.data == 1
    if wanted.through == "lmcache" and asked.model.engine == "vllm" and not tensor_alone:
        findings.problem(
            (*asked.path, "kv_offload", "through"),
            "the scheduler asks its ranks for blocks over sockets of one node, and counts tensor ranks alone",
            "leave `through` out, or use a layout of tensor ranks on one node",
        )
    copies = _copies(asked, wanted)
    region = 0
    if asked.model.engine == "vllm" and wanted.through == "native":
        # The file of an engine that spans nodes has room for the ranks of all of them, on each.
        region = wanted.cpu_gib * max(1, layout.nodes // layout.data)
    kept = (
        first_rank_gib(wanted.cpu_gib, layout.gpus) if copies == 1 and wanted.through == "lmcache" else wanted.cpu_gib
    )
    tokens = int(kept * layout.nodes * GIB / (per_token * copies))
    if 0 < tokens <= asked.memory.kv_tokens:
        enough = math.ceil(asked.memory.kv_tokens * per_token * copies / layout.nodes / GIB) + 1
        findings.remark(
            f"models[{asked.path[1]}]",
            f"`kv_offload` copies blocks as they are computed, and {tokens:,} tokens of RAM are no more than the "
            f"{asked.memory.kv_tokens:,} that the GPUs hold anyway: it gives back little below {enough} GiB",
        )
    return KvTiersPlan(
        through=wanted.through,
        cpu_gib=wanted.cpu_gib,
        region_gib=region,
        tokens=tokens,
        store=store if wanted.remote == "valkey" else None,
        store_bytes_per_token=per_token * copies if wanted.remote == "valkey" else 0,
    )


def _copies(asked: Tiered, wanted: KvOffload) -> int:
    """Ranks whose part of a token's blocks is kept: those of latent attention all have the same."""
    layout = asked.layout
    once = asked.card.mla is not None and layout.pipeline == layout.data == layout.nodes == 1
    return 1 if once and (wanted.through == "lmcache" or asked.model.engine == "vllm") else layout.gpus


Told = tuple[str, str, str]


def check_kv_offload(path: Path, model: Model, card: ModelCard | None, *, has_store: bool, findings: Findings) -> None:
    """Refuses tiers that a model can have in no layout; `has_store`: whether the stack has one for KV blocks."""
    wanted = model.kv_offload
    if wanted is None:
        return
    told = [*_refusals(options_of(model), wanted, has_store=has_store)]
    if wanted.through == "lmcache":
        told += _lmcache_refusals(model, card)
    for key, message, help_text in told:
        findings.problem((*path, "kv_offload", key), message, help_text)


def _refusals(options: VllmOptions | SglangOptions, wanted: KvOffload, *, has_store: bool) -> Iterator[Told]:
    if not options.prefix_caching:
        yield (
            "cpu_gib",
            "blocks are found again by the prefix they belong to, and `engine_options.prefix_caching` is off",
            "leave one of the two out",
        )
    if wanted.remote == "valkey" and not has_store:
        yield "remote", "the stack has no store for KV blocks", "add `kv_store: {memory_gib: 6}` to the stack file"


def _lmcache_refusals(model: Model, card: ModelCard | None) -> Iterator[Told]:
    """What LMCache 0.5.6 inside vLLM 0.33 cannot do, or nobody has seen it do."""
    key, image = "through", model.image
    if model.engine == "sglang":
        yield (
            key,
            "SGLang reaches LMCache only as a server of its own, which maps the GPUs' memory from outside the pod",
            "leave `through` out: HiCache keeps blocks in RAM without it",
        )
        return
    if model.runtime == "ray_service":
        yield (
            key,
            "Ray carries an older vLLM than the one that LMCache is held to here",
            "leave `through` out, or use runtime deployment",
        )
    if image is None or not image.carries_lmcache:
        yield (
            key,
            "the engine's image is not known to carry LMCache (vLLM's own is built without KV connectors)",
            "build `vllm-efa-kv` of images/ and name it at `image` with `carries_lmcache: true`",
        )
    if card is not None and (card.sliding_layers or card.linear is not None):
        yield (
            key,
            f"{card.name} keeps less of its cache in some layers than in others, which vLLM gives up for "
            "LMCache: the planned memory would not do",
            "leave `through` out: the engine's own offloading knows such layers",
        )
    if options_of(model).lora is not None:
        yield (
            key,
            "LMCache finds blocks by their tokens alone: an adapter would be given blocks of another",
            "leave one of the two out",
        )


def check_host_cache(
    path: Path, model: Model, container: ContainerPlan, tiers: KvTiersPlan, findings: Findings
) -> None:
    """Refuses a cache in RAM that the pod's share of the node cannot hold beside the engine."""
    engine = math.ceil(assumed("engine_host_gib_base") + assumed("engine_host_gib_per_gpu") * container.gpus)
    if model.engine == "sglang":
        engine += math.ceil(assumed("hicache_reserve_gib"))
    shared = container.shared_memory_gib - tiers.region_gib
    room = container.memory_gib - shared - engine
    if tiers.region_gib:
        # A file system in memory cannot be larger than the pod's memory, however little of it is written.
        room = room * tiers.cpu_gib // tiers.region_gib
    at = (*path, "kv_offload", "cpu_gib")
    if tiers.cpu_gib > room:
        findings.problem(
            at,
            f"{tiers.cpu_gib} GiB do not fit: a pod has {container.memory_gib} GiB of its node, of which the engine "
            f"needs {engine} and shared memory {shared}",
            f"set it to {room} or less" if room >= 1 else "leave `kv_offload` out, or use a type with more RAM",
        )
    elif model.engine == "sglang" and sglang_gigabytes(tiers.cpu_gib, container.gpus) < 1:
        findings.problem(
            at,
            f"SGLang takes whole GB for each of {container.gpus} GPUs, and {tiers.cpu_gib} GiB are less",
            f"set it to {container.gpus} or more",
        )
    elif tiers.through == "lmcache" and tiers.cpu_gib < 2 * STAGING_GIB * container.gpus:
        findings.problem(
            at,
            f"each of {container.gpus} ranks passes blocks through {STAGING_GIB} GiB, which leaves too little to keep",
            f"set it to {2 * STAGING_GIB * container.gpus} or more",
        )


def tier_words(tiers: KvTiersPlan, memory: MemoryBudget) -> str:
    """What the tiers hold, in words."""
    mover = "LMCache copies them" if tiers.through == "lmcache" else "the engine copies them"
    return (
        f"{tiers.cpu_gib} GiB of each pod's RAM keep copies of the last {tiers.tokens:,} tokens, where the GPUs hold "
        f"{memory.kv_tokens:,}: a prompt that comes again is copied back ({mover}), not computed"
    )


def store_words(
    asked: Tiered,
    tiers: KvTiersPlan,
    replica: Replica,
    pool: PoolPlan,
    settings: Settings,
    catalog: Catalog,
    findings: Findings,
) -> str | None:
    """What the shared store holds, and whether fetching from it beats computing; a remark where it does not."""
    store = tiers.store
    if store is None:
        return None
    held = int(store.memory_gib * GIB / tiers.store_bytes_per_token)
    tokens = asked.model.context_tokens // 2
    fetched = tokens * tiers.store_bytes_per_token / 1e3 / _store_mb_per_s(pool, settings, catalog)
    computed = prefill_ms(replica, tokens=float(tokens), context=0.0)
    faster = fetched < computed
    if not faster:
        findings.remark(
            f"models[{asked.path[1]}]",
            f"a prompt of {tokens:,} tokens is fetched from `{store.name}` in {fetched:.0f} ms and computed in "
            f"{computed:.0f}: the store saves GPU work here, not time to the first token",
        )
    if held < tiers.tokens:
        findings.remark(
            "kv_store",
            f"it holds {held:,} tokens of `{asked.model.name}`, less than the RAM of one replica ({tiers.tokens:,})",
        )
    return (
        f"{store.memory_gib} GiB of `{store.name}` keep {held:,} tokens, {tiers.store_bytes_per_token / 1024:.0f} KiB "
        f"each, for all replicas and those to come: a prompt of {tokens:,} tokens is fetched in {fetched:.0f} ms, "
        f"{'faster than' if faster else 'slower than'} the {computed:.0f} ms that computing it takes"
    )


def _store_mb_per_s(pool: PoolPlan, settings: Settings, catalog: Catalog) -> float:
    """The slowest of what the store sends, its node's network and the pod's."""
    rates = [assumed("valkey_mb_per_s"), pool.hardware.card0_gbps * 125]
    if isinstance(settings.target, EksTarget):
        system = catalog.instances.get(settings.target.system_nodes.instance_type)
        rates.append(system.card0_gbps * 125 if system else 0)
    return min(rate for rate in rates if rate)
