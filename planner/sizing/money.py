"""What the nodes of an instance type cost in a region, and where that is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from catalog.interruptions import interruptions
from catalog.load import Catalog
from catalog.types import Instance, Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An instance type in a region that offers it."""

    instance: Instance
    region: str
    zones: tuple[str, ...]
    on_demand: Price | None
    spot: Price | None
    """None where spot is not wanted or has no price."""

    def guesses(self, *, on_demand_nodes: int, spot_nodes: int) -> int:
        """How many of the prices that are used were not quoted for this region."""
        return _guessed(self.on_demand) * (on_demand_nodes > 0) + _guessed(self.spot) * (spot_nodes > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """An offer with the numbers that a search weighs thousands of times; infinite where there is no price."""

    offer: Offer
    on_demand: float
    spot: float
    on_demand_guessed: int
    spot_guessed: int
    reclaims_per_hour: float

    def no_worse(self, other: Rate) -> bool:
        """Whether no mix of nodes is cheaper, calmer or better known at the other offer."""
        return (
            self.on_demand <= other.on_demand
            and self.spot <= other.spot
            and self.reclaims_per_hour <= other.reclaims_per_hour
            and self.on_demand_guessed <= other.on_demand_guessed
            and self.spot_guessed <= other.spot_guessed
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Where an instance type may be best, and how many regions it is never best in."""

    rates: tuple[Rate, ...]
    outclassed: int


def market_of(offered: Sequence[Offer]) -> Market:
    """The offers of one type that no other one outclasses for every mix; of equal ones the first."""
    kept: list[Rate] = []
    for offer in offered:
        rate = _rate_of(offer)
        if not any(better.no_worse(rate) for better in kept):
            kept = [other for other in kept if not rate.no_worse(other)]
            kept.append(rate)
    return Market(rates=tuple(kept), outclassed=len(offered) - len(kept))


def _rate_of(offer: Offer) -> Rate:
    return Rate(
        offer=offer,
        on_demand=offer.on_demand.usd if offer.on_demand else math.inf,
        spot=offer.spot.usd if offer.spot else math.inf,
        on_demand_guessed=_guessed(offer.on_demand),
        spot_guessed=_guessed(offer.spot),
        reclaims_per_hour=interruptions().of(offer.instance.name, offer.region).per_hour,
    )


def cheapest(
    rates: Sequence[Rate], among: Iterable[int], on_demand_nodes: int, spot_nodes: int
) -> tuple[list[tuple[float, int]], int]:
    """([price an hour, position], how many lack a price) of those of `among` that no cheaper one matches.

    Between regions only prices and, on spot, reclaims differ. Of equal prices a quoted one is taken before a guess.
    """
    priced: list[tuple[float, int, int]] = []
    unpriced = 0
    for at in among:
        rate = rates[at]
        usd, guesses = 0.0, 0
        if on_demand_nodes:
            usd, guesses = on_demand_nodes * rate.on_demand, rate.on_demand_guessed
        if spot_nodes:
            usd, guesses = usd + spot_nodes * rate.spot, guesses + rate.spot_guessed
        if usd == math.inf:
            unpriced += 1
        else:
            priced.append((usd, guesses, at))
    best: list[tuple[float, int]] = []
    calmest = math.inf
    for usd, _, at in sorted(priced):
        reclaims = rates[at].reclaims_per_hour if spot_nodes else 0.0
        if reclaims < calmest:
            best.append((usd, at))
            calmest = reclaims
    return best, unpriced


def _guessed(price: Price | None) -> int:
    return int(price is not None and (price.borrowed or price.assumed))


def offers(
    catalog: Catalog, regions: Iterable[str], *, spot: bool
) -> tuple[Mapping[str, tuple[Offer, ...]], Mapping[str, str]]:
    """(instance type -> its offers in these regions, GPU instance type -> why there is none)."""
    wanted = tuple(regions)
    found: dict[str, tuple[Offer, ...]] = {}
    missing: dict[str, str] = {}
    where = wanted[0] if len(wanted) == 1 else f"any of {len(wanted)} regions"
    for name, instance in catalog.instances.items():
        if not instance.gpu:
            continue
        offered = [region for region in wanted if name in catalog.regions[region].offerings]
        priced = tuple(
            Offer(
                instance=instance,
                region=region,
                zones=catalog.regions[region].offerings[name],
                on_demand=catalog.prices.on_demand(name, region) if name in catalog.prices.instances else None,
                spot=catalog.prices.spot(name, region) if spot and name in catalog.prices.instances else None,
            )
            for region in offered
        )
        usable = tuple(offer for offer in priced if offer.on_demand or offer.spot)
        if usable:
            found[name] = usable
        elif offered:
            missing[name] = "sold in capacity blocks only, or no price known"
        else:
            missing[name] = f"not offered in {where}"
    return found, missing


def prices_known(region: str, catalog: Catalog) -> bool:
    """Whether any GPU instance that the region offers has a price of its own there."""
    return any(
        region in catalog.prices.instances[name].on_demand or region in catalog.prices.instances[name].spot
        for name in catalog.regions[region].offerings
        if name in catalog.prices.instances and catalog.instances[name].gpu
    )
