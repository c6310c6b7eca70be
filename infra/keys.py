"""KMS keys: one for the cluster (Kubernetes Secrets, logs), one for data that outlives it (weights, cache, volumes).

Root disks of node groups use the account's default EBS key: a key of ours would have to trust Auto Scaling's
service-linked role, which an account without any scaling group does not have yet (KMS refuses a principal that does not
exist). Karpenter's nodes, which it launches itself, use the key of data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.identity import policy_json
from infra.providers import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyArgs:
    """What a key is for and who may use it through AWS services; people get access by IAM."""

    description: str
    account: Account
    statements: Sequence[dict[str, Any]]
    keep: bool
    """Protect it, and keep it on destroy."""


class Key(pulumi.ComponentResource):
    """A customer-managed key, rotated every year, with an alias for people."""

    arn: pulumi.Output[str]

    def __init__(self, name: str, args: KeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Key", name, None, opts)
        kept = pulumi.ResourceOptions(parent=self, protect=args.keep, retain_on_delete=args.keep)
        key = aws.kms.Key(
            f"{name}-key",
            description=args.description,
            enable_key_rotation=True,
            # The longest window: whoever schedules a deletion by mistake has a month to notice.
            deletion_window_in_days=30,
            policy=policy_json([_owner(args.account), *args.statements]),
            opts=kept,
        )
        aws.kms.Alias(f"{name}-alias", name_prefix=f"alias/{name}-", target_key_id=key.key_id, opts=kept)
        self.arn = key.arn
        self.register_outputs({"arn": self.arn})


def for_log_groups(account: Account) -> dict[str, Any]:
    """Lets CloudWatch Logs encrypt the log groups of this account. Source: CloudWatch Logs user guide, KMS."""
    return {
        "Sid": "LogGroups",
        "Effect": "Allow",
        "Principal": {"Service": pulumi.Output.concat("logs.", account.region, ".", account.dns_suffix)},
        "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
        "Resource": "*",
        "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": account.arn("logs", "log-group:*")}},
    }


def for_lustre_imports(account: Account) -> dict[str, Any]:
    """Lets FSx for Lustre read the encrypted bucket through S3. Source: FSx for Lustre user guide, SSE-KMS buckets.

    FSx makes one service-linked role for each file system, after this policy exists, so the role is matched by its name
    instead of being named as principal.
    """
    return {
        "Sid": "LustreImports",
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
        "Resource": "*",
        "Condition": {
            "StringEquals": {
                "kms:CallerAccount": account.account_id,
                "kms:ViaService": pulumi.Output.concat("s3.", account.region, ".", account.dns_suffix),
            },
            "StringLike": {
                "aws:PrincipalArn": account.global_arn(
                    "iam",
                    "role/aws-service-role/s3.data-source.lustre.fsx.amazonaws.com/AWSServiceRoleForFSxS3Access_*",
                )
            },
        },
    }


def for_launched_volumes(account: Account) -> tuple[dict[str, Any], ...]:
    """Lets EC2 encrypt volumes of instances that somebody of this account launches, as the account's default key does.

    For Karpenter's nodes: a fleet uses the key as EC2's own service-linked role, which may not exist yet, so callers
    are matched by account. Source: Karpenter, troubleshooting of encrypted volumes; policy of the key `aws/ebs`.
    """
    through_ec2 = {
        "kms:CallerAccount": account.account_id,
        "kms:ViaService": pulumi.Output.concat("ec2.", account.region, ".", account.dns_suffix),
    }
    common: dict[str, Any] = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Resource": "*"}
    return (
        {
            **common,
            "Sid": "LaunchedVolumes",
            "Action": ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*"],
            "Condition": {"StringEquals": through_ec2},
        },
        {
            **common,
            "Sid": "LaunchedVolumesGrants",
            "Action": ["kms:CreateGrant"],
            "Condition": {"StringEquals": through_ec2, "Bool": {"kms:GrantIsForAWSResource": "true"}},
        },
    )


def _owner(account: Account) -> dict[str, Any]:
    # KMS' own default policy: without it IAM policies of the account do not reach the key, and a key that nobody can
    # administer can only be recovered by AWS support.
    return {
        "Sid": "AccountAdministersByIam",
        "Effect": "Allow",
        "Principal": {"AWS": account.global_arn("iam", "root")},
        "Action": "kms:*",
        "Resource": "*",
    }
