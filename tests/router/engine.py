"""An engine to an HTTP client's eyes: a process that answers the OpenAI API, slowly, and drains as vLLM does.

After SIGTERM it finishes what runs, breaks off what comes new, and ends; after SIGUSR1 it is sick, after SIGUSR2 well
again. With a role it is one of two groups: prefill answers one token and what decode needs to fetch the prompt's cache,
decode fails where that cannot be fetched. Run: `python engine.py --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
from typing import Any

PLAIN_SECONDS = 0.8
PREFILL_SECONDS = 0.2
TOKENS, TOKEN_SECONDS = 30, 0.05


class Engine:
    """One replica; `handover_port` is where decode fetches a prompt's cache, its own port unless told."""

    def __init__(
        self,
        port: int,
        key: str,
        model: str,
        *,
        host: str = "127.0.0.1",
        kind: str = "vllm",
        role: str = "",
        handover_port: int | None = None,
    ) -> None:
        self.host, self.port, self.key, self.model, self.kind, self.role = host, port, key, model, kind, role
        self.handover_port = handover_port or port
        self.running = self.streams = self.asked = 0
        self.sick = False
        self.ending = asyncio.Event()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.ending.set)
        loop.add_signal_handler(signal.SIGUSR1, setattr, self, "sick", True)
        loop.add_signal_handler(signal.SIGUSR2, setattr, self, "sick", False)
        await asyncio.start_server(self._connected, self.host, self.port)
        if self.handover_port != self.port:
            await asyncio.start_server(lambda _reader, writer: writer.close(), self.host, self.handover_port)
        await self.ending.wait()
        while self.running:
            await asyncio.sleep(0.05)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        if not head[0].endswith("HTTP/1.1"):  # the router asks whether it speaks gRPC
            return False
        path = head[0].split(" ")[1]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if path in {"/health", "/ready"}:
            write(writer, 503 if self.sick else 200, {})
        elif path == "/at-work":
            write(writer, 200, {"running": self.running, "streams": self.streams, "asked": self.asked})
        elif path.startswith("/v1") and headers.get("authorization") != f"Bearer {self.key}":
            write(writer, 401, {"error": "wrong key"})
        elif path == "/v1/models":
            model = {"id": self.model, "object": "model", "owned_by": self.kind}
            write(writer, 200, {"object": "list", "data": [model]})
        elif path != "/v1/chat/completions":
            write(writer, 404, {"error": path})
        elif self.ending.is_set():
            return False
        else:
            self.asked += 1
            await self._complete(json.loads(body), writer)
        await writer.drain()
        return headers.get("connection") != "close"

    async def _complete(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if request["model"] != self.model:
            write(writer, 404, {"error": f"no model {request['model']}"})
            return
        if wrong := self._misdirected(request):
            write(writer, 400, {"error": wrong})
            return
        self.running += 1
        try:
            if self.role == "decode" and not await self._fetched(request):
                write(writer, 500, {"error": "the prompt's cache did not arrive"})
            elif request.get("stream"):
                self.streams += 1
                try:
                    await self._stream(writer)
                finally:
                    self.streams -= 1
            else:
                await asyncio.sleep(PREFILL_SECONDS if self.role == "prefill" else PLAIN_SECONDS)
                message = {"role": "assistant", "content": f"from {self.host}:{self.port}{self._asked_whom(request)}"}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
                about = {"id": "1", "object": "chat.completion", "created": 1, "model": self.model}
                write(writer, 200, {**about, "choices": [choice], "usage": usage, **self._handover(request)})
            await writer.drain()
        finally:
            self.running -= 1

    def _misdirected(self, request: dict[str, Any]) -> str:
        """What the router got wrong; nothing where all is well."""
        params: dict[str, Any] = request.get("kv_transfer_params") or {}
        if not self.role:
            return ""
        if self.kind == "sglang":
            known = {"bootstrap_host", "bootstrap_port", "bootstrap_room"} <= request.keys()
            return "" if known else "no bootstrap room"
        if self.role == "prefill":
            one = request.get("max_tokens") == 1 or request.get("max_completion_tokens") == 1
            alone = one and not request.get("stream") and params.get("do_remote_decode")
            return "" if alone else "asked for more than a prompt"
        return "" if params.get("do_remote_prefill") and params.get("remote_port") else "no prefill has answered"

    def _handover(self, request: dict[str, Any]) -> dict[str, Any]:
        """What vLLM's prefill adds to its answer."""
        if self.role != "prefill" or self.kind != "vllm":
            return {}
        remote = {
            "remote_engine_id": "e",
            "remote_block_ids": [1],
            "remote_host": self.host,
            "remote_port": self.handover_port,
        }
        return {"kv_transfer_params": {"do_remote_prefill": True, "do_remote_decode": False, **remote}}

    def _prefill(self, request: dict[str, Any]) -> tuple[str, int]:
        """Where the prompt's cache lies, as the router says it."""
        params: dict[str, Any] = request.get("kv_transfer_params") or request
        host = params.get("remote_host") or params.get("bootstrap_host") or ""
        return str(host), int(params.get("remote_port") or params.get("bootstrap_port") or 0)

    def _asked_whom(self, request: dict[str, Any]) -> str:
        host, port = self._prefill(request)
        return f" after {host}:{port}" if self.role == "decode" else ""

    async def _fetched(self, request: dict[str, Any]) -> bool:
        """Whether the prefill is still there to read from."""
        try:
            _, writer = await asyncio.open_connection(*self._prefill(request))
        except OSError:
            return False
        writer.close()
        return True

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        about = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": self.model}
        for token in range(TOKENS):
            choice = {"index": 0, "delta": {"content": f"t{token} "}, "finish_reason": None}
            event = f"data: {json.dumps({**about, 'choices': [choice]})}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(TOKEN_SECONDS)
        end = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))


def write(writer: asyncio.StreamWriter, status: int, content: dict[str, Any]) -> None:
    """A JSON answer."""
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, about in {"port": int, "key": str, "model": str}.items():
        parser.add_argument(f"--{name}", type=about, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--kind", default="vllm")
    parser.add_argument("--role", default="")
    parser.add_argument("--handover-port", type=int)

    async def run() -> None:
        await Engine(**vars(parser.parse_args())).serve()

    asyncio.run(run())
