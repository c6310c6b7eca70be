"""The only place that makes providers: AWS with the stack's tags, Kubernetes for our own or an existing cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from planner.plan import ExistingClusterPlan, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where resources are made; policies name it, so that they trust this account and region only."""

    region: str
    account_id: pulumi.Output[str]
    partition: pulumi.Output[str]
    """`aws`, `aws-cn` or `aws-us-gov`: the second part of every ARN."""
    dns_suffix: pulumi.Output[str]
    """`amazonaws.com`, or China's."""

    def arn(
        self, service: str, resource: pulumi.Input[str], *, owner: pulumi.Input[str] | None = None
    ) -> pulumi.Output[str]:
        """Name of a resource in this region, of this account where no other owner is named."""
        return pulumi.Output.concat(
            "arn:",
            self.partition,
            f":{service}:{self.region}:",
            self.account_id if owner is None else owner,
            ":",
            resource,
        )

    def global_arn(
        self, service: str, resource: pulumi.Input[str], *, owner: pulumi.Input[str] | None = None
    ) -> pulumi.Output[str]:
        """Name of a resource that is in no region, of this account where no other owner (`aws`) is named."""
        return pulumi.Output.concat(
            "arn:", self.partition, f":{service}::", self.account_id if owner is None else owner, ":", resource
        )


def region_of(plan: Plan) -> str:
    """The region that AWS resources are made in.

    Raises:
        ValueError: the plan names none (only a plan for an existing cluster has none).
    """
    if plan.region is None:
        raise ValueError(f"stack {plan.stack}: an EKS target needs a region; set `aws:region`")
    return plan.region


def aws_provider(
    region: str, tags: Mapping[str, str], *, account_id: str | None = None, profile: str | None = None
) -> aws.Provider:
    """The AWS provider of the stack's region; everything it makes carries the tags.

    With an `account_id` it refuses the credentials of any other account. It gets the profile from here because an
    explicit provider reads none of the stack's `aws:` configuration.
    """
    return aws.Provider(
        "aws",
        region=region,
        profile=profile,
        allowed_account_ids=[account_id] if account_id else None,
        default_tags=aws.ProviderDefaultTagsArgs(tags=dict(tags)),
    )


def account_of(provider: aws.Provider, region: str) -> Account:
    """The account that the provider's credentials belong to."""
    options = pulumi.InvokeOptions(provider=provider)
    partition = aws.get_partition_output(opts=options)
    return Account(
        region=region,
        account_id=aws.get_caller_identity_output(opts=options).apply(lambda identity: identity.account_id),
        partition=partition.apply(lambda found: found.partition),
        dns_suffix=partition.apply(lambda found: found.dns_suffix),
    )


def eks_kubernetes_provider(
    *,
    cluster_name: pulumi.Input[str],
    endpoint: pulumi.Input[str],
    certificate_authority: pulumi.Input[str],
    region: str,
    profile: str | None,
    ready: Sequence[pulumi.Resource],
    parent: pulumi.Resource,
) -> k8s.Provider:
    """The provider of everything inside the cluster made here.

    It depends on `ready`, and so does every object through it: nothing is applied before access, nodes and add-ons are
    there, and on destroy all objects go before them (volumes need their driver, pods their network).
    `delete_unreachable` stays off: it drops objects from the state while the API server merely cannot be reached, and
    load balancers and volumes of theirs would be left behind and billed.
    """
    return k8s.Provider(
        "kubernetes",
        kubeconfig=_kubeconfig(cluster_name, endpoint, certificate_authority, region, profile),
        # Not the name or ARN: a replaced cluster has the same ones, but none of the objects. Without an identifier a
        # cosmetic change of the kubeconfig replaces every object (pulumi-kubernetes #4019).
        cluster_identifier=endpoint,
        enable_server_side_apply=True,
        # Else a change of data replaces a ConfigMap or Secret whose name is fixed, and fails with "already exists".
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(ready)),
    )


def existing_kubernetes_provider(target: ExistingClusterPlan) -> k8s.Provider:
    """The provider of a cluster that exists, from a kubeconfig file."""
    return k8s.Provider(
        "kubernetes",
        kubeconfig=str(Path(target.kubeconfig).expanduser()),
        context=target.context,
        # Without a named context the provider compares the cluster that the kubeconfig points at.
        cluster_identifier=target.context,
        enable_server_side_apply=True,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
    )


def _kubeconfig(
    cluster_name: pulumi.Input[str],
    endpoint: pulumi.Input[str],
    certificate_authority: pulumi.Input[str],
    region: str,
    profile: str | None,
) -> pulumi.Output[str]:
    # A command instead of a token: a token would be in the state, and would have expired by the next `up`.
    command: dict[str, Any] = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "aws",
        "args": ["eks", "get-token", "--cluster-name", cluster_name, "--region", region, "--output", "json"],
        "interactiveMode": "Never",
    }
    if profile:
        command["env"] = [{"name": "AWS_PROFILE", "value": profile}]
    return pulumi.Output.json_dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster_name,
                    "cluster": {"server": endpoint, "certificate-authority-data": certificate_authority},
                }
            ],
            "users": [{"name": cluster_name, "user": {"exec": command}}],
            "contexts": [{"name": cluster_name, "context": {"cluster": cluster_name, "user": cluster_name}}],
            "current-context": cluster_name,
        }
    )
