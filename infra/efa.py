"""What EFA traffic needs of the network: a security group that lets its own members through."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws


def efa_security_group(
    name: str, pool: str, *, vpc_id: pulumi.Input[str], opts: pulumi.ResourceOptions
) -> tuple[aws.ec2.SecurityGroup, tuple[pulumi.Resource, ...]]:
    """A pool's own group for EFA traffic, which passes below NetworkPolicies.

    EFA wants all traffic to and from the group itself; egress to 0.0.0.0/0 is not enough. Nodes are in the cluster's
    own group as well, to which EKS gives such a rule: by it two pools talk, of which one has the prompts and the other
    the answers of a model. (EKS user guide, security group requirements.)

    Returns:
        The group, and its rules: they must be there before the first node.
    """
    group = aws.ec2.SecurityGroup(
        f"{name}-efa", vpc_id=vpc_id, description=f"EFA between the nodes of pool {pool}", opts=opts
    )
    ingress = aws.vpc.SecurityGroupIngressRule(
        f"{name}-efa-in",
        security_group_id=group.id,
        referenced_security_group_id=group.id,
        ip_protocol="-1",
        opts=opts,
    )
    egress = aws.vpc.SecurityGroupEgressRule(
        f"{name}-efa-out",
        security_group_id=group.id,
        referenced_security_group_id=group.id,
        ip_protocol="-1",
        opts=opts,
    )
    return group, (ingress, egress)
