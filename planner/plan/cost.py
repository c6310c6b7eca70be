"""The Plan: money. List prices in US dollars; every number with its formula, inputs and sources."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from planner.plan.explain import Explained, Input


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """Something that bills."""

    item: str
    detail: str
    idle_usd_per_hour: float
    """With every pool at its minimum and no traffic."""
    base_usd_per_hour: float
    """At the start: the nodes that the minimum replicas need, no traffic."""
    planned_usd_per_hour: float
    """At the planned load: the replicas that the traffic of the stack file needs, on the expected mix of the ladder."""
    peak_usd_per_hour: float
    """With every pool at its maximum."""
    source: str
    """Where its price comes from."""
    formula: str
    inputs: tuple[Input, ...]
    """What the planned figure is made of."""
    price_as_of: date | None
    """Date of its oldest price; None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RungCostPlan:
    """What an hour of one rung is worth once interruptions are counted."""

    pool: str
    rung: str
    kind: str
    nodes: float
    """Expected at the planned load; all of them where they are paid for either way."""
    usd_per_node_hour: float
    interruptions_per_node_month: float
    lost_hours_per_interruption: float
    """Hours that bill without serving: notice, boot and start, of every node of the group that waits."""
    usd_per_useful_hour: float
    explained: tuple[Explained, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungTokenCost:
    """What tokens cost while a model runs on one rung."""

    rung: str
    kind: str
    share: float
    """Of the model's nodes at the planned load."""
    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCostPlan:
    """What a million tokens of one model cost."""

    model: str
    basis: Literal["traffic", "full replicas"]
    """`traffic`: the load of the stack file; `full replicas`: none is given there, so as many requests as the minimum
    replicas serve within their objectives."""
    requests_per_second: float
    replicas: int
    prefill_share: float
    """Of GPU time; the rest is decode."""
    input_usd_per_million: float
    """GPUs alone, on the expected mix of the ladder, interruptions counted."""
    output_usd_per_million: float
    all_in_factor: float
    """All that bills / GPUs: multiply to have the platform in."""
    rungs: tuple[RungTokenCost, ...]
    explained: tuple[Explained, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityPlan:
    """How much of the time a model's GPUs are there: interruptions, failures and the time to come back.

    Zone, region, software and people are not in it.
    """

    model: str
    endpoint: float
    """Share of time with one replica or more."""
    capacity: float
    """Mean share of the planned replicas that serve."""
    endpoint_tight: float
    """The same where spot comes and goes within hours."""
    capacity_tight: float
    explained: tuple[Explained, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendGuardPlan:
    """What AWS itself watches of a stack's bill."""

    monthly_usd: float
    emails: tuple[str, ...]
    anomaly_usd: float | None
    """Least cost of an anomaly that is told; None: none is looked for."""
    tag: tuple[str, str]
    """Key and value of the tag that tells this stack's costs; it must be an activated cost allocation tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """List prices, without taxes, discounts and support."""

    lines: tuple[CostLine, ...]
    base_usd_per_hour: float
    """At the start: system nodes and what the minimum replicas need on the first rung that has room."""
    idle_usd_per_hour: float
    peak_usd_per_hour: float
    hours_per_month: int
    budget_monthly_usd: float | None
    planned_usd_per_hour: float = 0.0
    """At the planned load."""
    rungs: tuple[RungCostPlan, ...] = ()
    tokens: tuple[TokenCostPlan, ...] = ()
    availability: tuple[AvailabilityPlan, ...] = ()

    @property
    def peak_usd_per_month(self) -> float:
        """The worst month."""
        return self.peak_usd_per_hour * self.hours_per_month

    @property
    def planned_usd_per_month(self) -> float:
        """A month at the planned load, all hours alike."""
        return self.planned_usd_per_hour * self.hours_per_month
