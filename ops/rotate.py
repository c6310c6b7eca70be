"""`rotate`: after the password of a store was changed, restarts the clients that still have the former one.

The store takes a changed password while it runs, and the former one for a day more (components/store_password.py), so
nobody is refused meanwhile. Clients read theirs when they start: engines are rolled one by one, and of a Ray cluster
its head alone is replaced, whose replicas go on serving.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from ops.cluster import Cluster, Json, Objects, connect, pods_path, serving_pods, workload_path
from ops.console import FINDINGS, OK, err, out, print_json
from ops.errors import MissingError, UsageError
from ops.port_forward import forward
from ops.project import plan_of
from ops.readiness import is_ready
from ops.smoke import read_key
from ops.wait import timeout_of
from planner import Plan
from planner.naming import GROUP_ROLE_LABEL, MODEL_LABEL
from planner.plan import ModelPlan, SecretPlan, ValkeyPlan

_POLL_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 10.0
_TAKES_SECONDS: Final = 180.0
"""A kubelet brings a changed Secret into a pod within its sync period (60 s) and what its cache adds."""
_RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
"""The annotation of `kubectl rollout restart`; fields that Pulumi did not write it leaves alone."""

Accepts = Callable[[ValkeyPlan, str], bool]
"""Whether a store takes a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateOptions:
    """What the command line says."""

    timeout_seconds: int | None
    kubeconfig: Path | None
    context: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """One store."""

    store: str
    changed: str
    """When its Secret was changed last."""
    restarted: tuple[str, ...]
    """Models whose pods had read an earlier password."""
    left: tuple[str, ...]
    """Pods that still have it."""
    unready: str | None = None
    """Model that restarted and did not serve in time; those after it were not touched."""


def show_rotate(stack: str, options: RotateOptions, *, as_json: bool) -> int:
    """Restart and tell; 1 where pods are left."""
    plan = plan_of(stack)
    stores = [store for store in (plan.valkey, plan.kv_store) if store is not None]
    if not stores:
        raise UsageError(f"stack {stack} has no store", help="`valkey` and `kv_store` in the stack file make one each")
    with connect(plan, kubeconfig=options.kubeconfig, context=options.context) as cluster:
        found = [
            rotate(
                cluster,
                plan,
                store,
                accepts=lambda store, password: accepts(cluster, store, password),
                limit_seconds=options.timeout_seconds,
                tell=lambda line: err.print(line, markup=False, soft_wrap=True),
            )
            for store in stores
        ]
    left = [pod for one in found for pod in one.left]
    unready = [one.unready for one in found if one.unready]
    done = not left and not unready
    if as_json:
        print_json({"stack": stack, "done": done, "stores": found})
    else:
        for one in found:
            who = ", ".join(one.restarted) or "nobody: all have started since"
            out.print(f"{one.store}: password of {one.changed}; restarted: {who}", markup=False, soft_wrap=True)
        for pod in left:
            out.print(f"still with the former password: {pod}; run this again", markup=False)
        for name in unready:
            out.print(
                f"{name} restarted and does not serve yet: `python -m ops wait --stack {stack} --model {name}` tells "
                "what it waits for; then run this again for those after it",
                markup=False,
                soft_wrap=True,
            )
    return OK if done else FINDINGS


def rotate(
    objects: Objects,
    plan: Plan,
    store: ValkeyPlan,
    *,
    accepts: Accepts,
    limit_seconds: float | None,
    tell: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Rotated:
    """Restarts the clients of one store that began before its Secret was changed; again, it goes on where it was.

    Raises:
        MissingError: the Secret is not there, or the store does not take what it says.
    """
    secret = objects.get(_secret_path(store.password)) or {}
    password = read_key(objects, store.password)
    changed = _changed(secret)
    until = clock() + _TAKES_SECONDS
    while not accepts(store, password):
        if clock() >= until:
            raise MissingError(
                f"{store.name} does not take the password of Secret {store.namespace}/{store.password.name}",
                help=f"kubectl --namespace {store.namespace} logs --selector app.kubernetes.io/instance={store.name} "
                "--container password says why; a restart of its pod takes it, and loses what has no volume",
            )
        pause(_POLL_SECONDS)
    restarted: list[str] = []
    left: list[str] = []
    unready: str | None = None
    for model in (one for one in plan.models if one.name in store.clients):
        stale = _stale(objects, model, changed)
        if not stale:
            continue
        tell(f"{store.name}: {model.name} restarts ({len(stale)} pod(s) have an earlier password)")
        limit = limit_seconds or timeout_of(plan, (model,)) * max(1, model.scaling.max_replicas)
        _restart(objects, model, stale, changed)
        until = clock() + limit
        while (waiting := _stale(objects, model, changed)) or not _serves(objects, model):
            if clock() >= until:
                break
            pause(_POLL_SECONDS)
        restarted.append(model.name)
        left += [f"{model.namespace}/{pod['metadata']['name']}" for pod in waiting]
        if not waiting and not _serves(objects, model):
            # What keeps this one down may keep the others down too: they serve with the former password meanwhile.
            unready = model.name
            break
    return Rotated(
        store=store.name,
        changed=changed.isoformat(timespec="seconds"),
        restarted=tuple(restarted),
        left=tuple(left),
        unready=unready,
    )


def _clients(model: ModelPlan) -> str:
    """Selector of the pods that have the password: of a Ray cluster the head."""
    if model.runtime == "ray_service":
        return f"{MODEL_LABEL}={model.name},{GROUP_ROLE_LABEL}=ray-head"
    return serving_pods(model)


def _pods(objects: Objects, model: ModelPlan) -> list[Json]:
    return [
        pod
        for pod in objects.list(pods_path(model.namespace), _clients(model))
        if not pod["metadata"].get("deletionTimestamp")
    ]


def _stale(objects: Objects, model: ModelPlan, changed: datetime) -> list[Json]:
    return [pod for pod in _pods(objects, model) if _moment(pod["metadata"]["creationTimestamp"]) < changed]


def _serves(objects: Objects, model: ModelPlan) -> bool:
    pods = _pods(objects, model)
    return bool(pods) and all(is_ready(pod) for pod in pods)


def _restart(objects: Objects, model: ModelPlan, stale: Sequence[Json], changed: datetime) -> None:
    if model.runtime == "ray_service":
        # Not the RayService: another cluster would start all replicas anew. KubeRay makes another head.
        for pod in stale:
            objects.delete(f"{pods_path(model.namespace)}/{pod['metadata']['name']}")
        return
    # Of the change, not of now: asked again half-way, a rollout goes on and does not begin anew.
    template = {"metadata": {"annotations": {_RESTARTED_AT: changed.isoformat(timespec="seconds")}}}
    if model.runtime == "leader_worker_set":
        # Of one node where it shares blocks (planner/kv_tiers.py): a group is its leader.
        objects.merge(workload_path(model), {"spec": {"leaderWorkerTemplate": {"leaderTemplate": template}}})
        return
    objects.merge(workload_path(model), {"spec": {"template": template}})


def _secret_path(secret: SecretPlan) -> str:
    return f"/api/v1/namespaces/{secret.namespace}/secrets/{secret.name}"


def _changed(secret: Json) -> datetime:
    """When a Secret was made or last written."""
    metadata = secret.get("metadata", {})
    times = [one["time"] for one in metadata.get("managedFields") or () if one.get("time")]
    return max(_moment(text) for text in (*times, metadata.get("creationTimestamp", "1970-01-01T00:00:00Z")))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def accepts(cluster: Cluster, store: ValkeyPlan, password: str) -> bool:
    """Whether a running store takes a password, asked over a forwarded port and its own TLS.

    Raises:
        MissingError: nobody can be asked.
    """
    authority = read_key(
        cluster,
        SecretPlan(namespace=store.namespace, name=store.tls_secret, key=store.ca_key, source=store.password.source),
    )
    with forward(
        cluster.kubeconfig, cluster.context, namespace=store.namespace, service=store.name, port=store.port
    ) as port:
        try:
            return _asked(port, authority, store.host, password)
        except OSError as error:  # ssl's errors too
            raise MissingError(
                f"{store.name} does not answer over TLS: {error}",
                help=f"`kubectl --namespace {store.namespace} get pods` tells whether it runs; then run this again",
            ) from error


def _asked(port: int, authority: str, host: str, password: str) -> bool:
    context = ssl.create_default_context(cadata=authority)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return says_yes(connection, password)


def says_yes(connection: socket.socket, password: str) -> bool:
    """AUTH in the store's own protocol (RESP): an array of strings, each with its length before it."""
    words = (b"AUTH", b"default", password.encode())
    connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    return connection.recv(64).startswith(b"+OK")
