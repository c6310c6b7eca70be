"""Engine images on the nodes before a replica needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.image_pull import daemon_set_spec
from components.namespaces import levels
from planner import load_and_plan
from planner.image_pull import plan_image_pulls, pull_seconds
from planner.naming import IMAGE_PULL_NAMESPACE
from planner.plan import Plan
from program import build
from tests.crd_schemas import pod_template_problems
from tests.factories import STACKS, stack_plan
from tests.harness import deploy
from tests.serving.worlds import manifest
from tests.stacks import changed


def pod_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    return spec["template"]["spec"]


@pytest.mark.parametrize("stack", STACKS)
def test_every_pool_with_models_pulls_exactly_their_images(stack: str) -> None:
    plan = stack_plan(stack)
    wanted = {pool.name: {m.container.image for m in plan.models if m.pool == pool.name} for pool in plan.pools}
    found = {one.pool: set(one.images) for one in plan.image_pulls}
    assert found == {pool: images for pool, images in wanted.items() if images}
    for one in plan.image_pulls:
        pod = pod_of(daemon_set_spec(one))
        pulled = [container["image"] for container in pod["initContainers"] if container["name"].startswith("pull-")]
        assert pulled == list(one.images)
        assert pod_template_problems({"metadata": {}, "spec": pod}) == []


def test_it_runs_on_the_nodes_of_the_pool_and_takes_no_gpu() -> None:
    plan = stack_plan("prod")
    for one in plan.image_pulls:
        pool = plan.pool(one.pool)
        pod = pod_of(daemon_set_spec(one))
        assert pod["nodeSelector"] == dict(pool.node_selector)
        assert {item["key"] for item in pod["tolerations"]} == {taint.key for taint in pool.taints}
        for container in (*pod["containers"], *pod["initContainers"]):
            assert set(container["resources"]["limits"]) == {"memory"}
            # CUDA's images ask for all GPUs themselves, and the runtime would give them: those of engines, too.
            assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]
            # The namespace enforces `restricted`.
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True


def test_a_new_node_is_left_to_its_own_pods_first_where_images_could_compete() -> None:
    plan = stack_plan("prod")
    one = plan.image_pulls[0]
    alone = replace(one, images=one.images[:1], settle_seconds=0)
    assert [c["name"] for c in pod_of(daemon_set_spec(alone))["initContainers"]] == ["pull-0"]
    pool = plan.pool(one.pool)
    models = [m for m in plan.models if m.pool == pool.name]
    other = replace(models[0], container=replace(models[0].container, image="registry.example.com/other:1"))
    (two,) = plan_image_pulls((pool,), (models[0], other), wanted=True, idle_image="pause:1", settle_image="python:1")
    first, *pulls = pod_of(daemon_set_spec(two))["initContainers"]
    assert (first["image"], first["command"]) == ("python:1", ["sleep", str(2 * pull_seconds())])
    assert len(pulls) == 2


def test_no_node_waits_for_another() -> None:
    spec = daemon_set_spec(stack_plan("dev").image_pulls[0])
    assert spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "100%"


def test_a_stack_can_do_without() -> None:
    plan = stack_plan("prod")
    assert plan_image_pulls(plan.pools, plan.models, wanted=False, idle_image="a:1", settle_image="b:1") == ()


@pytest.mark.parametrize("preview", [False, True])
def test_models_come_after_the_pull_of_their_image_is_asked_for(preview: bool) -> None:
    plan = stack_plan("prod")

    world = deploy(lambda: program(plan), preview=preview, stack="prod")
    pulls = [one for one in world if one.type == "kubernetes:apps/v1:DaemonSet" and "image-pull" in one.name]
    assert {one.name for one in pulls} == {f"image-pull-{one.pool}" for one in plan.image_pulls}
    for one in pulls:
        made = manifest(one)
        assert made["metadata"]["namespace"] == IMAGE_PULL_NAMESPACE
        # `up` must not wait for nodes.
        assert made["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"
    workloads = [one for one in world if one.name.endswith("-workload")]
    assert len(workloads) == len(plan.models)
    for workload in workloads:
        assert {one.urn for one in pulls} <= set(workload.depends_on)


def test_a_stack_file_turns_it_off(tmp_path: Path) -> None:
    plan = load_and_plan(changed(tmp_path, "dev", {"images": {"pre_pull": False}}))[1]
    assert plan.image_pulls == ()
    assert IMAGE_PULL_NAMESPACE not in levels(plan)
    assert all("image" not in model.why for model in plan.models)
    world = deploy(lambda: program(plan), stack="dev")
    assert not [one for one in world if one.type == "inference:index:ImagePull"]


def program(plan: Plan) -> None:
    build(plan)
