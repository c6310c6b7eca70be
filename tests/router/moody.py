"""A replica that answers with the status its request names, as an engine does that is full or is asked nonsense.

Run: `python moody.py PORT KEY MODEL [ADAPTER ...]`; adapters are listed beside the model and answer to their names.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.router.engine import Engine, write


class Moody(Engine):
    """Says `status:503` where a message does."""

    def __init__(self, port: int, key: str, model: str, adapters: tuple[str, ...]) -> None:
        super().__init__(port, key, model)
        self.adapters = adapters

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = head[0].split(" ")[1]
        if path == "/v1/models":
            listed = [{"id": name, "object": "model", "owned_by": "vllm"} for name in (self.model, *self.adapters)]
            write(writer, 200, {"object": "list", "data": listed})
        elif path == "/v1/chat/completions":
            self._say(json.loads(body), writer)
        else:
            write(writer, 200, {})
        await writer.drain()
        return headers.get("connection") != "close"

    def _say(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        words = request["messages"][-1]["content"]
        if words.startswith("status:"):
            write(writer, int(words.partition(":")[2]), {"error": {"message": words, "code": "moody"}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": request["model"]}, "finish_reason": "stop"}
        write(writer, 200, {"id": "1", "object": "chat.completion", "model": request["model"], "choices": [choice]})


if __name__ == "__main__":

    async def run() -> None:
        await Moody(int(sys.argv[1]), sys.argv[2], sys.argv[3], tuple(sys.argv[4:])).serve()

    asyncio.run(run())
