"""The real router before replicas that are full, or are asked nonsense, or for an adapter."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.router.fleet import ROOT, Fleet, Replica, fleet, free_port
from tests.router.load import KEY, ask, healthy, until
from tests.router.plans import routed

pytestmark = pytest.mark.router


def _play(folder: Path, scene: Callable[[Fleet], Coroutine[Any, Any, None]], *adapters: str) -> None:
    async def whole(found: Fleet) -> None:
        started: list[Replica] = []
        for _ in range(3):
            port = free_port()
            command = [sys.executable, "-m", "tests.router.moody", str(port), KEY, found.model.name, *adapters]
            started.append(Replica(port, subprocess.Popen(command, cwd=ROOT)))
        try:
            for one in started:
                await healthy(one.port, "/health")
            found.announce(*started)
            found.start_router()
            await healthy(found.port)
            await scene(found)
        finally:
            for one in started:
                one.process.kill()
                one.process.wait()

    with fleet(routed(), folder) as found:
        asyncio.run(whole(found))


@pytest.mark.parametrize("status", [400, 422, 429])
def test_bad_requests_of_one_client_close_nobody_out(tmp_path: Path, status: int) -> None:
    async def scene(found: Fleet) -> None:
        for _ in range(12):
            assert (await ask(found.port, found.model.name, words=f"status:{status}")).status == status
        assert (await ask(found.port, found.model.name)).whole

    _play(tmp_path, scene)


@pytest.mark.parametrize("status", [500, 503])
def test_full_replicas_are_asked_again_at_once_when_they_have_room(tmp_path: Path, status: int) -> None:
    """With few failures allowed every circuit opens in a peak, and nobody is served for as long as they stay open."""

    async def scene(found: Fleet) -> None:
        for _ in range(12):
            assert (await ask(found.port, found.model.name, words=f"status:{status}")).status == status
        assert (await ask(found.port, found.model.name)).whole

    _play(tmp_path, scene)


def test_however_long_replicas_are_full_they_serve_again_soon(tmp_path: Path) -> None:
    """Circuits that a peak opened close by themselves, after 2 s as planned."""

    async def scene(found: Fleet) -> None:
        await asyncio.gather(*(ask(found.port, found.model.name, words="status:503") for _ in range(60)))

        async def served() -> bool:
            return (await ask(found.port, found.model.name)).whole

        await until(served, "served again")

    _play(tmp_path, scene)


def test_no_replica_is_found_by_an_adapters_name(tmp_path: Path) -> None:
    """What the planner refuses for: should a later router find them, this fails, and the refusal can go."""

    async def scene(found: Fleet) -> None:
        answer = await ask(found.port, "legal")
        assert (answer.status, b"model_not_found" in answer.text) == (404, True)

    _play(tmp_path, scene, "legal")


def test_one_request_cannot_fill_the_routers_memory(tmp_path: Path) -> None:
    async def scene(found: Fleet) -> None:
        # It closes while the client still sends, so not every client reads the 413.
        answer = await ask(found.port, found.model.name, words="x" * (65 * 1024 * 1024))
        assert not answer.whole
        assert answer.status in {0, 413}
        assert (await ask(found.port, found.model.name, words="x" * (60 * 1024 * 1024))).whole

    _play(tmp_path, scene)
