"""Credentials for registries: every pod that the project declares pulls with them, wherever it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from ops.cache_job import run_keeper
from ops.efa_test_objects import objects_of
from ops.errors import FindingsError
from planner import load_and_plan
from planner.naming import IMAGE_PULL_NAMESPACE, LADDER_KEEPER, SERVING_NAMESPACE, WARM_NAMESPACE
from planner.plan import Plan
from program import build
from tests.crd_schemas import pod_template_problems
from tests.factories import STACKS, stack_plan
from tests.harness import World, deploy
from tests.stacks import changed

SECRET = {"kind": "kubernetes_secret", "name": "registry"}


class Bench:
    """A cluster with a claim, in which every Job ends without a word."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def create(self, path: str, item: Mapping[str, Any]) -> dict[str, Any]:
        self.made.append({**item, "path": path})
        return dict(item)

    def get(self, path: str) -> dict[str, Any] | None:
        return {"path": path, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}

    def list(self, path: str, selector: str | None = None) -> list[dict[str, Any]]:
        return [{"metadata": {"name": "model-cache"}}] if "claims" in path and selector is None else []

    def merge(self, path: str, change: Mapping[str, Any]) -> bool:
        raise NotImplementedError(path, change)

    def delete(self, path: str) -> bool:
        return bool(path)

    def text(self, path: str) -> str:
        return path[:0]


def declared(plan: Plan, *, preview: bool = False) -> World:
    return deploy(lambda: _program(plan), stack=plan.stack, preview=preview)


def _program(plan: Plan) -> None:
    build(plan)


def pods_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec in an object, however deep."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if "containers" in fields:
            yield fields
        for item in fields.values():
            yield from pods_of(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from pods_of(item)


def by_namespace(world: World) -> dict[str, list[dict[str, Any]]]:
    """Pods that are declared as objects of their own; a chart's are its values."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in world:
        if record.type.startswith("kubernetes:") and "Release" not in record.type:
            for pod in pods_of(dict(record.inputs)):
                found.setdefault(record.inputs["metadata"]["namespace"], []).append(pod)
    return found


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_every_pod_pulls_with_it_and_the_plan_names_exactly_their_namespaces(
    stack: str, preview: bool, tmp_path: Path
) -> None:
    plan = load_and_plan(changed(tmp_path, stack, {"images": {"pull_secret": SECRET}}))[1]
    pods = by_namespace(declared(plan, preview=preview))
    assert {secret.namespace for secret in plan.pull_secrets} == set(pods)
    for namespace, specs in pods.items():
        for spec in specs:
            assert spec.get("imagePullSecrets") == [{"name": "registry"}], namespace
            assert preview or pod_template_problems({"metadata": {}, "spec": spec}) == []
    (told,) = [one.message for one in plan.findings if one.subject == "images.pull_secret"]
    assert all(f"{namespace}" in told for namespace in pods)
    assert "kubectl create secret docker-registry registry --namespace" in told


def test_no_way_of_running_a_model_is_left_out(tmp_path: Path) -> None:
    changes = {
        "images": {"pull_secret": SECRET},
        "pools.0.warm_nodes": 1,
        "models.1.replicas": {"min": 3, "max": 4},
    }
    plan = load_and_plan(changed(tmp_path, "prod", changes, removed=("cache.load_seconds", "budget")))[1]
    assert {one.runtime for one in plan.models} == {"deployment", "leader_worker_set"}
    assert any(one.router for one in plan.models)
    where = {secret.namespace for secret in plan.pull_secrets}
    assert where == {SERVING_NAMESPACE, WARM_NAMESPACE, IMAGE_PULL_NAMESPACE, LADDER_KEEPER}
    pods = [pod for specs in by_namespace(declared(plan)).values() for pod in specs]
    names = {container["name"] for pod in pods for container in pod["containers"]}
    assert {"engine", "router", "warm-up", "placeholder", "idle", "keeper"} <= names
    assert all(pod["imagePullSecrets"] == [{"name": "registry"}] for pod in pods)


def test_ray_heads_and_workers_pull_with_it(tmp_path: Path) -> None:
    plan = load_and_plan(changed(tmp_path, "staging", {"images": {"pull_secret": SECRET}}))[1]
    pods = by_namespace(declared(plan))[SERVING_NAMESPACE]
    assert {"ray-head", "engine"} <= {pod["containers"][0]["name"] for pod in pods}
    assert all(pod["imagePullSecrets"] == [{"name": "registry"}] for pod in pods)


def test_jobs_that_verbs_make_pull_with_it(tmp_path: Path) -> None:
    plan = load_and_plan(changed(tmp_path, "prod", {"images": {"pull_secret": SECRET}}))[1]
    bench = Bench()
    with pytest.raises(FindingsError, match="said nothing"):
        run_keeper(bench, plan)
    assert [pod["imagePullSecrets"] for pod in pods_of(bench.made)] == [[{"name": "registry"}]]
    model = next(one for one in plan.models if one.layout.nodes > 1)
    test = objects_of("t", plan.pool(model.pool), model, nodes=2, limit_seconds=60, pull_secret=plan.pull_secret)
    (pod,) = pods_of(test)
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_nothing_is_said_where_the_nodes_need_none() -> None:
    plan = stack_plan("prod")
    assert plan.pull_secret is None
    assert not [one for one in plan.findings if one.subject == "images.pull_secret"]
    assert not [pod for specs in by_namespace(declared(plan)).values() for pod in specs if "imagePullSecrets" in pod]


def test_no_secret_is_declared_for_it(tmp_path: Path) -> None:
    """Somebody else puts it there: nothing of it is in the state but its name."""
    plan = load_and_plan(changed(tmp_path, "dev", {"images": {"pull_secret": SECRET}}))[1]
    names = [record.inputs["metadata"]["name"] for record in declared(plan).of_type("kubernetes:core/v1:Secret")]
    assert "registry" not in names
