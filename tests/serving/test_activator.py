"""The activator under clients that mean harm, break off, or speak HTTP that proxies read in two ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.scripts import activator_http
from components.scripts.activator import Activator, Orders
from tests.router.fleet import free_port

KEY = "key-of-the-test"
MEBI = 1024 * 1024


@dataclass
class Upstream:
    """In the router's place: says what it was sent, as a stream of two parts."""

    port: int = field(default_factory=free_port)
    ready: bool = True
    heads: list[bytes] = field(default_factory=list[bytes])
    bodies: list[bytes] = field(default_factory=list[bytes])
    answer_now: asyncio.Event = field(default_factory=asyncio.Event)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /readiness"):
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % (200 if self.ready else 503))
            else:
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                self.bodies.append(await reader.readexactly(int(length.split(b":")[1])))
                self.heads.append(head)
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirst")
                await writer.drain()
                await self.answer_now.wait()
                writer.write(b" second")
            await writer.drain()
        writer.close()


@dataclass
class Scene:
    """An activator before an upstream."""

    activator: Activator
    upstream: Upstream

    async def send(self, request: bytes, *, half: bytes = b"") -> bytes:
        """The whole answer; `half` is sent first and then waits for an interim answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.activator.orders.port)
        interim = b""
        if half:
            writer.write(half)
            interim = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(-1), 5)
        writer.close()
        return interim + answer


@contextlib.asynccontextmanager
async def scene(*, ready: bool = True, **orders: Any) -> AsyncIterator[Scene]:
    upstream = Upstream(ready=ready)
    upstream.answer_now.set()
    given: dict[str, Any] = {
        "model": "m", "api_key": KEY, "port": free_port(), "metrics_port": free_port(), "router_port": upstream.port,
        "hold_seconds": 5, "held_requests": 10, "held_bytes": 4 * MEBI, "check_seconds": 0.1, "failures": 1,
        "drain_seconds": 1, "host": "127.0.0.1",
    }  # fmt: skip
    server = await asyncio.start_server(upstream.connected, "127.0.0.1", upstream.port)
    found = Activator(Orders(**{**given, **orders}))
    serving = asyncio.create_task(found.serve())
    for _ in range(100):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", found.orders.port)
            writer.close()
            break
        await asyncio.sleep(0.02)
    try:
        yield Scene(found, upstream)
    finally:
        found.stopping.set()
        await serving
        server.close()


def post(*headers: str, body: bytes = b"{}", key: str = KEY, length: bool = True) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: test", f"Authorization: Bearer {key}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "request_",
    [
        post("Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        post("Content-Length: 5"),
        post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n", length=False),
        post("X: a\nTransfer-Encoding: chunked"),
        post("X : a"),
        post(" folded"),
        post("Content-Length: +2", length=False),
        post("Transfer-Encoding: chunked", body=b"-2\r\n{}\r\n0\r\n\r\n", length=False),
        post("Transfer-Encoding: chunked", body=b"1\r\n{}\r\n0\r\n\r\n", length=False),
        b"GET /v1/models\r\n\r\n",
    ],
    ids=["both lengths", "two lengths", "another coding", "bare line feed", "space in a name", "a folded line",
         "a signed length", "a signed chunk", "a chunk that lies", "no version"],
)  # fmt: skip
def test_what_two_proxies_may_read_differently_is_refused(request_: bytes) -> None:
    async def play() -> None:
        async with scene() as found:
            assert status(await found.send(request_)) == 400
            assert found.upstream.heads == []

    asyncio.run(play())


def test_a_chunked_body_arrives_whole_and_with_one_length() -> None:
    async def play() -> None:
        async with scene() as found:
            answer = await found.send(
                post(
                    "Transfer-Encoding: chunked", body=b'5\r\n{"a":\r\n3;x=y\r\n 1}\r\n0\r\nT: t\r\n\r\n', length=False
                )
            )
            assert answer.endswith(b"first second")
            assert found.upstream.bodies == [b'{"a": 1}']
            (head,) = found.upstream.heads
            assert head.lower().count(b"content-length") == 1
            assert b"transfer-encoding" not in head.lower()

    asyncio.run(play())


def test_who_lacks_the_key_sends_no_body() -> None:
    """Without this, strangers fill the memory of the pod."""

    async def play() -> None:
        async with scene() as found:
            request = post("Content-Length: 3000000", key="another", length=False)
            assert status(await found.send(request)) == 401
            assert found.activator.counts.body_bytes == 0

    asyncio.run(play())


def test_bodies_have_room_together_and_give_it_back() -> None:
    async def play() -> None:
        async with scene(ready=False, held_bytes=4 * MEBI) as found:
            one = b"x" * MEBI
            waiting = [asyncio.create_task(found.send(post(body=one))) for _ in range(4)]
            while found.activator.counts.held < 4:
                await asyncio.sleep(0.02)
            assert found.activator.counts.body_bytes == 4 * MEBI
            assert status(await found.send(post())) == 503
            assert status(await found.send(post(body=one + b"x"))) == 413
            found.upstream.answer_now.clear()
            found.upstream.ready = True
            while len(found.upstream.bodies) < 4:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
            assert found.activator.counts.body_bytes == 0, "answers have begun: their bodies are not needed"
            found.upstream.answer_now.set()
            assert all(answer.endswith(b"first second") for answer in await asyncio.gather(*waiting))

    asyncio.run(play())


def test_who_sends_too_slowly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activator_http, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(activator_http, "BODY_SECONDS", 0.2)

    async def play() -> None:
        async with scene() as found:
            assert status(await found.send(b"POST /v1 HTTP/1.1\r\nHost: slow")) == 408
            assert status(await found.send(post("Content-Length: 100", length=False))) == 408
            assert found.activator.counts.body_bytes == 0

    asyncio.run(play())


def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    async def play() -> None:
        async with scene() as found:
            whole = post("Expect: 100-continue", body=b'{"a":1}')
            head, body = whole[: -len(b'{"a":1}')], b'{"a":1}'
            answer = await found.send(body, half=head)
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
            assert b"expect" not in found.upstream.heads[0].lower()

    asyncio.run(play())


def test_what_follows_a_request_does_not_break_it_off() -> None:
    """Some clients send a line end, or the next request, before they have their answer."""

    async def play() -> None:
        async with scene() as found:
            assert (await found.send(post() + b"\r\n" + post())).endswith(b"first second")
            assert len(found.upstream.bodies) == 1

    asyncio.run(play())


def test_a_client_that_leaves_ends_the_request_behind_it() -> None:
    async def play() -> None:
        async with scene() as found:
            found.upstream.answer_now.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", found.activator.orders.port)
            writer.write(post())
            assert await reader.readuntil(b"first")
            writer.close()
            for _ in range(100):
                if found.activator.counts.outcomes["abandoned"]:
                    break
                await asyncio.sleep(0.02)
            assert found.activator.counts.outcomes["abandoned"] == 1
            assert found.activator.counts.in_flight == 0

    asyncio.run(play())


def test_a_standby_gets_its_own_key_whatever_the_client_says() -> None:
    async def play() -> None:
        port = free_port()
        spare = Upstream(port=port)
        spare.answer_now.set()
        server = await asyncio.start_server(spare.connected, "127.0.0.1", port)
        async with scene(
            ready=False, standby_model="spare", standby_host="127.0.0.1", standby_port=port, standby_key="of-the-spare"
        ) as found:
            answer = await found.send(post("AUTHORIZATION: Bearer stolen", body=b'{"model": "m", "n": 1}'))
            assert answer.endswith(b"first second")
            (head,) = spare.heads
            assert head.lower().count(b"authorization") == 1
            assert b"Bearer of-the-spare" in head
            assert json.loads(spare.bodies[0]) == {"model": "spare", "n": 1}
        server.close()

    asyncio.run(play())
