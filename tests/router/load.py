"""Clients of a model: single requests, steady load, and waiting for what may take its time on a slow machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from tests.router import engine

KEY = "key-of-the-test"
PATIENCE_SECONDS = 60
"""For one answer, or one condition: what passes takes seconds, and what hangs is to fail."""


async def until(
    condition: Callable[[], object | Awaitable[object]], what: str, limit: float = PATIENCE_SECONDS
) -> None:
    """Until a condition holds; an AssertionError that says `what` did not come true where it does not."""
    ends = time.monotonic() + limit
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return
        assert time.monotonic() < ends, f"not within {limit:.0f} s: {what}"
        await asyncio.sleep(0.1)


async def get(port: int, path: str, *, host: str = "127.0.0.1", key: str = "") -> tuple[int, str]:
    """Status and body; status 0 where nobody answers."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(host, port)
        with contextlib.closing(writer):
            authorization = f"Authorization: Bearer {key}\r\n" if key else ""
            writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n{authorization}Connection: close\r\n\r\n".encode())
            head, _, body = (await asyncio.wait_for(reader.read(-1), PATIENCE_SECONDS)).partition(b"\r\n\r\n")
            if head:
                return int(head.split(b" ", 2)[1]), body.decode()
    return 0, ""


async def healthy(port: int, path: str = "/readiness", *, host: str = "127.0.0.1") -> None:
    """Until it answers 200."""

    async def answers() -> bool:
        return (await get(port, path, host=host))[0] == 200

    await until(answers, f"nothing healthy on {host}:{port}")


@dataclass
class Answer:
    """One request's fate."""

    stream: bool
    began: float
    text: bytes = b""
    seconds: float = 0.0
    broken: str = ""

    @property
    def status(self) -> int:
        return int(self.text.split(b" ", 2)[1]) if self.text.startswith(b"HTTP/") else 0

    @property
    def whole(self) -> bool:
        """Everything that a healthy replica says."""
        if self.status != 200 or self.broken:
            return False
        return self.text.count(b'"delta"') == engine.TOKENS if self.stream else b'"content"' in self.text

    @property
    def tells_its_error(self) -> bool:
        """A stream that ends early says so: an error event, or a connection that is cut before its end."""
        return b'"error"' in self.text or bool(self.broken)


async def ask(port: int, model: str, *, key: str = KEY, stream: bool = False, words: str = "hello") -> Answer:
    """One request on a connection of its own."""
    content = {"model": model, "messages": [{"role": "user", "content": words}], "stream": stream}
    body = json.dumps(content).encode()
    answer = Answer(stream=stream, began=time.monotonic())
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            + f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer.text = await asyncio.wait_for(reader.read(-1), PATIENCE_SECONDS)
        if stream and answer.status == 200 and not answer.text.rstrip().endswith(b"0"):
            answer.broken = "cut before the last chunk"
        writer.close()
    except (OSError, TimeoutError) as error:
        answer.broken = repr(error)
    answer.seconds = time.monotonic() - answer.began
    return answer


@dataclass
class Load:
    """Clients that ask again and again, every second one for a stream."""

    port: int
    model: str
    key: str = KEY
    clients: int = 24
    answers: list[Answer] = field(default_factory=list[Answer])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Asks as long as the block lasts; every request that was begun is answered before it is left."""
        end = asyncio.Event()
        clients = asyncio.gather(*(self._client(number, end) for number in range(self.clients)))
        try:
            yield
        finally:
            end.set()
            await clients

    async def goes_on(self, rounds: int = 2) -> None:
        """Until as many more answers have come as clients have asked in so many rounds."""
        wanted = len(self.answers) + rounds * self.clients
        await until(lambda: len(self.answers) >= wanted, f"{wanted} answers")

    async def _client(self, number: int, end: asyncio.Event) -> None:
        turn = 0
        while not end.is_set():
            words = f"client {number} turn {turn} " + "and so on " * 20
            self.answers.append(await ask(self.port, self.model, key=self.key, stream=number % 2 == 0, words=words))
            turn += 1

    @property
    def plain_lost(self) -> list[Answer]:
        return [one for one in self.answers if not one.stream and not one.whole]

    @property
    def streams_lost(self) -> list[Answer]:
        return [one for one in self.answers if one.stream and not one.whole]

    def lost(self) -> str:
        """What became of the requests that were lost, for a message."""
        found = [*self.plain_lost, *self.streams_lost]
        return "\n".join(f"{one.broken} {one.text[-300:]!r} after {one.seconds:.1f} s" for one in found[:3])
