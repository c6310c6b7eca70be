"""What an edit of a stack file changes: the model that it is about, and no pod of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import program
from planner import load_and_plan
from tests.harness import World, deploy
from tests.stacks import PLATFORM, document


def _deployed(directory: Path, stack: str, data: dict[str, Any]) -> World:
    path = directory / f"Pulumi.{stack}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    _, plan = load_and_plan(path)
    return deploy(lambda: program.build(plan), stack=stack)


def _workloads(world: World) -> dict[str, Any]:
    """What runs engines, by logical name, without what scalers own."""
    found: dict[str, Any] = {}
    for kind in ("Deployment", "LeaderWorkerSet", "RayService"):
        for one in world.objects(kind):
            if one.name.endswith("-workload"):
                spec = {**one.inputs["spec"]}
                spec.pop("replicas", None)
                found[one.name] = spec
    return found


@pytest.mark.parametrize("edit", ["dropped", "more of it", "longer context", "a second one"])
def test_an_edit_of_one_model_restarts_no_other(tmp_path: Path, edit: str) -> None:
    """All load from one file system, so that each one's planned start moves with the others'."""
    before = document("prod")
    after = document("prod")
    models = after["config"][PLATFORM]["models"]
    small = next(model for model in models if model["name"] == "llama-8b")
    if edit == "dropped":
        models.remove(small)
        after["config"][PLATFORM]["pools"] = [p for p in after["config"][PLATFORM]["pools"] if p["name"] != "l40s"]
    elif edit == "more of it":
        small["replicas"] = {"min": 3, "max": 5}
    elif edit == "longer context":
        small["context_tokens"] = 8192
    else:
        models.append({**small, "name": "llama-8b-b", "replicas": {"min": 1, "max": 1}, "traffic": None})
    old, new = (_workloads(_deployed(tmp_path, "prod", data)) for data in (before, after))
    others = old.keys() & new.keys() - {"llama-8b-workload"}
    assert {"deepseek-r1-workload", "r1-distill-70b-workload"} <= others
    assert {name for name in others if old[name] != new[name]} == set()


def test_an_endpoint_turns_to_its_router_once_that_is_there(tmp_path: Path) -> None:
    """Else a model that gets a router answers nobody while the router is made."""
    world = _deployed(tmp_path, "prod", document("prod"))
    routed = [one for one in world.objects("Deployment") if one.name.endswith("-router")]
    assert routed
    for router in routed:
        service = world["kubernetes:core/v1:Service", router.name.replace("-router", "-service")]
        labels = router.inputs["spec"]["template"]["metadata"]["labels"]
        assert service.inputs["spec"]["selector"].items() <= labels.items()
        assert router.urn in service.depends_on


def _llama(**changes: Any) -> dict[str, Any]:
    data = document("prod")
    for model in data["config"][PLATFORM]["models"]:
        if model["name"] == "llama-8b":
            model.update(changes)
    return data


def test_a_fixed_number_of_replicas_and_a_range_differ_in_bounds(tmp_path: Path) -> None:
    """A number that changed hands would be refused beside the HPA's, and a scaler goes last in an `up`."""
    fixed = _deployed(tmp_path, "prod", _llama(replicas={"min": 2, "max": 2}, routing={"kind": "router"}))
    ranging = _deployed(tmp_path, "prod", _llama(replicas={"min": 1, "max": 3}, routing={"kind": "router"}))
    assert {one.urn for one in fixed} == {one.urn for one in ranging}
    bounds: list[tuple[int, int]] = []
    for world in (fixed, ranging):
        workload = next(one for one in world if one.name == "llama-8b-workload")
        assert workload.ignore_changes == ("spec.replicas",)
        spec = next(one for one in world if one.name == "llama-8b-scaler").inputs["spec"]
        bounds.append((spec["minReplicaCount"], spec["maxReplicaCount"]))
    assert bounds == [(2, 2), (1, 3)]


def test_another_engine_answers_at_the_same_port(tmp_path: Path) -> None:
    """Of an object that is applied again, a dry run refuses another number under the name of a port."""
    vllm, sglang = (_deployed(tmp_path, "prod", _llama(engine=engine)) for engine in ("vllm", "sglang"))
    key = ("kubernetes:core/v1:Service", "llama-8b-service")
    assert vllm[key].inputs["spec"] == sglang[key].inputs["spec"]
    ports: list[Any] = []
    for world in (vllm, sglang):
        pod = next(one for one in world if one.name == "llama-8b-workload").inputs["spec"]["template"]["spec"]
        ports.append([container.get("ports") for container in pod["containers"]])
    assert ports[0] == ports[1]
