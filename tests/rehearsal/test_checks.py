"""Every check passes a healthy world and finds its own fault in a broken one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planner.images import plan_pull_secrets
from planner.naming import GROUP_ROLE_LABEL, MODEL_LABEL
from planner.plan import Plan
from planner.problems import Findings
from rehearsal.checks import CHECKS, check
from rehearsal.injections import planned_secrets
from rehearsal.kube import Json
from rehearsal.kubelet import GROUP_KEY
from rehearsal.nodes import EFA, GPU, node_groups
from rehearsal.snapshot import Snapshot, matches
from settings.secrets import RegistrySecret
from tests.factories import stack_plan, with_models
from tests.rehearsal.fakes import READY, container, pod

World = dict[str, list[Json]]
NAMESPACE = "inference"
LABELS = {MODEL_LABEL: "deepseek-r1", "app.kubernetes.io/component": "model-server"}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return stack_plan("prod")


def named(name: str, namespace: str = NAMESPACE, **body: Any) -> Json:
    return {"metadata": {"name": name, "namespace": namespace}, **body}


def group_pod(name: str, role: str, node: str) -> Json:
    secret = {"name": "deepseek-r1-api-key", "key": "api-key"}
    probe = {"httpGet": {"path": "/health", "port": 30000}}
    engine = container(
        ports=[{"name": "http", "containerPort": 30000}],
        env=[{"name": "API_KEY", "valueFrom": {"secretKeyRef": secret}}],
        envFrom=[{"configMapRef": {"name": "settings"}}],
        startupProbe=probe,
        readinessProbe=probe,
        resources={"limits": {GPU: "8", EFA: "32", "hugepages-2Mi": "5120Mi"}},
    )
    return pod(
        name,
        labels={**LABELS, GROUP_KEY: "g0", GROUP_ROLE_LABEL: role},
        owners=[{"kind": "LeaderWorkerSet", "name": "deepseek-r1", "uid": "lws"}],
        phase="Running",
        conditions=READY,
        statuses=[{"name": "engine", "restartCount": 0, "state": {"running": {}}}],
        nodeName=node,
        containers=[engine],
        serviceAccountName="deepseek-r1",
        priorityClassName="inference-serving",
        volumes=[{"name": "models", "persistentVolumeClaim": {"claimName": "model-cache"}}],
    )


@pytest.fixture
def world(plan: Plan) -> World:
    """R1 on its two nodes, and all that belongs to it."""
    h100 = next(group for group in node_groups(plan) if group.name == "h100-spot")
    secrets = [named(one.name, one.namespace, data={one.key: "eA=="}) for one in planned_secrets(plan)]
    policy = {
        "podSelector": {"matchLabels": LABELS},
        "ingress": [{"ports": [{"port": 30000}], "from": [_namespace("monitoring")]}],
        "egress": [{"to": [_namespace("kube-system")]}],
    }
    target = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "deepseek-r1"}
    monitor = {"selector": {"matchLabels": LABELS}, "podMetricsEndpoints": [{"port": "http"}]}
    return {
        "Namespace": [named(name, "") for name in (NAMESPACE, "monitoring", "kube-system")],
        "Node": [h100.new_node(1), h100.new_node(2)],
        "Pod": [group_pod("r1-0", "leader", "h100-spot-1"), group_pod("r1-0-1", "worker", "h100-spot-2")],
        "Secret": secrets,
        "ConfigMap": [named("settings", data={"a": "b"})],
        "ServiceAccount": [named("deepseek-r1")],
        "PriorityClass": [named("inference-serving", "")],
        "RuntimeClass": [],
        "StorageClass": [named("gp3", "")],
        "PersistentVolumeClaim": [named("model-cache", spec={"storageClassName": "gp3"})],
        "Service": [named("r1", spec={"selector": LABELS, "ports": [{"port": 80, "targetPort": "http"}]})],
        "PodMonitor": [named("r1", spec=monitor)],
        "PodDisruptionBudget": [named("r1", spec={"selector": {"matchLabels": LABELS}})],
        "NetworkPolicy": [named("r1", spec=policy)],
        "LeaderWorkerSet": [named("deepseek-r1")],
        "ScaledObject": [named("r1", spec={"scaleTargetRef": target})],
        "HorizontalPodAutoscaler": [named("keda-hpa-r1", spec={"scaleTargetRef": target})],
        "Job": [],
    }


def _namespace(name: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _engine(world: World, index: int = 0) -> Json:
    return world["Pod"][index]["spec"]["containers"][0]


def _set(path: str, value: Any) -> Callable[[World], None]:
    """Sets `Kind.0.spec...` of a world; `None` removes it."""

    def change(world: World) -> None:
        *parents, last = path.split(".")
        target: Any = world
        for part in parents:
            target = target[int(part)] if part.lstrip("-").isdigit() else target[part]
        if value is None:
            del target[int(last) if last.isdigit() else last]
        else:
            target[int(last) if last.isdigit() else last] = value

    return change


ENGINE = "Pod.0.spec.containers.0"

FAULTS: list[tuple[str, Callable[[World], None], str, str]] = [
    ("secret is gone", lambda w: w["Secret"].clear(), "secret", "deepseek-r1-api-key"),
    ("secret lacks its key", _set("Secret.0.data", {"other": "eA=="}), "secret", "api-key"),
    ("config map is gone", lambda w: w["ConfigMap"].clear(), "configmap", "settings"),
    ("claim is gone", lambda w: w["PersistentVolumeClaim"].clear(), "persistentvolumeclaim", "model-cache"),
    ("account is gone", lambda w: w["ServiceAccount"].clear(), "serviceaccount", "deepseek-r1"),
    ("priority class is gone", lambda w: w["PriorityClass"].clear(), "priorityclass", "inference-serving"),
    ("runtime class is gone", _set("Pod.0.spec.runtimeClassName", "nvidia"), "runtimeclass", "nvidia"),
    ("storage class is gone", lambda w: w["StorageClass"].clear(), "storageclass", "gp3"),
    ("image without a tag", _set(f"{ENGINE}.image", "registry.example.com:5000/engine"), "image", "not pinned"),
    ("image that moves", _set(f"{ENGINE}.image", "vllm/vllm-openai:latest"), "image", "latest"),
    ("probe of an undeclared number", _set(f"{ENGINE}.startupProbe.httpGet.port", 9), "probe", "port 9"),
    ("probe of an undeclared name", _set(f"{ENGINE}.readinessProbe", {"tcpSocket": {"port": "x"}}), "probe", "port x"),
    ("service selects nothing", _set("Service.0.spec.selector", {"app": "x"}), "service", "app=x"),
    ("service to no port", _set("Service.0.spec.ports.0.targetPort", "grpc"), "service", "port grpc"),
    ("monitor selects nothing", _set("PodMonitor.0.spec.selector", {"matchLabels": {"a": "b"}}), "podmonitor", "a=b"),
    ("monitor of no port", _set("PodMonitor.0.spec.podMetricsEndpoints.0.port", "m"), "podmonitor", "`m`"),
    (
        "monitor looks elsewhere",
        _set("PodMonitor.0.spec.namespaceSelector", {"matchNames": ["monitoring"]}),
        "podmonitor",
        "selects no pod",
    ),
    (
        "budget guards nothing",
        _set("PodDisruptionBudget.0.spec.selector", {"matchLabels": {"a": "b"}}),
        "disruption-budget",
        "a=b",
    ),
    (
        "policy guards nothing",
        _set("NetworkPolicy.0.spec.podSelector", {"matchLabels": {"a": "b"}}),
        "network-policy",
        "a=b",
    ),
    ("policy opens no port", _set("NetworkPolicy.0.spec.ingress.0.ports.0.port", 1), "network-policy", "port 1"),
    ("policy lets nobody in", lambda w: w["Namespace"].pop(1), "network-policy", "namespace monitoring"),
    ("policy lets nobody out", lambda w: w["Namespace"].pop(2), "network-policy", "namespace kube-system"),
    ("scaler of nothing", _set("ScaledObject.0.spec.scaleTargetRef.name", "x"), "scaledobject", "inference/x"),
    (
        "autoscaler of nothing",
        lambda w: w["LeaderWorkerSet"].clear(),
        "horizontalpodautoscaler",
        "LeaderWorkerSet inference/deepseek-r1",
    ),
    ("no EFA in one pod", _set(f"{ENGINE}.resources.limits", {GPU: "8"}), "efa", "fall back to TCP"),
    ("fewer EFA devices", _set(f"{ENGINE}.resources.limits", {GPU: "8", EFA: "16"}), "efa", "16 EFA devices"),
    ("no huge pages", _set(f"{ENGINE}.resources.limits", {GPU: "8", EFA: "32"}), "efa", "huge pages"),
    ("worker on another rung", _set("Pod.1.spec.nodeName", "h100-on-demand-1"), "rung", "h100-on-demand"),
    ("pod in another pool", _set("Pod.1.spec.nodeName", "a100-spot-1"), "pool", "a100-spot"),
    ("container restarted", _set("Pod.0.status.containerStatuses.0.restartCount", 2), "restart", "2 times"),
]


CREDENTIALS: list[tuple[str, Callable[[World], Any], str]] = [
    ("there", lambda w: None, ""),  # noqa: ARG005
    ("missing", lambda w: w["Secret"].pop(), "Secret inference/registry does not exist"),
    ("of another type", _set("Secret.-1.type", "Opaque"), "is of type `Opaque`: no image is pulled with it"),
    ("not named", _set("Pod.0.spec.imagePullSecrets", None), "pulls its images without `registry`"),
]


@pytest.mark.parametrize(("change", "says"), [one[1:] for one in CREDENTIALS], ids=[one[0] for one in CREDENTIALS])
def test_credentials_for_images(all_nodes: World, plan: Plan, change: Callable[[World], Any], says: str) -> None:
    secrets = plan_pull_secrets(RegistrySecret(kind="kubernetes_secret", name="registry"), [NAMESPACE], Findings())
    for one in all_nodes["Pod"]:
        one["spec"]["imagePullSecrets"] = [{"name": "registry"}]
    all_nodes["Secret"].append(
        named("registry", type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": "e30="})
    )
    change(all_nodes)
    found = [str(one) for one in check(Snapshot(all_nodes), replace(plan, pull_secrets=secrets))]
    assert any(says in one for one in found) if says else found == []


@pytest.fixture
def all_nodes(plan: Plan, world: World) -> World:
    """With a node of other groups, too, so that a pod may be on the wrong one."""
    groups = {group.name: group for group in node_groups(plan)}
    world["Node"] += [groups["h100-on-demand"].new_node(1), groups["a100-spot"].new_node(1)]
    return world


def test_a_healthy_world_passes(all_nodes: World, plan: Plan) -> None:
    assert check(Snapshot(all_nodes), plan) == []


@pytest.mark.parametrize(
    ("change", "name", "says"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_a_broken_world_does_not(
    all_nodes: World, plan: Plan, change: Callable[[World], None], name: str, says: str
) -> None:
    broken = copy.deepcopy(all_nodes)
    change(broken)
    findings = check(Snapshot(broken), plan)
    mine = [finding for finding in findings if finding.check == name]
    assert mine, f"only {[str(finding) for finding in findings]}"
    assert any(says in str(finding) for finding in mine)
    assert all(finding.subject and finding.problem and finding.remedy for finding in findings)


def test_a_model_that_may_have_no_replica_may_have_no_pod(all_nodes: World, plan: Plan) -> None:
    empty = {**all_nodes, "Pod": [], "LeaderWorkerSet": []}
    kinds = {"podmonitor", "disruption-budget", "network-policy"}
    (model,) = [model for model in plan.models if model.name == "deepseek-r1"]
    asleep = with_models(plan, replace(model, scaling=replace(model.scaling, min_replicas=0)))
    assert {one.check for one in check(Snapshot(empty), plan)} >= kinds
    assert not kinds & {one.check for one in check(Snapshot(empty), asleep)}


def test_ports_of_a_charts_stand_in_are_not_judged(all_nodes: World, plan: Plan) -> None:
    _set("NetworkPolicy.0.spec.ingress.0.ports.0.port", 1)(all_nodes)
    assert any("port 1" in finding.problem for finding in check(Snapshot(all_nodes), plan))
    labels = all_nodes["NetworkPolicy"][0]["spec"]["podSelector"]["matchLabels"]
    all_nodes["Pod"].append(pod("valkey-stand-in", labels=labels, containers=[container(name="stand-in")]))
    assert not any("port 1" in finding.problem for finding in check(Snapshot(all_nodes), plan))


@pytest.mark.parametrize("device", [EFA, GPU])
def test_nodes_that_lack_devices(world: World, plan: Plan, device: str) -> None:
    del world["Node"][0]["status"]["allocatable"][device]
    found = [finding for finding in check(Snapshot(world), plan) if finding.subject == "nodes of h100-spot"]
    assert [device in finding.problem for finding in found] == [True]


def test_a_failed_job_tells_who_waits_for_it(world: World, plan: Plan) -> None:
    warmup = plan.warmups[0]
    job = named(warmup.name, spec={"template": {"spec": {"containers": [container()]}}}, status={"failed": 1})
    job["metadata"]["uid"] = "job"
    state = {"terminated": {"exitCode": 3, "message": "sha256 differs"}}
    dead = pod("dead", owners=[{"kind": "Job", "name": warmup.name, "uid": "job"}], statuses=[{"state": state}])
    world["Job"].append(job)
    world["Pod"].append(dead)
    (finding,) = check(Snapshot(world), plan)
    assert "exit code 3 (sha256 differs)" in finding.problem
    assert warmup.models[0] in finding.problem
    world["Pod"].pop()
    world["Job"][0]["status"] = {"succeeded": 1}
    assert check(Snapshot(world), plan) == []


def test_every_check_can_fail(all_nodes: World, plan: Plan) -> None:
    failed: set[str] = set()
    for _, change, _, _ in FAULTS:
        broken = copy.deepcopy(all_nodes)
        change(broken)
        failed |= {one.__name__ for one in CHECKS if any(one(Snapshot(broken), plan))}
    # These are broken in tests of their own, above.
    assert failed == {one.__name__ for one in CHECKS} - {"jobs", "devices_on_nodes", "credentials_for_images"}


def test_optional_references_may_be_absent(world: World, plan: Plan) -> None:
    _engine(world)["env"].append(
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k", "optional": True}}}
    )
    assert check(Snapshot(world), plan) == []


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_selectors(selector: Json | None, expected: bool) -> None:
    assert matches(selector, {"a": "1"}) is expected
