"""A small Kubernetes API server for tests: real HTTP on the loopback interface, objects in a dictionary."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Json = dict[str, Any]


class ApiServer:
    """Objects by their path; `on_patch` lets a test play the controllers."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.patches: list[tuple[str, Json]] = []
        self.on_patch: Callable[[str, Json], None] = lambda _path, _change: None
        self.on_create: Callable[[str, Json], None] = lambda _path, _item: None
        self.texts: dict[str, str] = {}
        """What is no object, such as logs, by path."""
        self.deleted: list[str] = []
        self.held: set[str] = set()
        """Paths whose finalizers keep them after their deletion."""
        self.status: int | None = None
        self.url = ""

    def put(self, path: str, item: Json) -> None:
        """Add an object at `<collection>/<name>`."""
        name = path.rsplit("/", 1)[1]
        metadata = {"name": name, **item.get("metadata", {})}
        if "/namespaces/" in path:
            metadata["namespace"] = path.split("/namespaces/")[1].split("/", maxsplit=1)[0]
        self.objects[path] = {**item, "metadata": metadata}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Status and document."""
        if self.status is not None:
            return self.status, {"kind": "Status", "message": "as the test wants it"}
        if method == "PATCH":
            if path not in self.objects:
                return 404, {}
            self.patches.append((path, body))
            _merge(self.objects[path], body)
            self.on_patch(path, body)
            return 200, self.objects[path]
        if method == "DELETE":
            if path not in self.objects:
                return 404, {}
            self.deleted.append(path)
            return 200, self.objects[path] if path in self.held else self.objects.pop(path)
        if method == "POST":
            at = f"{path}/{body['metadata']['name']}"
            if at in self.objects:
                return 409, {"kind": "Status", "message": "already exists"}
            self.put(at, body)
            self.on_create(at, body)
            return 201, self.objects[at]
        if path in self.texts:
            return 200, self.texts[path]
        if path in self.objects:
            return 200, self.objects[path]
        below = [item for at, item in sorted(self.objects.items()) if path in _collections(at)]
        selector = query.get("labelSelector", [""])[0]
        if below or path.rsplit("/", 1)[1] in {"pods", "nodes", "events"}:
            return 200, {"items": [item for item in below if _selected(item, selector)]}
        return 404, {}


def _collections(path: str) -> tuple[str, ...]:
    """What lists an object: its own collection, and for one in a namespace that of all namespaces."""
    own = path.rsplit("/", 1)[0]
    group, namespaced, rest = own.partition("/namespaces/")
    return (own, f"{group}/{rest.partition('/')[2]}") if namespaced and "/" in rest else (own,)


def _merge(item: Json, change: Json) -> None:
    for key, value in change.items():
        if value is None:
            item.pop(key, None)
        elif isinstance(value, dict):
            _merge(item.setdefault(key, {}), value)
        else:
            item[key] = value


def _selected(item: Json, selector: str) -> bool:
    labels = item["metadata"].get("labels", {})
    parts: list[str] = []
    for part in selector.split(","):  # commas inside of parentheses belong to one part
        if parts and parts[-1].count("(") > parts[-1].count(")"):
            parts[-1] += f",{part}"
        elif part:
            parts.append(part)
    for part in parts:
        if " in " in part:
            key, _, values = part.partition(" in ")
            if labels.get(key) not in values.strip("()").split(","):
                return False
        elif "=" in part:
            key, _, value = part.partition("=")
            if labels.get(key) != value:
                return False
        elif part not in labels:
            return False
    return True


@contextmanager
def serving(answer: Callable[[str, str, dict[str, list[str]], Any, Any], tuple[int, Any]]) -> Iterator[str]:
    """An HTTP server whose answers come from a function of method, path, query, body and headers; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            url = urlsplit(self.path)
            status, document = answer(
                self.command, url.path, parse_qs(url.query), json.loads(raw) if raw else None, self.headers
            )
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_kubeconfig(path: Path, url: str) -> Path:
    """A kubeconfig without credentials."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(document))
    return path
