"""The spot market: what each pool's type costs now, how it moved, and how likely EC2 thinks it is to be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ops import aws
from ops.checks import Check
from planner import Plan
from planner.plan import PoolPlan, RungPlan

HISTORY_DAYS = 7
_POOR_SCORE = 3
"""Of 10: below it EC2 itself doubts that the capacity is there. Source: EC2 user guide, Spot placement score."""
_TYPES_FOR_A_SCORE = 3
"""With fewer types the score is always low, whatever the market. Source: EC2 API reference, GetSpotPlacementScores."""
_DEARER = 1.25
"""A price so far above the planned one is worth a note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotHistory:
    """Spot prices of a type in a zone over the last days, $/h."""

    now: float
    low: float
    high: float
    changes: int


class PlacementScores(Protocol):
    """EC2's own estimate; moto has none, so tests bring theirs."""

    def by_zone(self, kinds: Sequence[str], nodes: int) -> Mapping[str, int]:
        """Score 1 to 10 of each zone of the region that `nodes` instances of one of the types can be had there now."""
        ...


class Ec2PlacementScores:
    """The account's region."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._client = aws.client("ec2", region)

    def by_zone(self, kinds: Sequence[str], nodes: int) -> Mapping[str, int]:
        """See `PlacementScores.by_zone`."""
        zones = self._client.describe_availability_zones()["AvailabilityZones"]
        names = {zone["ZoneId"]: str(zone["ZoneName"]) for zone in zones}
        answer = self._client.get_spot_placement_scores(
            InstanceTypes=list(kinds),
            TargetCapacity=nodes,
            TargetCapacityUnitType="units",
            SingleAvailabilityZone=True,
            RegionNames=[self._region],
        )
        return {
            names[item["AvailabilityZoneId"]]: int(item["Score"])
            for item in answer["SpotPlacementScores"]
            if item.get("AvailabilityZoneId") in names
        }


def spot_history(ec2: Any, kind: str, zone: str) -> SpotHistory | None:
    """Prices of the last week; None where the zone had none, which means that there is nothing to be had."""
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=[kind],
        AvailabilityZone=zone,
        ProductDescriptions=["Linux/UNIX"],
        StartTime=datetime.now(UTC) - timedelta(days=HISTORY_DAYS),
    )
    found = sorted(
        ((item["Timestamp"], float(item["SpotPrice"])) for page in pages for item in page["SpotPriceHistory"]),
        key=lambda one: one[0],
    )
    if not found:
        return None
    prices = [price for _, price in found]
    return SpotHistory(now=prices[-1], low=min(prices), high=max(prices), changes=len(prices))


def check_market(ec2: Any, plan: Plan) -> Iterator[Check]:
    """Price of the last week in each spot rung's zones beside the planned one."""
    for pool, rung in spot_rungs(plan):
        for kind in pool.instance_types:
            for zone in zones_of(plan, pool, rung):
                yield _price(pool, rung, kind, zone, spot_history(ec2, kind, zone))


def _price(pool: PoolPlan, rung: RungPlan, kind: str, zone: str, found: SpotHistory | None) -> Check:
    name = f"spot {kind} {zone}"
    if found is None:
        return Check(
            name=name,
            status="note",
            detail=f"no price within {HISTORY_DAYS} days: there may be none to be had (pool {pool.name})",
            fix=f"give pool `{pool.name}` an on_demand rung, or a zone with a price (`ops capacity` lists some)",
        )
    detail = (
        f"{found.now:.2f} $/h now, {found.low:.2f} to {found.high:.2f} within {HISTORY_DAYS} days; "
        f"planned {rung.usd_per_node_hour:.2f}"
    )
    dear = found.now > _DEARER * rung.usd_per_node_hour
    fix = "the budget counts the planned price: `python -m ops prices refresh`" if dear else None
    return Check(name=name, status="note" if dear else "ok", detail=detail, fix=fix)


def check_placement(scores: PlacementScores, plan: Plan) -> Iterator[Check]:
    """EC2's placement score of what each pool would take of spot at once: its groups' nodes."""
    for pool, rung in spot_rungs(plan):
        nodes = min(rung.max_nodes, nodes_of_a_replica(plan, pool))
        found = scores.by_zone(pool.instance_types, nodes)
        for zone in zones_of(plan, pool, rung):
            score = found.get(zone)
            name = f"placement {pool.name} {zone}"
            if score is None:
                yield Check(name=name, status="unknown", detail="EC2 gives no score for this zone")
                continue
            better = sorted((other for other in found if found[other] > score), key=lambda other: -found[other])
            detail = f"{score} of 10 for {nodes} x {', '.join(pool.instance_types)} on spot"
            absolute = len(pool.instance_types) >= _TYPES_FOR_A_SCORE
            if not absolute:
                detail += f"; EC2 scores fewer than {_TYPES_FOR_A_SCORE} types low, so it compares zones and no more"
            # A low score of one or two types says nothing; a higher one of another zone does.
            poor = score < _POOR_SCORE and (absolute or bool(better))
            yield Check(
                name=name,
                status="note" if poor else "ok",
                detail=detail,
                fix=_elsewhere(pool, better, found) if poor else None,
            )


def _elsewhere(pool: PoolPlan, better: Sequence[str], scores: Mapping[str, int]) -> str:
    if not better:
        return f"expect pool `{pool.name}` on its next rung; try another region or type (`python -m ops capacity`)"
    return "EC2 scores better: " + ", ".join(f"{zone} ({scores[zone]})" for zone in better[:3])


def spot_rungs(plan: Plan) -> Iterator[tuple[PoolPlan, RungPlan]]:
    """Every spot rung with its pool."""
    for pool in plan.pools:
        for rung in pool.rungs:
            if rung.kind == "spot":
                yield pool, rung


def zones_of(plan: Plan, pool: PoolPlan, rung: RungPlan) -> tuple[str, ...]:
    """Zones that a rung's nodes can come to lie in."""
    return (rung.zone,) if rung.zone else pool.zones or plan.zones


def nodes_of_a_replica(plan: Plan, pool: PoolPlan) -> int:
    """Nodes of the largest replica on a pool: fewer serve nothing."""
    return max((model.layout.nodes for model in plan.models if model.pool == pool.name), default=1)
