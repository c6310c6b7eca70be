"""The Plan: nodes that are kept booted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.plan.pools import Taint


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPlan:
    """Placeholder pods of one pool, each as large as a node and worth less than any other pod."""

    pool: str
    nodes: int
    namespace: str
    image: str
    """Does nothing."""
    priority_class: str
    gpus: int
    """All that a node offers."""
    node_selector: Mapping[str, str]
    taints: tuple[Taint, ...]
    zones: tuple[str, ...]
    """Of the pool: placeholders are spread over them."""
