"""The AWS side of Karpenter: who its nodes are, what its controller may do, and the queue that warns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_aws as aws

from infra.efa import efa_security_group
from infra.identity import PodIdentity, PodIdentityArgs, Statement, policy_json
from infra.karpenter_permissions import karpenter
from infra.node_groups import NodeRole
from infra.providers import Account
from planner.naming import KARPENTER_ACCOUNT, SYSTEM_NAMESPACE
from planner.plan import PoolPlan

EVENTS: Final[Mapping[str, tuple[str, str]]] = {
    "health": ("aws.health", "AWS Health Event"),
    "spot-interruption": ("aws.ec2", "EC2 Spot Instance Interruption Warning"),
    "rebalance": ("aws.ec2", "EC2 Instance Rebalance Recommendation"),
    "state-change": ("aws.ec2", "EC2 Instance State-change Notification"),
    "reservation-interruption": ("aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning"),
}
"""What the queue is told: name -> (source, detail type). Source: CloudFormation template of Karpenter 1.14. A rebalance
recommendation is noted as an event of the node and drains nothing, unlike in a managed node group."""

_RETENTION_SECONDS = 300
"""A warning that is older is about an instance that is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterOutputs:
    """What the controller and its custom resources name."""

    queue_name: pulumi.Output[str]
    instance_profile: pulumi.Output[str]
    subnet_ids: Mapping[str, tuple[pulumi.Input[str], ...]]
    """By pool."""
    security_group_ids: Mapping[str, Sequence[pulumi.Input[str]]]
    """By pool: the cluster's, and where the pool has EFA its own."""
    ready: tuple[pulumi.Resource, ...]
    """What nodes and the controller need, so that it is destroyed after the last of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterArgs:
    """The cluster, and Karpenter's pools with the subnets of their zones."""

    cluster_name: str
    cluster: pulumi.Input[str]
    """The cluster's name, known once it is there."""
    cluster_arn: pulumi.Input[str]
    cluster_security_group_id: pulumi.Input[str]
    vpc_id: pulumi.Input[str]
    account: Account
    pools: Sequence[PoolPlan]
    private_subnets: Mapping[str, pulumi.Input[str]]
    """By zone."""
    volume_key_arn: pulumi.Input[str]
    node_statements: tuple[Statement, ...]
    """What nodes may do beyond what AWS's policies for them say."""
    after: tuple[pulumi.Resource, ...]
    """Network and CNI: what a node needs to become ready, and to leave in order."""


class Karpenter(pulumi.ComponentResource):
    """Node role with its access to the cluster, controller role, queue and rules."""

    outputs: KarpenterOutputs

    def __init__(self, name: str, args: KarpenterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:KarpenterAws", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        # A role of its own: EKS makes the access entry of a node group's role itself, and there is one a role.
        role = NodeRole(f"{name}-node", args.account, self._child, statements=args.node_statements)
        profile = aws.iam.InstanceProfile(f"{name}-node-profile", role=role.name, opts=self._child)
        entry = aws.eks.AccessEntry(
            f"{name}-node-access",
            cluster_name=args.cluster,
            principal_arn=role.arn,
            type="EC2_LINUX",
            opts=self._child,
        )
        queue = aws.sqs.Queue(
            f"{name}-interruptions",
            message_retention_seconds=_RETENTION_SECONDS,
            sqs_managed_sse_enabled=True,
            opts=self._child,
        )
        rules = self._rules(queue)
        identity = PodIdentity(
            f"{name}-controller",
            PodIdentityArgs(
                cluster_name=args.cluster,
                cluster_arn=args.cluster_arn,
                namespace=SYSTEM_NAMESPACE,
                service_account=KARPENTER_ACCOUNT,
                statements=karpenter(
                    args.cluster_name,
                    args.account,
                    cluster_arn=args.cluster_arn,
                    node_role_arn=role.arn,
                    queue_arn=queue.arn,
                    volume_key_arn=args.volume_key_arn,
                ),
            ),
            self._child,
        )
        groups, edges = self._security_groups()
        self.outputs = KarpenterOutputs(
            queue_name=queue.name,
            instance_profile=profile.name,
            subnet_ids={pool.name: tuple(args.private_subnets[zone] for zone in pool.zones) for pool in args.pools},
            security_group_ids=groups,
            ready=(*args.after, *role.permissions, profile, entry, identity, *rules, *edges),
        )
        self.register_outputs({})

    def _rules(self, queue: aws.sqs.Queue) -> tuple[pulumi.Resource, ...]:
        rules = {
            event: aws.cloudwatch.EventRule(
                f"{self._name}-{event}",
                description=f"Tells Karpenter: {kind}",
                event_pattern=pulumi.Output.json_dumps({"source": [source], "detail-type": [kind]}),
                opts=self._child,
            )
            for event, (source, kind) in EVENTS.items()
        }
        policy = aws.sqs.QueuePolicy(
            f"{self._name}-interruptions",
            queue_url=queue.url,
            policy=policy_json(
                [
                    {
                        "Sid": "OwnRules",
                        "Effect": "Allow",
                        "Principal": {"Service": "events.amazonaws.com"},
                        "Action": "sqs:SendMessage",
                        "Resource": queue.arn,
                        "Condition": {"ArnEquals": {"aws:SourceArn": [rule.arn for rule in rules.values()]}},
                    },
                    {
                        "Sid": "TlsOnly",
                        "Effect": "Deny",
                        "Principal": "*",
                        "Action": "sqs:*",
                        "Resource": queue.arn,
                        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                    },
                ]
            ),
            opts=self._child,
        )
        # A rule that fires before the queue lets it in loses the event.
        targets = (
            aws.cloudwatch.EventTarget(
                f"{self._name}-{event}",
                rule=rule.name,
                arn=queue.arn,
                opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
            )
            for event, rule in rules.items()
        )
        return (policy, *targets)

    def _security_groups(
        self,
    ) -> tuple[Mapping[str, Sequence[pulumi.Input[str]]], tuple[pulumi.Resource, ...]]:
        """By pool, and the rules that must be there before a node."""
        groups: dict[str, Sequence[pulumi.Input[str]]] = {}
        edges: list[pulumi.Resource] = []
        for pool in self._args.pools:
            groups[pool.name] = [self._args.cluster_security_group_id]
            if pool.hardware.efa_devices:
                own, rules = efa_security_group(
                    f"{self._name}-{pool.name}", pool.name, vpc_id=self._args.vpc_id, opts=self._child
                )
                groups[pool.name] = [*groups[pool.name], own.id]
                edges += rules
        return groups, tuple(edges)
