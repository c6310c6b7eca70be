"""Where the EFA gate stands in the pods of a model, and what it may see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.scripts.efa import gate as script
from components.serving import efa_gate, leader_worker_set, ray_service
from components.serving.pods import PodContext
from planner import StackFileError, load_and_plan
from planner.plan import EfaGatePlan, ModelPlan, Plan
from tests.factories import stack_plan
from tests.stacks import changed

MODEL = "deepseek-r1"


def context(plan: Plan, name: str = MODEL) -> PodContext:
    model = next(model for model in plan.models if model.name == name)
    return PodContext(
        model=model,
        stack="prod",
        pool=plan.pool(model.pool),
        cache=plan.cache,
        ready_timeout_seconds=60,
        claim_name="the-claim",
    )


def templates(plan: Plan) -> list[dict[str, Any]]:
    groups = leader_worker_set.workload(context(plan))
    return [dict(groups.leader_template)["spec"], dict(groups.worker_template)["spec"]]


def gate_plan(plan: Plan, name: str = MODEL) -> EfaGatePlan:
    gate = context(plan, name).model.efa_gate
    assert gate is not None
    return gate


def options(container: dict[str, Any], **variables: str) -> Any:
    """What the script reads from the container's arguments, once kubelet has put the variables in."""
    line = list(container["args"])
    for name, value in variables.items():
        line = [part.replace(f"$({name})", value) for part in line]
    return script.arguments(line)


def test_leader_and_worker_prove_the_same_before_anything_else() -> None:
    plan = stack_plan("prod")
    leader, worker = (spec["initContainers"] for spec in templates(plan))
    assert [one["name"] for one in leader] == ["efa-gate", "wait-for-weights"]
    assert leader[0] == worker[0]
    first, engine = leader[0], templates(plan)[0]["containers"][0]
    # Kubelet hands an init container's devices on to the engine: both ask for the same, so that nothing is added up.
    assert first["resources"] == engine["resources"]
    assert first["resources"]["limits"]["vpc.amazonaws.com/efa"] == "32"
    assert first["resources"]["limits"]["hugepages-2Mi"] == "5120Mi"
    assert first["image"] == engine["image"]
    assert first["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}


def test_the_scripts_command_line_is_understood_by_the_script() -> None:
    plan = stack_plan("prod")
    container = templates(plan)[0]["initContainers"][0]
    found = options(container, LWS_GROUP_SIZE="2", LWS_WORKER_INDEX="1", LWS_LEADER_ADDRESS="r1-0.r1.inference")
    assert (found.mode, found.devices, found.gpus, found.nodes, found.rank) == ("all_reduce", 32, 8, 2, 1)
    assert found.leader == "r1-0.r1.inference"
    assert found.floor == gate_plan(plan).floor_gb_per_s == 218.5
    assert found.gdr
    assert found.image == container["image"]
    assert found.state == Path("/var/lib/efa-gate")


def test_the_gate_has_the_engines_network_variables_and_none_of_its_secrets() -> None:
    container = templates(stack_plan("prod"))[0]["initContainers"][0]
    env = {one["name"]: one for one in container["env"]}
    assert env["FI_PROVIDER"]["value"] == "efa"
    assert env["NCCL_NET"]["value"] == "AWS Libfabric"
    assert not any("secretKeyRef" in str(one) for one in container["env"])
    assert env["NODE_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_its_scripts_lie_where_it_starts_them_and_its_memory_is_its_own() -> None:
    spec = templates(stack_plan("prod"))[0]
    container, volumes = spec["initContainers"][0], {one["name"]: one for one in spec["volumes"]}
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert mounts[f"{container['workingDir']}/efa"]["readOnly"]
    assert volumes[mounts[f"{container['workingDir']}/efa"]["name"]]["configMap"]["name"] == "efa-gate"
    assert container["command"] == ["python3", "-m", "efa.gate"]
    assert {"__init__.py", "gate.py", "group.py", "memory.py", "findings.py", "rank.py"} == set(efa_gate.SCRIPTS.data())
    state = mounts["/var/lib/efa-gate"]["name"]
    assert volumes[state]["hostPath"]["path"] == "/var/lib/inference-platform/efa-gate"
    for other in (*spec["containers"], spec["initContainers"][1]):
        assert state not in [mount["name"] for mount in other["volumeMounts"]]


def test_models_on_one_node_have_no_gate() -> None:
    plan = stack_plan("prod")
    assert [model.name for model in plan.models if model.efa_gate] == [MODEL]


def test_close_nodes_are_preferred_and_one_rung_is_required() -> None:
    affinity = templates(stack_plan("prod"))[0]["affinity"]["podAffinity"]
    weights = {
        term["podAffinityTerm"]["topologyKey"]: term["weight"]
        for term in affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    }
    assert weights == {
        "topology.k8s.aws/network-node-layer-3": 100,
        "topology.k8s.aws/network-node-layer-2": 50,
        "topology.k8s.aws/network-node-layer-1": 25,
    }
    (required,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["topologyKey"] == "inference-platform/rung"
    for term in affinity["preferredDuringSchedulingIgnoredDuringExecution"]:
        assert term["podAffinityTerm"]["matchLabelKeys"] == required["matchLabelKeys"], "of the same group only"


def planned(tmp_path: Path, gate: str, **model: Any) -> Plan:
    changes = {"models.0.efa_gate": gate, **{f"models.0.{key}": value for key, value in model.items()}}
    return load_and_plan(changed(tmp_path, "prod", changes))[1]


def test_provider_alone_needs_no_leader(tmp_path: Path) -> None:
    plan = planned(tmp_path, "provider")
    assert gate_plan(plan).floor_gb_per_s is None
    found = options(templates(plan)[0]["initContainers"][0])
    assert (found.mode, found.nodes, found.devices) == ("provider", 1, 32)


def test_off_is_said(tmp_path: Path) -> None:
    plan = planned(tmp_path, "off")
    assert context(plan).model.efa_gate is None
    assert [one["name"] for one in templates(plan)[0]["initContainers"]] == ["wait-for-weights"]
    assert any("no EFA gate" in finding.message for finding in plan.findings)


RAY = {"engine": "vllm", "runtime": "ray_service", "layout": {"tensor": 8, "pipeline": 2}}


def test_hosts_of_a_ray_replica_prove_their_devices(tmp_path: Path) -> None:
    plan = planned(tmp_path, "auto", **RAY)
    assert gate_plan(plan).mode == "provider"
    spec = ray_service.worker_template(context(plan))["spec"]
    assert spec["initContainers"][0]["name"] == "efa-gate"
    assert spec["initContainers"][0]["securityContext"]["runAsUser"] == 0
    with pytest.raises(StackFileError, match="do not know each other before Ray runs"):
        planned(tmp_path, "all_reduce", **RAY)


def test_starting_takes_the_gates_time(tmp_path: Path) -> None:
    with_gate: ModelPlan = context(stack_plan("prod")).model
    without = context(planned(tmp_path, "off")).model
    assert with_gate.startup_seconds - without.startup_seconds == gate_plan(stack_plan("prod")).seconds == 60


def test_a_failing_gate_is_an_alert() -> None:
    plan = stack_plan("prod")
    (alert,) = [alert for alert in plan.observability.alerts if alert.name == "EfaFallback"]
    assert (alert.model, alert.severity, alert.runbook) == (MODEL, "critical", "efafallback")
    assert 'container="efa-gate"' in alert.expression
    assert not [alert for alert in stack_plan("dev").observability.alerts if alert.name == "EfaFallback"]


def test_a_type_without_reference_is_judged_by_its_provider() -> None:
    plan = stack_plan("prod")
    gate = replace(gate_plan(plan), floor_gb_per_s=None, gdr=False)
    line = efa_gate.arguments(gate, "image:1", in_group=True)
    assert not [part for part in line if part.startswith(("--floor", "--gdr"))]
