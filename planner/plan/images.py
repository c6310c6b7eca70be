"""The Plan: where images come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PullThroughRulePlan:
    """One registry that ECR fetches from."""

    name: str
    repository_prefix: str
    """Repositories below it are filled from `upstream`."""
    upstream: str
    """As ECR names it: `registry-1.docker.io`."""
    credential_arn: str | None
    """Secret of Secrets Manager with user name and token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCachePlan:
    """ECR pull-through cache rules."""

    repository_prefix: str
    """What the nodes may make repositories under: ECR makes one at an image's first pull, in the node's name."""
    rules: tuple[PullThroughRulePlan, ...]
