"""What a scenario did and measured, as plain data. All times are planned seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Source = Literal["spare", "warm", "booted", "nowhere"]
"""Where a lost replica's new nodes come from, as the cluster stood when it was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One part of a limit: what takes time by the plan, and how long."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The longest that something may take: its steps in a row."""

    steps: tuple[Step, ...]
    cap: float | None = None
    """A bound of its own, whatever the steps add up to."""
    seconds: float = field(init=False)
    """The limit."""

    def __post_init__(self) -> None:
        total = sum(step.seconds for step in self.steps)
        object.__setattr__(self, "seconds", total if self.cap is None else min(total, self.cap))

    @property
    def words(self) -> str:
        """The steps, for people."""
        text = " + ".join(f"{step.what} {step.seconds:.0f}" for step in self.steps)
        return text if self.cap is None else f"{text}, at most {self.cap:.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Requests that fail, counted from the plan's traffic."""

    in_flight: float
    """Running or queued on pods that died without notice (Little's law: rate x time in the replica)."""
    unnoticed: float
    """Sent to such pods until their node counts as not ready; a gateway that retries saves them."""
    unserved: float
    """Arriving while no replica serves, for as long as that was measured."""
    total: float = field(init=False)
    """Those that had reached a replica: in flight or unnoticed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", round(self.in_flight + self.unnoticed, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a scenario did to one model."""

    model: str
    replicas: int
    replicas_hit: int
    nodes_from: Source
    drained_seconds: float
    """Until the pods of what was hit had left; the new ones of a group, which take their names, wait for that."""
    rescheduled_seconds: float | None
    """From then until every replica had all its pods on live nodes; None where that never came."""
    rescheduled_limit: Limit
    serving_seconds: float | None
    """From the event until every replica served, the drain included; None where that never came."""
    serving_limit: Limit
    least_serving: int
    """Replicas that served at the worst moment."""
    rungs: tuple[str, ...]
    """Where its pods are in the end."""
    dropped: Dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """One scenario."""

    name: str
    does: str
    holds: tuple[str, ...]
    """What must hold."""
    did: tuple[str, ...]
    """What it did to this stack."""
    noticed_seconds: float
    """Planned, not rehearsed: how long until the cluster notices. It comes on top of the measured times."""
    noticed_by: str
    outcomes: tuple[Outcome, ...]
    lost: tuple[str, ...] = ()
    """What the stack, as it is designed, loses here until the world is mended."""
