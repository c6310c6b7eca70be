"""The Plan: nodes that are kept booted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.plan.pools import Taint


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPlan:
    """Placeholder pods worth less than any other pod: each as large as a node, or as a pod of a model's replica."""

    name: str
    pool: str
    pods: int
    namespace: str
    image: str
    """Does nothing."""
    priority_class: str
    gpus: int
    """Of each pod."""
    node_selector: Mapping[str, str]
    taints: tuple[Taint, ...]
    zones: tuple[str, ...]
    """Of the pool: placeholders are spread over them."""
    model: str | None = None
    """Whose replica they hold a place for; None: whole nodes, for whoever comes first."""
    one_rung: bool = False
    """All of them together are one group over several nodes: on one rung, each on a node of its own."""
