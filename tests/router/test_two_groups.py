"""The real router in front of two simulated groups: prefill first, then decode. `make test-router` installs it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from planner.plan import ModelPlan
from tests.factories import model_of
from tests.router.fleet import Fleet, Replica, fleet, killed_under, restarted_under
from tests.router.load import Load, ask, healthy
from tests.router.plans import SMALL, disaggregated

pytestmark = pytest.mark.router

ENGINES = ("vllm", "sglang")
_TURNS = 20


def _groups(engine: str) -> tuple[ModelPlan, ModelPlan]:
    plan = disaggregated(engine)
    return model_of(plan, f"{SMALL}-prefill"), model_of(plan, SMALL)


async def _up(found: Fleet, prefill: ModelPlan, decode: ModelPlan) -> list[Replica]:
    """Two replicas of each group, and the router."""
    started = [found.start_replica(model=decode.name, group=group) for group in (prefill, prefill, decode, decode)]
    for one in started:
        await healthy(one.port, "/health")
    found.announce(*started)
    found.start_router()
    await healthy(found.port)
    return started


@pytest.mark.parametrize("engine", ENGINES)
def test_a_request_goes_to_prefill_and_to_decode(tmp_path: Path, engine: str) -> None:
    prefill, decode = _groups(engine)

    async def scene(found: Fleet) -> None:
        started = await _up(found, prefill, decode)
        used: set[int] = set()
        for turn in range(_TURNS):  # a replica that the router found last gets its first requests a little later
            words = [f"question {turn} {number} " for number in range(12)]
            answers = await asyncio.gather(*(ask(found.port, decode.name, words=one) for one in words))
            assert all(one.whole for one in answers), [one.text[-300:] for one in answers if not one.whole][:1]
            pairs = {re.search(rb"from \S+?:(\d+) after \S+?:(\d+)", one.text) for one in answers}
            assert None not in pairs
            used |= {int(port) for pair in pairs if pair for port in pair.groups()}
            if len(used) == len(started):
                break
            await asyncio.sleep(0.5)
        assert used == {one.port for one in started}, "both replicas of both groups work"
        streamed = await ask(found.port, decode.name, stream=True)
        assert streamed.whole, streamed.text[-300:]
        stranger = await ask(found.port, decode.name, key="another")
        assert stranger.status == 401

    with fleet(decode, tmp_path) as found:
        asyncio.run(scene(found))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("victim", [0, 2], ids=["prefill", "decode"])
def test_a_killed_replica_of_either_group_loses_no_plain_request(tmp_path: Path, engine: str, victim: int) -> None:
    prefill, decode = _groups(engine)

    async def scene(found: Fleet) -> Load:
        started = await _up(found, prefill, decode)
        dead, load = started.pop(victim), Load(found.port, decode.name, clients=16)
        await killed_under(load, found, dead, started)
        return load

    with fleet(decode, tmp_path) as found:
        load = asyncio.run(scene(found))
    assert load.plain_lost == [], load.lost()
    assert all(one.tells_its_error for one in load.streams_lost), load.lost()
    if victim == 0:
        assert load.streams_lost == [], "streams come from decode"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rolling_restart_of_both_groups_loses_no_plain_request(tmp_path: Path, engine: str) -> None:
    prefill, decode = _groups(engine)

    async def scene(found: Fleet) -> Load:
        started = await _up(found, prefill, decode)
        load = Load(found.port, decode.name, clients=16)
        await restarted_under(load, found, decode.drain, (started[:2], started[2:]))
        return load

    with fleet(decode, tmp_path) as found:
        load = asyncio.run(scene(found))
    assert load.plain_lost == [], load.lost()
    assert load.streams_lost == [], load.lost()
