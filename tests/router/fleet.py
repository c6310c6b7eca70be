"""Real processes on loopback: simulated engines, the router with the planned arguments, the activator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from planner.disaggregation import KV_CONNECTOR_ANNOTATION
from planner.plan import DrainPlan, ModelPlan
from tests.router import engine
from tests.router.load import KEY, Load, get, healthy, until

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-router" / "bin" / "python"
COMPRESSED = 5
"""The planned pauses of a pod's end run so much faster; requests keep their length."""
WATCH_SECONDS = 0.5
"""What the router may learn late that a pod ends; `test_discovery` has the real delay, and the real pauses."""


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
    model: str = ""
    group: ModelPlan | None = None

    @property
    def role(self) -> str:
        """Prefill or decode; empty where a replica does both."""
        return self.group.disaggregation.role if self.group and self.group.disaggregation else ""

    @property
    def annotations(self) -> Mapping[str, str]:
        """Of its pod, for the router."""
        return self.group.disaggregation.annotations if self.group and self.group.disaggregation else {}

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

    def __init__(self, model: ModelPlan, folder: Path, key: str = KEY) -> None:
        self.model, self.folder, self.key = model, folder, key
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
        self.spawn_router([str(PYTHON), *self.model.router.command[1:], *args], os.environ)

    def spawn_router(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        log = (self.folder / "router.log").open("wb")
        self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env={**environment, "NO_COLOR": "1"}))

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
        environment = {**os.environ, "ROUTER_API_KEY": self.key, "STANDBY_API_KEY": f"{KEY}-standby"}
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
        port, model = free_port(), model or self.model.name
        command = [sys.executable, engine.__file__, f"--port={port}", f"--key={key}", f"--model={model}"]
        if group is not None and group.disaggregation is not None:
            command += [f"--kind={group.engine}", f"--role={group.disaggregation.role}"]
        replica = Replica(port, subprocess.Popen(command), model, group)
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


def required() -> bool:
    """Whether what a test lacks is a failure."""
    return bool(os.environ.get("ROUTER_REQUIRED"))


def require_router() -> None:
    """`make test-router` installs the router; where a pipeline runs the test, its absence is a failure."""
    if PYTHON.exists():
        return
    if required():
        pytest.fail(f"no router in {PYTHON}")
    pytest.skip("the router is not installed: make test-router")


@contextlib.contextmanager
def fleet(model: ModelPlan, folder: Path, key: str = KEY) -> Generator[Fleet]:
    """A fleet whose processes end with the test."""
    require_router()
    found = Fleet(model, folder, key)
    try:
        yield found
    finally:
        found.stop()


async def at_work(replica: Replica, least: int = 2) -> bool:
    """Whether a replica is amid streams: requests, where it answers with one token."""
    told = json.loads((await get(replica.port, "/at-work"))[1])
    return told["running" if replica.role == "prefill" else "streams"] >= least


async def killed_under(load: Load, found: Fleet, victim: Replica, others: list[Replica]) -> None:
    """A replica is killed outright while it works, and the load goes on beyond the router's notice of it."""
    async with load.running():
        await until(lambda: at_work(victim), "the victim works")
        victim.process.kill()
        await asyncio.sleep(2)  # the kubelet notices, and the pod is no longer ready
        found.announce(*others)
        await load.goes_on()


async def restarted_under(load: Load, found: Fleet, drain: DrainPlan, groups: Sequence[Sequence[Replica]]) -> None:
    """Each group's replicas are replaced one at a time, as a Deployment does it, with the planned pauses compressed."""
    async with load.running():
        await load.goes_on()
        for group in groups:
            for old in group:
                await _replace(found, old, drain)
                await load.goes_on(1)  # the Deployment goes on when the pod is ready


async def _replace(found: Fleet, old: Replica, drain: DrainPlan) -> None:
    """One pod's end and its successor's start."""
    others = [one for one in found.replicas if one is not old]
    await asyncio.sleep(WATCH_SECONDS)
    found.announce(*others)  # its end has begun
    await asyncio.sleep(drain.pre_stop_seconds / COMPRESSED - WATCH_SECONDS)
    old.process.terminate()
    await until(lambda: old.process.poll() is not None, "it has drained", drain.grace_seconds)
    new = found.start_replica(model=old.model, group=old.group)
    await healthy(new.port, "/health")
    found.announce(*others, new)
