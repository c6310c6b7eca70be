"""ECR pull-through cache: images come from the account's own registry, which fetches each at its first pull."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.identity import Statement
from infra.providers import Account
from planner.plan import ImageCachePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCacheArgs:
    """The planned rules."""

    plan: ImageCachePlan


class ImageCache(pulumi.ComponentResource):
    """One rule for each registry that ECR fetches from."""

    ready: tuple[pulumi.Resource, ...]
    """Before them every image of the mirror is missing."""

    def __init__(self, name: str, args: ImageCacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:ImageCache", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        rules = [
            aws.ecr.PullThroughCacheRule(
                f"{name}-{rule.name}",
                ecr_repository_prefix=rule.repository_prefix,
                upstream_registry_url=rule.upstream,
                credential_arn=rule.credential_arn,
                opts=child,
            )
            for rule in args.plan.rules
        ]
        self.ready = tuple(rules)
        self.register_outputs({})


def first_pull(plan: ImageCachePlan, account: Account) -> Statement:
    """Lets nodes have ECR make a repository at an image's first pull: it does so in the name of who pulls."""
    return Statement(
        sid="FirstPull",
        actions=("ecr:BatchImportUpstreamImage", "ecr:CreateRepository"),
        resources=(account.arn("ecr", f"repository/{plan.repository_prefix}/*"),),
    )
