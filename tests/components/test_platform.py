"""The platform of every committed stack file: what exists, in which order, with which provider."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planner.plan import Plan
from tests.components.conftest import CLUSTER_ARN, declared
from tests.factories import STACKS, stack_plan
from tests.harness import ResourceRecord, World

RELEASE = "kubernetes:helm.sh/v3:Release"
CERT_MANAGER = "kubernetes-cert-manager:index:CertManager"
Worlds = Callable[[Plan], World]


def releases(world: World) -> dict[str, ResourceRecord]:
    """Releases by the name Helm gives them, cert-manager's component among them."""
    found = {record.inputs["name"]: record for record in world.of_type(RELEASE)}
    return found | {record.inputs["helmOptions"]["name"]: record for record in world.of_type(CERT_MANAGER)}


def before(world: World, record: ResourceRecord) -> set[str]:
    """URNs of everything that must exist before a resource, however indirectly."""
    seen: set[str] = set()
    waiting = [*record.depends_on]
    while waiting:
        urn = waiting.pop()
        if urn not in seen:
            seen.add(urn)
            waiting += world.by_urn(urn).depends_on
    return seen


@pytest.mark.parametrize("stack", STACKS)
def test_exactly_the_charts_of_the_plan_are_released(stack: str, world_of: Worlds) -> None:
    plan = stack_plan(stack)
    found = releases(world_of(plan))
    assert set(found) == set(plan.charts)
    for name, chart in plan.charts.items():
        inputs = found[name].inputs.get("helmOptions", found[name].inputs)
        assert (inputs["version"], inputs["namespace"]) == (chart.version, chart.namespace)
        assert inputs["atomic"] is True
        assert inputs["cleanupOnFail"] is True
        assert inputs["createNamespace"] is False
        assert inputs["timeout"] >= 600


@pytest.mark.parametrize("stack", STACKS)
def test_the_first_preview_lists_what_up_makes(stack: str, world_of: Worlds) -> None:
    plan = stack_plan(stack)
    assert declared(plan, preview=True).inventory() == world_of(plan).inventory()


@pytest.mark.parametrize("stack", STACKS)
def test_every_resource_has_an_explicit_provider(stack: str, world_of: Worlds) -> None:
    for record in world_of(stack_plan(stack)):
        if record.custom and not record.type.startswith("pulumi:providers:"):
            assert record.provider, f"{record.type} {record.name} would use a default provider"


@pytest.mark.parametrize("stack", STACKS)
def test_each_release_waits_for_its_namespace_and_priority(stack: str, world_of: Worlds) -> None:
    world = world_of(stack_plan(stack))
    namespaces = {record.inputs["metadata"]["name"]: record.urn for record in world.objects("Namespace")}
    priorities = {record.urn for record in world.objects("PriorityClass")}
    for record in releases(world).values():
        inputs = record.inputs.get("helmOptions", record.inputs)
        if inputs["namespace"] != "kube-system":
            assert namespaces[inputs["namespace"]] in before(world, record)
        assert priorities & before(world, record)


@pytest.mark.parametrize("stack", STACKS)
def test_what_is_monitored_waits_for_the_monitors_definition(stack: str, world_of: Worlds) -> None:
    world = world_of(stack_plan(stack))
    found = releases(world)
    monitoring = found["kube-prometheus-stack"].urn
    for name, record in found.items():
        if name != "kube-prometheus-stack" and "serviceMonitor" in str(record.inputs.get("values", {})):
            assert monitoring in before(world, record), name
    for rule in world.objects("PrometheusRule"):
        assert monitoring in before(world, rule)


def test_issuers_wait_for_cert_manager(world_of: Worlds) -> None:
    world = world_of(stack_plan("prod"))
    cert_manager = releases(world)["cert-manager"].urn
    issuers = [*world.objects("ClusterIssuer"), *world.objects("Certificate")]
    assert len(issuers) == 3
    assert all(cert_manager in before(world, record) for record in issuers)


def test_cluster_autoscaler_starts_with_its_permissions_and_ladder(world_of: Worlds) -> None:
    world = world_of(stack_plan("prod"))
    waits_for = {world.by_urn(urn).type for urn in before(world, releases(world)["cluster-autoscaler"])}
    assert "kubernetes:core/v1:ConfigMap" in waits_for
    assert "aws:eks/podIdentityAssociation:PodIdentityAssociation" in waits_for
    assert "aws:iam/rolePolicy:RolePolicy" in waits_for
    association = world[
        "aws:eks/podIdentityAssociation:PodIdentityAssociation", "cluster-autoscaler-identity-association"
    ]
    account = releases(world)["cluster-autoscaler"].inputs["values"]["rbac"]["serviceAccount"]["name"]
    assert association.inputs["serviceAccount"] == account
    assert CLUSTER_ARN in str(world.of_type("aws:iam/role:Role")[0].inputs["assumeRolePolicy"])


def test_an_existing_cluster_gets_nothing_of_aws(world_of: Worlds) -> None:
    world = world_of(stack_plan("local"))
    assert [record.name for record in world if record.type.startswith(("aws:", "pulumi:providers:aws"))] == []
    assert world.objects("StorageClass") == ()


def test_eks_gets_one_encrypted_default_class_and_one_that_keeps_its_volumes(world_of: Worlds) -> None:
    world = world_of(stack_plan("prod"))
    classes = {record.inputs["metadata"]["name"]: record.inputs for record in world.objects("StorageClass")}
    annotation = "storageclass.kubernetes.io/is-default-class"
    defaults = [name for name, c in classes.items() if c["metadata"].get("annotations", {}).get(annotation) == "true"]
    assert defaults == ["gp3"]
    assert {name: c["reclaimPolicy"] for name, c in classes.items()} == {"gp3": "Delete", "gp3-retain": "Retain"}
    for name, fields in classes.items():
        assert fields["parameters"]["encrypted"] == "true", name
        assert fields["parameters"]["kmsKeyId"].startswith("arn:aws:kms:")
    assert stack_plan("prod").observability.storage_class in classes


@pytest.mark.parametrize("stack", STACKS)
def test_no_secret_is_in_chart_values(stack: str, world_of: Worlds) -> None:
    for record in releases(world_of(stack_plan(stack))).values():
        assert record.secrets == ()


def test_grafanas_password_is_made_once_and_is_secret(world_of: Worlds) -> None:
    world = world_of(stack_plan("prod"))
    plan = stack_plan("prod").observability.grafana_admin
    secret = next(r for r in world.objects("Secret") if r.inputs["metadata"]["name"] == plan.name)
    assert any(path.startswith("stringData") for path in secret.secrets)
    assert set(secret.ignore_changes) == {"data", "stringData"}
    assert len(secret.inputs["stringData"][plan.key]) >= 40
    assert secret.inputs["stringData"]["admin-user"] == "admin"
    grafana = releases(world)["kube-prometheus-stack"].inputs["values"]["grafana"]["admin"]
    assert grafana == {"existingSecret": plan.name, "userKey": "admin-user", "passwordKey": plan.key}
    assert secret.urn in before(world, releases(world)["kube-prometheus-stack"])
