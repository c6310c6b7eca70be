"""The key-value store of the cluster: who uses it, and what a Ray head without one forgets."""

from __future__ import annotations

import math
from dataclasses import replace

from planner.naming import SERVING_NAMESPACE
from planner.plan import EksPlan, ExistingClusterPlan, ModelPlan, SecretPlan, ValkeyPlan
from planner.problems import Findings
from settings.errors import Path
from settings.root import Settings
from settings.secrets import KubernetesSecret
from settings.serving import Model

_NAME = "valkey"
_PORT = 6379
_FORK_SHARE = 1.5
_SYSTEM_SHARE = 0.5
"""Of a system node's RAM, which controllers, Prometheus and Ray heads share."""


def plan_valkey(settings: Settings, storage_class: str | None) -> ValkeyPlan | None:
    """The store, beside its clients: they read its password and its CA from Secrets, which do not leave a namespace."""
    wanted = settings.valkey
    if wanted is None:
        return None
    source = wanted.password
    password = (
        SecretPlan(namespace=SERVING_NAMESPACE, name=source.name, key=source.key, source=source)
        if isinstance(source, KubernetesSecret)
        else SecretPlan(namespace=SERVING_NAMESPACE, name="valkey-password", key="password", source=source)
    )
    return ValkeyPlan(
        name=_NAME,
        namespace=SERVING_NAMESPACE,
        port=_PORT,
        password=password,
        tls_secret="valkey-tls",  # noqa: S106 - the name of a Secret
        ca_key="ca.crt",
        memory_gib=wanted.memory_gib,
        # Half as much again: the append-only file is rewritten by a fork, which shares only what stays unchanged.
        pod_memory_gib=math.ceil(wanted.memory_gib * _FORK_SHARE) + 1,
        storage_gib=wanted.storage_gib,
        storage_class=storage_class,
        replicas=wanted.replicas,
    )


def gcs_store(
    path: Path, model: Model, runtime: str, store: ValkeyPlan | None, findings: Findings
) -> ValkeyPlan | None:
    """Where a model's Ray head keeps its cluster's state; None: in its own memory, and a new head starts afresh."""
    wanted = model.ray.gcs_fault_tolerance
    at = (*path, "ray", "gcs_fault_tolerance")
    if runtime != "ray_service":
        if wanted is True:
            findings.problem(at, f"{runtime} has no Ray head", "leave it out, or use `runtime: ray_service`")
        return None
    if wanted is True and store is None:
        findings.problem(
            at,
            "a head's state needs a store that outlives it, and the stack has none",
            "add `valkey: {storage_gib: 4}` to the stack file, or leave this out",
        )
    if store is None and wanted == "auto":
        findings.remark(
            f"models[{path[1]}]",
            "when its Ray head ends, all replicas restart with the next one: `valkey: {}` in the stack file keeps them",
        )
    return None if wanted is False else store


def with_clients(
    store: ValkeyPlan | None,
    models: tuple[ModelPlan, ...],
    target: EksPlan | ExistingClusterPlan,
    findings: Findings,
) -> ValkeyPlan | None:
    """The store with the models that reach it; a remark where none does, a problem where it finds no node."""
    if store is None:
        return None
    if isinstance(target, EksPlan) and store.pod_memory_gib > (room := target.system.memory_gib * _SYSTEM_SHARE):
        findings.problem(
            ("valkey", "memory_gib"),
            f"its pod takes {store.pod_memory_gib} GiB, and half of a system node ({target.system.instance_type}) is "
            f"{room:g}: the rest is the controllers'",
            f"set it to {int((room - 1) / _FORK_SHARE)} or less, or take larger `target.system_nodes`",
        )
    for index, model in enumerate(models):
        if model.name == store.name:
            findings.problem(
                ("models", index, "name"), f"`{store.name}` is what the stack's store is called", "call it otherwise"
            )
    clients = tuple(model.name for model in models if model.ray is not None and model.ray.gcs_store is not None)
    if not clients:
        findings.remark("valkey", "no model uses it: Ray heads do (`runtime: ray_service`)")
    return replace(store, clients=clients)
