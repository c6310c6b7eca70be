"""Control plane, add-ons, and every IAM policy of the layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from moto.iam.aws_managed_policies import aws_managed_policies_data

from infra.aws import AwsOutputs, declare
from infra.identity import PodIdentity, PodIdentityArgs, Statement
from infra.permissions import cluster_autoscaler, read_weights
from planner.plan import Plan
from tests.harness import World, deploy
from tests.infra import plans

CLUSTER = "aws:eks/cluster:Cluster"
ADDON = "aws:eks/addon:Addon"
ENTRY = "aws:eks/accessEntry:AccessEntry"
ASSOCIATION = "aws:eks/accessPolicyAssociation:AccessPolicyAssociation"
ATTACHMENT = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
# Actions that IAM cannot bind to a resource. Source: Service Authorization Reference.
UNBOUND = {
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLaunchConfigurations",
    "autoscaling:DescribeScalingActivities",
    "autoscaling:DescribeTags",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:GetInstanceTypesFromInstanceRequirements",
}


def program(plan: Plan) -> None:
    """The layer, and the identities that controllers make on top of it."""
    outputs = declare(plan)
    identity(outputs, "autoscaler", cluster_autoscaler("inference-platform-prod", outputs.eks.account))
    if outputs.weights is not None:
        arns = (outputs.weights.bucket_arn, outputs.weights.key_arn)
        identity(outputs, "reader", read_weights(*arns, "models"))


def identity(outputs: AwsOutputs, name: str, statements: tuple[Statement, ...]) -> None:
    assert outputs.eks is not None
    assert outputs.aws is not None
    PodIdentity(
        name,
        PodIdentityArgs(
            cluster_name=outputs.eks.name,
            cluster_arn=outputs.eks.arn,
            namespace="kube-system",
            service_account=name,
            statements=statements,
        ),
        pulumi.ResourceOptions(providers=[outputs.aws]),
    )


@pytest.fixture(scope="module")
def world() -> World:
    return deploy(lambda: program(plans.plan()))


def test_the_control_plane(world: World) -> None:
    inputs = world[CLUSTER, "cluster-eks"].inputs
    assert inputs["accessConfig"] == {"authenticationMode": "API", "bootstrapClusterCreatorAdminPermissions": False}
    assert inputs["bootstrapSelfManagedAddons"] is False
    assert inputs["encryptionConfig"]["resources"] == ["secrets"]
    assert set(inputs["enabledClusterLogTypes"]) == {"api", "audit", "authenticator", "controllerManager", "scheduler"}
    assert inputs["upgradePolicy"] == {"supportType": "STANDARD"}
    assert len(inputs["vpcConfig"]["subnetIds"]) == 2, "EKS puts no interfaces into the third zone"
    assert inputs["vpcConfig"]["endpointPrivateAccess"] is True
    assert inputs["vpcConfig"]["endpointPublicAccess"] is True
    assert inputs["vpcConfig"]["publicAccessCidrs"] == ["203.0.113.0/24"]
    logs = world["aws:cloudwatch/logGroup:LogGroup", "cluster-logs"].inputs
    assert (logs["name"], logs["retentionInDays"]) == ("/aws/eks/inference-platform-prod/cluster", 30)
    assert logs["kmsKeyId"] == inputs["encryptionConfig"]["provider"]["keyArn"]


def test_a_private_endpoint_is_opened_to_the_named_ranges_only() -> None:
    target = plans.eks(public_cidrs=(), private_cidrs=("10.9.0.0/24",))
    world = deploy(lambda: declare(plans.plan(target=target, network=plans.existing_network())))
    config = world[CLUSTER, "cluster-eks"].inputs["vpcConfig"]
    assert config["endpointPublicAccess"] is False
    assert "publicAccessCidrs" not in config
    rule = world["aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "cluster-api-from-10.9.0.0/24"]
    assert (rule.inputs["cidrIpv4"], rule.inputs["fromPort"], rule.inputs["toPort"]) == ("10.9.0.0/24", 443, 443)
    assert rule.urn in world["pulumi:providers:kubernetes", "kubernetes"].depends_on


@pytest.mark.parametrize("protect", [True, False])
def test_protection_follows_the_plan(protect: bool) -> None:
    world = deploy(lambda: declare(plans.plan(protect_cluster=protect, protect_data=not protect)))
    cluster = world[CLUSTER, "cluster-eks"]
    assert cluster.protect is protect
    assert cluster.inputs["deletionProtection"] is protect
    for name, kept in (("cluster-key-key", protect), ("data-key-key", not protect)):
        key = world["aws:kms/key:Key", name]
        assert (key.protect, key.retain_on_delete) == (kept, kept)


def test_every_administrator_has_an_entry_whose_name_is_the_principal(world: World) -> None:
    for arn in plans.ADMINS:
        name = f"cluster-admin-{arn.split('::')[1].replace(':', '/')}"
        entry, association = world[ENTRY, name], world[ASSOCIATION, name]
        assert entry.inputs["principalArn"] == association.inputs["principalArn"] == arn
        assert association.inputs["accessScope"] == {"type": "cluster"}
        assert association.inputs["policyArn"].endswith(":cluster-access-policy/AmazonEKSClusterAdminPolicy")
        assert entry.urn in association.depends_on


def test_addons_with_an_identity_wait_for_the_agent_that_serves_it(world: World) -> None:
    agent = world[ADDON, "addons-nodes-eks-pod-identity-agent"]
    cni = world[ADDON, "addons-nodes-vpc-cni"]
    assert agent.urn in cni.depends_on
    assert agent.urn not in world[ADDON, "addons-nodes-kube-proxy"].depends_on
    (association,) = cni.inputs["podIdentityAssociations"]
    assert association["serviceAccount"] == "aws-node"
    assert association["roleArn"].startswith("arn:aws:iam::")
    assert world[ATTACHMENT, "addons-nodes-vpc-cni-AmazonEKS_CNI_Policy"].urn in cni.depends_on
    assert json.loads(cni.inputs["configurationValues"]) == {"enableNetworkPolicy": "true"}
    node_policies = [r.inputs["policyArn"] for r in world.of_type(ATTACHMENT) if r.name.startswith("node-")]
    assert not [arn for arn in node_policies if "CNI" in arn], "any pod on the host's network would have it too"


def test_addons_of_the_second_phase_wait_for_system_nodes(world: World) -> None:
    system = world["aws:eks/nodeGroup:NodeGroup", "system-nodes"]
    for name in ("coredns", "aws-ebs-csi-driver", "eks-node-monitoring-agent"):
        assert system.urn in world[ADDON, f"addons-{name}"].depends_on


def test_a_build_that_was_looked_up_is_taken_once(world: World) -> None:
    looked_up = world[ADDON, "addons-eks-node-monitoring-agent"]
    assert looked_up.inputs["addonVersion"].startswith("v")
    assert looked_up.ignore_changes == ("addonVersion",)
    pinned = world[ADDON, "addons-coredns"]
    assert pinned.inputs["addonVersion"] == "v1.2.3-eksbuild.1"
    assert pinned.ignore_changes == ()


def test_managed_policies_exist(world: World) -> None:
    known = {
        f"arn:aws:iam::aws:policy{entry['Path']}{name}" for name, entry in json.loads(aws_managed_policies_data).items()
    }
    attached = {record.inputs["policyArn"] for record in world.of_type(ATTACHMENT)}
    assert len(attached) == 6
    assert attached <= known


def policy_statements(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    for record in world.of_type("aws:iam/rolePolicy:RolePolicy"):
        for statement in json.loads(record.inputs["policy"])["Statement"]:
            yield record.name, statement


def test_no_policy_allows_more_than_named_actions_on_named_resources(world: World) -> None:
    found = list(policy_statements(world))
    assert {name for name, _ in found} >= {"autoscaler-policy", "reader-policy", "cluster-secrets"}
    for name, statement in found:
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert action.count(":") == 1, name
            assert "*" not in action, f"{name}: {action}"
        if "*" in statement["Resource"]:
            assert set(statement["Action"]) <= UNBOUND, name


def test_the_ebs_driver_may_use_the_key_of_volumes_and_lend_it_to_ec2_only(world: World) -> None:
    name = "addons-aws-ebs-csi-driver-policy"
    statements = {s["Sid"]: s for found, s in policy_statements(world) if found == name}
    key = world[
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration", "weights-encryption"
    ]
    key_arn = key.inputs["rules"][0]["applyServerSideEncryptionByDefault"]["kmsMasterKeyId"]
    assert all(statement["Resource"] == [key_arn] for statement in statements.values())
    assert statements["LendKeyToEc2"]["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    assert "kms:GenerateDataKeyWithoutPlaintext" in statements["EncryptVolumes"]["Action"]


def test_no_role_is_without_permissions(world: World) -> None:
    roles = {record.parent for record in world.of_type("aws:iam/role:Role")}
    granted = {r.parent for r in (*world.of_type(ATTACHMENT), *world.of_type("aws:iam/rolePolicy:RolePolicy"))}
    assert len(roles) == 8
    assert roles == granted


def test_the_autoscaler_changes_groups_of_its_own_cluster_only(world: World) -> None:
    (scale,) = [s for name, s in policy_statements(world) if name == "autoscaler-policy" and s["Sid"] == "Scale"]
    condition = scale["Condition"]["StringEquals"]
    assert condition == {"aws:ResourceTag/k8s.io/cluster-autoscaler/inference-platform-prod": "owned"}


def test_readers_of_weights_cannot_write(world: World) -> None:
    actions = {a for name, s in policy_statements(world) if name == "reader-policy" for a in s["Action"]}
    assert actions == {"s3:ListBucket", "s3:GetObject", "s3:GetObjectVersion", "kms:Decrypt"}
    resources = [r for name, s in policy_statements(world) if name == "reader-policy" for r in s["Resource"]]
    assert [r for r in resources if r.startswith("arn:aws:s3:::") and r.endswith("/models/*")]


def test_a_pod_role_trusts_one_service_account_of_one_cluster(world: World) -> None:
    role = world["aws:iam/role:Role", "reader-role"]
    (statement,) = json.loads(role.inputs["assumeRolePolicy"])["Statement"]
    assert statement["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert set(statement["Action"]) == {"sts:AssumeRole", "sts:TagSession"}
    tags = statement["Condition"]["StringEquals"]
    assert tags["aws:RequestTag/kubernetes-service-account"] == "reader"
    assert tags["aws:RequestTag/eks-cluster-arn"].endswith(":cluster/inference-platform-prod")
    association = world["aws:eks/podIdentityAssociation:PodIdentityAssociation", "reader-association"]
    assert world["aws:iam/rolePolicy:RolePolicy", "reader-policy"].urn in association.depends_on


@pytest.mark.parametrize("action", ["*", "s3:*"])
def test_a_wildcard_over_a_service_is_refused(action: str) -> None:
    with pytest.raises(ValueError, match="too broad"):
        Statement(sid="Everything", actions=(action,), resources=("arn:aws:s3:::b",))


def test_keys_rotate_trust_the_account_and_name_services_by_condition(world: World) -> None:
    for record in world.of_type("aws:kms/key:Key"):
        assert record.inputs["enableKeyRotation"] is True
        statements = json.loads(record.inputs["policy"])["Statement"]
        for statement in statements:
            if statement["Principal"] != {"AWS": "arn:aws:iam::123456789012:root"}:
                assert statement["Condition"], statement["Sid"]
    data = {s["Sid"]: s for s in json.loads(world["aws:kms/key:Key", "data-key-key"].inputs["policy"])["Statement"]}
    condition = data["LustreImports"]["Condition"]
    assert condition["StringEquals"]["kms:ViaService"] == "s3.us-east-1.amazonaws.com"
    assert "AWSServiceRoleForFSxS3Access_*" in condition["StringLike"]["aws:PrincipalArn"]
