"""LMCache inside vLLM: what its connector and its environment are told.

Names are held to catalog/engine_flags/lmcache.json. The store's password reaches LMCache inside a URL, and LMCache
writes its whole configuration to the log at INFO: its log starts at WARNING.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from planner.plan import EnvVar, KvTiersPlan, LayoutPlan, ValkeyPlan

STORE_CA_DIRECTORY = "/etc/kv-store-ca"
"""Where pods find the certificate of the store's CA."""
STORE_PASSWORD = "KV_STORE_PASSWORD"  # noqa: S105 - the name of a variable
_LIMITS = "socket_connect_timeout=2&socket_timeout=5"
"""Seconds until a store that does not answer counts as gone."""
STAGING_GIB = 1
"""What ranks are given that keep no blocks: blocks pass through it."""

CONNECTOR = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
"""vLLM's `kv_transfer_config`: LMCache in the engine's own process."""


def first_rank_gib(cpu_gib: int, ranks: int) -> int:
    """What is left for the rank that keeps the blocks of latent attention, which all ranks have alike."""
    return cpu_gib - STAGING_GIB * (ranks - 1)


def env(tiers: KvTiersPlan, layout: LayoutPlan, *, latent: bool) -> Iterator[EnvVar]:
    """Environment of a pod. Sizes are GiB of each rank."""
    extra: dict[str, Any] = {}
    each = tiers.cpu_gib / layout.gpus_per_node
    if latent and layout.gpus_per_node > 1:
        each = STAGING_GIB
        extra["first_rank_max_local_cpu_size"] = first_rank_gib(tiers.cpu_gib, layout.gpus_per_node)
    yield EnvVar(name="LMCACHE_LOCAL_CPU", value="true")
    yield EnvVar(name="LMCACHE_MAX_LOCAL_CPU_SIZE", value=f"{each:g}")
    # Of the tokens alone and the same in every pod; Python's own hash, the default, is neither hard to collide with nor
    # shared by processes.
    yield EnvVar(name="LMCACHE_PRE_CACHING_HASH_ALGORITHM", value="sha256_cbor")
    yield EnvVar(name="LMCACHE_LOG_LEVEL", value="WARNING")
    yield EnvVar(name="LMCACHE_TRACK_USAGE", value="false")
    if tiers.store is not None:
        store = tiers.store
        yield EnvVar(name=STORE_PASSWORD, secret=(store.password.name, store.password.key))
        yield EnvVar(name="LMCACHE_REMOTE_STORAGE_PLUGINS", value="redis")
        extra["remote_storage_plugin.redis.redis_url"] = _url(store)
    if extra:
        yield EnvVar(name="LMCACHE_EXTRA_CONFIG", value=json.dumps(extra, separators=(",", ":")))


def _url(store: ValkeyPlan) -> str:
    """The kubelet puts the password in; redis-py takes CA and limits from the query. Without limits a request would
    wait for a store whose node is gone until LMCache gives up (10 s for each look)."""
    authority = store.url.replace("rediss://", f"rediss://:$({STORE_PASSWORD})@")
    return f"{authority}?ssl_ca_certs={STORE_CA_DIRECTORY}/{store.ca_key}&{_LIMITS}"
