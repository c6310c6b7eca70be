"""Holds requests while a model has no replica, and asks a standby where there is one.

Runs in the router's pod, before the router, of models that may have no replica or that have a standby; the standard
library alone. The key is checked before a body is read. A request is read whole, waits until the router finds a
replica, and is then passed on byte by byte. One request a connection: `Connection: close` both ways, which clients'
pools take as it is meant.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from components.scripts.activator_http import (
    CONTINUE,
    HEAD_LIMIT,
    ClientLeftError,
    Refused,
    Request,
    answered,
    error,
    linger,
    read_body,
    read_head,
    relay,
    respond,
    until_gone,
)

PEAK_SECONDS = 60
MOST_CONNECTIONS = 4096
LARGEST_SHARE = 4
"""One body has a quarter of the room for all, so that one client does not keep the others out."""
OPEN_PATHS = frozenset({"/health", "/liveness", "/readiness"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What it is told on the command line; keys come from the environment."""

    model: str
    api_key: str
    port: int
    metrics_port: int
    router_port: int
    hold_seconds: float
    held_requests: int
    held_bytes: int
    check_seconds: float
    failures: int
    drain_seconds: float
    standby_model: str | None = None
    standby_host: str | None = None
    standby_port: int = 80
    standby_key: str = ""
    host: str = "0.0.0.0"  # noqa: S104 - the pod's own address is not known before it runs


@dataclass(kw_only=True, slots=True)
class Counts:
    """What it counts; the ScaledObject of the model reads the peak."""

    in_flight: int = 0
    held: int = 0
    body_bytes: int = 0
    """Of bodies that are read, held or on their way to an answer."""
    waited_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    _peaks: dict[int, int] = field(default_factory=dict[int, int])

    def step(self, by: int) -> None:
        """One request more or fewer."""
        self.in_flight += by
        second = int(time.monotonic())
        self._peaks[second] = max(self._peaks.get(second, 0), self.in_flight, self.in_flight - by)

    def peak(self) -> int:
        """Most requests at once in the last minute: one that came and went between two scrapes counts too."""
        oldest = int(time.monotonic()) - PEAK_SECONDS
        self._peaks = {second: most for second, most in self._peaks.items() if second >= oldest}
        return max([self.in_flight, *self._peaks.values()])


class _Room:
    """What one request takes of the room for bodies."""

    def __init__(self, counts: Counts, most: int) -> None:
        self._counts, self._most, self._taken = counts, most, 0

    def reserve(self, size: int) -> None:
        """Take it before it is read; Refused where it is too much for one, or for now."""
        if self._taken + size > self._most // LARGEST_SHARE:
            raise Refused(413, "the body is larger than what may wait here", "refused")
        if self._counts.body_bytes + size > self._most:
            raise Refused(503, "too many requests wait here: send it again later", "refused")
        self._taken += size
        self._counts.body_bytes += size

    def release(self) -> None:
        """Give it back; once is enough."""
        self._counts.body_bytes -= self._taken
        self._taken = 0


class Activator:
    """The proxy and its view of the router."""

    def __init__(self, orders: Orders) -> None:
        self.orders, self.counts = orders, Counts()
        self.available = asyncio.Event()
        self.stopping = asyncio.Event()
        self._missed = 0
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until SIGTERM; requests under way then have the drain's time, held ones are sent back."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self.stopping.set)
        await self._check()
        entry = await asyncio.start_server(self._connected, self.orders.host, self.orders.port, limit=HEAD_LIMIT)
        metrics = await asyncio.start_server(self._observed, self.orders.host, self.orders.metrics_port)
        watcher = asyncio.create_task(self._watch())
        await self.stopping.wait()
        entry.close()
        if self._open:
            await asyncio.wait(self._open, timeout=self.orders.drain_seconds)
        watcher.cancel()
        metrics.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.orders.check_seconds)
            await self._check()

    async def _check(self) -> bool:
        """Ask the router whether it has a replica; several misses in a row count, one answer does."""
        ready = await self._ready()
        self._missed = 0 if ready else self._missed + 1
        if ready:
            self.available.set()
        elif self._missed >= self.orders.failures:
            self.available.clear()
        return ready

    async def _ready(self) -> bool:
        try:
            async with asyncio.timeout(max(1.0, self.orders.check_seconds)):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.orders.router_port)
                with contextlib.closing(writer):
                    writer.write(b"GET /readiness HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n")
                    return (await reader.readline()).split()[1:2] == [b"200"]
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        try:
            if len(self._open) > MOST_CONNECTIONS:
                self.counts.outcomes["refused"] += 1
                await respond(writer, 503, error("too many connections to this proxy", "refused"))
                return
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ClientLeftError):
            self.counts.outcomes["abandoned"] += 1
        finally:
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counted = read = False
        room = _Room(self.counts, self.orders.held_bytes)
        try:
            request = await read_head(reader)
            if request is None:
                return
            self._admit(request)
            if (request.header("expect") or "").lower() == "100-continue":
                writer.write(CONTINUE)
            await read_body(request, reader, room.reserve)
            read = True
            counted = request.method == "POST"
            if counted:
                self.counts.step(1)
            if request.path.startswith("/v1/models") and not self.available.is_set():
                await respond(writer, 200, self._model_list())
            else:
                await self._pass_on(request, reader, writer, room)
        except Refused as refused:
            room.release()
            self.counts.outcomes[refused.outcome] += 1
            await respond(writer, refused.status, error(refused.message, refused.outcome))
            if not read:
                await linger(reader, writer)
        finally:
            room.release()
            if counted:
                self.counts.step(-1)

    def _admit(self, request: Request) -> None:
        """Only who has the key may wake a model."""
        if request.path.split("?", 1)[0] in OPEN_PATHS:
            return
        given = request.header("authorization") or ""
        if not hmac.compare_digest(given.encode(), f"Bearer {self.orders.api_key}".encode()):
            raise Refused(401, "Missing or wrong API key: send it as `Authorization: Bearer <key>`", "unauthorized")

    def _model_list(self) -> bytes:
        """What is served when it is asked for; looking at the list wakes nobody."""
        one = {"id": self.orders.model, "object": "model", "created": 0, "owned_by": "self_hosted"}
        return json.dumps({"object": "list", "data": [one]}).encode()

    async def _pass_on(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, room: _Room
    ) -> None:
        """To the router, or to the standby; back to waiting where the last replica went in between."""
        gone = asyncio.create_task(until_gone(reader))
        deadline = time.monotonic() + self.orders.hold_seconds
        try:
            while True:
                if not self.available.is_set() and self.orders.standby_host and request.method == "POST":
                    await self._to_standby(request, writer, gone, room)
                    return
                await self._hold(request, deadline, gone)
                if await self._to_router(request, writer, gone, room):
                    self.counts.outcomes["forwarded"] += 1
                    return
                self.available.clear()
        finally:
            gone.cancel()

    async def _hold(self, request: Request, deadline: float, gone: asyncio.Task[None]) -> None:
        if self.available.is_set():
            return
        if request.method != "POST":
            raise Refused(503, f"{self.orders.model} has no replica now", "no_replica")
        if self.counts.held >= self.orders.held_requests:
            raise Refused(503, f"{self.orders.model} starts, and too many requests wait for it", "refused")
        began = time.monotonic()
        self.counts.held += 1
        waiting = [asyncio.create_task(self.available.wait()), asyncio.create_task(self.stopping.wait())]
        try:
            await asyncio.wait({*waiting, gone}, timeout=deadline - began, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            self.counts.held -= 1
            self.counts.waited_seconds += time.monotonic() - began
        if self.available.is_set():
            return
        if gone.done():
            raise ClientLeftError
        if self.stopping.is_set():
            raise Refused(503, "this proxy ends: send the request again", "stopping")
        raise Refused(503, f"{self.orders.model} had no replica within {self.orders.hold_seconds:g} s", "timeout")

    async def _to_router(
        self, request: Request, writer: asyncio.StreamWriter, gone: asyncio.Task[None], room: _Room
    ) -> bool:
        """False where the router has no replica after all, and nothing of the answer was sent."""
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.orders.router_port)
        except OSError:
            return False
        with contextlib.closing(upstream):
            upstream.write(request.encoded("127.0.0.1"))
            head = await answered(upstream_reader, gone)
            # 404: it knows no replica of the model; 503: it knows some, and none answers.
            if head.split(b" ", 2)[1] in {b"404", b"503"} and not await self._ready():
                return False
            _forget(request, room)
            await relay(head, upstream_reader, writer, gone)
        return True

    async def _to_standby(
        self, request: Request, writer: asyncio.StreamWriter, gone: asyncio.Task[None], room: _Room
    ) -> None:
        orders = self.orders
        try:
            upstream_reader, upstream = await asyncio.open_connection(orders.standby_host, orders.standby_port)
        except OSError:
            raise Refused(503, f"{orders.model} has no replica, and its standby does not answer", "refused") from None
        self.counts.outcomes["standby"] += 1
        with contextlib.closing(upstream):
            host = f"{orders.standby_host}:{orders.standby_port}"
            upstream.write(request.encoded(host, key=orders.standby_key, model=orders.standby_model))
            head = await answered(upstream_reader, gone)
            _forget(request, room)
            extra = f"\r\nX-Standby-Model: {orders.standby_model}".encode()
            await relay(head, upstream_reader, writer, gone, extra=extra)

    async def _observed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Metrics, and that the process lives."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            text = self.metrics() if b" /metrics" in head.split(b"\r\n", 1)[0] else "ok\n"
            await respond(writer, 200, text.encode(), kind="text/plain; version=0.0.4")
        writer.close()

    def metrics(self) -> str:
        """In Prometheus' text format."""
        counts, model = self.counts, self.orders.model
        standby = self.orders.standby_host is not None
        gauges = {
            "activator_requests_in_flight": counts.in_flight,
            "activator_requests_peak": counts.peak(),
            "activator_requests_held": counts.held,
            "activator_replica_available": int(self.available.is_set()),
            "activator_standby_active": int(standby and not self.available.is_set()),
        }
        lines = [f'# TYPE {name} gauge\n{name}{{model="{model}"}} {value}' for name, value in gauges.items()]
        lines.append("# TYPE activator_held_seconds_total counter")
        lines.append(f'activator_held_seconds_total{{model="{model}"}} {counts.waited_seconds:.3f}')
        lines.append("# TYPE activator_requests_total counter")
        lines += [
            f'activator_requests_total{{model="{model}",outcome="{outcome}"}} {counts.outcomes[outcome]}'
            for outcome in sorted({"forwarded", "standby", "timeout", "refused", *counts.outcomes})
        ]
        return "\n".join(lines) + "\n"


def _forget(request: Request, room: _Room) -> None:
    """An answer has begun, so the body is not sent again: a stream of minutes needs no room for it."""
    request.body = b""
    room.release()


def orders_of(arguments: Sequence[str]) -> Orders:
    """From the command line and the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    for name in ("port", "metrics-port", "router-port", "held-requests", "held-bytes", "failures"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("hold-seconds", "check-seconds", "drain-seconds"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--host", default=Orders.__dataclass_fields__["host"].default)
    parser.add_argument("--standby-model")
    parser.add_argument("--standby-host")
    parser.add_argument("--standby-port", type=int, default=80)
    given = vars(parser.parse_args(arguments))
    return Orders(**given, api_key=os.environ["ROUTER_API_KEY"], standby_key=os.environ.get("STANDBY_API_KEY", ""))


def main(arguments: Sequence[str]) -> int:
    """Serves until it is told to end."""

    async def run() -> None:
        await Activator(orders_of(arguments)).serve()

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
