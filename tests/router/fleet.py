"""Real processes on loopback: simulated engines, the router with the planned arguments, the activator, and load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from planner.disaggregation import KV_CONNECTOR_ANNOTATION
from planner.plan import ModelPlan
from tests.router import engine

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-router" / "bin" / "python"
KEY = "key-of-the-test"
PATIENCE_SECONDS = 25


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def on_loopback(args: tuple[str, ...], *, port: int, metrics_port: int, manifest: Path) -> list[str]:
    """The planned arguments, with a file in place of the API server: it lists who would be found there."""
    dropped = ("--host=", "--port=", "--prometheus-", "--service-discovery", "--log-")
    kept: list[str] = []
    in_selector = False
    for arg in args:
        in_selector = arg.endswith("selector") or (in_selector and not arg.startswith("--"))
        if not in_selector and not arg.startswith(dropped):
            kept.append(arg)
    return [
        *kept,
        "--host=127.0.0.1",
        f"--port={port}",
        "--prometheus-host=127.0.0.1",
        f"--prometheus-port={metrics_port}",
        "--log-level=error",
        "--discovery-provider=file",
        f"--discovery-file={manifest}",
        "--discovery-check-interval-secs=1",
        f"--api-key={KEY}",
    ]


@dataclass
class Replica:
    """One engine process."""

    port: int
    process: subprocess.Popen[bytes]
    role: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])

    def found(self) -> dict[str, object]:
        """What discovery would say of the pod."""
        told: dict[str, object] = {"url": self.url}
        if self.role:
            told["worker_type"] = self.role
        if connector := self.annotations.get(KV_CONNECTOR_ANNOTATION):
            told["kv_connector"] = connector
        if "sglang.ai/bootstrap-port" in self.annotations:
            told["bootstrap_port"] = self.port  # all pods have the planned one, processes of one machine cannot
        return told

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Fleet:
    """Engines behind a router."""

    def __init__(self, model: ModelPlan, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.port, self.metrics_port = free_port(), free_port()
        self.manifest = folder / "workers.json"
        self.replicas: list[Replica] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.announce()

    def start_router(self) -> None:
        assert self.model.router is not None
        args = on_loopback(
            self.model.router.args, port=self.port, metrics_port=self.metrics_port, manifest=self.manifest
        )
        log = (self.folder / "router.log").open("wb")
        environment = {**os.environ, "NO_COLOR": "1"}
        self._processes.append(
            subprocess.Popen(
                [str(PYTHON), *self.model.router.command[1:], *args], stdout=log, stderr=log, env=environment
            )
        )

    def start_activator(self, **changes: object) -> int:
        """The activator with the planned orders, on ports of its own; its entry port."""
        assert self.model.router is not None
        assert self.model.router.activator is not None
        plan, port = self.model.router.activator, free_port()
        orders = {
            "model": self.model.name,
            "port": port,
            "metrics-port": free_port(),
            "router-port": self.port,
            "hold-seconds": plan.hold_seconds,
            "held-requests": plan.held_requests,
            "held-bytes": plan.held_bytes,
            "check-seconds": plan.check_seconds,
            "failures": plan.failures,
            "drain-seconds": 1,
            "host": "127.0.0.1",
            **{key.replace("_", "-"): value for key, value in changes.items()},
        }
        self.activator_metrics = int(str(orders["metrics-port"]))
        environment = {**os.environ, "ROUTER_API_KEY": KEY, "STANDBY_API_KEY": f"{KEY}-standby"}
        command = [
            sys.executable,
            "-m",
            "components.scripts.activator",
            *(f"--{key}={value}" for key, value in orders.items()),
        ]
        self._processes.append(subprocess.Popen(command, env=environment, cwd=ROOT))
        return port

    def start_replica(self, *, model: str | None = None, key: str = KEY, group: ModelPlan | None = None) -> Replica:
        """An engine; of a `group` that does one of two phases."""
        port = free_port()
        command = [sys.executable, engine.__file__, str(port), key, model or self.model.name]
        part = group.disaggregation if group else None
        if group is not None and part is not None:
            command += [group.engine, part.role]
        replica = Replica(port, subprocess.Popen(command))
        if part is not None:
            replica.role, replica.annotations = part.role, part.annotations
        self._processes.append(replica.process)
        return replica

    def announce(self, *replicas: Replica) -> None:
        """Who is ready: what the router would learn from the API server."""
        self.replicas = list(replicas)
        workers = [replica.found() for replica in replicas]
        temporary = self.manifest.with_suffix(".new")
        temporary.write_text(json.dumps({"version": 1, "workers": workers}))
        temporary.replace(self.manifest)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def fleet(model: ModelPlan, folder: Path) -> Iterator[Fleet]:
    """A fleet whose processes end with the test.

    `make test-router` installs the router; where a pipeline runs the test, its absence is a failure.
    """
    if not PYTHON.exists():
        if os.environ.get("ROUTER_REQUIRED"):
            pytest.fail(f"no router in {PYTHON}")
        pytest.skip("the router is not installed: make test-router")
    found = Fleet(model, folder)
    try:
        yield found
    finally:
        found.stop()


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


async def ask(port: int, model: str, *, stream: bool = False, key: str = KEY, words: str = "hello") -> Answer:
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
    clients: int = 24
    answers: list[Answer] = field(default_factory=list[Answer])

    async def run(self, until: asyncio.Event) -> None:
        async def client(number: int) -> None:
            turn = 0
            while not until.is_set():
                words = f"client {number} turn {turn} " + "and so on " * 20
                self.answers.append(await ask(self.port, self.model, stream=number % 2 == 0, words=words))
                turn += 1

        await asyncio.gather(*(client(number) for number in range(self.clients)))

    @property
    def plain_lost(self) -> list[Answer]:
        return [one for one in self.answers if not one.stream and not one.whole]

    @property
    def streams_lost(self) -> list[Answer]:
        return [one for one in self.answers if one.stream and not one.whole]


async def healthy(port: int, path: str = "/readiness", limit: float = 15.0) -> None:
    """Until it answers 200."""
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
            status = (await reader.readline()).split()[1:2]
            writer.close()
            if status == [b"200"]:
                return
        await asyncio.sleep(0.1)
    raise AssertionError(f"nothing healthy on port {port} after {limit} s")


async def killed_under(load: Load, found: Fleet, victim: Replica, others: list[Replica], *, after: float) -> Load:
    """A load that runs while one replica is killed outright, and `after` seconds beyond the router's notice of it."""
    end = asyncio.Event()
    running = asyncio.create_task(load.run(end))
    await asyncio.sleep(2)
    victim.process.kill()
    await asyncio.sleep(2)  # the kubelet notices, and the pod is no longer ready
    found.announce(*others)
    await asyncio.sleep(after)
    end.set()
    await running
    return load
