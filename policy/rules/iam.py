"""IAM: who may do what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from policy.records import Report, Resource, ResourceRule, Rule, at, listed

# Actions that know no resource, so that `*` is all that can be written. From the service authorization reference.
WITHOUT_RESOURCE = frozenset(
    {
        "acm:ListCertificates",
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeAutoScalingInstances",
        "autoscaling:DescribeLaunchConfigurations",
        "autoscaling:DescribeScalingActivities",
        "autoscaling:DescribeTags",
        "ec2:DescribeAccountAttributes",
        "ec2:DescribeAddresses",
        "ec2:DescribeAvailabilityZones",
        "ec2:DescribeCapacityReservations",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ec2:DescribeInstanceStatus",
        "ec2:DescribeInternetGateways",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribePlacementGroups",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeRouteTables",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSpotPriceHistory",
        "ec2:DescribeSubnets",
        "ec2:DescribeTags",
        "ec2:DescribeVpcs",
        "ec2:GetInstanceTypesFromInstanceRequirements",
        "ecr:GetAuthorizationToken",
        "elasticloadbalancing:DescribeListenerAttributes",
        "elasticloadbalancing:DescribeListenerCertificates",
        "elasticloadbalancing:DescribeListeners",
        "elasticloadbalancing:DescribeLoadBalancerAttributes",
        "elasticloadbalancing:DescribeLoadBalancers",
        "elasticloadbalancing:DescribeRules",
        "elasticloadbalancing:DescribeSSLPolicies",
        "elasticloadbalancing:DescribeTags",
        "elasticloadbalancing:DescribeTargetGroupAttributes",
        "elasticloadbalancing:DescribeTargetGroups",
        "elasticloadbalancing:DescribeTargetHealth",
        "pricing:GetProducts",
    }
)
_TOO_MUCH = ("AdministratorAccess", "PowerUserAccess", "IAMFullAccess", "AmazonS3FullAccess", "AmazonEC2FullAccess")
_DOCUMENT_OF = {
    "aws:iam/rolePolicy:RolePolicy": "policy",
    "aws:iam/policy:Policy": "policy",
    "aws:iam/userPolicy:UserPolicy": "policy",
    "aws:iam/groupPolicy:GroupPolicy": "policy",
    "aws:s3/bucketPolicy:BucketPolicy": "policy",
    "aws:sqs/queuePolicy:QueuePolicy": "policy",
    "aws:iam/role:Role": "assumeRolePolicy",
}


def least_privilege(resource: Resource, report: Report) -> None:
    """Statements name their actions and resources. Key policies are left out: there `*` is the key itself."""
    for statement in _allowed(resource):
        name = statement.get("Sid") or "without Sid"
        for inverted in ("NotAction", "NotResource", "NotPrincipal"):
            if inverted in statement:
                report(f"statement {name} allows all but something ({inverted}): list what it allows")
        actions = [str(action) for action in listed(statement.get("Action"))]
        for action in actions:
            if action == "*" or action.endswith(":*"):
                report(f"statement {name} allows {action}: list the actions")
        if "*" in listed(statement.get("Resource")):
            beyond = sorted(set(actions) - WITHOUT_RESOURCE)
            if beyond:
                report(f"statement {name} allows {', '.join(beyond)} on every resource: name the resources")
        principal: Any = statement.get("Principal")
        if principal == "*" or "*" in listed(at(principal, "AWS")):
            report(f"statement {name} trusts everyone: name the principal")


def no_broad_managed_policies(resource: Resource, report: Report) -> None:
    """AWS's own policies for administrators are not for programs."""
    arns = [
        *listed(resource.props.get("policyArn") if resource.type.startswith("aws:iam/") else None),
        *listed(resource.props.get("managedPolicyArns") if resource.type == "aws:iam/role:Role" else None),
    ]
    for arn in arns:
        if str(arn).rsplit("/", 1)[-1] in _TOO_MUCH:
            report(f"{arn} allows far more than this platform needs: write a policy")


def _allowed(resource: Resource) -> Iterator[dict[str, Any]]:
    """The statements that allow something. A document that is not known yet, or no JSON, has none."""
    documents = [resource.props.get(_DOCUMENT_OF.get(resource.type, ""))]
    if resource.type == "aws:iam/role:Role":
        documents += [at(inline, "policy") for inline in listed(resource.props.get("inlinePolicies"))]
    for document in documents:
        if not isinstance(document, str):
            continue
        found: Any = json.loads(document).get("Statement", [])
        statements: list[Any] = [found] if isinstance(found, dict) else list(found)
        yield from (statement for statement in statements if statement.get("Effect") == "Allow")


RULES: tuple[Rule, ...] = (
    ResourceRule(
        name="least-privilege",
        description="IAM statements name their actions and resources.",
        check=least_privilege,
    ),
    ResourceRule(
        name="no-broad-managed-policies",
        description="No administrator policy of AWS is attached.",
        check=no_broad_managed_policies,
    ),
)
