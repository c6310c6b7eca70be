"""The Plan: where images come from, and where they are before they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.plan.pools import Taint


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePullPlan:
    """Engine images that every node of a pool holds before a pod of theirs is placed there."""

    pool: str
    namespace: str
    images: tuple[str, ...]
    """Of the pool's models, each once; each has `true`."""
    idle_image: str
    """Does nothing, for as long as the node lives: a pod that stays keeps the images of its init containers from being
    collected as garbage."""
    settle_image: str
    """Small, and has `sleep`."""
    settle_seconds: int
    """What a new node's own pods get to pull in peace; 0 where there is one image, which they pull too."""
    seconds_saved: int
    """Planned: what a replica starts earlier on a node that stood."""
    node_selector: Mapping[str, str]
    taints: tuple[Taint, ...]
