"""What a plan's models become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import yaml

from components.serving.model_server import disruption_budget, service_spec
from planner.naming import CLIENT_LABEL
from planner.plan import MetricTrigger
from tests.crd_schemas import problems
from tests.factories import STACKS, stack_plan
from tests.harness import World
from tests.serving.worlds import manifest, of_stack, pod_templates, serve, with_model, workload

CUSTOM = ("leaderworkerset.x-k8s.io", "ray.io", "keda.sh", "monitoring.coreos.com")
SERVER = "inference:index:ModelServer"
ALL_MODELS = [(stack, model.name) for stack in STACKS for model in stack_plan(stack).models]


@cache
def world(stack: str, *, preview: bool = False) -> World:
    return serve(stack_plan(stack), preview=preview)


def of_model(found: World, name: str) -> list[Any]:
    """The component and all its descendants."""
    urns = {found[SERVER, name].urn}
    members = [found[SERVER, name]]
    for record in found:
        if record.parent in urns:
            urns.add(record.urn)
            members.append(record)
    return members


@pytest.mark.parametrize("stack", STACKS)
def test_the_first_preview_lists_what_up_creates(stack: str) -> None:
    assert world(stack, preview=True).inventory() == world(stack).inventory()


@pytest.mark.parametrize("stack", STACKS)
def test_custom_resources_fit_the_upstream_schemas(stack: str) -> None:
    checked = 0
    for record in world(stack):
        if record.type.startswith("kubernetes:") and record.type.split(":")[1].split("/")[0] in CUSTOM:
            assert problems(manifest(record)) == [], record.name
            checked += 1
    assert checked >= len(stack_plan(stack).models)


@pytest.mark.parametrize("stack", STACKS)
def test_every_object_is_on_the_explicit_cluster_and_named(stack: str) -> None:
    for record in world(stack):
        if record.type.startswith("kubernetes:") and not record.name.startswith(("platform-", "pool-")):
            assert record.provider is not None
            assert record.provider.endswith("::cluster"), record.name
            assert record.inputs["metadata"]["name"], record.name


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_a_model_is_at_most_fifteen_resources_and_ten_of_its_router(stack: str, name: str) -> None:
    extra = 10 if of_stack(stack, name).router else 0
    assert len(of_model(world(stack), name)) <= 15 + extra


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_a_workload_is_not_awaited_and_comes_after_what_guards_it(stack: str, name: str) -> None:
    own = [record for record in of_model(world(stack), name) if not record.name.startswith(f"{name}-router")]
    members = {record.type.rpartition(":")[2]: record for record in own}
    (running,) = [record for record in members.values() if record.name == f"{name}-workload"]
    assert running.inputs["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"
    assert members["Service"].inputs["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"
    for guard in ("ServiceAccount", "NetworkPolicy", "Secret", "PodIdentityAssociation"):
        if guard in members:
            assert members[guard].urn in running.depends_on, guard


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_only_pods_of_the_model_are_selected_and_all_that_serve(stack: str, name: str) -> None:
    model = of_stack(stack, name)
    templates = pod_templates(world(stack), name)
    if model.router:
        (found,) = [
            record for record in world(stack) if record.name == model.router.name and "Deployment" in record.type
        ]
        templates = [manifest(found)["spec"]["template"]]
    selector = service_spec(model)["selector"]
    labels = [dict(template["metadata"]["labels"]) for template in templates]
    labels[0]["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
    serving = [item for item in labels if selector.items() <= item.items()]
    assert len(serving) == 1
    target = service_spec(model)["ports"][0]["targetPort"]
    containers = templates[labels.index(serving[0])]["spec"]["containers"]
    assert target in {port["name"] for container in containers for port in container["ports"]}
    others = [m for s, m in ALL_MODELS if s == stack and m != name]
    for other in others:
        for template in pod_templates(world(stack), other):
            assert not selector.items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_the_monitor_finds_a_port_with_metrics(stack: str, name: str) -> None:
    monitor = manifest(world(stack)["kubernetes:monitoring.coreos.com/v1:PodMonitor", f"{name}-monitor"])
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = {
        port["name"]: port["containerPort"]
        for template in pod_templates(world(stack), name)
        for port in template["spec"]["containers"][0].get("ports", [])
    }
    assert ports[endpoint["port"]] == of_stack(stack, name).container.metrics_port
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_every_node_of_an_sglang_group_is_scraped() -> None:
    """Attention in several data parallel groups: those of the later nodes export their gauges there."""
    monitor = manifest(world("prod")["kubernetes:monitoring.coreos.com/v1:PodMonitor", "deepseek-r1-monitor"])["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    templates = pod_templates(world("prod"), "deepseek-r1")
    assert len(templates) == 2, "leader and workers"
    for template in templates:
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        container = template["spec"]["containers"][0]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
        assert "--enable-metrics" in container["args"]


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_replicas_belong_to_keda_where_it_scales(stack: str, name: str) -> None:
    model, found = of_stack(stack, name), world(stack)
    (running,) = [record for record in found if record.name == f"{name}-workload"]
    scalers = [record for record in found if record.name == f"{name}-scaler"]
    if model.scaling.owner != "keda":
        assert not scalers
        assert running.ignore_changes == ()
        return
    assert running.ignore_changes == ("spec.replicas",)
    (scaler,) = scalers
    assert running.urn in scaler.depends_on
    target = scaler.inputs["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (running.inputs["apiVersion"], running.inputs["kind"])
    assert target["name"] == running.inputs["metadata"]["name"]
    # KEDA's finalizer needs KEDA: the ScaledObject is awaited when it goes.
    assert "annotations" not in scaler.inputs["metadata"]


def test_keys_are_secret_and_only_in_secrets() -> None:
    found = serve(stack_plan("prod"))
    secrets = found.of_type("kubernetes:core/v1:Secret")
    assert len(secrets) == len(stack_plan("prod").models)
    for secret in secrets:
        assert secret.secrets
        (text,) = secret.inputs["stringData"].values()
        for record in found:
            if record is not secret:
                assert text not in repr(record.inputs)


def test_ray_gets_no_key_that_nothing_would_check() -> None:
    assert world("staging").of_type("kubernetes:core/v1:Secret") == ()


def test_ray_serves_what_the_plan_says() -> None:
    model = of_stack("staging", "r1-distill-70b")
    assert model.ray is not None
    running = workload(world("staging"), model.name)
    assert yaml.safe_load(running["spec"]["serveConfigV2"]) == model.ray.serve_config
    cluster = running["spec"]["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (model.ray.min_workers, model.ray.max_workers)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    assert running["spec"]["upgradeStrategy"] == {"type": "None"}


def test_a_ray_cluster_is_replaced_old_one_first() -> None:
    record = world("staging")["kubernetes:ray.io/v1:RayService", "r1-distill-70b-workload"]
    assert record.delete_before_replace is True
    annotations = record.inputs["metadata"]["annotations"]
    assert annotations["pulumi.com/deletionPropagationPolicy"] == "background"


def test_groups_have_the_planned_size() -> None:
    model = of_stack("prod", "deepseek-r1")
    group = workload(world("prod"), "deepseek-r1")["spec"]
    assert group["leaderWorkerTemplate"]["size"] == model.layout.nodes == 2
    # LeaderReady would wait for a leader that waits for its workers.
    assert group["startupPolicy"] == "LeaderCreated"
    assert group["rolloutStrategy"]["rollingUpdateConfiguration"] == {
        "maxUnavailable": 1,
        "maxSurge": 0,
        "partition": 0,
    }


def rule_between(policy: Mapping[str, Any], **peer: Any) -> Mapping[str, Any]:
    (found,) = [rule for rule in policy["spec"]["ingress"] if peer in rule["from"]]
    return found


def test_clients_reach_the_engine_and_nothing_else() -> None:
    policy = manifest(world("prod")["kubernetes:networking.k8s.io/v1:NetworkPolicy", "llama-8b-network-policy"])
    clients = rule_between(policy, podSelector={"matchLabels": {CLIENT_LABEL: "true"}})
    assert clients["ports"] == [{"protocol": "TCP", "port": 8000}]
    everyone = [rule for rule in policy["spec"]["ingress"] if not rule.get("from")]
    assert everyone == []
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule.get("to") for rule in policy["spec"]["egress"])


def test_who_streams_reaches_s3_and_its_credentials() -> None:
    policy = manifest(world("dev")["kubernetes:networking.k8s.io/v1:NetworkPolicy", "llama-8b-network-policy"])
    egress = policy["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 443}]} in egress
    assert {
        "to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}],
        "ports": [{"protocol": "TCP", "port": 80}],
    } in egress


def test_who_streams_may_read_its_own_revision_alone() -> None:
    found = world("dev")
    policy = found["aws:iam/rolePolicy:RolePolicy", "llama-8b-identity-policy"].inputs["policy"]
    prefix = of_stack("dev", "llama-8b").weights.object_prefix
    assert f"/{prefix}/*" in policy
    association = found["aws:eks/podIdentityAssociation:PodIdentityAssociation", "llama-8b-identity-association"]
    account = found["kubernetes:core/v1:ServiceAccount", "llama-8b-account"].inputs["metadata"]
    assert association.inputs["serviceAccount"] == account["name"]
    assert association.inputs["namespace"] == account["namespace"]


@pytest.mark.parametrize(("stack", "name"), ALL_MODELS)
def test_a_budget_never_blocks_a_pod_that_does_not_serve(stack: str, name: str) -> None:
    budget = disruption_budget(of_stack(stack, name))
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert ("maxUnavailable" in budget) != ("minAvailable" in budget)


def test_a_ray_budget_counts_pods_and_lets_one_replica_go() -> None:
    budget = disruption_budget(of_stack("staging", "r1-distill-70b"))
    assert budget["minAvailable"] == 1


def test_a_changed_field_of_one_model_touches_that_model_alone() -> None:
    before = serve(stack_plan("prod"))
    model = of_stack("prod", "llama-8b")
    container = replace(model.container, args=(*model.container.args, "--max-num-seqs=8"))
    after = serve(with_model(stack_plan("prod"), "llama-8b", container=container))
    inputs = {record.urn: record.inputs for record in before}
    # Generated keys are drawn anew in every run; the engine ignores the difference.
    changed = {r.name for r in after if r.inputs != inputs[r.urn] and r.type != "kubernetes:core/v1:Secret"}
    assert changed == {"llama-8b-workload"}


def test_models_of_one_runtime_do_not_wait_for_the_operators_of_another() -> None:
    found = world("prod")
    (single,) = [r for r in found if r.name == "llama-8b-workload"]
    (group,) = [r for r in found if r.name == "deepseek-r1-workload"]
    lws = next(r.urn for r in found if r.name == "platform-lws")
    assert lws in group.depends_on
    assert lws not in single.depends_on


def test_pods_go_before_their_nodes_their_cache_and_their_operators() -> None:
    found = world("prod")
    names = {r.urn: r.name for r in found}
    (group,) = [r for r in found if r.name == "deepseek-r1-workload"]
    depends = {names.get(urn) for urn in group.depends_on}
    assert {"pool-h100", "model-cache-claim", "platform-lws", "platform-gpu-operator"} <= depends
    assert "pool-l40s" not in depends


def test_a_trigger_reaches_keda_as_planned() -> None:
    model = of_stack("prod", "llama-8b")
    trigger = MetricTrigger(name="only", query="sum(x)", threshold="7", metric_type="Value")
    scaling = replace(model.scaling, triggers=(trigger,), floors=())
    found = serve(with_model(stack_plan("prod"), "llama-8b", scaling=scaling))
    scaler = manifest(found["kubernetes:keda.sh/v1alpha1:ScaledObject", "llama-8b-scaler"])
    (rendered,) = scaler["spec"]["triggers"]
    assert rendered["metricType"] == "Value"
    assert rendered["metadata"]["query"] == "sum(x)"
    assert rendered["metadata"]["serverAddress"] == stack_plan("prod").observability.prometheus_url
