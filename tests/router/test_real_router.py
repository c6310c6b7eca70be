"""The real router, with the planned arguments, before simulated engines under load. `make test-router` installs it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.router.fleet import KEY, Fleet, Load, ask, fleet, healthy, killed_under
from tests.router.plans import asleep, routed, with_standby

pytestmark = pytest.mark.router

COMPRESSED = 5
"""The planned pauses of a pod's end run so much faster; requests keep their length."""
WATCH_SECONDS = 0.5
"""What the router may learn late that a pod ends; a watch of the API server takes less."""


async def _up(found: Fleet, replicas: int) -> None:
    started = [found.start_replica() for _ in range(replicas)]
    for one in started:
        await healthy(one.port, "/health")
    found.announce(*started)
    found.start_router()
    await healthy(found.port)


def test_a_killed_replica_loses_no_plain_request(tmp_path: Path) -> None:
    async def scene(found: Fleet) -> Load:
        await _up(found, 3)
        victim, *others = found.replicas
        return await killed_under(Load(found.port, found.model.name), found, victim, others, after=1.5)

    with fleet(routed(), tmp_path) as found:
        load = asyncio.run(scene(found))
    assert len(load.answers) > 100
    assert load.plain_lost == []
    assert load.streams_lost, "the replica was killed in the middle of streams"
    assert all(one.tells_its_error for one in load.streams_lost), load.streams_lost[0].text[-400:]
    assert len(load.streams_lost) <= load.clients // 2, "only those of the killed replica"


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    model = routed()

    async def restart(found: Fleet, index: int) -> None:
        """One pod's end and its successor's start, as the Deployment replaces them: one at a time."""
        old = found.replicas[index]
        others = [one for one in found.replicas if one is not old]
        began = time.monotonic()
        await asyncio.sleep(WATCH_SECONDS)
        found.announce(*others)  # its end has begun: no longer ready
        await asyncio.sleep(model.drain.pre_stop_seconds / COMPRESSED - (time.monotonic() - began))
        old.process.terminate()
        while old.process.poll() is None:
            assert time.monotonic() - began < model.drain.grace_seconds, "killed before it has drained"
            await asyncio.sleep(0.05)
        new = found.start_replica()
        await healthy(new.port, "/health")
        found.announce(*others, new)
        await asyncio.sleep(1)  # the Deployment goes on when the pod is ready

    async def scene(found: Fleet) -> Load:
        await _up(found, 3)
        load, end = Load(found.port, model.name), asyncio.Event()
        running = asyncio.create_task(load.run(end))
        await asyncio.sleep(1)
        for _ in range(3):
            await restart(found, 0)
        end.set()
        await running
        return load

    with fleet(model, tmp_path) as found:
        load = asyncio.run(scene(found))
    assert len(load.answers) > 200
    assert load.plain_lost == []
    assert load.streams_lost == []


def test_a_request_waits_for_the_first_replica_and_only_who_has_the_key_may(tmp_path: Path) -> None:
    async def scene(found: Fleet) -> None:
        found.start_router()
        port = found.start_activator()
        await healthy(found.activator_metrics, "/healthz")
        waiting = [asyncio.create_task(ask(port, found.model.name, stream=n == 0)) for n in range(3)]
        stranger = await ask(port, found.model.name, key="another")
        assert (stranger.status, stranger.seconds < 1) == (401, True)
        await asyncio.sleep(2)
        assert not any(task.done() for task in waiting)
        assert "activator_requests_peak" in (shown := await _metrics(found.activator_metrics))
        assert f'activator_requests_held{{model="{found.model.name}"}} 3' in shown
        first = found.start_replica()
        await healthy(first.port, "/health")
        found.announce(first)
        answers = await asyncio.gather(*waiting)
        assert all(one.whole for one in answers), [one.text[-300:] for one in answers]
        assert all(one.seconds > 2 for one in answers)
        found.announce()  # scaled to zero again: held again, not refused
        first.process.terminate()
        await asyncio.sleep(1)
        again = asyncio.create_task(ask(port, found.model.name))
        await asyncio.sleep(1)
        second = found.start_replica()
        await healthy(second.port, "/health")
        found.announce(second)
        assert (await again).whole

    with fleet(asleep(), tmp_path) as found:
        asyncio.run(scene(found))


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    async def scene(found: Fleet) -> None:
        found.start_router()
        port = found.start_activator(hold_seconds=1, held_requests=2)
        await healthy(found.activator_metrics, "/healthz")
        answers = await asyncio.gather(*(ask(port, found.model.name) for _ in range(3)))
        assert [one.status for one in answers] == [503] * 3
        assert sum(one.seconds < 0.9 for one in answers) == 1, "the third found no room"
        assert all(b"Retry-After" in one.text for one in answers)

    with fleet(asleep(), tmp_path) as found:
        asyncio.run(scene(found))


def test_the_standby_answers_within_thirty_seconds(tmp_path: Path) -> None:
    model = with_standby()

    async def scene(found: Fleet) -> float:
        await _up(found, 1)
        spare = found.start_replica(model="spare", key=f"{KEY}-standby")
        await healthy(spare.port, "/health")
        port = found.start_activator(standby_model="spare", standby_host="127.0.0.1", standby_port=spare.port)
        await healthy(found.activator_metrics, "/healthz")
        primary = await ask(port, model.name)
        assert primary.whole
        assert f"from {found.replicas[0].port}".encode() in primary.text
        found.replicas[0].process.kill()
        began = time.monotonic()
        while not (answer := await ask(port, model.name)).whole:
            assert time.monotonic() - began < 30, answer.text[-300:]
            await asyncio.sleep(0.2)
        passed = time.monotonic() - began
        assert b"X-Standby-Model: spare" in answer.text
        assert f'activator_standby_active{{model="{model.name}"}} 1' in await _metrics(found.activator_metrics)
        assert (await ask(port, model.name, stream=True)).whole
        return passed

    with fleet(model, tmp_path) as found:
        assert asyncio.run(scene(found)) < 30


async def _metrics(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    text = await reader.read(-1)
    writer.close()
    return text.decode()
