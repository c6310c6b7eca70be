"""The pod template that the three runtimes share."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.serving import deployment, leader_worker_set, network_policy, ray_service
from components.serving.pods import PodContext, environment, group_affinity, tolerations
from planner.naming import RUNG_LABEL
from planner.plan import EnvVar, Taint
from rehearsal.kubelet import streamed
from tests.crd_schemas import pod_template_problems
from tests.factories import STACKS, stack_plan
from tests.serving.worlds import of_stack

ALL_MODELS = [(stack, model.name) for stack in STACKS for model in stack_plan(stack).models]


def context(stack: str, name: str, **changes: Any) -> PodContext:
    plan = stack_plan(stack)
    model = of_stack(stack, name, **changes)
    return PodContext(
        model=model,
        stack=stack,
        pool=plan.pool(model.pool),
        cache=plan.cache,
        ready_timeout_seconds=model.weights.staged_within_seconds or 3600,
        claim_name="the-claim",
        bucket="the-bucket",
        region="us-east-1",
    )


def templates(stack: str, name: str) -> list[dict[str, Any]]:
    of = context(stack, name)
    if of.model.runtime == "deployment":
        return [deployment.template(of)]
    if of.model.runtime == "leader_worker_set":
        groups = leader_worker_set.workload(of)
        return [dict(groups.leader_template), dict(groups.worker_template)]
    assert of.model.ray is not None
    return [ray_service.head_template(of, of.model.ray), ray_service.worker_template(of)]


def engine(template: dict[str, Any]) -> dict[str, Any]:
    return template["spec"]["containers"][0]


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_templates_fit_the_schema(stack: str, name: str) -> None:
    for template in templates(stack, name):
        assert pod_template_problems(template) == []


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_pods_are_confined(stack: str, name: str) -> None:
    for template in templates(stack, name):
        spec = template["spec"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert "limits" in container["resources"]
            assert "memory" in container["resources"]["limits"]


def test_only_the_ray_head_gets_a_token_since_its_autoscaler_calls_the_api_server() -> None:
    head, worker = templates("staging", "r1-distill-70b")
    assert "automountServiceAccountToken" not in head["spec"]
    assert "serviceAccountName" not in head["spec"]
    for template in (worker, *templates("prod", "deepseek-r1"), *templates("dev", "llama-8b")):
        assert template["spec"]["automountServiceAccountToken"] is False


def test_ipc_lock_comes_with_efa_and_with_root_alone() -> None:
    leader, _ = templates("prod", "deepseek-r1")
    assert engine(leader)["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert "runAsUser" not in leader["spec"]["securityContext"]
    (single,) = templates("prod", "r1-distill-70b")
    assert "add" not in engine(single)["securityContext"]["capabilities"]
    assert single["spec"]["securityContext"]["runAsNonRoot"] is True


def test_leader_and_worker_ask_for_the_same() -> None:
    leader, worker = templates("prod", "deepseek-r1")
    assert engine(leader)["resources"] == engine(worker)["resources"]
    limits = engine(leader)["resources"]["limits"]
    requests = engine(leader)["resources"]["requests"]
    assert (limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"]) == ("8", "32")
    # The API server refuses extended resources and huge pages whose request and limit differ.
    for resource in ("nvidia.com/gpu", "vpc.amazonaws.com/efa", "hugepages-2Mi"):
        assert requests[resource] == limits[resource]
    assert leader["spec"]["volumes"] == worker["spec"]["volumes"]
    assert leader["spec"]["terminationGracePeriodSeconds"] == worker["spec"]["terminationGracePeriodSeconds"]


def test_a_headless_rank_declares_neither_port_nor_probe() -> None:
    base = of_stack("prod", "deepseek-r1").container
    headless = replace(base, startup=None, readiness=None, liveness=None)
    of = context("prod", "deepseek-r1", worker=headless)
    worker = leader_worker_set.workload(of).worker_template["spec"]["containers"][0]
    assert not {"ports", "startupProbe", "readinessProbe", "livenessProbe"} & set(worker)


def test_a_group_stays_on_one_rung_and_on_different_nodes() -> None:
    affinity = group_affinity(context("prod", "deepseek-r1"), "group")
    (near,) = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (far,) = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert (near["topologyKey"], far["topologyKey"]) == (RUNG_LABEL, "kubernetes.io/hostname")
    for term in (near, far):
        assert term["matchLabelKeys"] == ["group"]
        # The API server refuses a key that is in both.
        assert "group" not in term["labelSelector"]["matchLabels"]
    for template in templates("prod", "deepseek-r1"):
        labels = template["metadata"]["labels"]
        assert near["labelSelector"]["matchLabels"].items() <= labels.items()


def test_nodes_that_exist_need_no_rung_label() -> None:
    of = context("prod", "deepseek-r1")
    existing = replace(of.pool, rungs=(replace(of.pool.rungs[0], kind="existing"),))
    near = group_affinity(replace(of, pool=existing), "group")["podAffinity"]
    assert set(near) == {"preferredDuringSchedulingIgnoredDuringExecution"}


def test_weights_are_mounted_read_only_and_waited_for() -> None:
    (template,) = templates("prod", "llama-8b")
    weights = of_stack("prod", "llama-8b").weights
    mounts = {mount["mountPath"]: mount for mount in engine(template)["volumeMounts"] if mount["name"] == "models"}
    assert mounts.pop("/cache") == {"name": "models", "mountPath": "/cache", "readOnly": True}
    # What it may write is its own alone.
    assert {mount["subPath"] for mount in mounts.values()} == {one.sub_path for one in weights.directories}
    assert all("/llama-8b/" in mount["subPath"] for mount in mounts.values())
    (waiting,) = template["spec"]["initContainers"]
    env = {item["name"]: item["value"] for item in waiting["env"]}
    assert env["READY_MARKERS"] == weights.ready_marker
    assert env["READY_MARKERS"].startswith("/cache/")
    assert env["READY_DIRECTORIES"] == f"/cache/{weights.directories[0].sub_path}"
    assert waiting["image"] == engine(template)["image"]


def test_a_pod_that_streams_mounts_no_cache_and_waits_for_what_lies_in_the_bucket() -> None:
    (template,) = templates("dev", "llama-8b")
    weights = of_stack("dev", "llama-8b").weights
    assert "pods wait until the revision is whole" in of_stack("dev", "llama-8b").why["way of loading"]
    (waiting,) = template["spec"]["initContainers"]
    assert waiting["image"] == engine(template)["image"]
    assert streamed(template["spec"]) == (weights.object_prefix,)
    assert "--stack=dev" in waiting["args"]
    assert "--limit-seconds=3600" in waiting["args"]
    env = {item["name"]: item["value"] for item in waiting["env"]}
    assert {"WEIGHTS_BUCKET": "the-bucket", "AWS_REGION": "us-east-1"}.items() <= env.items()
    assert "--bucket=$(WEIGHTS_BUCKET)" in waiting["args"]
    assert waiting["securityContext"]["readOnlyRootFilesystem"] is True
    # The policy lets the whole pod reach S3 and the agent that hands out its credentials.
    egress = network_policy.rules(of_stack("dev", "llama-8b"))["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 443}]} in egress
    assert any(rule.get("to") == [{"ipBlock": {"cidr": "169.254.170.23/32"}}] for rule in egress)
    assert not any("persistentVolumeClaim" in volume for volume in template["spec"]["volumes"])
    env = {item["name"]: item.get("value") for item in engine(template)["env"]}
    assert env["WEIGHTS_BUCKET"] == "the-bucket"


def test_a_variable_that_needs_a_bucket_fails_without_one() -> None:
    of = replace(context("dev", "llama-8b"), bucket=None)
    with pytest.raises(ValueError, match="bucket"):
        environment(of, (EnvVar(name="WEIGHTS_BUCKET", output="bucket"),))


def test_every_kind_of_variable_is_rendered() -> None:
    of = context("dev", "llama-8b")
    variables = (
        EnvVar(name="A", value="1"),
        EnvVar(name="B", field_path="status.podIP"),
        EnvVar(name="C", secret=("name", "key")),
        EnvVar(name="D", output="region"),
    )
    assert environment(of, variables) == [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "name", "key": "key"}}},
        {"name": "D", "value": "us-east-1"},
    ]


def test_tolerations_are_exactly_the_taints() -> None:
    taints = (Taint(key="a", value="", effect="NoSchedule"), Taint(key="b", value="c", effect="NoExecute"))
    assert tolerations(taints) == [
        {"key": "a", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "b", "operator": "Equal", "value": "c", "effect": "NoExecute"},
    ]


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_draining_fits_the_grace_period(stack: str, name: str) -> None:
    drain = of_stack(stack, name).drain
    template = templates(stack, name)[-1]
    assert template["spec"]["terminationGracePeriodSeconds"] >= drain.pre_stop_seconds + drain.drain_seconds
    command = engine(template)["lifecycle"]["preStop"]["exec"]["command"]
    assert str(drain.pre_stop_seconds) in " ".join(command)


def test_kuberay_finds_its_ports_and_gets_no_probes_of_ours() -> None:
    head, worker = templates("staging", "r1-distill-70b")
    ports = {port["name"]: port["containerPort"] for port in engine(head)["ports"]}
    assert ports == {
        "gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080
    }  # fmt: skip
    assert {port["name"] for port in engine(worker)["ports"]} == {"serve", "metrics"}
    assert not {"startupProbe", "readinessProbe", "livenessProbe"} & set(engine(worker))
    assert "nvidia.com/gpu" not in engine(head)["resources"]["limits"]
    assert "nodeSelector" not in head["spec"]


def waiting_script(tmp_path: Path, *, limit: int) -> tuple[subprocess.CompletedProcess[str], Path]:
    (template,) = templates("prod", "llama-8b")
    (container,) = template["spec"]["initContainers"]
    marker, note = tmp_path / ".ready", tmp_path / "termination-log"
    env = {item["name"]: item["value"] for item in container["env"]}
    env |= {"READY_MARKERS": f"{marker} {tmp_path / '.adapter'}", "READY_DIRECTORIES": str(tmp_path)}
    env |= {"KERNELS_READ": ""}
    env |= {"LIMIT_SECONDS": str(limit), "TERMINATION_LOG": str(note)}
    env |= {"PATH": os.environ["PATH"]}
    return subprocess.run(container["command"], env=env, capture_output=True, text=True, check=False, timeout=30), note


def test_a_pod_waits_no_longer_than_its_limit_and_says_where_to_look(tmp_path: Path) -> None:
    done, note = waiting_script(tmp_path, limit=0)
    assert done.returncode == 1
    assert "kubectl -n inference logs -l app.kubernetes.io/component=warm-up" in note.read_text()


def test_a_pod_goes_on_once_its_weights_are_ready(tmp_path: Path) -> None:
    (tmp_path / ".ready").touch()
    done, note = waiting_script(tmp_path, limit=0)
    assert done.returncode == 1  # an adapter's marker is waited for as well
    assert ".adapter" in note.read_text()
    (tmp_path / ".adapter").touch()
    done, _ = waiting_script(tmp_path, limit=0)
    assert done.returncode == 0
