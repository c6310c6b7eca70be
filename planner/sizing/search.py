"""The search: every variant, engine, layout, instance type, mix of capacity and region.

Regions change prices alone and types with the same GPUs share what their replicas serve, so the work grows with
models x (GPUs x layouts + instance types x mixes + instance types x regions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catalog.load import Catalog
from catalog.types import ModelCard
from planner.sizing.losses import Losses
from planner.sizing.money import Market, Offer, cheapest, market_of, offers
from planner.sizing.options import Loads, Option, Spread, mixes, most_units, option, spread_of
from planner.sizing.request import SizeRequest, card_of
from planner.sizing.resilience import Risk, risk_of
from planner.sizing.serving import Trials, trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """How much was looked at."""

    instance_types: int
    regions: int
    replicas: int
    """Combinations of variant, engine and layout on one kind of GPU."""
    options: int
    """Whole answers: replicas x counts x mixes of capacity x instance types x regions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A search before its front: what `nearest` reads where there are no options."""

    card: ModelCard
    trials: Trials
    spreads: tuple[tuple[Spread, Offer], ...]
    """What serves, on each instance type that has an offer."""
    options: tuple[Option, ...]
    unavailable: tuple[Option, ...]
    """Options that would serve but do not reach the availability asked for."""
    losses: Losses
    searched: Searched


def look(request: SizeRequest, catalog: Catalog) -> Found:
    """Everything that serves, without weighing it; raises SizeError for a question that makes no sense."""
    card = card_of(request, catalog)
    losses = Losses()
    places, missing = offers(catalog, request.regions, spot=request.spot_share > 0)
    for name, reason in missing.items():
        losses.add("place", name, reason)
    tried = trials(card, request, (offered[0].instance for offered in places.values()), catalog)
    losses.of_trials(tried, request)
    loads = Loads(request)
    spreads: list[tuple[Spread, Offer]] = []
    options: list[Option] = []
    unavailable: list[Option] = []
    looked = 0
    for name, offered in places.items():
        market = market_of(offered)
        risks: dict[tuple[str, int], tuple[Risk, ...]] = {}
        for served in tried.served[name]:
            card_served = served.variant.card
            spread = spread_of(served, offered[0].instance.gpus, request)
            spreads.append((spread, offered[0]))
            key = (card_served.name, spread.nodes_per_unit)
            if key not in risks:
                risks[key] = tuple(
                    risk_of(card_served, rate.offer.instance, rate.offer.region, key[1]) for rate in market.rates
                )
            made, count = _options(spread, market, risks[key], request, loads, losses)
            looked += count
            for item in made:
                if request.availability is not None and item.availability < request.availability:
                    unavailable.append(item)
                    losses.add("availability", item.words, f"below {request.availability:g}")
                else:
                    options.append(item)
    return Found(
        card=card,
        trials=tried,
        spreads=tuple(spreads),
        options=tuple(options),
        unavailable=tuple(unavailable),
        losses=losses,
        searched=Searched(
            instance_types=len(places), regions=len(request.regions), replicas=tried.tried, options=looked
        ),
    )


def _options(
    spread: Spread,
    market: Market,
    risks: Sequence[Risk],
    request: SizeRequest,
    loads: Loads,
    losses: Losses,
) -> tuple[list[Option], int]:
    """(options on one instance type, in the regions that may be best; how many were looked at)."""
    if spread.fewest_units > most_units(spread, request):
        name = market.rates[0].offer.instance.name
        losses.add("nodes", f"{spread.served.words} on {name}", _too_many(spread, request))
        return [], 1
    made: list[Option] = []
    looked = 0
    per_node = spread.nodes_per_unit
    everywhere = range(len(market.rates))
    # How many nodes reach an availability depends on how calm a region is.
    for together in ([at] for at in everywhere) if request.availability is not None else [everywhere]:
        for on_demand, spot in mixes(spread, request, risks[together[0]]):
            looked += len(together)
            best, unpriced = cheapest(market.rates, together, on_demand * per_node, spot * per_node)
            losses.count("price", unpriced)
            losses.count("region", len(together) - unpriced - len(best))
            made += (
                option(
                    spread, market.rates[at].offer, request, risks[at], loads, on_demand=on_demand, spot=spot, usd=usd
                )
                for usd, at in best
            )
    outclassed = market.outclassed * (looked // len(market.rates))
    losses.count("region", outclassed)
    return made, looked + outclassed


def _too_many(spread: Spread, request: SizeRequest) -> str:
    nodes = spread.fewest_units * spread.nodes_per_unit
    if nodes > request.max_nodes:
        return f"more than {request.max_nodes} nodes (--max-nodes)"
    return "more replicas than one model of a stack file has"
