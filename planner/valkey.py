"""The key-value stores of the cluster: who uses them, and what a Ray head without one forgets.

Two of one chart, never one: what keeps state refuses writes when it is full, a cache throws away what was used longest
ago, and `maxmemory-policy` is of the whole server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from planner.images import mirrored
from planner.naming import SERVING_NAMESPACE
from planner.plan import EksPlan, ExistingClusterPlan, ModelPlan, PoolPlan, SecretPlan, ValkeyPlan
from planner.problems import Findings
from settings.errors import Path
from settings.root import Settings
from settings.secrets import KubernetesSecret
from settings.serving import Model
from settings.valkey import KvStore, Valkey

_PORT = 6379
_FORK_SHARE = 1.5
"""Half as much again: the append-only file is rewritten by a fork, which shares only what stays unchanged."""
_CACHE_SHARE = 1.1
"""Blocks are large and alike; a tenth more for fragments and what waits to be sent."""
_SYSTEM_SHARE = 0.5
"""Of a system node's RAM, which controllers, Prometheus and Ray heads share."""


_IMAGE = "docker.io/valkey/valkey"
"""Repository of the server's image in the chart's values, whose tag is the chart's `appVersion`."""
_FORMER_SECONDS = 24 * 3600
"""Clients restart one by one, each for as long as its model takes to start."""


def plan_valkey(settings: Settings, storage_class: str | None) -> ValkeyPlan | None:
    """The store of state, beside its clients: Secrets with its password and its CA do not leave a namespace."""
    wanted = settings.valkey
    if wanted is None:
        return None
    return replace(
        _store("valkey", wanted, _FORK_SHARE),
        storage_gib=wanted.storage_gib,
        storage_class=storage_class,
        replicas=wanted.replicas,
    )


def plan_kv_store(settings: Settings) -> ValkeyPlan | None:
    """The store of KV blocks, a cache."""
    wanted = settings.kv_store
    return replace(_store("kv-store", wanted, _CACHE_SHARE), evicts=True, cpu="1") if wanted is not None else None


def _store(name: str, wanted: Valkey | KvStore, share: float) -> ValkeyPlan:
    source = wanted.password
    password = (
        SecretPlan(namespace=SERVING_NAMESPACE, name=source.name, key=source.key, source=source)
        if isinstance(source, KubernetesSecret)
        else SecretPlan(namespace=SERVING_NAMESPACE, name=f"{name}-password", key="password", source=source)
    )
    return ValkeyPlan(
        name=name,
        namespace=SERVING_NAMESPACE,
        port=_PORT,
        password=password,
        tls_secret=f"{name}-tls",
        ca_key="ca.crt",
        memory_gib=wanted.memory_gib,
        pod_memory_gib=math.ceil(wanted.memory_gib * share) + 1,
        storage_gib=None,
        storage_class=None,
        replicas=0,
    )


def check_gcs(path: Path, model: Model, *, has_store: bool, findings: Findings) -> None:
    """Refuses a Ray head's state that is to outlive it where there is no head, or nowhere to keep it."""
    if model.ray.gcs_fault_tolerance is not True:
        return
    at = (*path, "ray", "gcs_fault_tolerance")
    if model.runtime != "ray_service":
        words = "a model that Ray does not run has no Ray head"
        findings.problem(at, words, "leave it out, or use `runtime: ray_service`")
    elif not has_store:
        findings.problem(
            at,
            "a head's state needs a store that outlives it, and the stack has none",
            "add `valkey: {storage_gib: 4}` to the stack file, or leave this out",
        )


def gcs_store(
    path: Path, model: Model, runtime: str, store: ValkeyPlan | None, findings: Findings
) -> ValkeyPlan | None:
    """Where a model's Ray head keeps its cluster's state; None: in its own memory, and a new head starts afresh."""
    wanted = model.ray.gcs_fault_tolerance
    if runtime != "ray_service" or wanted is False:
        return None
    if store is None and wanted == "auto":
        findings.remark(
            f"models[{path[1]}]",
            "when its Ray head ends, all replicas restart with the next one: `valkey: {}` in the stack file keeps them",
        )
    return store


def with_clients(
    store: ValkeyPlan | None,
    models: tuple[ModelPlan, ...],
    pools: Mapping[str, PoolPlan],
    target: EksPlan | ExistingClusterPlan,
    findings: Findings,
    *,
    version: str | None,
    mirror: str | None,
) -> ValkeyPlan | None:
    """A store of that version with the models that reach it: a remark where none does, a problem without a node."""
    if store is None:
        return None
    setting = "kv_store" if store.evicts else "valkey"
    if isinstance(target, EksPlan) and store.pod_memory_gib > (room := target.system.memory_gib * _SYSTEM_SHARE):
        share = _CACHE_SHARE if store.evicts else _FORK_SHARE
        findings.problem(
            (setting, "memory_gib"),
            f"its pod takes {store.pod_memory_gib} GiB, and half of a system node ({target.system.instance_type}) is "
            f"{room:g}: the rest is the controllers'",
            f"set it to {int((room - 1) / share)} or less, or take larger `target.system_nodes`",
        )
    for index, model in enumerate(models):
        if model.name == store.name:
            findings.problem(
                ("models", index, "name"), f"`{store.name}` is what a store of the stack is called", "call it otherwise"
            )
    clients = tuple(model.name for model in models if store.name in {used.name for used in model.stores})
    if not clients:
        users = "models with `kv_offload.remote: valkey`" if store.evicts else "Ray heads (`runtime: ray_service`)"
        findings.remark(setting, f"no model uses it; who would: {users}")
    near = {zone for model in models if model.name in clients for zone in pools[model.pool].zones}
    return replace(
        store,
        clients=clients,
        zones=tuple(sorted(near)) if store.evicts else (),
        image=mirrored(f"{_IMAGE}:{version}", mirror),
        former_password_seconds=_FORMER_SECONDS,
    )


def check_shared_blocks(models: tuple[ModelPlan, ...], findings: Findings) -> None:
    """Refuses models that would take each other's blocks for their own: LMCache's keys name the directory of the
    weights, the ranks and the cache's number format, not what weights were quantised to while they were loaded."""
    sharing: dict[tuple[str, int], ModelPlan] = {}
    for index, model in enumerate(models):
        if model.kv_tiers is None or model.kv_tiers.store is None:
            continue
        first = sharing.setdefault((model.weights.directory, model.layout.gpus), model)
        if first.quantization != model.quantization:
            findings.problem(
                ("models", index, "kv_offload", "remote"),
                f"`{first.name}` keeps blocks of the same weights in `kv_store`, quantised otherwise",
                "let one of the two keep its blocks in RAM alone",
            )
