"""A small client of the API server for what the rehearsal itself puts there: JSON or YAML in, JSON out, thread-safe."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from typing import Any, cast

import urllib3

# Enough for the threads that apply many objects at once; more only queue in the API server.
POOL_SIZE = 16

_APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server refused a request; `status` is its HTTP status, the text its own message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """The API server of a control plane, spoken to as a cluster administrator."""

    def __init__(self, endpoint: str, ca_data: str, token: str) -> None:
        context = ssl.create_default_context(cadata=base64.b64decode(ca_data).decode())
        self._endpoint = endpoint
        self._headers = {"Authorization": f"Bearer {token}"}
        self._pool = urllib3.PoolManager(
            maxsize=POOL_SIZE, block=True, ssl_context=context, retries=False, timeout=30.0
        )

    def get(self, path: str, *, accept: str = "application/json") -> dict[str, Any] | None:
        """The object or list at `path`; None where there is none.

        Raises:
            ApiError: any other refusal.
        """
        return self._call("GET", path, accept=accept, absent_is_fine=True)

    def create(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object in the collection at `path`, refusing fields that its schema does not know."""
        answer = self._call("POST", f"{path}?fieldValidation=Strict", json.dumps(document).encode(), "application/json")
        return answer or {}

    def apply(self, path: str, document: Mapping[str, Any] | str, *, manager: str = "rehearsal") -> dict[str, Any]:
        """Server-side apply of an object (or its YAML text) at `path`, taking over fields that others own."""
        body = document if isinstance(document, str) else json.dumps(document)
        query = f"fieldManager={manager}&force=true&fieldValidation=Strict"
        return self._call("PATCH", f"{path}?{query}", body.encode(), _APPLY) or {}

    def merge(self, path: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge-patch an object at `path`."""
        return self._call("PATCH", path, json.dumps(patch).encode(), "application/merge-patch+json") or {}

    def delete(self, path: str) -> None:
        """Delete the object at `path`; one that is gone already is fine."""
        self._call("DELETE", path, absent_is_fine=True)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "",
        *,
        accept: str = "application/json",
        absent_is_fine: bool = False,
    ) -> dict[str, Any] | None:
        headers = {**self._headers, "Accept": accept, **({"Content-Type": kind} if kind else {})}
        answer = self._pool.request(method, self._endpoint + path, body=body, headers=headers)
        text = answer.data.decode(errors="replace")
        if answer.status == 404 and absent_is_fine:
            return None
        if answer.status >= 400:
            raise ApiError(answer.status, _message(text) or f"{method} {path}: HTTP {answer.status}")
        try:
            return cast("dict[str, Any]", json.loads(text))
        except json.JSONDecodeError:  # health endpoints answer in plain text
            return {"text": text}


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return text.strip()[:500]
