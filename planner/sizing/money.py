"""What the nodes of an instance type cost in a region, and where that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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

    def usd_per_hour(self, *, on_demand_nodes: int, spot_nodes: int) -> float | None:
        """Of so many nodes of each kind; None where a kind that is used has no price."""
        total = 0.0
        for nodes, price in ((on_demand_nodes, self.on_demand), (spot_nodes, self.spot)):
            if nodes and price is None:
                return None
            total += nodes * price.usd if price else 0.0
        return total

    def guesses(self, *, on_demand_nodes: int, spot_nodes: int) -> int:
        """How many of the prices that are used were not quoted for this region."""
        used = ((on_demand_nodes, self.on_demand), (spot_nodes, self.spot))
        return sum(1 for nodes, price in used if nodes and price and (price.borrowed or price.assumed))


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
