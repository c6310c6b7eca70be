"""IAM roles for pods: least privilege by construction, usable only once their permissions are attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One `Allow` of an IAM policy.

    Raises:
        ValueError: an action is a wildcard over a whole service or over everything.
    """

    sid: str
    actions: tuple[str, ...]
    resources: tuple[pulumi.Input[str], ...]
    condition: Mapping[str, Mapping[str, pulumi.Input[str] | Sequence[str]]] = field(
        default_factory=dict[str, Mapping[str, pulumi.Input[str] | Sequence[str]]]
    )
    """Operator -> key -> value or values, as IAM writes it."""

    def __post_init__(self) -> None:
        """Refuses what no controller needs."""
        broad = [action for action in self.actions if action == "*" or action.endswith(":*")]
        if broad:
            raise ValueError(f"statement {self.sid}: {', '.join(broad)} is too broad; name the actions")

    def as_json(self) -> dict[str, Any]:
        """As IAM takes it."""
        body: dict[str, Any] = {
            "Sid": self.sid,
            "Effect": "Allow",
            "Action": list(self.actions),
            "Resource": list(self.resources),
        }
        if self.condition:
            body["Condition"] = {operator: dict(keys) for operator, keys in self.condition.items()}
        return body


def document(statements: Sequence[Statement]) -> pulumi.Output[str]:
    """A policy document."""
    return policy_json([statement.as_json() for statement in statements])


def policy_json(statements: Sequence[Mapping[str, Any]]) -> pulumi.Output[str]:
    """A policy document of statements in IAM's own form; for trust, key and bucket policies, which name principals."""
    return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": [dict(entry) for entry in statements]})


def service_trust(service: str, condition: Mapping[str, Any] | None = None) -> pulumi.Output[str]:
    """A trust policy for an AWS service such as `ec2.amazonaws.com`."""
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    if condition:
        statement["Condition"] = dict(condition)
    return policy_json([statement])


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRoleArgs:
    """Which pods, and what they may do."""

    cluster_arn: pulumi.Input[str]
    namespace: str
    service_account: str
    statements: tuple[Statement, ...] = ()
    managed_policy_arns: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """By a constant name, which becomes part of the attachment's logical name."""


class PodRole(pulumi.ComponentResource):
    """A role that only one service account of one cluster can take.

    EKS add-ons make the association themselves; everything else uses `PodIdentity`.
    """

    role_arn: pulumi.Output[str]
    """Known to others only once every permission is attached, so that no pod starts without them."""

    def __init__(self, name: str, args: PodRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:PodRole", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            f"{name}-role",
            description=f"Pods of {args.namespace}/{args.service_account}",
            assume_role_policy=_pod_trust(args),
            opts=child,
        )
        attached: list[pulumi.Output[str]] = []
        if args.statements:
            policy = aws.iam.RolePolicy(f"{name}-policy", role=role.name, policy=document(args.statements), opts=child)
            attached.append(policy.id)
        for key, policy_arn in args.managed_policy_arns.items():
            attachment = aws.iam.RolePolicyAttachment(
                f"{name}-{key}", role=role.name, policy_arn=policy_arn, opts=child
            )
            attached.append(attachment.id)
        self.role_arn = pulumi.Output.all(role.arn, *attached).apply(lambda values: str(values[0]))
        self.register_outputs({"role_arn": self.role_arn})


@dataclass(frozen=True, slots=True, kw_only=True)
class PodIdentityArgs:
    """Which pods of which cluster, and what they may do."""

    cluster_name: pulumi.Input[str]
    cluster_arn: pulumi.Input[str]
    namespace: str
    service_account: str
    statements: tuple[Statement, ...]


class PodIdentity(pulumi.ComponentResource):
    """What the pods of one service account need to call AWS as themselves: role, policy and EKS association.

    Pods read their credentials when they start: let workloads depend on this component.
    """

    role_arn: pulumi.Output[str]

    def __init__(self, name: str, args: PodIdentityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:PodIdentity", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        role = PodRole(
            name,
            PodRoleArgs(
                cluster_arn=args.cluster_arn,
                namespace=args.namespace,
                service_account=args.service_account,
                statements=args.statements,
            ),
            opts=child,
        )
        association = aws.eks.PodIdentityAssociation(
            f"{name}-association",
            cluster_name=args.cluster_name,
            namespace=args.namespace,
            service_account=args.service_account,
            role_arn=role.role_arn,
            opts=child,
        )
        self.role_arn = association.role_arn
        self.register_outputs({"role_arn": self.role_arn})


def _pod_trust(args: PodRoleArgs) -> pulumi.Output[str]:
    # EKS tags the session with cluster, namespace and service account. Pinning them keeps the role from being handed to
    # other pods by a second association.
    return policy_json(
        [
            {
                "Effect": "Allow",
                "Principal": {"Service": "pods.eks.amazonaws.com"},
                "Action": ["sts:AssumeRole", "sts:TagSession"],
                "Condition": {
                    "StringEquals": {
                        "aws:RequestTag/eks-cluster-arn": args.cluster_arn,
                        "aws:RequestTag/kubernetes-namespace": args.namespace,
                        "aws:RequestTag/kubernetes-service-account": args.service_account,
                    }
                },
            }
        ]
    )
