"""The AWS Load Balancer Controller: there with its rights, bound to its own cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from planner.plan import EksPlan
from tests.components.conftest import declared
from tests.factories import stack_plan
from tests.harness import World

ASSOCIATION = "aws:eks/podIdentityAssociation:PodIdentityAssociation"
READS = ("Describe", "List")


def statements(world: World) -> list[dict[str, Any]]:
    policy = world["aws:iam/rolePolicy:RolePolicy", "load-balancers-identity-policy"].inputs["policy"]
    return json.loads(policy)["Statement"]


def test_it_starts_with_its_permissions_under_the_account_that_has_them() -> None:
    world = declared(stack_plan("prod"))
    release = world["kubernetes:helm.sh/v3:Release", "load-balancers-controller"]
    association = world[ASSOCIATION, "load-balancers-identity-association"]
    assert association.urn in release.depends_on
    assert association.inputs["serviceAccount"] == release.inputs["values"]["serviceAccount"]["name"]
    assert association.inputs["namespace"] == release.inputs["namespace"]
    plan = stack_plan("prod")
    assert isinstance(plan.target, EksPlan)
    assert release.inputs["values"]["clusterName"] == plan.target.cluster_name


def test_what_it_cannot_bind_to_a_resource_only_reads() -> None:
    for statement in statements(declared(stack_plan("prod"))):
        if "*" in statement["Resource"]:
            verbs = {action.split(":")[1] for action in statement["Action"]}
            assert all(verb.startswith(READS) for verb in verbs), statement["Sid"]


def test_it_changes_only_what_carries_this_cluster() -> None:
    plan = stack_plan("prod")
    assert isinstance(plan.target, EksPlan)
    name = plan.target.cluster_name
    for statement in statements(declared(plan)):
        writes = {a for a in statement["Action"] if not a.split(":")[1].startswith(READS)}
        if not writes or statement["Sid"] in {"ServiceLinkedRole", "MakeGroupsInVpc"}:
            continue
        conditions = {k: v for pairs in statement["Condition"].values() for k, v in pairs.items()}
        own = {f"aws:{where}Tag/elbv2.k8s.aws/cluster": name for where in ("Request", "Resource")}
        nodes = {f"aws:ResourceTag/kubernetes.io/cluster/{name}": "owned"}
        assert set(conditions.items()) & {*own.items(), *nodes.items()}, statement["Sid"]


def test_the_role_fits_into_one_inline_policy() -> None:
    """IAM takes 10,240 characters of inline policies a role, spaces not counted."""
    policy = json.dumps(statements(declared(stack_plan("prod"))), separators=(",", ":"))
    assert len(policy) < 10_240


def test_a_stack_that_brings_its_own_has_none() -> None:
    plan = stack_plan("prod")
    without = replace(plan, charts={k: v for k, v in plan.charts.items() if k != "aws-load-balancer-controller"})
    assert not [r for r in declared(without).resources if "load-balancers" in r.name]
