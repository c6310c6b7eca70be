"""The AWS side of Karpenter: what its controller may do, who its nodes are, and that warnings reach its queue."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import replace
from typing import Any

import pytest
from moto.events.models import EventPattern, EventPatternParser

from infra.aws import declare
from infra.karpenter import EVENTS
from planner.plan import Plan
from policy.rules.iam import WITHOUT_RESOURCE
from tests.factories import example_plan
from tests.harness import UNKNOWN, ResourceRecord, World, deploy
from tests.infra.test_aws_layer import assert_before

PLAN = example_plan("karpenter")
CLUSTER = "inference-platform-karpenter"
ACCESS, ROLE, QUEUE = "aws:eks/accessEntry:AccessEntry", "aws:iam/role:Role", "aws:sqs/queue:Queue"


@pytest.fixture(scope="module")
def world() -> World:
    return deploy(lambda: declare(PLAN), stack="karpenter")


def controller(world: World) -> list[dict[str, Any]]:
    policy = world["aws:iam/rolePolicy:RolePolicy", "karpenter-controller-policy"].inputs["policy"]
    return json.loads(policy)["Statement"]


def statement(world: World, sid: str) -> dict[str, Any]:
    return next(item for item in controller(world) if item["Sid"] == sid)


def may(world: World, action: str, arn: str, context: dict[str, str] | None = None) -> bool:
    """Whether some statement allows an action, as IAM would match resources and the conditions that occur here."""
    return any(
        action in item["Action"]
        and any(fnmatch.fnmatchcase(arn, pattern) for pattern in item["Resource"])
        and all(
            _holds(operator, key, value, context or {})
            for operator, pairs in item.get("Condition", {}).items()
            for key, value in pairs.items()
        )
        for item in controller(world)
    )


def _holds(operator: str, key: str, value: str | list[str], context: dict[str, str]) -> bool:
    wanted = [value] if isinstance(value, str) else value
    if key not in context:
        return operator.endswith("IfExists") or operator.startswith("ForAllValues")
    return any(fnmatch.fnmatchcase(context[key], pattern) for pattern in wanted)


def arn(kind: str, account: str = "123456789012") -> str:
    return f"arn:aws:ec2:us-east-1:{account}:{kind}/x-0"


OWN = {
    f"aws:ResourceTag/kubernetes.io/cluster/{CLUSTER}": "owned",
    "aws:ResourceTag/karpenter.sh/nodepool": "l40s-spot",
}
ASKED = {
    f"aws:RequestTag/kubernetes.io/cluster/{CLUSTER}": "owned",
    "aws:RequestTag/eks:eks-cluster-name": CLUSTER,
    "aws:RequestTag/karpenter.sh/nodepool": "l40s-spot",
}
OTHER = {"aws:ResourceTag/kubernetes.io/cluster/other": "owned", "aws:ResourceTag/karpenter.sh/nodepool": "l40s-spot"}


def test_it_launches_tagged_instances_from_its_own_templates(world: World) -> None:
    assert may(world, "ec2:CreateFleet", arn("fleet"), ASKED)
    assert may(world, "ec2:RunInstances", arn("instance"), ASKED)
    assert may(world, "ec2:CreateTags", arn("instance"), {**ASKED, "ec2:CreateAction": "CreateFleet"})
    assert may(world, "ec2:CreateFleet", arn("launch-template"), OWN)
    assert may(world, "ec2:RunInstances", arn("capacity-reservation", "999999999999"))
    assert not may(world, "ec2:RunInstances", arn("instance"))
    assert not may(world, "ec2:CreateFleet", arn("launch-template"), OTHER)
    assert not may(world, "ec2:CreateTags", arn("instance"), ASKED)  # only while it launches


def test_it_ends_what_it_made_for_this_cluster_and_nothing_else(world: World) -> None:
    assert may(world, "ec2:TerminateInstances", arn("instance"), OWN)
    assert may(world, "ec2:DeleteLaunchTemplate", arn("launch-template"), OWN)
    assert not may(world, "ec2:TerminateInstances", arn("instance"), OTHER)
    assert not may(world, "ec2:TerminateInstances", arn("instance"))
    assert not may(world, "ec2:TerminateInstances", arn("instance"), {next(iter(OWN)): "owned"})  # a node group's


def test_it_hands_out_one_role_to_one_service(world: World) -> None:
    node_role = world[ROLE, "karpenter-node-role"]
    passing = statement(world, "PassNodeRole")
    assert passing["Action"] == ["iam:PassRole"]
    (passed,) = passing["Resource"]
    assert ":role/karpenter-node-role" in passed
    assert may(world, "iam:PassRole", passed, {"iam:PassedToService": "ec2.amazonaws.com"})
    assert not may(world, "iam:PassRole", passed, {"iam:PassedToService": "lambda.amazonaws.com"})
    assert json.loads(node_role.inputs["assumeRolePolicy"])["Statement"][0]["Principal"] == {
        "Service": "ec2.amazonaws.com"
    }


def test_it_makes_no_roles_and_no_profiles(world: World) -> None:
    actions = {action for item in controller(world) for action in item["Action"]}
    assert {action for action in actions if action.startswith("iam:")} == {
        "iam:PassRole",
        "iam:ListInstanceProfiles",
        "iam:GetInstanceProfile",
    }
    (listed,) = statement(world, "ListOwnProfiles")["Resource"]
    assert listed.endswith(f":instance-profile/karpenter/us-east-1/{CLUSTER}/*")


def test_no_action_is_a_wildcard_and_every_resource_is_one_only_where_nothing_else_can_be_written(world: World) -> None:
    broad = {}
    for item in controller(world):
        assert not any("*" in action for action in item["Action"])
        if "*" in item["Resource"]:
            broad[item["Sid"]] = set(item["Action"])
    assert set(broad) == {"Look", "ReadPrices"}
    assert set().union(*broad.values()) <= WITHOUT_RESOURCE
    assert statement(world, "Look")["Condition"] == {"StringEquals": {"aws:RequestedRegion": "us-east-1"}}


def test_the_policy_fits_a_role(world: World) -> None:
    """Inline policies of a role have 10,240 characters in all, spaces not counted (IAM quotas)."""
    policy = world["aws:iam/rolePolicy:RolePolicy", "karpenter-controller-policy"].inputs["policy"]
    assert len("".join(policy.split())) < 10_240


def test_only_its_own_pods_become_the_controller(world: World) -> None:
    association = world["aws:eks/podIdentityAssociation:PodIdentityAssociation", "karpenter-controller-association"]
    assert (association.inputs["namespace"], association.inputs["serviceAccount"]) == ("kube-system", "karpenter")


def test_nodes_have_a_role_of_their_own_with_access_to_the_cluster(world: World) -> None:
    entry = world[ACCESS, "karpenter-node-access"]
    assert entry.inputs["type"] == "EC2_LINUX"
    assert "karpenter-node-role" in entry.inputs["principalArn"]
    assert (
        world["aws:iam/instanceProfile:InstanceProfile", "karpenter-node-profile"]
        .inputs["role"]
        .startswith("karpenter-node-role")
    )
    groups = world.of_type("aws:eks/nodeGroup:NodeGroup")
    # EKS itself makes the entry of a node group's role: a second one for the same role is refused.
    assert entry.inputs["principalArn"] not in {group.inputs["nodeRoleArn"] for group in groups}


def test_karpenters_pool_has_no_node_group(world: World) -> None:
    names = {group.inputs.get("nodeGroupNamePrefix") for group in world.of_type("aws:eks/nodeGroup:NodeGroup")}
    assert names == {"system-", "a100-spot-", "a100-on-demand-"}


def test_the_queue_forgets_encrypts_and_lets_only_its_rules_in(world: World) -> None:
    queue = world[QUEUE, "karpenter-interruptions"].inputs
    assert (queue["messageRetentionSeconds"], queue["sqsManagedSseEnabled"]) == (300, True)
    policy = json.loads(world["aws:sqs/queuePolicy:QueuePolicy", "karpenter-interruptions"].inputs["policy"])
    rules, tls = policy["Statement"]
    assert rules["Principal"] == {"Service": "events.amazonaws.com"}
    assert len(rules["Condition"]["ArnEquals"]["aws:SourceArn"]) == len(EVENTS) == 5
    assert (tls["Effect"], tls["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


EVENTS_OF_AWS = {
    "health": {"Source": "aws.health", "DetailType": "AWS Health Event"},
    "spot-interruption": {"Source": "aws.ec2", "DetailType": "EC2 Spot Instance Interruption Warning"},
    "rebalance": {"Source": "aws.ec2", "DetailType": "EC2 Instance Rebalance Recommendation"},
    "state-change": {"Source": "aws.ec2", "DetailType": "EC2 Instance State-change Notification"},
    "reservation-interruption": {
        "Source": "aws.ec2",
        "DetailType": "EC2 Capacity Reservation Instance Interruption Warning",
    },
    None: {"Source": "aws.ec2", "DetailType": "EBS Volume Notification"},
}


@pytest.mark.parametrize("name", EVENTS_OF_AWS)
def test_each_warning_is_caught_by_its_rule_alone(world: World, name: str | None) -> None:
    """As EventBridge matches patterns (moto's); the events are those of the EventBridge reference."""
    given = EVENTS_OF_AWS[name]
    event: Any = {
        "id": "1",
        "account": "123456789012",
        "source": given["Source"],
        "detail-type": given["DetailType"],
        "time": "2026-11-01T00:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": {"instance-id": "i-0123456789abcdef0"},
    }
    caught = [
        rule.name
        for rule in world.of_type("aws:cloudwatch/eventRule:EventRule")
        if EventPattern(None, EventPatternParser(rule.inputs["eventPattern"]).parse()).matches_event(event)
    ]
    assert caught == ([f"karpenter-{name}"] if name else [])


def test_a_rule_has_its_target_once_the_queue_lets_it_in(world: World) -> None:
    policy = world["aws:sqs/queuePolicy:QueuePolicy", "karpenter-interruptions"]
    targets = world.of_type("aws:cloudwatch/eventTarget:EventTarget")
    assert {target.inputs["rule"] for target in targets} == {
        rule_name(rule) for rule in world.of_type("aws:cloudwatch/eventRule:EventRule")
    }
    for target in targets:
        assert_before(world, policy, target)


def rule_name(rule: ResourceRecord) -> str:
    """The simulated account's automatic name."""
    from rehearsal.aws.environment import SimulatedEnvironment  # noqa: PLC0415
    from rehearsal.aws.simulated import create  # noqa: PLC0415

    return create(rule.type, rule.name, rule.inputs, environment=SimulatedEnvironment())[1]["name"]


def test_the_volume_key_serves_launches_of_this_account_through_ec2_alone(world: World) -> None:
    statements = json.loads(world["aws:kms/key:Key", "data-key-key"].inputs["policy"])["Statement"]
    mine = [item for item in statements if item["Sid"].startswith("LaunchedVolumes")]
    assert len(mine) == 2
    for item in mine:
        assert item["Condition"]["StringEquals"] == {
            "kms:CallerAccount": "123456789012",
            "kms:ViaService": "ec2.us-east-1.amazonaws.com",
        }
    without = deploy(lambda: declare(groups_only()), stack="karpenter")
    assert "LaunchedVolumes" not in without["aws:kms/key:Key", "data-key-key"].inputs["policy"]


def groups_only() -> Plan:
    pools = tuple(pool for pool in PLAN.pools if pool.provisioner == "node_group")
    return replace(PLAN, pools=pools, karpenter=None)


def test_without_a_pool_nothing_of_karpenter_is_made(world: World) -> None:
    without = deploy(lambda: declare(groups_only()), stack="karpenter")
    assert [record.name for record in without if "karpenter" in record.name] == []
    assert [record.name for record in world if "karpenter" in record.name]


def test_a_pool_with_efa_has_a_group_of_its_own() -> None:
    pool = PLAN.pool("l40s")
    hardware = replace(pool.hardware, efa_devices=1)
    plan = replace(PLAN, pools=(replace(pool, hardware=hardware), PLAN.pool("a100")))
    world = deploy(lambda: declare(plan), stack="karpenter")
    group = world["aws:ec2/securityGroup:SecurityGroup", "karpenter-l40s-efa"]
    for kind in (
        "securityGroupIngressRule:SecurityGroupIngressRule",
        "securityGroupEgressRule:SecurityGroupEgressRule",
    ):
        (rule,) = [item for item in world.of_type(f"aws:vpc/{kind}") if item.name.startswith("karpenter-l40s")]
        assert rule.inputs["ipProtocol"] == "-1"
        assert rule.inputs["securityGroupId"] == rule.inputs["referencedSecurityGroupId"]
        assert group.urn in rule.depends_on


def test_a_first_preview_lists_the_same(world: World) -> None:
    preview = deploy(lambda: declare(PLAN), stack="karpenter", preview=True)
    assert preview.inventory() == world.inventory()
    assert preview["aws:eks/cluster:Cluster", "cluster-eks"].inputs["roleArn"] is UNKNOWN
