"""Valkey beside the models: locked, encrypted, reached by its clients alone, and what a Ray head is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import program
from components.serving.custom_resources import InvalidObjectError
from components.serving.pods import PodContext
from components.serving.ray_service import workload
from components.valkey import ServerCertificate, network_policy, values
from planner import StackFileError, load_and_plan
from planner.plan import ModelPlan, Plan, ValkeyPlan
from tests import crd_schemas
from tests.components.releases import pinned
from tests.harness import World, deploy
from tests.stacks import changed
from tests.upstream import chart_folder, chart_values, read_yaml

RAY = {"runtime": "ray_service"}


def planned(directory: Path, model: dict[str, Any] | None = None, **valkey: Any) -> Plan:
    """Staging, whose first model is on Ray Serve, with a store."""
    settings: dict[str, Any] = {"valkey": valkey, **{f"models.0.{key}": value for key, value in (model or RAY).items()}}
    return load_and_plan(changed(directory, "staging", settings, removed=("budget",)))[1]


def store_of(plan: Plan) -> ValkeyPlan:
    assert plan.valkey is not None
    return plan.valkey


def world_of(plan: Plan) -> World:
    return deploy(lambda: program.build(plan) and None, stack=plan.stack)


def service_of(plan: Plan, model: ModelPlan) -> Mapping[str, Any]:
    context = PodContext(
        model=model,
        stack="s",
        pool=plan.pool(model.pool),
        cache=plan.cache,
        ready_timeout_seconds=None,
        claim_name="the-claim",
    )
    assert model.ray is not None
    service = workload(context, model.ray)
    return {
        "apiVersion": service.api_version,
        "kind": service.kind,
        "metadata": service.metadata(),
        "spec": service.spec(),
    }


def test_a_ray_head_keeps_its_state_in_the_store(tmp_path: Path) -> None:
    plan = planned(tmp_path, storage_gib=4)
    model, store = plan.models[0], store_of(plan)
    assert model.ray is not None
    assert model.ray.gcs_store is not None
    assert store.clients == (model.name,)
    service = service_of(plan, model)
    assert crd_schemas.problems(service) == []
    cluster = service["spec"]["rayClusterConfig"]
    options = cluster["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == f"rediss://{store.host}:6379"
    reference = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": store.password.name, "key": store.password.key}
    assert "externalStorageNamespace" not in options, "the state of one cluster must not be its successor's"
    head = cluster["headGroupSpec"]["template"]["spec"]
    trusted = {variable["name"]: variable["value"] for variable in head["containers"][0]["env"]}
    assert trusted["RAY_REDIS_SERVER_NAME"] in certificate(store)["spec"]["dnsNames"]
    mount, volume = head["containers"][0]["volumeMounts"][0], head["volumes"][0]
    assert trusted["RAY_REDIS_CA_CERT"] == f"{mount['mountPath']}/ca.crt"
    assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"], "the server's key is not the head's"


def certificate(store: ValkeyPlan) -> Mapping[str, Any]:
    item = ServerCertificate(
        name=store.name,
        namespace=store.namespace,
        secret_name=store.tls_secret,
        dns_names=(store.host,),
    )
    return {"apiVersion": item.api_version, "kind": item.kind, "metadata": item.metadata(), "spec": item.spec()}


def test_what_cert_manager_is_asked_for_is_as_it_defines_it(tmp_path: Path) -> None:
    assert crd_schemas.problems(certificate(store_of(planned(tmp_path)))) == []


def test_a_head_without_a_store_is_as_before(tmp_path: Path) -> None:
    plan = planned(tmp_path, {**RAY, "ray": {"gcs_fault_tolerance": False}})
    model = plan.models[0]
    assert "gcsFaultToleranceOptions" not in service_of(plan, model)["spec"]["rayClusterConfig"]
    assert any(finding.subject == "valkey" for finding in plan.findings), "a store that nobody uses"


def test_kuberay_would_refuse_the_address_twice(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    model = plan.models[0]
    assert model.ray is not None
    context = PodContext(
        model=model,
        stack="s",
        pool=plan.pool(model.pool),
        cache=plan.cache,
        ready_timeout_seconds=None,
        claim_name="the-claim",
    )
    service = workload(context, model.ray)
    head = dict(service.head_template)
    container = {**head["spec"]["containers"][0], "env": [{"name": "REDIS_PASSWORD", "value": "x"}]}
    with pytest.raises(InvalidObjectError, match="not environment"):
        replace(service, head_template={**head, "spec": {**head["spec"], "containers": [container]}})


@pytest.mark.parametrize("fields", [{}, {"storage_gib": 4}, {"storage_gib": 4, "replicas": 2}])
def test_the_chart_knows_every_value(fields: dict[str, Any], tmp_path: Path) -> None:
    upstream = chart_values("valkey", pinned("valkey").version)
    ours = values(store_of(planned(tmp_path, **fields)), None)
    assert unknown(ours, upstream) == []


def unknown(ours: Any, upstream: Any, path: str = "") -> list[str]:
    """Keys that the chart's own values do not have; what it leaves empty may hold anything."""
    found: list[str] = []
    for key, value in ours.items():
        if key not in upstream:
            found.append(path + key)
        elif isinstance(value, dict) and upstream[key]:
            found += unknown(value, upstream[key], f"{path}{key}.")
    return found


def test_nobody_gets_in_without_the_password_or_around_tls(tmp_path: Path) -> None:
    store = store_of(planned(tmp_path, storage_gib=4))
    chart = values(store, None)
    assert chart["auth"]["enabled"] is True
    assert chart["auth"]["aclUsers"]["default"]["passwordKey"] == store.password.key
    assert "password" not in chart["auth"]["aclUsers"]["default"], "Helm keeps values in the clear"
    assert chart["tls"]["enabled"] is True
    rules = network_policy(store)["ingress"]
    assert [rule["ports"] for rule in rules] == [[{"protocol": "TCP", "port": 6379}]]
    assert len(rules[0]["from"]) == 1 + len(store.clients)


@pytest.mark.parametrize("fields", [{}, {"storage_gib": 4}])
def test_one_pod_is_never_two_and_not_ended_for_a_slow_answer(tmp_path: Path, fields: dict[str, Any]) -> None:
    chart = values(store_of(planned(tmp_path, **fields)), None)
    assert chart["deploymentStrategy"] == "Recreate", "a second pod would answer clients, too, and know nothing"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert chart[probe]["enabled"] is True
        assert chart[probe]["timeoutSeconds"] > 1


@pytest.mark.parametrize("fields", [{}, {"storage_gib": 4, "replicas": 2}])
@pytest.mark.parametrize("mirror", [None, "111122223333.dkr.ecr.us-east-1.amazonaws.com/mirror"])
def test_a_container_beside_the_server_watches_the_password(
    tmp_path: Path, fields: dict[str, Any], mirror: str | None
) -> None:
    settings: dict[str, Any] = {"valkey": fields, **{f"models.0.{key}": value for key, value in RAY.items()}}
    if mirror:
        settings["images"] = {"mirror": mirror}
    store = store_of(load_and_plan(changed(tmp_path, "staging", settings, removed=("budget",)))[1])
    chart = values(store, mirror)
    (watching,) = chart["extraContainers"]
    # The image that the chart makes up of its own values.
    upstream = chart_values("valkey", pinned("valkey").version)["image"]
    tag = read_yaml((chart_folder("valkey", pinned("valkey").version) / "Chart.yaml").read_text())["appVersion"]
    assert watching["image"] == f"{chart['image']['registry']}/{upstream['repository']}:{tag}"
    env = {item["name"]: item["value"] for item in watching["env"]}
    assert env["PASSWORD_FILE"] == f"/valkey-users-secret/{store.password.key}"
    assert env["FORMER_SECONDS"] == "86400"
    assert env["COPIES"] == str(fields.get("replicas", 0))
    # Volumes by the chart's names; a mount of a part of a Secret would not follow its changes.
    mounts = {mount["name"]: mount for mount in watching["volumeMounts"]}
    assert set(mounts) == {"valkey-users-secret", "valkey-acl", "valkey-tls"}
    assert "subPath" not in mounts["valkey-users-secret"]
    assert "imagePullSecrets" not in chart
    assert values(store, mirror, "registry")["imagePullSecrets"] == ["registry"], "the chart wants names alone"
    assert mounts["valkey-tls"]["subPath"] == "ca.crt", "the server's key is not its business"
    assert crd_schemas.pod_template_problems({"metadata": {}, "spec": {"containers": [watching]}}) == []


def test_copies_have_volumes_and_a_budget(tmp_path: Path) -> None:
    chart = values(store_of(planned(tmp_path, storage_gib=4, replicas=2)), None)
    assert chart["replica"]["persistence"]["size"] == "4Gi"
    assert chart["podDisruptionBudget"]["enabled"] is True


def test_its_volumes_are_counted(tmp_path: Path) -> None:
    items = {line.item: line.planned_usd_per_hour for line in planned(tmp_path, storage_gib=4, replicas=1).cost.lines}
    alone = {line.item: line.planned_usd_per_hour for line in planned(tmp_path, storage_gib=4).cost.lines}
    assert items["Valkey volumes"] == pytest.approx(2 * alone["Valkey volumes"])
    assert "Valkey volumes" not in {line.item for line in planned(tmp_path).cost.lines}


def test_the_store_is_declared_before_its_clients(tmp_path: Path) -> None:
    plan = planned(tmp_path, storage_gib=4)
    world = world_of(plan)
    preview = deploy(lambda: program.build(plan) and None, stack=plan.stack, preview=True)
    assert preview.inventory() == world.inventory()
    types = {record.type for record in world if "valkey" in record.name}
    assert {
        "kubernetes:helm.sh/v3:Release",
        "kubernetes:networking.k8s.io/v1:NetworkPolicy",
        "kubernetes:core/v1:Secret",
    } <= types
    policies = [record for record in world if record.name == f"{plan.models[0].name}-network-policy"]
    egress = str(policies[0].inputs["spec"]["egress"])
    assert "6379" in egress


BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("no store", {**RAY, "ray": {"gcs_fault_tolerance": True}}, {}, "valkey: {storage_gib: 4}"),
    ("no head", {"runtime": "deployment", "ray": {"gcs_fault_tolerance": True}}, {"valkey": {}}, "has no Ray head"),
    ("copies of nothing", RAY, {"valkey": {"replicas": 1}}, "storage_gib"),
    ("more than a system node has", RAY, {"valkey": {"memory_gib": 64}}, "half of a system node"),
    ("a model of its name", {**RAY, "name": "valkey"}, {"valkey": {}}, "call it otherwise"),
]


@pytest.mark.parametrize(("name", "model", "stack", "words"), BAD, ids=[case[0] for case in BAD])
def test_what_cannot_work_is_told(
    name: str, model: dict[str, Any], stack: dict[str, Any], words: str, tmp_path: Path
) -> None:
    settings = {**stack, **{f"models.0.{key}": value for key, value in model.items()}}
    with pytest.raises(StackFileError) as raised:
        load_and_plan(changed(tmp_path, "staging", settings, removed=("budget",)))
    assert words in str(raised.value), name
