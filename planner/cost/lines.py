"""One thing that bills, as a line: price x quantity, at four levels of use, with formula, inputs and sources."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.types import Price
from planner.plan import CostLine, Input
from planner.pools import price_note

HOURS_PER_MONTH = 730


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """How much of something there is at each level of use."""

    idle: float
    base: float
    planned: float
    peak: float
    name: str
    unit: str
    source: str

    @property
    def as_input(self) -> Input:
        """The planned quantity as an input of a formula."""
        return Input(name=self.name, value=self.planned, unit=self.unit, source=self.source)


def always(count: float, name: str, unit: str, source: str) -> Quantity:
    """A quantity that does not depend on use."""
    return Quantity(idle=count, base=count, planned=count, peak=count, name=name, unit=unit, source=source)


def line(
    item: str,
    detail: str,
    price: Price | None,
    quantity: Quantity,
    *,
    what: str | None = None,
    usd: float | None = None,
    source: str | None = None,
    why: tuple[Input, ...] = (),
    quantity_formula: str | None = None,
) -> CostLine:
    """A line: what bills by the month is spread over 730 hours.

    Args:
        item: what bills, for people.
        detail: how much of it, for people.
        price: per hour, month, GB or million requests; None counts as 0, and the source says so.
        quantity: per month where the price is per GB or request.
        what: the thing that the price is of, where it is not the item.
        usd: the price that was planned with, and its `source`, where somebody else has looked them up.
        why: inputs of the quantity, where it is itself a formula.
        quantity_formula: that formula.
    """
    source = source or price_note(price, what or item, "list")
    usd = usd if usd is not None else price.usd if price else 0.0
    hourly = price is None or price.unit == "hour"
    rate = usd if hourly else usd / HOURS_PER_MONTH
    unit = "$/h" if price is None else _UNITS[price.unit]
    formula = f"{quantity.name} x price" + ("" if hourly else f" / {HOURS_PER_MONTH} h")
    if quantity_formula:
        formula += f"; {quantity.name} = {quantity_formula}"
    return CostLine(
        item=item,
        detail=detail,
        idle_usd_per_hour=rate * quantity.idle,
        base_usd_per_hour=rate * quantity.base,
        planned_usd_per_hour=rate * quantity.planned,
        peak_usd_per_hour=rate * quantity.peak,
        source=source,
        formula=formula,
        inputs=(quantity.as_input, Input(name="price", value=usd, unit=unit, source=source), *why),
        price_as_of=price.as_of if price else None,
    )


_UNITS = {
    "hour": "$/h",
    "month": "$/month",
    "gb": "$/GB",
    "gb_month": "$/GB-month",
    "million_requests": "$/million requests",
}
