"""Objects of any kind as plain dictionaries, and caches of them that watches keep fresh.

The rehearsal speaks to whatever kinds the program declares, as plain dictionaries.
"""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import urllib3

from rehearsal.controlplane.api import Api, ApiError

Json = dict[str, Any]
Key = tuple[str, str]
"""(namespace, name); the namespace of a cluster-scoped object is empty."""

_DISCOVERY: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_WATCH_SECONDS: Final = 240
_RETRY_SECONDS: Final = 0.5
# The storage of a kind whose definition is new "(re)initializes" for a moment.
_BUSY_TRIES: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of object and where the API serves it."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of one object, or of the collection where no name is given."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


def _core(plural: str, kind: str, *, namespaced: bool = True) -> Kind:
    return Kind(api_version="v1", plural=plural, kind=kind, namespaced=namespaced)


PODS: Final = _core("pods", "Pod")
NODES: Final = _core("nodes", "Node", namespaced=False)
NAMESPACES: Final = _core("namespaces", "Namespace", namespaced=False)
SECRETS: Final = _core("secrets", "Secret")
CONFIG_MAPS: Final = _core("configmaps", "ConfigMap")
SERVICES: Final = _core("services", "Service")
SERVICE_ACCOUNTS: Final = _core("serviceaccounts", "ServiceAccount")
CLAIMS: Final = _core("persistentvolumeclaims", "PersistentVolumeClaim")
VOLUMES: Final = _core("persistentvolumes", "PersistentVolume", namespaced=False)
STORAGE_CLASSES: Final = Kind(
    api_version="storage.k8s.io/v1", plural="storageclasses", kind="StorageClass", namespaced=False
)
JOBS: Final = Kind(api_version="batch/v1", plural="jobs", kind="Job")
DEPLOYMENTS: Final = Kind(api_version="apps/v1", plural="deployments", kind="Deployment")
CERTIFICATES: Final = Kind(api_version="cert-manager.io/v1", plural="certificates", kind="Certificate")
HPAS: Final = Kind(api_version="autoscaling/v2", plural="horizontalpodautoscalers", kind="HorizontalPodAutoscaler")
LEADER_WORKER_SETS: Final = Kind(
    api_version="leaderworkerset.x-k8s.io/v1", plural="leaderworkersets", kind="LeaderWorkerSet"
)
RAY_SERVICES: Final = Kind(api_version="ray.io/v1", plural="rayservices", kind="RayService")
NODE_POOLS: Final = Kind(api_version="karpenter.sh/v1", plural="nodepools", kind="NodePool", namespaced=False)
NODE_CLASSES: Final = Kind(
    api_version="karpenter.k8s.aws/v1", plural="ec2nodeclasses", kind="EC2NodeClass", namespaced=False
)
POD_GROUPS: Final = Kind(api_version="scheduling.volcano.sh/v1beta1", plural="podgroups", kind="PodGroup")


def key_of(item: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class Kube:
    """Objects of any kind on one API server; safe to use from several threads."""

    def __init__(self, *, endpoint: str, ca_data: str, token: str) -> None:
        """`ca_data` is the server's authority, base64 of PEM, as in a kubeconfig."""
        self.api = Api(endpoint, ca_data, token)
        context = ssl.create_default_context(cadata=base64.b64decode(ca_data).decode())
        # A watch holds its connection, so watches do not share the pool of requests.
        self._watches = urllib3.PoolManager(ssl_context=context, maxsize=64, retries=False)
        self._endpoint = endpoint
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}

    def get(self, kind: Kind, key: Key) -> Json | None:
        """One object, or None where it does not exist."""
        return self.api.get(kind.path(*key))

    def list(self, kind: Kind) -> list[Json]:
        """All objects of a kind; none where the API does not serve the kind."""
        for _ in range(_BUSY_TRIES):
            try:
                return (self.api.get(kind.path()) or {"items": []})["items"]
            except ApiError as error:
                if error.status != 429:
                    raise
            time.sleep(_RETRY_SECONDS)
        raise ApiError(429, f"the API server could not list {kind.plural}: its storage did not get ready")

    def create(self, kind: Kind, body: Json) -> bool:
        """Create an object; False where one of that name exists."""
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        try:
            self.api.create(kind.path(body["metadata"].get("namespace")), body)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    def patch(
        self, kind: Kind, key: Key, change: Json, *, subresource: str | None = None, seen: str | None = None
    ) -> None:
        """Merge `change` into an object; nothing happens where it is gone.

        With `seen`, a resource version, nothing happens either where the object has changed since: who patches so looks
        again when the change arrives.
        """
        body = {**change, "metadata": {**change.get("metadata", {}), "resourceVersion": seen}} if seen else change
        try:
            self.api.merge(kind.path(*key, subresource), body)
        except ApiError as error:
            if error.status != 404 and not (seen and error.status == 409):
                raise

    def delete(self, kind: Kind, key: Key) -> None:
        """Delete an object; nothing happens where it is gone."""
        self.api.delete(kind.path(*key) + "?propagationPolicy=Background")

    def kinds(self) -> list[Kind]:
        """Every kind that the API serves, lists and deletes, in its preferred version."""
        found: list[Kind] = []
        for root in ("/api", "/apis"):
            for group in (self.api.get(root, accept=_DISCOVERY) or {"items": []})["items"]:
                name = group["metadata"].get("name", "")
                version = group["versions"][0]
                api_version = f"{name}/{version['version']}" if name else version["version"]
                found.extend(
                    Kind(
                        api_version=api_version,
                        plural=resource["resource"],
                        kind=resource["responseKind"]["kind"],
                        namespaced=resource["scope"] == "Namespaced",
                    )
                    for resource in version.get("resources", ())
                    if {"list", "delete"} <= set(resource["verbs"])
                )
        return found

    def open_watch(self, kind: Kind, version: str) -> urllib3.BaseHTTPResponse:
        """A stream of changes after `version`, one JSON document a line."""
        query = f"?watch=true&resourceVersion={version}&timeoutSeconds={_WATCH_SECONDS}"
        timeout = urllib3.Timeout(connect=10, read=_WATCH_SECONDS + 30)
        url = self._endpoint + kind.path() + query
        return self._watches.request("GET", url, headers=self._headers, preload_content=False, timeout=timeout)


class Caches:
    """Copies of all objects of some kinds, kept fresh by watches. Objects in it are read only."""

    def __init__(self, kube: Kube, kinds: Sequence[Kind]) -> None:
        self.changed = threading.Event()
        """Set on every change; whoever waits for it clears it."""
        self._mirrors = {kind: _Mirror(kube, kind, self.changed) for kind in kinds}

    def start(self) -> None:
        """Begin to list and watch; returns when every kind was listed once."""
        for mirror in self._mirrors.values():
            mirror.thread.start()
        for mirror in self._mirrors.values():
            mirror.listed.wait(30)

    def stop(self) -> None:
        """End every watch."""
        for mirror in self._mirrors.values():
            mirror.stop()
        for mirror in self._mirrors.values():
            mirror.thread.join(10)

    def all(self, kind: Kind) -> list[Json]:
        """All objects of a kind."""
        return self._mirrors[kind].items()

    def get(self, kind: Kind, key: Key) -> Json | None:
        """One object, None where it does not exist."""
        return self._mirrors[kind].store.get(key)


class _Mirror:
    """One kind's list and watch."""

    def __init__(self, kube: Kube, kind: Kind, changed: threading.Event) -> None:
        self.store: dict[Key, Json] = {}
        self.listed = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"watch-{kind.plural}", daemon=True)
        self._kube = kube
        self._kind = kind
        self._changed = changed
        self._stopped = threading.Event()
        self._stream: urllib3.BaseHTTPResponse | None = None

    def items(self) -> list[Json]:
        return list(self.store.copy().values())

    def stop(self) -> None:
        self._stopped.set()
        stream = self._stream
        if stream is not None:
            # `shutdown` wakes the reading thread, which `close` would not.
            with contextlib.suppress(Exception):
                stream.shutdown()

    def _run(self) -> None:
        while not self._stopped.is_set():
            # The server closes watches, and a CRD may come later: list again and go on.
            with contextlib.suppress(ApiError, urllib3.exceptions.HTTPError, OSError, ValueError):
                self._follow()
            self.listed.set()
            self._stopped.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        listing = self._kube.api.get(self._kind.path())
        if listing is None:
            return
        self.store = {key_of(item): item for item in listing["items"]}
        self.listed.set()
        self._changed.set()
        with self._kube.open_watch(self._kind, listing["metadata"]["resourceVersion"]) as stream:
            self._stream = stream
            if self._stopped.is_set():
                return
            for line in _lines(stream):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] == "DELETED":
                    self.store.pop(key_of(event["object"]), None)
                else:
                    self.store[key_of(event["object"])] = event["object"]
                self._changed.set()


def _lines(stream: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in stream.stream(None):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
