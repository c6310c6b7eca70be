"""From the first probe to the last request: what pods of every model, engine and runtime have."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.assumptions import assumed
from catalog.load import load
from components.serving import deployment, leader_worker_set, ray_service
from components.serving.model_server import disruption_budget
from components.serving.ray_service import drain_script
from planner.life import plan_drain
from planner.naming import GROUP_ROLE_LABEL
from planner.plan import DrainPlan, ModelPlan, Plan
from tests.factories import STACKS, stack_plan
from tests.serving.test_serving_pods import context, engine, templates
from tests.serving.test_variants import VLLM_GROUP, planned
from tests.serving.worlds import of_stack, pod_templates, serve

ALL_MODELS = [(stack, model.name) for stack in STACKS for model in stack_plan(stack).models]


def serving(stack: str, name: str) -> dict[str, Any]:
    """The template of the pods that hold GPUs and answer; the Ray head is another's."""
    found = templates(stack, name)
    return found[-1] if of_stack(stack, name).runtime == "ray_service" else found[0]


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_autoscalers_move_no_replica_to_tidy_up(stack: str, name: str) -> None:
    for template in templates(stack, name):
        annotations = template["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_no_variable_and_no_path_is_given_twice(stack: str, name: str) -> None:
    """A server-side apply refuses the object."""
    for template in templates(stack, name):
        for container in (*template["spec"]["containers"], *template["spec"].get("initContainers", [])):
            for key, entries in (("name", container.get("env", [])), ("mountPath", container.get("volumeMounts", []))):
                given = [entry[key] for entry in entries]
                assert len(given) == len(set(given))


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_the_kubelet_waits_for_a_start_twice_as_long_as_planned(stack: str, name: str) -> None:
    model = of_stack(stack, name)
    startup = model.container.startup
    if startup is None:
        assert model.runtime == "ray_service"  # KubeRay's probes ask the raylet, which is up before the model
        return
    assert startup.period_seconds * startup.failure_threshold >= 2 * model.startup_seconds


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_no_probe_gives_up_before_the_engine_does(stack: str, name: str) -> None:
    """SGLang's /health generates a token, and takes up to 20 s to say that it cannot."""
    model = of_stack(stack, name)
    for probe in (model.container.startup, model.container.liveness):
        if probe is not None:
            assert probe.timeout_seconds >= (25 if model.engine == "sglang" else 5)
            assert probe.timeout_seconds <= probe.period_seconds or probe is model.container.startup
    liveness, readiness = model.container.liveness, model.container.readiness
    if liveness is not None and readiness is not None:
        # Out of the endpoints long before it is killed.
        unready = readiness.period_seconds * readiness.failure_threshold
        assert unready < liveness.period_seconds * liveness.failure_threshold


@pytest.mark.parametrize("stack", STACKS)
def test_a_pod_ends_within_the_notice_where_its_pool_has_spot_nodes(stack: str) -> None:
    plan = stack_plan(stack)
    for pool in plan.pools:
        drain = plan_drain(pool)
        spot = any(rung.kind == "spot" for rung in pool.rungs)
        assert (drain.grace_seconds < assumed("spot_notice_seconds")) == spot
        for model in plan.models:
            if model.pool == pool.name:
                assert model.drain == drain
                assert serving(stack, model.name)["spec"]["terminationGracePeriodSeconds"] == drain.grace_seconds


def test_the_engine_is_told_how_long_it_may_drain() -> None:
    for stack, name in ALL_MODELS:
        model = of_stack(stack, name)
        line = " ".join(model.container.args)
        if model.ray is not None:
            (application,) = model.ray.serve_config["applications"]
            (llm,) = application["args"]["llm_configs"]
            assert llm["deployment_config"]["graceful_shutdown_timeout_s"] == model.drain.drain_seconds
        elif model.engine == "vllm":
            assert f"--shutdown-timeout={model.drain.drain_seconds}" in line
        else:
            # It waits for what runs until it is killed; there is no option.
            assert load().engines["sglang"].drains == "signal"


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_what_is_explained_is_what_is_declared(stack: str, name: str) -> None:
    model = of_stack(stack, name)
    told = {number.name: number.value for number in model.numbers if number.section in {"probes", "drain"}}
    container = engine(serving(stack, name))
    assert told["pod is killed after"] == serving(stack, name)["spec"]["terminationGracePeriodSeconds"]
    for kind in ("startup", "readiness", "liveness"):
        probe = container.get(f"{kind}Probe")
        told_of_kind = [value for what, value in told.items() if what.startswith(kind)]
        if probe is not None:
            assert told_of_kind == [probe["periodSeconds"] * probe["failureThreshold"]]
        elif kind != "startup":
            assert len(told_of_kind) == 1, "KubeRay's probes are told as well"


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_a_pod_that_is_not_ready_stays_so_until_routers_have_let_it_go(stack: str, name: str) -> None:
    """For 6 s: a pod that is Ready again before is found a minute later (measured on a real API server)."""
    readiness = engine(serving(stack, name)).get("readinessProbe")
    if readiness is not None:
        assert readiness["periodSeconds"] * readiness["successThreshold"] > 6


def test_replicas_prefer_different_nodes() -> None:
    for stack, name in ALL_MODELS:
        model = of_stack(stack, name)
        if model.layout.nodes > 1:
            continue
        (spread,) = [
            one
            for one in serving(stack, name)["spec"]["topologySpreadConstraints"]
            if one["topologyKey"] == "kubernetes.io/hostname"
        ]
        # A replica beside another serves more than one that waits for a node.
        assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
        labels = serving(stack, name)["metadata"]["labels"]
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_a_budget_lets_one_replica_go_at_a_time(stack: str, name: str) -> None:
    model = of_stack(stack, name)
    budget = disruption_budget(model)
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    if model.ray is not None:
        assert budget["minAvailable"] == model.ray.min_workers * model.layout.nodes - 1
    else:
        assert budget["maxUnavailable"] == 1
    roles = {"deployment": None, "leader_worker_set": "leader", "ray_service": "worker"}
    assert budget["selector"]["matchLabels"].get(GROUP_ROLE_LABEL) == roles[model.runtime]


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_replicas_have_priority_and_shared_memory(stack: str, name: str) -> None:
    pod = serving(stack, name)["spec"]
    assert pod["priorityClassName"] == "inference-serving"
    (memory,) = [one["emptyDir"] for one in pod["volumes"] if one.get("emptyDir", {}).get("medium") == "Memory"]
    assert memory["sizeLimit"] == f"{of_stack(stack, name).container.shared_memory_gib}Gi"
    assert "/dev/shm" in [one["mountPath"] for one in engine(serving(stack, name))["volumeMounts"]]  # noqa: S108


class TestRootFileSystem:
    def test_vllm_writes_to_its_home_its_caches_and_shared_memory_alone(self) -> None:
        container = engine(serving("dev", "llama-8b"))
        assert of_stack("dev", "llama-8b").engine == "vllm"
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        writable = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert {env["HOME"], "/tmp"} <= writable  # noqa: S108
        assert any(env["VLLM_CACHE_ROOT"].startswith(path) for path in writable)

    def test_engines_that_write_beside_their_files_may(self) -> None:
        for stack, name in (("prod", "deepseek-r1"), ("staging", "r1-distill-70b")):
            assert "readOnlyRootFilesystem" not in engine(serving(stack, name))["securityContext"]

    def test_an_image_of_ones_own_may_need_its_root(self, tmp_path: Path) -> None:
        image = {"repository": "registry.example.com/vllm", "tag": "v1", "writable_root": True}
        plan = planned(tmp_path, "dev", {"models.0.image": image})
        (model,) = [one for one in plan.models if one.name == "llama-8b"]
        assert not model.container.read_only_root
        assert "writable" in model.why["file system"]


def test_headless_ranks_have_no_probes_and_the_plan_says_why(tmp_path: Path) -> None:
    plan = planned(tmp_path, "prod", VLLM_GROUP)
    leader, worker = (engine(one) for one in pod_templates(serve(plan), "deepseek-r1"))
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(leader)
    assert not {"startupProbe", "readinessProbe", "livenessProbe"} & set(worker)
    assert "no HTTP server" in model_of(plan, "deepseek-r1").why["other ranks"]
    assert "probed like it" in of_stack("prod", "deepseek-r1").why["other ranks"]


def model_of(plan: Plan, name: str) -> ModelPlan:
    return next(model for model in plan.models if model.name == name)


def test_ranks_of_sglang_are_probed_on_what_answers_without_generating() -> None:
    worker = engine(templates("prod", "deepseek-r1")[1])
    assert {worker[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/health"
    }


def test_a_group_that_waits_for_nodes_is_not_started_over_and_over() -> None:
    spec = leader_worker_set.workload(context("prod", "deepseek-r1")).spec()
    assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupAfterStart"
    # LeaderReady would wait for a leader that waits for its workers.
    assert spec["startupPolicy"] == "LeaderCreated"


def test_no_rollout_needs_gpus_beyond_those_that_serve() -> None:
    groups = leader_worker_set.workload(context("prod", "deepseek-r1")).spec()
    assert groups["rolloutStrategy"]["rollingUpdateConfiguration"]["maxSurge"] == 0
    world = serve(stack_plan("prod"))
    (single,) = [one for one in world if one.name == "r1-distill-70b-workload"]
    assert single.inputs["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    # A router finds a new pod within 2 s (tests/router/test_discovery.py); much longer would only slow a rollout down.
    assert 5 <= single.inputs["spec"]["minReadySeconds"] <= 30
    of = context("staging", "r1-distill-70b")
    assert of.model.ray is not None
    assert ray_service.workload(of, of.model.ray).spec()["upgradeStrategy"] == {"type": "None"}


def test_pods_of_a_deployment_are_not_given_up_while_they_wait_for_a_node() -> None:
    world = serve(stack_plan("prod"))
    (single,) = [one for one in world if one.name == "r1-distill-70b-workload"]
    assert single.inputs["spec"]["progressDeadlineSeconds"] >= 24 * 3600
    assert deployment.template(context("prod", "r1-distill-70b"))["spec"]["containers"]


class TestRayDrain:
    """The preStop hook of Ray workers, with stand-ins for Python and Ray."""

    DRAIN = DrainPlan(pre_stop_seconds=1, drain_seconds=4, grace_seconds=20)

    def run(self, tmp_path: Path, *, python: str, replica_ends_after: int = 0) -> tuple[str, float]:
        tools = tmp_path / "bin"
        tools.mkdir()
        process = tmp_path / "cmdline"
        process.write_text("ray::ServeReplica:app:LLMServer" if replica_ends_after else "raylet", encoding="utf-8")
        bodies = {
            "python": python,
            "ray": f'echo "$@" >{tmp_path}/asked',
            # A stand-in for time: each pause is noted, and the replica ends after some.
            "sleep": f'echo "$1" >>{tmp_path}/slept; n=$(wc -l <{tmp_path}/slept); '
            f"[ $n -le {replica_ends_after} ] || echo raylet >{process}",
        }
        for tool, body in bodies.items():
            path = tools / tool
            path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
            path.chmod(0o755)
        script = drain_script(self.DRAIN, processes=str(process))
        done = subprocess.run(
            ["/bin/sh", "-c", script], env={"PATH": f"{tools}:{os.environ['PATH']}"}, check=False, timeout=60
        )
        assert done.returncode == 0
        asked = tmp_path / "asked"
        pauses = (tmp_path / "slept").read_text(encoding="utf-8").split()
        return asked.read_text(encoding="utf-8").strip() if asked.exists() else "", len(pauses)

    def test_the_node_is_drained_until_the_kubelet_would_kill_the_pod(self, tmp_path: Path) -> None:
        asked, _ = self.run(tmp_path, python="echo abc123")
        assert asked == (
            "drain-node --node-id abc123 --reason DRAIN_NODE_REASON_PREEMPTION --reason-message the pod ends "
            "--deadline-remaining-seconds 5"
        )

    def test_it_waits_for_the_replica_and_no_longer(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, python="echo abc123", replica_ends_after=3)[1] == 4

    def test_without_a_head_the_pod_ends_after_the_pause(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, python="exit 1") == ("", 1)

    def test_it_fits_the_grace_period_of_every_ray_worker(self) -> None:
        for stack, name in ALL_MODELS:
            model = of_stack(stack, name)
            if model.runtime == "ray_service":
                command = engine(serving(stack, name))["lifecycle"]["preStop"]["exec"]["command"]
                assert command == ["/bin/sh", "-c", drain_script(model.drain)]
                assert model.drain.pre_stop_seconds + model.drain.drain_seconds < model.drain.grace_seconds

    def test_a_longer_drain_is_a_longer_deadline(self) -> None:
        longer = replace(self.DRAIN, drain_seconds=100)
        assert "--deadline-remaining-seconds 101" in drain_script(longer)
