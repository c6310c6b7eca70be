"""`rotate`: which clients of a store restart after its password was changed, and how."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.__main__ import app
from ops.cluster import Cluster, pods_path, workload_path
from ops.errors import MissingError, UsageError
from ops.rotate import Rotated, accepts, rotate, says_yes
from planner import load_and_plan
from planner.naming import GROUP_ROLE_LABEL, MODEL_LABEL
from planner.plan import ModelPlan, Plan, ValkeyPlan
from tests.factories import example_plan, model_of
from tests.ops.api_server import ApiServer
from tests.stacks import changed

BEFORE, CHANGED, AFTER = "2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z"
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
TIERS: Plan = example_plan("kv-tiers")


@pytest.fixture
def ray(tmp_path: Path) -> Plan:
    return load_and_plan(changed(tmp_path, "staging", {"valkey": {"storage_gib": 4}}, removed=("budget",)))[1]


def secret(api: ApiServer, store: ValkeyPlan) -> None:
    api.put(
        f"/api/v1/namespaces/{store.namespace}/secrets/{store.password.name}",
        {
            "metadata": {"creationTimestamp": BEFORE, "managedFields": [{"time": CHANGED}]},
            "data": {store.password.key: base64.b64encode(b"second").decode()},
        },
    )


def add(api: ApiServer, model: ModelPlan, name: str, when: str, role: str = "server") -> None:
    labels = {MODEL_LABEL: model.name, GROUP_ROLE_LABEL: role}
    path = f"{pods_path(model.namespace)}/{name}"
    api.put(path, {"metadata": {"labels": labels, "creationTimestamp": when}, "status": READY})


def run(
    cluster: Cluster, plan: Plan, store: ValkeyPlan | None, *, takes: tuple[bool, ...] = (True,), pause: Any = None
) -> Rotated:
    assert store is not None
    answers, times = list(takes), iter(range(10**6))

    def accepts(asked: ValkeyPlan, password: str) -> bool:
        assert (asked.name, password) == (store.name, "second")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    return rotate(
        cluster, plan, store, accepts=accepts, limit_seconds=100, tell=lambda _: None,
        pause=pause or (lambda _: None), clock=lambda: next(times),
    )  # fmt: skip


def test_an_engine_is_rolled_once_and_only_where_it_began_before(api: ApiServer, cluster: Cluster) -> None:
    store = TIERS.kv_store
    assert store is not None
    secret(api, store)
    (name,) = store.clients
    model = model_of(TIERS, name)
    api.put(workload_path(model), {"spec": {"replicas": 2}})
    add(api, model, "old", BEFORE)
    add(api, model, "new", AFTER)

    def roll(path: str, _: Any) -> None:
        assert path == workload_path(model)
        del api.objects[f"{pods_path(model.namespace)}/old"]
        add(api, model, "newer", AFTER)

    api.on_patch = roll
    found = run(cluster, TIERS, store)
    assert (found.restarted, found.left) == ((name,), ())
    assert found.changed == "2026-03-01T11:00:00+00:00"
    ((_, change),) = api.patches
    assert set(change["spec"]["template"]["metadata"]["annotations"]) == {"kubectl.kubernetes.io/restartedAt"}
    # Again: nothing is left to do.
    assert run(cluster, TIERS, store).restarted == ()
    assert len(api.patches) == 1


def test_a_leader_worker_set_is_rolled_by_the_template_that_it_has(api: ApiServer, cluster: Cluster) -> None:
    assert TIERS.kv_store is not None
    (name,) = TIERS.kv_store.clients
    model = replace(model_of(TIERS, name), runtime="leader_worker_set")
    plan = replace(TIERS, models=(model,))
    assert plan.kv_store is not None
    secret(api, plan.kv_store)
    api.put(workload_path(model), {"spec": {"replicas": 1}})
    add(api, model, "old", BEFORE, "leader")

    def roll(path: str, _: Any) -> None:
        assert path == workload_path(model)
        del api.objects[f"{pods_path(model.namespace)}/old"]
        add(api, model, "new", AFTER, "leader")

    api.on_patch = roll
    assert run(cluster, plan, plan.kv_store).restarted == (name,)
    ((_, change),) = api.patches
    # The API server drops `spec.template`, which a LeaderWorkerSet does not know, without a word.
    assert set(change["spec"]) == {"leaderWorkerTemplate"}
    template = change["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    assert set(template["metadata"]["annotations"]) == {"kubectl.kubernetes.io/restartedAt"}


def test_asked_again_half_way_a_rollout_does_not_begin_anew(api: ApiServer, cluster: Cluster) -> None:
    store = TIERS.kv_store
    assert store is not None
    secret(api, store)
    model = model_of(TIERS, store.clients[0])
    api.put(workload_path(model), {"spec": {"replicas": 2}})
    add(api, model, "old", BEFORE)
    for _ in range(2):
        assert run(cluster, TIERS, store).left
    (_, first), (_, second) = api.patches
    assert first == second


def test_models_after_one_that_does_not_come_back_keep_serving(api: ApiServer, cluster: Cluster) -> None:
    store = TIERS.kv_store
    assert store is not None
    first = model_of(TIERS, store.clients[0])
    second = replace(first, name="second")
    plan = replace(TIERS, models=(first, second), kv_store=replace(store, clients=(first.name, second.name)))
    secret(api, store)
    for model in plan.models:
        api.put(workload_path(model), {"spec": {"replicas": 1}})
        add(api, model, f"{model.name}-old", BEFORE)

    def roll(path: str, _: Any) -> None:
        assert path == workload_path(first)
        del api.objects[f"{pods_path(first.namespace)}/{first.name}-old"]
        add(api, first, "new", AFTER)
        api.objects[f"{pods_path(first.namespace)}/new"]["status"] = {"phase": "Running"}

    api.on_patch = roll
    found = run(cluster, plan, plan.kv_store)
    assert (found.restarted, found.left, found.unready) == ((first.name,), (), first.name)


def test_a_store_that_hangs_up_is_said_without_a_traceback(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TIERS.kv_store
    assert store is not None
    api.put(
        f"/api/v1/namespaces/{store.namespace}/secrets/{store.tls_secret}",
        {"metadata": {}, "data": {store.ca_key: base64.b64encode(b"").decode()}},
    )
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]

    def forwarded(*_: Any, **__: Any) -> contextlib.nullcontext[int]:
        return contextlib.nullcontext(port)

    def no_context(**_: Any) -> None:
        return None

    monkeypatch.setattr("ops.rotate.forward", forwarded)
    monkeypatch.setattr("ssl.create_default_context", no_context)
    with pytest.raises(MissingError, match="kv-store does not answer over TLS") as raised:
        accepts(cluster, store, "second")
    assert "get pods" in str(raised.value.help)


def test_of_a_ray_cluster_the_head_alone_is_replaced(api: ApiServer, cluster: Cluster, ray: Plan) -> None:
    store = ray.valkey
    assert store is not None
    secret(api, store)
    model = model_of(ray, store.clients[0])
    api.put(workload_path(model), {})
    add(api, model, "head", BEFORE, "ray-head")
    add(api, model, "worker", BEFORE, "worker")

    def kuberay(_: float) -> None:
        add(api, model, "head-2", AFTER, "ray-head")

    found = run(cluster, ray, store, pause=kuberay)
    assert (found.restarted, found.left) == ((model.name,), ())
    assert api.deleted == [f"{pods_path(model.namespace)}/head"]
    assert api.patches == []


def test_nobody_restarts_before_the_store_takes_it(api: ApiServer, cluster: Cluster) -> None:
    store = TIERS.kv_store
    assert store is not None
    secret(api, store)
    model = model_of(TIERS, store.clients[0])
    api.put(workload_path(model), {})
    add(api, model, "old", BEFORE)
    waited: list[float] = []

    def roll(_path: str, _change: Any) -> None:
        del api.objects[f"{pods_path(model.namespace)}/old"]
        add(api, model, "new", AFTER)

    api.on_patch = roll
    assert run(cluster, TIERS, store, takes=(False, False, True), pause=waited.append).restarted
    assert len(waited) == 2
    api.patches.clear()
    with pytest.raises(MissingError, match="does not take the password") as raised:
        run(cluster, TIERS, store, takes=(False,))
    assert "--container password" in str(raised.value.help)
    assert api.patches == []


def test_what_does_not_come_in_time_is_named(api: ApiServer, cluster: Cluster) -> None:
    store = TIERS.kv_store
    assert store is not None
    secret(api, store)
    model = model_of(TIERS, store.clients[0])
    api.put(workload_path(model), {})
    add(api, model, "old", BEFORE)
    assert run(cluster, TIERS, store).left == (f"{model.namespace}/old",)


def test_a_model_at_zero_is_left_alone(api: ApiServer, cluster: Cluster) -> None:
    store = TIERS.kv_store
    assert store is not None
    secret(api, store)
    assert run(cluster, TIERS, store).restarted == ()
    assert api.patches == []


def test_a_secret_that_is_gone_is_said(cluster: Cluster) -> None:
    with pytest.raises(MissingError, match="kv-store-password does not exist"):
        run(cluster, TIERS, TIERS.kv_store)


def test_a_stack_without_a_store_has_nothing_to_rotate() -> None:
    result = CliRunner().invoke(app, ["rotate", "--stack", "dev"])
    assert isinstance(result.exception, UsageError)
    assert "has no store" in str(result.exception)


@pytest.mark.parametrize(("answer", "says"), [(b"+OK\r\n", True), (b"-WRONGPASS invalid\r\n", False), (b"", False)])
def test_it_asks_in_the_protocol_of_the_store(answer: bytes, says: bool) -> None:
    ours, theirs = socket.socketpair()
    asked: list[bytes] = []

    def serve() -> None:
        asked.append(theirs.recv(1000))
        theirs.sendall(answer)
        theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert says_yes(ours, "pässword") is says
    thread.join()
    ours.close()
    assert asked == ["*3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$9\r\npässword\r\n".encode()]
