"""AWS tags."""

from __future__ import annotations

from collections.abc import Mapping

from planner.naming import PROJECT
from settings.root import Settings


def plan_tags(settings: Settings, stack: str) -> Mapping[str, str]:
    """Tags of everything: the user's, and ours by which costs and leftovers are found."""
    return {**settings.tags, **own_tags(settings, stack), "managed-by": "pulumi"}


def own_tags(settings: Settings, stack: str) -> Mapping[str, str]:
    """Tags by which `ops leaks` finds a stack's leftovers; names, so free of what a command line would split."""
    return {f"{PROJECT}/stack": stack, f"{PROJECT}/environment": settings.environment}
