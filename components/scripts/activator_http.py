"""HTTP as the activator needs it: a request read whole, answers passed on as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

HEAD_LIMIT = 64 * 1024
CHUNK = 64 * 1024
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
)
REASONS = {400: "Bad Request", 401: "Unauthorized", 413: "Content Too Large", 503: "Service Unavailable"}


@dataclass(kw_only=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """First value of a header."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def encoded(self, host: str, *, key: str | None = None, model: str | None = None) -> bytes:
        """As it goes on; under another key and another model's name for a standby."""
        body, headers = self.body, [(k, v) for k, v in self.headers if k.lower() not in HOP_BY_HOP | {"host"}]
        if key is not None:
            headers = [(k, v) for k, v in headers if k.lower() != "authorization"]
            headers.append(("Authorization", f"Bearer {key}"))
        if model is not None:
            body = renamed(body, model)
        headers += [("Host", host), ("Connection", "close"), ("Content-Length", str(len(body)))]
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers)]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is answered here."""

    def __init__(self, status: int, message: str, outcome: str) -> None:
        self.status, self.message, self.outcome = status, message, outcome
        super().__init__(message)


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


def renamed(body: bytes, model: str) -> bytes:
    """The body with another `model`; as it is where it is no JSON object."""
    try:
        content = json.loads(body)
    except ValueError:
        return body
    if not isinstance(content, dict):
        return body
    return json.dumps({**content, "model": model}).encode()


async def read_request(reader: asyncio.StreamReader, room: int) -> Request | None:
    """One request with its body; None where the client closes without one.

    Raises:
        Refused: it is no HTTP, or its body has no room.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error_:
        if error_.partial:
            raise
        return None
    except asyncio.LimitOverrunError:
        raise Refused(400, "the head of the request is too long", "bad_request") from None
    lines = head.split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3:
        raise Refused(400, "this is no HTTP request", "bad_request")
    headers = [(k.strip(), v.strip()) for k, found, v in (line.partition(":") for line in lines[1:]) if found]
    request = Request(method=parts[0], path=parts[1], headers=headers, body=b"")
    if (request.header("transfer-encoding") or "").lower() == "chunked":
        request.body = await _chunks(reader, room)
        return request
    length = request.header("content-length") or "0"
    if not length.isdecimal():
        raise Refused(400, "Content-Length is no number", "bad_request")
    _fits(int(length), room)
    request.body = await reader.readexactly(int(length))
    return request


async def _chunks(reader: asyncio.StreamReader, room: int) -> bytes:
    body = bytearray()
    while True:
        try:
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        except ValueError:
            raise Refused(400, "a chunk of the body has no length", "bad_request") from None
        _fits(len(body) + size, room)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return bytes(body)
        body += chunk[:-2]


def _fits(size: int, room: int) -> None:
    if size > room:
        raise Refused(413, "the body is larger than what may wait here", "refused")


async def or_gone(read: Coroutine[Any, Any, bytes], gone: asyncio.Task[bytes]) -> bytes:
    """What is read, or ClientLeftError where the client closes before."""
    task = asyncio.create_task(read)
    await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        raise ClientLeftError
    return task.result()


async def answered(upstream: asyncio.StreamReader, gone: asyncio.Task[bytes]) -> bytes:
    """The head of the answer; Refused where the upstream ends without one."""
    try:
        return await or_gone(upstream.readuntil(b"\r\n\r\n"), gone)
    except asyncio.IncompleteReadError:
        raise Refused(503, "what answers this model ended without an answer", "refused") from None


async def relay(
    head: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    gone: asyncio.Task[bytes],
    *,
    extra: bytes = b"",
) -> None:
    """The answer as it comes. The upstream closes at its end, and so does this."""
    lines = [line for line in head.rstrip(b"\r\n").split(b"\r\n") if not line.lower().startswith(b"connection:")]
    writer.write(b"\r\n".join(lines) + extra + b"\r\nConnection: close\r\n\r\n")
    while chunk := await or_gone(reader.read(CHUNK), gone):
        writer.write(chunk)
        await writer.drain()


async def respond(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str = "application/json") -> None:
    """An answer of its own."""
    later = "Retry-After: 5\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {REASONS.get(status, 'OK')}\r\nContent-Type: {kind}\r\n{later}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


def error(message: str, code: str) -> bytes:
    """As the OpenAI API words errors."""
    return json.dumps({"error": {"message": message, "type": "activator", "param": None, "code": code}}).encode()
