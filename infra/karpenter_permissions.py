"""What Karpenter may do: launch, tag and end instances of this cluster, with one role, and read its queue.

Source: the CloudFormation template of Karpenter 1.14 (getting started), narrowed. Left out are making and deleting
instance profiles (ours exists before any node), zonal shift (off), and listing profiles of other clusters.
"""

from __future__ import annotations

import pulumi

from infra.identity import Statement
from infra.providers import Account

_MADE = ("fleet", "instance", "volume", "network-interface", "launch-template", "spot-instances-request")
"""What a launch makes, and tags as it makes it."""


def karpenter(
    cluster_name: str,
    account: Account,
    *,
    cluster_arn: pulumi.Input[str],
    node_role_arn: pulumi.Input[str],
    queue_arn: pulumi.Input[str],
    volume_key_arn: pulumi.Input[str],
) -> tuple[Statement, ...]:
    """All of it."""
    return (
        *_launch(cluster_name, account),
        *_manage(cluster_name, account),
        *_discover(account),
        *_profiles(cluster_name, account),
        *_volumes(volume_key_arn),
        Statement(sid="DescribeCluster", actions=("eks:DescribeCluster",), resources=(cluster_arn,)),
        Statement(
            sid="PassNodeRole",
            actions=("iam:PassRole",),
            resources=(node_role_arn,),
            condition={"StringEquals": {"iam:PassedToService": ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"]}},
        ),
        Statement(
            sid="ReadInterruptions",
            actions=("sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"),
            resources=(queue_arn,),
        ),
    )


def _launch(cluster_name: str, account: Account) -> tuple[Statement, ...]:
    asked = {
        "StringEquals": {
            f"aws:RequestTag/kubernetes.io/cluster/{cluster_name}": "owned",
            "aws:RequestTag/eks:eks-cluster-name": cluster_name,
        },
        "StringLike": {"aws:RequestTag/karpenter.sh/nodepool": "*"},
    }
    made = tuple(_ec2(account, kind) for kind in _MADE)
    return (
        Statement(
            sid="LaunchFrom",
            actions=("ec2:RunInstances", "ec2:CreateFleet"),
            # Whatever the account lets it use: images and snapshots belong to Amazon, and subnets, reservations and
            # placement groups may be another account's that shares them. What is made of them is bound by tag below.
            resources=(
                _ec2(account, "image", owner=""),
                _ec2(account, "snapshot", owner=""),
                _ec2(account, "security-group", owner="*"),
                _ec2(account, "subnet", owner="*"),
                _ec2(account, "capacity-reservation", owner="*"),
                _ec2(account, "placement-group", owner="*"),
            ),
        ),
        Statement(
            sid="LaunchByOwnTemplates",
            actions=("ec2:RunInstances", "ec2:CreateFleet"),
            resources=(_ec2(account, "launch-template"),),
            condition=_owned(cluster_name),
        ),
        Statement(
            sid="LaunchTagged",
            actions=("ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateLaunchTemplate"),
            resources=made,
            condition=asked,
        ),
        Statement(
            sid="TagAtLaunch",
            actions=("ec2:CreateTags",),
            resources=made,
            condition={
                **asked,
                "StringEquals": {
                    **asked["StringEquals"],
                    "ec2:CreateAction": ["RunInstances", "CreateFleet", "CreateLaunchTemplate"],
                },
            },
        ),
    )


def _manage(cluster_name: str, account: Account) -> tuple[Statement, ...]:
    return (
        Statement(
            sid="TagInstances",
            actions=("ec2:CreateTags",),
            resources=(_ec2(account, "instance"),),
            condition={
                **_owned(cluster_name),
                "StringEqualsIfExists": {"aws:RequestTag/eks:eks-cluster-name": cluster_name},
                "ForAllValues:StringEquals": {
                    "aws:TagKeys": ["eks:eks-cluster-name", "karpenter.sh/nodeclaim", "Name"]
                },
            },
        ),
        Statement(
            sid="End",
            actions=("ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"),
            resources=(_ec2(account, "instance"), _ec2(account, "launch-template")),
            condition=_owned(cluster_name),
        ),
    )


def _discover(account: Account) -> tuple[Statement, ...]:
    return (
        Statement(
            sid="Look",
            actions=(
                "ec2:DescribeCapacityReservations",
                "ec2:DescribeImages",
                "ec2:DescribeInstanceStatus",
                "ec2:DescribeInstanceTypeOfferings",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeInstances",
                "ec2:DescribeLaunchTemplates",
                "ec2:DescribePlacementGroups",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSpotPriceHistory",
                "ec2:DescribeSubnets",
            ),
            resources=("*",),  # None of these actions can be bound to a resource.
            condition={"StringEquals": {"aws:RequestedRegion": account.region}},
        ),
        Statement(
            sid="FindImages",
            actions=("ssm:GetParameter",),
            resources=(account.arn("ssm", "parameter/aws/service/*", owner=""),),
        ),
        # The price list knows no resources, and is served from one region for all.
        Statement(sid="ReadPrices", actions=("pricing:GetProducts",), resources=("*",)),
    )


def _profiles(cluster_name: str, account: Account) -> tuple[Statement, ...]:
    """Karpenter looks for profiles that it made itself, finds none, and asks after the one that we name."""
    return (
        Statement(
            sid="ListOwnProfiles",
            actions=("iam:ListInstanceProfiles",),
            resources=(account.global_arn("iam", f"instance-profile/karpenter/{account.region}/{cluster_name}/*"),),
        ),
        Statement(
            sid="ReadProfiles",
            actions=("iam:GetInstanceProfile",),
            resources=(account.global_arn("iam", "instance-profile/*"),),
        ),
    )


def _volumes(key_arn: pulumi.Input[str]) -> tuple[Statement, ...]:
    """Root volumes are encrypted with the key of volumes: whoever launches an instance uses it."""
    return (
        Statement(
            sid="LendVolumeKey",
            actions=("kms:CreateGrant",),
            resources=(key_arn,),
            condition={"Bool": {"kms:GrantIsForAWSResource": "true"}},
        ),
        Statement(
            sid="UseVolumeKey",
            actions=(
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ),
            resources=(key_arn,),
        ),
    )


def _owned(cluster_name: str) -> dict[str, dict[str, str]]:
    """Only what Karpenter made for this cluster."""
    return {
        "StringEquals": {f"aws:ResourceTag/kubernetes.io/cluster/{cluster_name}": "owned"},
        "StringLike": {"aws:ResourceTag/karpenter.sh/nodepool": "*"},
    }


def _ec2(account: Account, kind: str, *, owner: str | None = None) -> pulumi.Output[str]:
    """All resources of a kind in the region, of this account where no other owner is named."""
    return account.arn("ec2", f"{kind}/*", owner=owner)
