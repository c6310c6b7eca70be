"""The real router, with the planned arguments, before simulated engines under load. `make test-router` installs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.router.fleet import Fleet, fleet, killed_under, restarted_under
from tests.router.load import KEY, Load, ask, get, healthy, until
from tests.router.plans import asleep, routed, with_standby

pytestmark = pytest.mark.router


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
        load = Load(found.port, found.model.name)
        await killed_under(load, found, victim, others)
        return load

    with fleet(routed(), tmp_path) as found:
        load = asyncio.run(scene(found))
    assert load.plain_lost == [], load.lost()
    assert load.streams_lost, "the replica was killed in the middle of streams"
    assert all(one.tells_its_error for one in load.streams_lost), load.lost()
    assert len(load.streams_lost) <= load.clients // 2, "only those of the killed replica"


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    async def scene(found: Fleet) -> Load:
        await _up(found, 3)
        load = Load(found.port, found.model.name)
        await restarted_under(load, found, found.model.drain, (found.replicas,))
        return load

    with fleet(routed(), tmp_path) as found:
        load = asyncio.run(scene(found))
    assert load.plain_lost == [], load.lost()
    assert load.streams_lost == [], load.lost()


def test_a_request_waits_for_the_first_replica_and_only_who_has_the_key_may(tmp_path: Path) -> None:
    async def scene(found: Fleet) -> None:
        found.start_router()
        port = found.start_activator()
        await healthy(found.activator_metrics, "/healthz")
        waiting = [asyncio.create_task(ask(port, found.model.name, stream=n == 0)) for n in range(3)]
        assert (await ask(port, found.model.name, key="another")).status == 401, "told at once, though nobody serves"
        await until(lambda: _shows(found, f'activator_requests_held{{model="{found.model.name}"}} 3'), "all are held")
        assert await _shows(found, "activator_requests_peak")
        await asyncio.sleep(2)
        assert not any(task.done() for task in waiting)
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
        port = found.start_activator(hold_seconds=3, held_requests=2)
        await healthy(found.activator_metrics, "/healthz")
        answers = await asyncio.gather(*(ask(port, found.model.name) for _ in range(3)))
        assert [one.status for one in answers] == [503] * 3
        assert sorted(b"too many requests wait" in one.text for one in answers) == [False, False, True]
        assert all(b"Retry-After" in one.text for one in answers)

    with fleet(asleep(), tmp_path) as found:
        asyncio.run(scene(found))


def test_the_standby_answers_when_the_last_replica_is_killed(tmp_path: Path) -> None:
    """After 18 s as planned, which a machine that is short of time makes longer."""
    model = with_standby()

    async def scene(found: Fleet) -> None:
        await _up(found, 1)
        spare = found.start_replica(model="spare", key=f"{KEY}-standby")
        await healthy(spare.port, "/health")
        port = found.start_activator(standby_model="spare", standby_host="127.0.0.1", standby_port=spare.port)
        await healthy(found.activator_metrics, "/healthz")
        primary = await ask(port, model.name)
        assert primary.whole
        assert f"from 127.0.0.1:{found.replicas[0].port}".encode() in primary.text
        found.replicas[0].process.kill()

        async def stands_by() -> bool:
            answer = await ask(port, model.name)
            return answer.whole and b"X-Standby-Model: spare" in answer.text

        await until(stands_by, "the standby answers")
        assert await _shows(found, f'activator_standby_active{{model="{model.name}"}} 1')
        assert (await ask(port, model.name, stream=True)).whole

    with fleet(model, tmp_path) as found:
        asyncio.run(scene(found))


async def _shows(found: Fleet, line: str) -> bool:
    """Whether the activator's metrics have it."""
    return line in (await get(found.activator_metrics, "/metrics"))[1]
