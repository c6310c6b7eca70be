"""What the ladder keeper can do, and what it remembers from round to round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Cordon:
    """Keep new pods off a node, under the keeper's mark."""

    node: str
    why: Literal["gave-up", "climb", "ends"]
    group: str


@dataclass(frozen=True)
class Uncordon:
    """Give a node that the keeper holds back to the scheduler."""

    node: str


@dataclass(frozen=True)
class Evict:
    """Evict exactly this pod (its uid is a precondition), as far as disruption budgets let."""

    namespace: str
    pod: str
    uid: str


@dataclass(frozen=True)
class Tell:
    """An Event about a group."""

    group: str
    reason: str
    message: str
    warning: bool = False


Action = Cordon | Uncordon | Evict | Tell


@dataclass(frozen=True)
class Move:
    """A group on its way to another rung; there is one at a time."""

    kind: Literal["climb", "ends"]
    group: str
    model: str
    pool: str
    origin: str
    nodes: tuple[str, ...]
    pods: tuple[str, ...]
    """Uids of the pods that must go."""
    began: float
    gone_at: float | None = None
    """When the last of them was gone."""


@dataclass(frozen=True)
class Failure:
    """Climbs of a pool that ended nowhere better."""

    count: int
    until: float
    """No other climb before."""


@dataclass(frozen=True)
class Memory:
    """What is kept from round to round."""

    move: Move | None = None
    rest_until: float = 0.0
    """No other move before: the last group must serve again first."""
    failures: Mapping[str, Failure] = field(default_factory=dict[str, Failure])


def memory_of(raw: Mapping[str, Any]) -> Memory:
    """Memory from JSON."""
    return Memory(
        move=_move(raw["move"]) if raw.get("move") else None,
        rest_until=float(raw.get("rest_until", 0.0)),
        failures={pool: Failure(**failure) for pool, failure in raw.get("failures", {}).items()},
    )


def _move(raw: dict[str, Any]) -> Move:
    return Move(**dict(raw, nodes=tuple(raw["nodes"]), pods=tuple(raw["pods"])))
