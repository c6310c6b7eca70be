"""Puts objects into the real API server the way the Pulumi Kubernetes provider does, and takes them out again.

Server-side apply under Pulumi's field manager, but with strict field validation: what a first `up` would accept with a
warning makes every later preview fail, so the rehearsal refuses it at once.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, cast

import urllib3

from rehearsal.controlplane.api import ApiError
from rehearsal.engines import kubernetes_await, kubernetes_rules
from rehearsal.engines.paths import Path, get, put, remove
from rehearsal.kube import Json, Kind, Kube

FIELD_MANAGER: Final = "pulumi-kubernetes"
_APPLY: Final = "application/apply-patch+yaml"
# The provider retries 5 times with growing pauses when a kind or namespace is not there yet; a CRD takes 1 to 2 s.
_APPEAR_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.1
_CONNECTIONS: Final = 16


class ObjectError(Exception):
    """The API server refused an object, or it did not become what it must be; the message is for people."""


class KubernetesObjects:
    """Applies, reads and deletes objects of any kind. Safe to use from many threads."""

    def __init__(self, *, endpoint: str, ca_data: str, token: str, await_seconds: float) -> None:
        """`await_seconds` is how long to wait for an object that does not say so itself."""
        self._kube = Kube(endpoint=endpoint, ca_data=ca_data, token=token)
        self._applies = _Applies(endpoint=endpoint, ca_data=ca_data, token=token)
        self._await_seconds = await_seconds
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends every wait with an error."""
        self._stopped.set()

    def get(self, declared: Mapping[str, Any]) -> Json | None:
        """The live object, or None."""
        kind = self._find_kind(declared, appear_seconds=0.0)
        return None if kind is None else self._kube.get(kind, _key(declared, kind))

    def apply(self, declared: Mapping[str, Any], *, ignored: tuple[Path, ...] = (), wait: bool = True) -> Json:
        """Creates or updates an object and waits for it where the provider would.

        Args:
            declared: the object, named.
            ignored: fields to leave as they are in the cluster.
            wait: False to return at once.

        Returns:
            The live object.

        Raises:
            ObjectError: refused, in conflict with another field manager, failed or not ready in time.
        """
        kind = self._find_kind(declared, appear_seconds=_APPEAR_SECONDS)
        if kind is None:
            raise ObjectError(
                f"{_title(declared)}: the API server knows no {declared.get('kind')} in {declared.get('apiVersion')}; "
                "depend on the chart that brings its CustomResourceDefinition"
            )
        live = self._patch(kind, self._without_ignored(kind, declared, ignored))
        if not wait or kubernetes_rules.skips_await(declared):
            return live
        seconds = float(kubernetes_rules.annotation(declared, "timeoutSeconds") or self._await_seconds)
        try:
            return kubernetes_await.until_ready(self._kube, kind, live, seconds=seconds, stopped=self._stopped)
        except kubernetes_await.NotReadyError as error:
            raise ObjectError(f"{_title(declared)}: {error}") from error

    def relinquish(self, declared: Mapping[str, Any]) -> None:
        """Gives up the fields that a `...Patch` resource owned."""
        kind = self._find_kind(declared, appear_seconds=0.0)
        if kind is not None and self.get(declared) is not None:
            identity = {key: declared[key] for key in ("apiVersion", "kind")}
            metadata = {key: v for key, v in declared["metadata"].items() if key in ("name", "namespace")}
            self._patch(kind, {**identity, "metadata": metadata})

    def delete(self, declared: Mapping[str, Any], *, seconds: float) -> None:
        """Deletes an object and waits until it is gone.

        Raises:
            ObjectError: it is still there after `seconds`; says what holds it.
        """
        kind = self._find_kind(declared, appear_seconds=0.0)
        if kind is None:
            return  # its CustomResourceDefinition is gone, and so is it
        if kind.kind == "Namespace":
            self.remove_dead_api_services()
        key = _key(declared, kind)
        policy = _propagation(declared)
        try:
            self._kube.api.delete(f"{kind.path(*key)}?propagationPolicy={policy}")
        except ApiError as error:
            raise ObjectError(f"{_title(declared)}: {error}") from error
        if kubernetes_rules.skips_await(declared):
            return
        deadline = time.monotonic() + seconds
        while (live := self._kube.get(kind, key)) is not None:
            if time.monotonic() > deadline or self._stopped.wait(_POLL_SECONDS):
                raise ObjectError(f"{_title(declared)}: still there after {seconds:.0f} s: {_what_holds(live)}")

    def remove_dead_api_services(self) -> list[str]:
        """Deletes aggregated APIs that nobody serves: while one exists, no namespace can be deleted.

        Returns:
            Their names.
        """
        services = Kind(
            api_version="apiregistration.k8s.io/v1", plural="apiservices", kind="APIService", namespaced=False
        )
        removed: list[str] = []
        for service in self._kube.list(services):
            available = kubernetes_await.condition(service, "Available")
            if service["spec"].get("service") and available.get("status") != "True":
                name = service["metadata"]["name"]
                self._kube.delete(services, ("", name))
                removed.append(name)
        return removed

    def _patch(self, kind: Kind, body: Mapping[str, Any]) -> Json:
        namespace = _namespace(body, kind)
        if namespace:
            body = {**body, "metadata": {**body["metadata"], "namespace": namespace}}
        force = kubernetes_rules.annotation(body, "patchForce") == "true"
        deadline = time.monotonic() + _APPEAR_SECONDS
        while True:
            try:
                return self._applies.apply(kind.path(*_key(body, kind)), body, force=force)
            except ApiError as error:
                # 404: its namespace or its kind is on the way.
                if error.status != 404 or time.monotonic() > deadline or self._stopped.wait(_POLL_SECONDS):
                    raise ObjectError(f"{_title(body)}: {error}") from error

    def _without_ignored(self, kind: Kind, declared: Mapping[str, Any], ignored: tuple[Path, ...]) -> Mapping[str, Any]:
        """Ignored fields as they are live, or left out where another manager owns them (await.go: ssaUpdate)."""
        if not ignored:
            return declared
        live = self._kube.get(kind, _key(declared, kind))
        if live is None:
            return declared
        body: Mapping[str, Any] = declared
        for path in ignored:
            if _owned(live, path, ours=False) and not _owned(live, path, ours=True):
                body = remove(body, path)
            elif (value := get(live, path)) is not None:
                body = put(body, path, value)
        return body

    def _find_kind(self, declared: Mapping[str, Any], *, appear_seconds: float) -> Kind | None:
        wanted = (str(declared.get("apiVersion", "")), str(declared.get("kind", "")))
        deadline = time.monotonic() + appear_seconds
        while (found := self._kinds.get(wanted)) is None:
            self._discover(wanted[0])
            if wanted in self._kinds:
                continue
            if time.monotonic() >= deadline or self._stopped.wait(_POLL_SECONDS):
                return None
        return found

    def _discover(self, api_version: str) -> None:
        listed = self._kube.api.get(f"{'/apis' if '/' in api_version else '/api'}/{api_version}")
        found = {
            (api_version, str(item["kind"])): Kind(
                api_version=api_version, plural=item["name"], kind=item["kind"], namespaced=item["namespaced"]
            )
            for item in cast(list[Json], (listed or {}).get("resources", []))
            if "/" not in item["name"]
        }
        with self._lock:
            self._kinds.update(found)


class _Applies:
    """Server-side applies that respect the fields of others: `rehearsal.controlplane.api` takes them over."""

    def __init__(self, *, endpoint: str, ca_data: str, token: str) -> None:
        context = ssl.create_default_context(cadata=base64.b64decode(ca_data).decode())
        self._pool = urllib3.PoolManager(maxsize=_CONNECTIONS, block=True, ssl_context=context, retries=False)
        self._endpoint = endpoint
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Content-Type": _APPLY}

    def apply(self, path: str, body: Mapping[str, Any], *, force: bool) -> Json:
        query = f"fieldManager={FIELD_MANAGER}&fieldValidation=Strict&force={str(force).lower()}"
        answer = self._pool.request(
            "PATCH",
            f"{self._endpoint}{path}?{query}",
            body=json.dumps(body).encode(),
            headers=self._headers,
            timeout=60.0,
        )
        document = json.loads(answer.data)
        if answer.status >= 400:
            raise ApiError(answer.status, str(document.get("message", document)))
        return document


def _key(declared: Mapping[str, Any], kind: Kind) -> tuple[str, str]:
    return _namespace(declared, kind) or "", str(declared["metadata"]["name"])


def _namespace(declared: Mapping[str, Any], kind: Kind) -> str | None:
    return str(declared["metadata"].get("namespace") or "default") if kind.namespaced else None


def _propagation(declared: Mapping[str, Any]) -> str:
    asked = kubernetes_rules.annotation(declared, "deletionPropagationPolicy") or ""
    named = {"background": "Background", "orphan": "Orphan", "foreground": "Foreground"}.get(asked.lower())
    # The provider's default is Foreground. The garbage collector, which ends it, learns of new kinds only every 30 s
    # (kube-controller-manager: garbagecollector.go); nothing of a custom resource is worth that wait here.
    custom = "." in kubernetes_rules.group_of(str(declared.get("apiVersion"))).removesuffix(".k8s.io")
    return named or ("Background" if custom else "Foreground")


def _title(declared: Mapping[str, Any]) -> str:
    namespace = declared["metadata"].get("namespace")
    return f"{declared.get('kind')} {f'{namespace}/' if namespace else ''}{declared['metadata'].get('name')}"


def _what_holds(live: Json) -> str:
    finalizers = [*live["metadata"].get("finalizers", []), *live.get("spec", {}).get("finalizers", [])]
    conditions = live.get("status", {}).get("conditions", [])
    reasons = [c["message"] for c in conditions if c.get("status") == "True" and c.get("message")]
    return "; ".join([f"finalizers {', '.join(finalizers)}" if finalizers else "no finalizer", *reasons])


def _owned(live: Json, path: Path, *, ours: bool) -> bool:
    """Whether our field manager (or another one) owns the field or something inside it."""
    for entry in live["metadata"].get("managedFields", []):
        # Only our applies count as ours: a `kubectl scale` is an Update through the scale subresource.
        mine = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        fields: Any = entry.get("fieldsV1", {})
        for step in path:
            fields = cast(Json, fields).get(f"f:{step}") if isinstance(fields, dict) else None
        if mine == ours and fields is not None:
            return True
    return False
