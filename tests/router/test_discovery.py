"""The real router finds the pods of a real API server, by what our components render and with the rights they render.

The pods' labels, annotations, ports, probes and pauses at their end are those of the rendered workloads, which the real
controllers make pods of; their processes are simulated engines on loopback addresses of their own.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import sys
from pathlib import Path

import pytest

from planner.disaggregation import prefill_name
from rehearsal.controlplane.api import Api, ApiError
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.kube import PODS
from tests.router.cluster import Cluster, cluster
from tests.router.kubelet import Running
from tests.router.load import Answer, Load, ask, get, healthy, until
from tests.router.plans import LARGE, SMALL, SPARE, disaggregated, planned

pytestmark = [
    pytest.mark.router,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux serves all of 127.0.0.0/8"),
]

_BATCH = 12
_ADDRESS = re.compile(rb"from ([\d.:]+)(?: after ([\d.]+):\d+)?")


async def _used(built: Cluster) -> set[str]:
    """Who answers a batch of requests that have nothing in common; all of them must be answered."""
    answers = await _ask_batch(built)
    assert all(one.whole for one in answers), [one.text[-300:] for one in answers if not one.whole][:1]
    found = [_ADDRESS.search(one.text) for one in answers]
    return {one[1].decode() for one in found if one}


async def _ask_batch(built: Cluster) -> list[Answer]:
    """Requests whose beginnings nobody has seen, so that no replica has them in its cache."""
    words = (secrets.token_hex() for _ in range(_BATCH))
    return await asyncio.gather(*(ask(built.port, built.model.name, key=built.key, words=one) for one in words))


def _urls(*pods: Running) -> set[str]:
    return {pod.url for pod in pods}


async def _until_used(built: Cluster, *pods: Running) -> None:
    """Until requests go to these pods, each of them, and to no other."""
    wanted = _urls(*pods)
    seen: set[str] = set()

    async def exactly() -> bool:
        nonlocal seen
        used = await _used(built)
        seen = seen | used if used <= wanted else set[str]()
        return seen == wanted

    await until(exactly, f"requests go to {sorted(wanted)}")


async def _until_forgotten(built: Cluster, pod: Running) -> None:
    async def forgotten() -> bool:
        return pod.url not in await built.known()

    await until(forgotten, f"{pod.url} is forgotten")


async def _asked(pod: Running) -> int:
    _, text = await get(pod.probe[1], "/at-work", host=pod.address)
    return int(re.findall(r'"asked": (\d+)', text)[0])


def test_pods_are_found_by_what_is_rendered_for_them(plane: ControlPlane, tmp_path: Path) -> None:
    plan = planned(spare={}, replicas={"min": 2, "max": 4})

    async def scene(built: Cluster) -> None:
        built.grant()
        built.deploy(SMALL, SPARE)
        first, second = await built.ready(SMALL, 2)
        (spare,) = await built.ready(SPARE, 1)
        built.start_router()
        await healthy(built.port)
        await _until_used(built, first, second)
        built.scale(SMALL, 3)
        third = next(pod for pod in await built.ready(SMALL, 3) if pod.url not in _urls(first, second))
        await _until_used(built, first, second, third)
        # Its end begins: it is left while it still could answer.
        built.kubelet.room[SMALL] = 3
        built.kube.delete(PODS, (built.model.namespace, first.name))
        await until(lambda: first.leaving, "the pod ends")
        await _until_used(built, second, third)
        assert first.process.poll() is None, "left before its preStop was over"
        pods = await built.ready(SMALL, 3)
        assert first not in pods
        await _until_used(built, *pods)
        # Nothing is heard of its node.
        built.kubelet.say_unready(second)
        await _until_forgotten(built, second)
        await _until_used(built, *(pod for pod in pods if pod is not second))
        built.kubelet.say_unready(second, unready=False)
        await _until_used(built, *pods)
        # Its engine is sick for a while.
        second.process.send_signal(signal.SIGUSR1)
        await _until_forgotten(built, second)
        await _until_used(built, *(pod for pod in pods if pod is not second))
        second.process.send_signal(signal.SIGUSR2)
        await _until_used(built, *pods)
        # Its container is killed, and started again in place.
        second.process.kill()
        await _until_forgotten(built, second)
        await _until_used(built, *pods)
        assert await _asked(spare) == 0
        assert set(await built.known()) == _urls(*pods)

    with cluster(plane, plan, SMALL, tmp_path) as built:
        asyncio.run(scene(built))


def test_the_rendered_rights_are_what_it_needs(plane: ControlPlane, tmp_path: Path) -> None:
    """Without them it finds nobody; it finds them when they are bound later; and it may do nothing else."""

    async def scene(built: Cluster) -> None:
        built.deploy(SMALL)
        (pod,) = await built.ready(SMALL, 1)
        built.start_router()
        await healthy(built.port, "/liveness")
        await asyncio.sleep(3)
        assert (await get(built.port, "/readiness"))[0] == 503
        built.grant()
        await healthy(built.port)
        await _until_used(built, pod)
        account = Api(plane.endpoint, plane.ca_data, built.token())
        assert account.get(PODS.path(built.model.namespace)) is not None
        for path in (PODS.path(), PODS.path("kube-system"), f"/api/v1/namespaces/{built.model.namespace}/secrets"):
            with pytest.raises(ApiError, match="forbidden"):
                account.get(path)
        account.close()

    with cluster(plane, planned(replicas={"min": 1, "max": 4}), SMALL, tmp_path) as built:
        asyncio.run(scene(built))


def test_a_rolling_restart_loses_nothing(plane: ControlPlane, tmp_path: Path) -> None:
    """The Deployment's own, with the planned pauses: of two replicas one is always known."""

    async def scene(built: Cluster) -> Load:
        built.grant()
        built.deploy(SMALL)
        before = await built.ready(SMALL, 2)
        built.start_router()
        await healthy(built.port)
        await _until_used(built, *before)
        load = Load(built.port, SMALL, built.key, clients=12)
        async with load.running():
            await load.goes_on()
            built.restart(SMALL)
            await until(lambda: built.rolled_out(SMALL), "the Deployment is rolled out", _rollout_seconds(built, 2))
            await load.goes_on()
        assert not _urls(*before) & _urls(*built.kubelet.of(SMALL))
        assert built.kubelet.killed == []
        return load

    with cluster(plane, planned(replicas={"min": 2, "max": 4}), SMALL, tmp_path) as built:
        load = asyncio.run(scene(built))
    assert load.plain_lost == [], load.lost()
    assert load.streams_lost == [], load.lost()


def test_of_a_group_of_nodes_the_leader_alone_is_asked(plane: ControlPlane, tmp_path: Path) -> None:
    async def scene(built: Cluster) -> None:
        built.grant()
        built.deploy_group(LARGE)
        leader, worker = sorted(await built.ready(LARGE, 2), key=lambda pod: pod.name)
        built.start_router()
        await healthy(built.port)
        await _until_used(built, leader)
        assert set(await built.known()) == _urls(leader)
        assert await _asked(worker) == 0

    with cluster(plane, planned(LARGE), LARGE, tmp_path) as built:
        asyncio.run(scene(built))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_rolling_restart_of_both_groups_loses_nothing(plane: ControlPlane, tmp_path: Path, engine: str) -> None:
    """Both at once, as after a change of their image."""
    prefill = prefill_name(SMALL)

    async def scene(built: Cluster) -> Load:
        built.grant()
        built.deploy(prefill, SMALL)
        groups = {name: await built.ready(name, 2) for name in (prefill, SMALL)}
        built.start_router()
        await healthy(built.port)
        await until(lambda: _pairs(built, groups[prefill], groups[SMALL]), "all of both groups work")
        load = Load(built.port, SMALL, built.key, clients=12)
        async with load.running():
            await load.goes_on()
            for name in groups:
                built.restart(name)
            for name in groups:
                limit = _rollout_seconds(built, 2)
                await until(lambda name=name: built.rolled_out(name), f"{name} is rolled out", limit)
            await load.goes_on()
        await until(
            lambda: _pairs(built, built.kubelet.of(prefill), built.kubelet.of(SMALL)), "all of both new groups work"
        )
        assert built.kubelet.killed == []
        return load

    with cluster(plane, disaggregated(engine), SMALL, tmp_path) as built:
        load = asyncio.run(scene(built))
    assert load.plain_lost == [], load.lost()
    assert load.streams_lost == [], load.lost()


def test_the_first_pod_of_a_model_at_zero_answers_who_waits(plane: ControlPlane, tmp_path: Path) -> None:
    async def scene(built: Cluster) -> None:
        built.grant()
        built.deploy(SMALL)
        built.start_router()
        await healthy(built.port, "/liveness")
        assert (await get(built.port, "/readiness"))[0] == 503
        assert (await ask(built.port, SMALL, key=built.key)).status in {404, 503}, "what the activator takes for nobody"
        entry = built.fleet.start_activator()
        await healthy(built.fleet.activator_metrics, "/healthz")
        for _ in range(2):
            waiting = asyncio.create_task(ask(entry, SMALL, key=built.key))
            held = f'activator_requests_held{{model="{SMALL}"}} 1'
            await until(lambda held=held: _shows(built, held), "it is held")
            built.scale(SMALL, 1)
            await built.ready(SMALL, 1)
            answer = await waiting
            assert answer.whole, answer.text[-300:]
            built.scale(SMALL, 0)
            await until(lambda: not built.kubelet.of(SMALL, ready=False), "asleep again")

    with cluster(plane, planned(replicas={"min": 0, "max": 4}), SMALL, tmp_path) as built:
        asyncio.run(scene(built))


async def _shows(built: Cluster, line: str) -> bool:
    return line in (await get(built.fleet.activator_metrics, "/metrics"))[1]


async def _pairs(built: Cluster, prefill: list[Running], decode: list[Running]) -> bool:
    """Whether requests go to all of both groups, and to nobody else, in the right order."""
    found = [_ADDRESS.search(one.text) for one in await _ask_batch(built)]
    after = {one[2].decode() for one in found if one}
    return {one[1].decode() for one in found if one} == _urls(*decode) and after == {one.address for one in prefill}


def _rollout_seconds(built: Cluster, replicas: int) -> float:
    """A limit: each pod's end may take all of its grace period."""
    return replicas * (built.model.drain.grace_seconds + 30)
