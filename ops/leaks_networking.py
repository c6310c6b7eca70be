"""What the load balancer controller made in a cluster's name: each of it holds the VPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ops import aws
from ops.leftover import Leftover

_CONTROLLER_TAG = "elbv2.k8s.aws/cluster"


def load_balancers(cluster: str, region: str) -> Iterator[Leftover]:
    """Those of Services and of the AWS Load Balancer Controller."""
    client = aws.client("elbv2", region)
    named = {
        item["LoadBalancerArn"]: item["LoadBalancerName"]
        for page in client.get_paginator("describe_load_balancers").paginate()
        for item in page["LoadBalancers"]
    }
    for arn, tags in _of_cluster(client, list(named), cluster):
        yield Leftover(
            service="elasticloadbalancing",
            kind="load-balancer",
            id=named[arn],
            detail=tags.get("service.k8s.aws/stack", tags.get("kubernetes.io/service-name", "")),
            kept=False,
            remove=f"aws elbv2 delete-load-balancer --load-balancer-arn {arn} --region {region}",
        )


def target_groups(cluster: str, region: str) -> Iterator[Leftover]:
    """They outlive a load balancer that was deleted by hand."""
    client = aws.client("elbv2", region)
    named = {
        item["TargetGroupArn"]: item["TargetGroupName"]
        for page in client.get_paginator("describe_target_groups").paginate()
        for item in page["TargetGroups"]
    }
    for arn, tags in _of_cluster(client, list(named), cluster):
        yield Leftover(
            service="elasticloadbalancing",
            kind="target-group",
            id=named[arn],
            detail=tags.get("service.k8s.aws/stack", ""),
            kept=False,
            remove=f"aws elbv2 delete-target-group --target-group-arn {arn} --region {region}",
        )


def security_groups(ec2: Any, cluster: str, region: str) -> Iterator[Leftover]:
    """Groups of load balancers: a VPC with one of them cannot be deleted."""
    pages = ec2.get_paginator("describe_security_groups").paginate(
        Filters=[{"Name": f"tag:{_CONTROLLER_TAG}", "Values": [cluster]}]
    )
    for item in (item for page in pages for item in page["SecurityGroups"]):
        yield Leftover(
            service="ec2",
            kind="security-group",
            id=item["GroupId"],
            detail=f"{item['GroupName']}; holds its VPC",
            kept=False,
            remove=f"aws ec2 delete-security-group --group-id {item['GroupId']} --region {region}",
        )


def _of_cluster(client: Any, arns: list[str], cluster: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Those with one of the cluster's tags, and all their tags."""
    for start in range(0, len(arns), 20):  # the most that DescribeTags takes
        for description in client.describe_tags(ResourceArns=arns[start : start + 20])["TagDescriptions"]:
            tags = {tag["Key"]: tag["Value"] for tag in description["Tags"]}
            if tags.get(_CONTROLLER_TAG) == cluster or tags.get(f"kubernetes.io/cluster/{cluster}") == "owned":
                yield description["ResourceArn"], tags
