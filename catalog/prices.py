"""Price answers: a quote where there is one, else one borrowed from the home region or derived, and saying so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from catalog.types import Evidence, Price, Sourced, Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote(Sourced):
    """A price in one region, US dollars an hour."""

    usd: float
    low: float | None = None
    high: float | None = None
    """The band seen, where the price moves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstancePrices:
    """Prices of one instance type by region; an empty mapping where that kind is not sold or not known."""

    on_demand: Mapping[str, Quote] = field(default_factory=dict[str, Quote])
    spot: Mapping[str, Quote] = field(default_factory=dict[str, Quote])
    capacity_block: Mapping[str, Quote] = field(default_factory=dict[str, Quote])


@dataclass(frozen=True, kw_only=True, slots=True)
class ServicePrice(Sourced):
    """List price of something that is not an instance, US dollars per `unit`, by region."""

    name: str
    unit: Unit
    regions: Mapping[str, float]
    evidence: Evidence
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpotRatio(Sourced):
    """Spot price as a share of on-demand, assumed for types without a spot quote."""

    ratio: float
    low: float
    high: float
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """List prices in US dollars, without taxes, discounts and data transfer."""

    home_region: str
    """The region that prices are borrowed from."""
    instances: Mapping[str, InstancePrices]
    services: Mapping[str, ServicePrice]
    spot_ratio: SpotRatio

    def on_demand(self, instance: str, region: str) -> Price | None:
        """Dollars an hour on demand; None where no price is known, such as for types sold in capacity blocks only.

        Raises:
            KeyError: the instance type is not in the catalog.
        """
        return self._pick(self.instances[instance].on_demand, region)

    def spot(self, instance: str, region: str) -> Price | None:
        """Dollars an hour on spot: a quote, else the assumed share of the on-demand price.

        Raises:
            KeyError: the instance type is not in the catalog.
        """
        quoted = self._pick(self.instances[instance].spot, region)
        if quoted is not None:
            return quoted
        full = self.on_demand(instance, region)
        if full is None:
            return None
        return Price(
            usd=full.usd * self.spot_ratio.ratio,
            unit="hour",
            region=full.region,
            borrowed=full.borrowed,
            assumed=True,
            low=full.usd * self.spot_ratio.low,
            high=full.usd * self.spot_ratio.high,
            source=f"{self.spot_ratio.source}; of {full.source}",
            as_of=min(self.spot_ratio.as_of, full.as_of),
        )

    def capacity_block(self, instance: str, region: str) -> Price | None:
        """Dollars an hour in a capacity block, which is prepaid for its whole length.

        Raises:
            KeyError: the instance type is not in the catalog.
        """
        return self._pick(self.instances[instance].capacity_block, region)

    def of_rung(self, kind: str, instance: str, region: str) -> Price | None:
        """Dollars an hour of one kind of capacity; None where no price is known, and for nodes that exist.

        A capacity reservation bills what on-demand instances do, used or not.
        """
        if kind == "existing" or instance not in self.instances:
            return None
        if kind == "capacity_block":
            return self.capacity_block(instance, region)
        return (self.spot if kind == "spot" else self.on_demand)(instance, region)

    def service(self, name: str, region: str) -> Price:
        """Price of a service such as `eks_control_plane`, per its unit.

        Raises:
            KeyError: no such service.
        """
        entry = self.services[name]
        at = self._nearest(entry.regions, region)
        return Price(
            usd=entry.regions[at],
            unit=entry.unit,
            region=at,
            borrowed=at != region,
            assumed=entry.evidence == "unverified",
            source=entry.source,
            as_of=entry.as_of,
        )

    def _pick(self, quotes: Mapping[str, Quote], region: str) -> Price | None:
        """The region's quote, else the nearest region's, which is borrowed."""
        if not quotes:
            return None
        at = self._nearest(quotes, region)
        quote = quotes[at]
        return Price(
            usd=quote.usd,
            unit="hour",
            region=at,
            borrowed=at != region,
            low=quote.low,
            high=quote.high,
            source=quote.source,
            as_of=quote.as_of,
        )

    def _nearest(self, known: Mapping[str, object], region: str) -> str:
        """The region itself, else one of its own part of the world (`eu-`), best with its direction (`eu-west-`), else
        the home region, else any."""
        if region in known:
            return region
        beside = [other for other in known if other.split("-")[0] == region.split("-", 1)[0]]
        beside.sort(key=lambda other: (other.rsplit("-", 1)[0] != region.rsplit("-", 1)[0], other))
        return next((other for other in (*beside, self.home_region) if other in known), min(known))
