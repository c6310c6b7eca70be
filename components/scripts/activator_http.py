"""HTTP as the activator needs it: a request read whole, answers passed on as they come.

What it reads it writes anew, so two readings of one head would be a hole: whatever RFC 9112 calls malformed is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

HEAD_LIMIT = 64 * 1024
CHUNK = 64 * 1024
HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
HEAD_SECONDS, BODY_SECONDS, LINGER_SECONDS = 30, 300, 2
"""Who sends more slowly is told so: open connections are memory."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    408: "Request Timeout",
    413: "Content Too Large",
    503: "Service Unavailable",
}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


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


async def read_head(reader: asyncio.StreamReader) -> Request | None:
    """One request without its body; None where the client closes without one.

    Raises:
        Refused: it is no HTTP, or comes too slowly.
    """
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except TimeoutError:
        raise Refused(408, "the head of the request did not come", "bad_request") from None
    except asyncio.IncompleteReadError as error_:
        if error_.partial:
            raise
        return None
    except asyncio.LimitOverrunError:
        raise Refused(400, "the head of the request is too long", "bad_request") from None
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or _CONTROL.search(first):
        raise Refused(400, "this is no HTTP request", "bad_request")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, found, value = line.partition(":")
        if not found or not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise Refused(400, "a header of the request is malformed", "bad_request")
        headers.append((name, value.strip()))
    return Request(method=parts[0], path=parts[1], headers=headers, body=b"")


async def read_body(request: Request, reader: asyncio.StreamReader, reserve: Callable[[int], None]) -> None:
    """The body of a request whose head was read. `reserve` is told of bytes before they are, and refuses those that
    have no room.

    Raises:
        Refused: its length is told wrongly or twice, has no room, or the body comes too slowly.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            request.body = await _body(request, reader, reserve)
    except TimeoutError:
        raise Refused(408, "the body of the request did not come", "bad_request") from None
    except asyncio.LimitOverrunError:
        raise Refused(400, "a line of the body is too long", "bad_request") from None


async def _body(request: Request, reader: asyncio.StreamReader, reserve: Callable[[int], None]) -> bytes:
    lengths = {value for name, value in request.headers if name.lower() == "content-length"}
    codings = [value.lower() for name, value in request.headers if name.lower() == "transfer-encoding"]
    if codings:
        if codings != ["chunked"] or lengths:
            raise Refused(400, "the request tells the length of its body in two ways", "bad_request")
        return await _chunks(reader, reserve)
    length = lengths.pop() if lengths else "0"
    if lengths or not length.isascii() or not length.isdigit():
        raise Refused(400, "Content-Length is no number", "bad_request")
    reserve(int(length))
    return await reader.readexactly(int(length))


async def _chunks(reader: asyncio.StreamReader, reserve: Callable[[int], None]) -> bytes:
    body = bytearray()
    while True:
        size_text = (await reader.readuntil(b"\r\n")).split(b";")[0].strip()
        if not size_text or size_text.strip(b"0123456789abcdefABCDEF"):
            raise Refused(400, "a chunk of the body has no length", "bad_request")
        size = int(size_text, 16)
        if size == 0:
            # Trailers, if any, tell nothing that an engine reads.
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return bytes(body)
        reserve(size)
        chunk = await reader.readexactly(size + 2)
        if not chunk.endswith(b"\r\n"):
            raise Refused(400, "a chunk of the body is longer than it says", "bad_request")
        body += chunk[:-2]


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let a client that is still sending read its answer: closing on unread bytes would reset the connection, and the
    answer with it."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(LINGER_SECONDS):
            while await reader.read(CHUNK):
                pass


async def until_gone(reader: asyncio.StreamReader) -> None:
    """Until the client closes. What it sends beyond its request is not served: one request a connection."""
    try:
        while await reader.read(CHUNK):
            pass
    except OSError:
        return


async def or_gone(read: Coroutine[Any, Any, bytes], gone: asyncio.Task[None]) -> bytes:
    """What is read, or ClientLeftError where the client closes before."""
    task = asyncio.create_task(read)
    await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        raise ClientLeftError
    return task.result()


async def answered(upstream: asyncio.StreamReader, gone: asyncio.Task[None]) -> bytes:
    """The head of the answer; Refused where the upstream ends without one."""
    try:
        return await or_gone(upstream.readuntil(b"\r\n\r\n"), gone)
    except asyncio.IncompleteReadError:
        raise Refused(503, "what answers this model ended without an answer", "refused") from None


async def relay(
    head: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    gone: asyncio.Task[None],
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
