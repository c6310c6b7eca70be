"""What controllers and model pods may do, as statements for `infra.identity.PodIdentity`."""

from __future__ import annotations

import pulumi

from infra.identity import Statement
from infra.providers import Account


def cluster_autoscaler(cluster_name: str, account: Account) -> tuple[Statement, ...]:
    """Scale the node groups of this cluster, and look at what they are made of.

    Source: cluster-autoscaler's AWS provider README, full-features policy; the two writing actions are bound to the tag
    that EKS puts on the scaling groups of this cluster's node groups.
    """
    node_groups = account.arn("eks", f"nodegroup/{cluster_name}/*/*")
    return (
        Statement(
            sid="Look",
            actions=(
                "autoscaling:DescribeAutoScalingGroups",
                "autoscaling:DescribeAutoScalingInstances",
                "autoscaling:DescribeLaunchConfigurations",
                "autoscaling:DescribeScalingActivities",
                "autoscaling:DescribeTags",
                "ec2:DescribeImages",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeLaunchTemplateVersions",
                "ec2:GetInstanceTypesFromInstanceRequirements",
            ),
            resources=("*",),  # None of these actions can be bound to a resource.
        ),
        Statement(sid="ReadNodeGroups", actions=("eks:DescribeNodegroup",), resources=(node_groups,)),
        Statement(
            sid="Scale",
            actions=("autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"),
            resources=(account.arn("autoscaling", "autoScalingGroup:*:autoScalingGroupName/*"),),
            condition={"StringEquals": {f"aws:ResourceTag/k8s.io/cluster-autoscaler/{cluster_name}": "owned"}},
        ),
    )


def read_weights(bucket_arn: pulumi.Input[str], key_arn: pulumi.Input[str], *prefixes: str) -> tuple[Statement, ...]:
    """Stream the objects below `prefixes` (without a trailing `/`) out of the encrypted bucket of weights."""
    return (
        Statement(
            sid="ListWeights",
            actions=("s3:ListBucket",),
            resources=(bucket_arn,),
            condition={"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}},
        ),
        Statement(
            sid="ReadWeights",
            actions=("s3:GetObject", "s3:GetObjectVersion"),
            resources=tuple(pulumi.Output.concat(bucket_arn, f"/{prefix}/*") for prefix in prefixes),
        ),
        Statement(sid="DecryptWeights", actions=("kms:Decrypt",), resources=(key_arn,)),
    )


def encrypt_volumes(key_arn: pulumi.Input[str]) -> tuple[Statement, ...]:
    """Make and attach EBS volumes that a key of ours encrypts.

    Source: EBS CSI driver, encryption with a customer-managed key. Without it a volume goes from `creating` to gone,
    and its claim stays pending without a reason.
    """
    return (
        Statement(
            sid="LendKeyToEc2",
            actions=("kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"),
            resources=(key_arn,),
            condition={"Bool": {"kms:GrantIsForAWSResource": "true"}},
        ),
        Statement(
            sid="EncryptVolumes",
            actions=(
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ),
            resources=(key_arn,),
        ),
    )


def describe_file_systems(account: Account) -> tuple[Statement, ...]:
    """Look at the file system of a static volume: FSx' CSI driver makes and deletes none here."""
    return (
        Statement(
            sid="DescribeFileSystems",
            actions=("fsx:DescribeFileSystems",),
            resources=(account.arn("fsx", "file-system/*"),),
        ),
    )
