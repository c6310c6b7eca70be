"""What the AWS Load Balancer Controller may do: look at everything, change what it made for this cluster."""

from __future__ import annotations

import pulumi

from infra.identity import Statement
from infra.providers import Account

CLUSTER_TAG = "elbv2.k8s.aws/cluster"
"""The controller puts it on everything that it makes; its value is the cluster's name."""


def load_balancer_controller(cluster_name: str, vpc_id: pulumi.Input[str], account: Account) -> tuple[Statement, ...]:
    """Make, change and delete load balancers, target groups and security groups of this cluster.

    Source: the controller's docs/install/iam_policy.json, narrowed: writing is bound to the cluster's own tag, where
    upstream asks for any value of it. Left out are Cognito, WAF and Shield, which the chart's values turn off, and
    changing the tags or rules of what carries no such tag.
    """
    own = {f"aws:ResourceTag/{CLUSTER_TAG}": cluster_name}
    asked = {f"aws:RequestTag/{CLUSTER_TAG}": cluster_name}
    balancers = tuple(
        account.arn("elasticloadbalancing", kind)
        for kind in ("loadbalancer/app/*/*", "loadbalancer/net/*/*", "targetgroup/*/*")
    )
    parts = tuple(
        account.arn("elasticloadbalancing", f"{part}/{kind}/*")
        for kind in ("app", "net")
        for part in ("loadbalancer", "listener", "listener-rule")
    )
    groups = account.arn("ec2", "security-group/*")
    return (
        _look(),
        Statement(
            sid="ServiceLinkedRole",
            actions=("iam:CreateServiceLinkedRole",),
            resources=(account.global_arn("iam", "role/aws-service-role/elasticloadbalancing.amazonaws.com/*"),),
        ),
        Statement(
            sid="ReadCertificates",
            actions=("acm:DescribeCertificate",),
            resources=(account.arn("acm", "certificate/*"),),
        ),
        Statement(
            sid="MakeGroups",
            actions=("ec2:CreateSecurityGroup",),
            resources=(groups,),
            condition={"StringEquals": asked},
        ),
        Statement(
            sid="MakeGroupsInVpc",
            actions=("ec2:CreateSecurityGroup",),
            resources=(account.arn("ec2", pulumi.Output.concat("vpc/", vpc_id)),),
        ),
        Statement(
            sid="TagNewGroups",
            actions=("ec2:CreateTags",),
            resources=(groups,),
            condition={"StringEquals": {"ec2:CreateAction": "CreateSecurityGroup", **asked}},
        ),
        Statement(
            sid="ChangeOwnGroups",
            actions=(
                "ec2:AuthorizeSecurityGroupIngress",
                "ec2:CreateTags",
                "ec2:DeleteSecurityGroup",
                "ec2:DeleteTags",
                "ec2:RevokeSecurityGroupIngress",
            ),
            resources=(groups,),
            condition={"StringEquals": own},
        ),
        # Nodes carry EKS's own group, which must let the load balancers in.
        Statement(
            sid="OpenNodes",
            actions=("ec2:AuthorizeSecurityGroupIngress", "ec2:RevokeSecurityGroupIngress"),
            resources=(groups,),
            condition={"StringEquals": {f"aws:ResourceTag/kubernetes.io/cluster/{cluster_name}": "owned"}},
        ),
        Statement(
            sid="Make",
            actions=("elasticloadbalancing:CreateLoadBalancer", "elasticloadbalancing:CreateTargetGroup"),
            resources=balancers,
            condition={"StringEquals": asked},
        ),
        Statement(
            sid="TagNew",
            actions=("elasticloadbalancing:AddTags",),
            resources=(*balancers, *parts),
            condition={"StringEquals": asked, "StringLike": {"elasticloadbalancing:CreateAction": "Create*"}},
        ),
        Statement(
            sid="ChangeOwn",
            actions=(
                "elasticloadbalancing:AddListenerCertificates",
                "elasticloadbalancing:AddTags",
                "elasticloadbalancing:CreateListener",
                "elasticloadbalancing:CreateRule",
                "elasticloadbalancing:DeleteListener",
                "elasticloadbalancing:DeleteLoadBalancer",
                "elasticloadbalancing:DeleteRule",
                "elasticloadbalancing:DeleteTargetGroup",
                "elasticloadbalancing:DeregisterTargets",
                "elasticloadbalancing:ModifyListener",
                "elasticloadbalancing:ModifyListenerAttributes",
                "elasticloadbalancing:ModifyLoadBalancerAttributes",
                "elasticloadbalancing:ModifyRule",
                "elasticloadbalancing:ModifyTargetGroup",
                "elasticloadbalancing:ModifyTargetGroupAttributes",
                "elasticloadbalancing:RegisterTargets",
                "elasticloadbalancing:RemoveListenerCertificates",
                "elasticloadbalancing:RemoveTags",
                "elasticloadbalancing:SetIpAddressType",
                "elasticloadbalancing:SetRulePriorities",
                "elasticloadbalancing:SetSecurityGroups",
                "elasticloadbalancing:SetSubnets",
            ),
            resources=(*balancers, *parts),
            condition={"StringEquals": own},
        ),
    )


def _look() -> Statement:
    return Statement(
        sid="Look",
        actions=(
            "acm:ListCertificates",
            "ec2:DescribeAccountAttributes",
            "ec2:DescribeAddresses",
            "ec2:DescribeAvailabilityZones",
            "ec2:DescribeInstances",
            "ec2:DescribeInternetGateways",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeRouteTables",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "ec2:DescribeTags",
            "ec2:DescribeVpcs",
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
        ),
        resources=("*",),  # None of these actions can be bound to a resource.
    )
