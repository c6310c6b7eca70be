"""A stand-in for Prometheus: answers instant queries with the values that a scenario sets.

It is an HTTP proxy and the server behind it in one: a client whose `HTTP_PROXY` points here gets its answers under any
host name, so `http://prometheus-operated.monitoring.svc:9090` works on a machine that has no such name.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from rehearsal.controlplane.components import LOOPBACK

_QUERY_PATH = "/api/v1/query"


class MetricsStandIn:
    """A running stand-in; leaving the `with` block, or `stop`, ends it.

    Attributes:
        url: where it listens, on the loopback interface; also the address for `HTTP_PROXY`.
    """

    def __init__(self, default: float = 0.0) -> None:
        self._default = default
        self._values: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._available = True
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics-stand-in", daemon=True)
        self._thread.start()
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def __enter__(self) -> MetricsStandIn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def set(self, query: str, value: float) -> None:
        """Answer a query with this value from now on; the query is compared without regard to white space."""
        with self._lock:
            self._values[_key(query)] = value

    def set_available(self, available: bool) -> None:
        """Answer 503 to everything while not available, as a Prometheus that is down behind its Service."""
        with self._lock:
            self._available = available

    @property
    def seen(self) -> dict[str, int]:
        """How often each query was asked so far."""
        with self._lock:
            return dict(self._seen)

    def answer(self, query: str) -> float | None:
        """The value of a query now; None while not available."""
        with self._lock:
            self._seen[query] = self._seen.get(query, 0) + 1
            return self._values.get(_key(query), self._default) if self._available else None

    def stop(self) -> None:
        """End the server. Calling it twice is fine."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _key(query: str) -> str:
    return "".join(query.split())


def _handler(stand_in: MetricsStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._respond(urlsplit(self.path).query)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self._respond(self.rfile.read(length).decode(errors="replace"))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            pass

        def _respond(self, parameters: str) -> None:
            if urlsplit(self.path).path != _QUERY_PATH:
                self._send(404, {"status": "error", "error": f"only {_QUERY_PATH} is answered here"})
                return
            query = parse_qs(parameters).get("query", [""])[0]
            value = stand_in.answer(query)
            if value is None:
                self._send(503, {"status": "error", "errorType": "unavailable", "error": "made unavailable"})
                return
            sample: dict[str, object] = {"metric": {}, "value": [time.time(), str(value)]}
            self._send(200, {"status": "success", "data": {"resultType": "vector", "result": [sample]}})

        def _send(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
