"""Models that no committed stack has: other engines, layouts and media through the whole serving layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner import load_and_plan
from planner.plan import Plan
from rehearsal.kubelet import streamed
from tests.crd_schemas import pod_template_problems, problems
from tests.serving.worlds import manifest, pod_templates, serve, workload
from tests.stacks import changed

EFA_VLLM = {"repository": "registry.example.com/vllm-efa", "tag": "v0.33.0-efa1", "carries_efa": True}
VLLM_GROUP = {
    "models.0.engine": "vllm",
    "models.0.layout": {"tensor": 8, "pipeline": 2},
    "models.0.image": EFA_VLLM,
}


def planned(tmp_path: Path, stack: str, changes: dict[str, Any]) -> Plan:
    return load_and_plan(changed(tmp_path, stack, changes))[1]


def test_a_vllm_group_has_headless_workers_without_port(tmp_path: Path) -> None:
    world = serve(planned(tmp_path, "prod", VLLM_GROUP))
    leader, worker = (template["spec"]["containers"][0] for template in pod_templates(world, "deepseek-r1"))
    assert "--headless" in worker["args"]
    assert "--headless" not in leader["args"]
    assert "ports" in leader
    assert not {"ports", "readinessProbe", "livenessProbe", "startupProbe"} & set(worker)
    assert leader["resources"] == worker["resources"]
    assert problems(workload(world, "deepseek-r1")) == []


@pytest.mark.parametrize("stack", ["staging", "prod"])
def test_every_model_can_stream(tmp_path: Path, stack: str) -> None:
    plan = planned(tmp_path, stack, {"cache": {"kind": "s3"}, "models.0.runtime": "auto"})
    world = serve(plan)
    for model in plan.models:
        for template in pod_templates(world, model.name):
            assert pod_template_problems(template) == []
            assert not any("persistentVolumeClaim" in volume for volume in template["spec"]["volumes"])
            bucket = [v for v in template["spec"]["containers"][0]["env"] if v["name"] == "WEIGHTS_BUCKET"]
            assert bucket
            assert bucket[0]["value"]
            assert streamed(template["spec"]) == (model.weights.object_prefix,)
        (running,) = [r for r in world if r.name == f"{model.name}-workload"]
        assert world["kubernetes:core/v1:ConfigMap", "staged-weights-script"].urn in running.depends_on
        identities = [r for r in world.of_type("inference:index:PodIdentity") if r.name == f"{model.name}-identity"]
        assert len(identities) == 1


def test_two_models_of_one_revision_share_a_warm_up(tmp_path: Path) -> None:
    twin = {
        "name": "llama-8b-b", "model": "meta-llama/Llama-3.1-8B-Instruct", "engine": "sglang", "pool": "l40s",
        "revision": "0e9e39f249a16976918f6564b8830bc894c89659",
    }  # fmt: skip
    plan = planned(tmp_path, "prod", {"models.3": twin})
    world = serve(plan)
    jobs = world.of_type("kubernetes:batch/v1:Job")
    assert len(jobs) == 3
    (shared,) = [job for job in jobs if "llama" in job.name and "70b" not in job.name]
    for name in ("llama-8b", "llama-8b-b"):
        (running,) = [r for r in world if r.name == f"{name}-workload"]
        assert shared.urn in running.depends_on
    ports = {name: manifest_port(world, name) for name in ("llama-8b", "llama-8b-b")}
    assert ports == {"llama-8b": 8000, "llama-8b-b": 8000}


def manifest_port(world: Any, name: str) -> int:
    service = manifest(world["kubernetes:core/v1:Service", f"{name}-service"])
    return service["spec"]["ports"][0]["port"]


def test_a_given_key_is_used_where_it_lies(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, "prod", {"models.2.api_key": {"kind": "kubernetes_secret", "name": "team-key", "key": "token"}}
    )
    world = serve(plan)
    assert not [r for r in world.of_type("kubernetes:core/v1:Secret") if r.name == "llama-8b-api-key"]
    (template,) = pod_templates(world, "llama-8b")
    references = [v.get("valueFrom", {}).get("secretKeyRef") for v in template["spec"]["containers"][0]["env"]]
    assert {"name": "team-key", "key": "token"} in references
