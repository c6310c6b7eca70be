"""VPC flow logs to CloudWatch."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.identity import Statement, document, service_trust
from infra.providers import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLogsArgs:
    """What is logged, where to and for how long."""

    vpc_id: pulumi.Input[str]
    log_group_name: str
    retention_days: int
    account: Account
    key_arn: pulumi.Input[str]


class FlowLogs(pulumi.ComponentResource):
    """Every accepted and rejected connection of a VPC, kept for a while, encrypted with our key."""

    def __init__(self, name: str, args: FlowLogsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:FlowLogs", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        group = aws.cloudwatch.LogGroup(
            f"{name}-group",
            name=args.log_group_name,
            retention_in_days=args.retention_days,
            kms_key_id=args.key_arn,
            opts=child,
        )
        role = aws.iam.Role(
            f"{name}-role",
            description="Delivers VPC flow logs",
            assume_role_policy=service_trust(
                "vpc-flow-logs.amazonaws.com",
                # Else somebody else's flow log could be made to write here (confused deputy).
                {"StringEquals": {"aws:SourceAccount": args.account.account_id}},
            ),
            opts=child,
        )
        policy = aws.iam.RolePolicy(
            f"{name}-policy",
            role=role.name,
            # Not CreateLogGroup: a late delivery during destroy would make the group again, without retention or key.
            policy=document(
                [
                    Statement(
                        sid="Deliver",
                        actions=(
                            "logs:CreateLogStream",
                            "logs:DescribeLogGroups",
                            "logs:DescribeLogStreams",
                            "logs:PutLogEvents",
                        ),
                        resources=(group.arn, pulumi.Output.concat(group.arn, ":*")),
                    )
                ]
            ),
            opts=child,
        )
        aws.ec2.FlowLog(
            f"{name}-log",
            vpc_id=args.vpc_id,
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            max_aggregation_interval=600,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
        )
        self.register_outputs({})
