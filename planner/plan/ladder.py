"""The Plan: how the capacity ladder is climbed, and who keeps groups whole on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.plan.pools import MaintenanceWindowPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalerTimesPlan:
    """How long cluster-autoscaler waits for a rung, and how long it leaves one alone that had nothing."""

    max_node_provision_seconds: int
    """A machine that was launched and is not a node by then is given up."""
    initial_backoff_seconds: int
    max_backoff_seconds: int
    backoff_reset_seconds: int
    why: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperRungPlan:
    """A rung as the keeper sees it."""

    name: str
    kind: str
    scaling_group: str
    """Regular expression of its scaling group's name."""
    max_nodes: int
    usd_per_node_hour: float
    stall_seconds: int
    """A group that has had only part of its nodes here for so long gives the rung up."""
    starts: str | None
    ends: str | None
    drain_lead_seconds: int
    """How long before `ends` its groups begin to leave, one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperPoolPlan:
    """A pool as the keeper sees it; the best rung first."""

    name: str
    rungs: tuple[KeeperRungPlan, ...]
    window: MaintenanceWindowPlan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperModelPlan:
    """A model whose groups the keeper may move."""

    name: str
    namespace: str
    pool: str
    nodes: int
    """Of one group; 1: each pod is a group of its own."""
    move_seconds: int
    """Planned time from the first eviction to serving again on a new node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperPlan:
    """The keeper of the ladder: what it is told, and where it runs. Times are in seconds."""

    namespace: str
    image: str
    port: int
    """Of its metrics."""
    interval_seconds: float
    confirm_seconds: int
    """How long a lack of capacity must last before a group gives a rung up."""
    release_seconds: int
    """A node that it cordoned and that is still there by then is given back to the scheduler: the autoscaler keeps
    it, as part of the rung's floor."""
    forced_lead_seconds: int
    """Before a block's end, when whatever is still on it leaves at once."""
    climb_backoff_seconds: int
    """After a first climb that failed; doubles with each."""
    max_climb_backoff_seconds: int
    autoscaler_namespace: str
    pools: tuple[KeeperPoolPlan, ...]
    models: tuple[KeeperModelPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderPlan:
    """How pools of node groups get and keep their capacity."""

    autoscaler: AutoscalerTimesPlan
    keeper: KeeperPlan | None
    """None where no pool has anything to keep: one rung, and models of one node."""
