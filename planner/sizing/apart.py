"""Whole answers with prefill and decode apart: how many replicas of each group, on which nodes, at which prices.

Experimental (planner/handoff.py), so they stand beside the front of the others, never in it: each with what it gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from catalog.load import Catalog
from catalog.types import Instance, ModelCard
from planner.plan import Role
from planner.sizing.apart_options import ApartOption, PoolUsed, price_of
from planner.sizing.money import Offer, offers
from planner.sizing.options import MOST_REPLICAS, Option
from planner.sizing.pairs import GroupServed, Pair, pairs
from planner.sizing.pareto import pareto
from planner.sizing.request import Dimension, SizeRequest, card_of
from planner.sizing.resilience import Risk, availability, risk_of, surviving_share

LEFT_OUT_APART = ("prefill and decode apart on nodes of which only some are spot",)
_MOST_SPARE = 8
"""Replicas of each group beyond what the load needs, where an availability is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What an experimental answer has over the best ordinary one."""

    over: Option
    alike: bool
    """Whether that one is the cheapest that is no worse in anything weighed but cost; where there is none, it is the
    cheapest that is no less resilient, or else of all."""
    saved_share: float
    """Of its cost; negative where the experimental one is dearer."""
    latency_share: float
    """Worse of both latencies as a share of its objective, over that of the ordinary one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """A search of experimental answers."""

    members: tuple[tuple[ApartOption, Gain | None], ...]
    """Their own front, without those that an ordinary answer is no worse than; each with its gain, where anything
    ordinary serves."""
    beaten: int
    """Those of their own front that one is no worse than."""
    nearest: ApartOption | None
    """The cheapest of these."""
    options: int
    lost: Mapping[str, int]
    """Why others do not serve -> how many."""


def look_apart(request: SizeRequest, catalog: Catalog, ordinary: Sequence[Option]) -> Apart:
    """What serves with prefill and decode apart, against the front of the other answers."""
    card = card_of(request, catalog)
    places, _ = offers(catalog, request.regions, spot=request.spot_share > 0)
    where = {name: {offer.region: offer for offer in offered} for name, offered in places.items()}

    def near(first: Instance, second: Instance) -> bool:
        return any(True for _ in _together(where[first.name], where[second.name]))

    instances = (offered[0].instance for offered in places.values())
    tried = pairs(card, request, instances, catalog, near=near)
    risks = _Risks()
    options = [option for pair in tried.served for option in _options(pair, where, request, risks)]
    front = pareto(options, lambda one: one.vector(request.front), lambda one: one.tie())
    own = [(option.vector(request.front), option) for option in ordinary]
    members: list[tuple[ApartOption, Gain | None]] = []
    beaten: list[ApartOption] = []
    for option in front.members:
        vector = option.vector(request.front)
        if any(_no_worse(other, vector) for other, _ in own):
            beaten.append(option)
        else:
            members.append((option, _gain(option, request, ordinary)))
    return Apart(
        members=tuple(members),
        beaten=len(beaten),
        nearest=min(beaten, key=lambda one: one.tie()) if beaten else None,
        options=len(options),
        lost=tried.lost,
    )


def _no_worse(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def _gain(option: ApartOption, request: SizeRequest, ordinary: Sequence[Option]) -> Gain | None:
    if not ordinary:
        return None
    rest: list[Dimension] = [name for name in request.front if name != "cost"]
    calm: list[Dimension] = [name for name in rest if name != "latency"]
    for weights in (rest, calm, []):
        vector = option.vector(weights)
        rivals = [other for other in ordinary if _no_worse(other.vector(weights), vector)]
        if rivals:
            break
    over = min(rivals, key=lambda other: (other.usd_per_hour, other.latency))
    return Gain(
        over=over,
        alike=weights == rest,
        saved_share=1 - option.usd_per_hour / over.usd_per_hour,
        latency_share=option.latency / over.latency,
    )


def _together(first: Mapping[str, Offer], second: Mapping[str, Offer]) -> Iterator[tuple[Offer, Offer]]:
    """Offers of two types with a zone in common: EFA reaches no further."""
    for region, offer in first.items():
        if region in second and set(offer.zones) & set(second[region].zones):
            yield offer, second[region]


class _Risks:
    """Of units of so many nodes, worked out once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, int], Risk] = {}

    def of(self, card: ModelCard, offer: Offer, nodes: int) -> Risk:
        key = (card.name, offer.instance.name, offer.region, nodes)
        if key not in self._known:
            self._known[key] = risk_of(card, offer.instance, offer.region, nodes)
        return self._known[key]


def _options(
    pair: Pair, where: Mapping[str, Mapping[str, Offer]], request: SizeRequest, risks: _Risks
) -> Iterator[ApartOption]:
    offered = [where[groups[0].instance.name] for groups in pair.pools]
    places = [(offer,) for offer in offered[0].values()] if len(offered) == 1 else list(_together(*offered))
    needed: dict[Role, float] = {
        group.role: request.requests_per_second / group.capacity.requests_per_second for group in pair.groups
    }
    for wanted in _counts(needed, request):
        nodes = [_nodes(groups, wanted) for groups in pair.pools]
        filled: dict[Role, int] = {
            role: number
            for groups, own in zip(pair.pools, nodes, strict=True)
            for role, number in _filled(groups, wanted, needed, own).items()
        }
        if sum(nodes) > request.max_nodes or max(filled.values()) > MOST_REPLICAS:
            continue
        prefill, *_ = pair.prefill.curve.latencies(request.requests_per_second / filled["prefill"])
        decode, tpot, *_ = pair.decode.curve.latencies(request.requests_per_second / filled["decode"])
        survives = min(
            surviving_share(
                units=filled[group.role], lost=min(filled[group.role], group.per_node), needed=needed[group.role]
            )
            for group in pair.groups
        )
        for spot in (False, True) if request.spot_share >= 1 else (False,):
            for pools in _best(pair, places, nodes, filled, risks, spot=spot):
                share = _availability(pools, needed)
                if request.availability is None or share >= request.availability:
                    yield ApartOption(
                        pair=pair,
                        pools=pools,
                        availability=share,
                        survives_node=survives,
                        prefill_ttft_ms=prefill.p99,
                        decode_ttft_ms=decode.p99,
                        tpot_ms=tpot.p99,
                        ttft_objective_ms=request.ttft_p99_ms,
                        tpot_objective_ms=request.tpot_p99_ms,
                    )


def _best(
    pair: Pair,
    places: Sequence[tuple[Offer, ...]],
    nodes: Sequence[int],
    filled: Mapping[Role, int],
    risks: _Risks,
    *,
    spot: bool,
) -> Iterator[tuple[PoolUsed, ...]]:
    """The nodes where they cost least, and wherever else no cheaper place is as calm."""
    priced: list[tuple[float, int, int]] = []
    for at, offers_ in enumerate(places):
        usd = sum(number * price_of(offer, spot=spot) for offer, number in zip(offers_, nodes, strict=True))
        if usd < math.inf:
            guesses = sum(
                offer.guesses(on_demand_nodes=0 if spot else 1, spot_nodes=1 if spot else 0) for offer in offers_
            )
            priced.append((usd, guesses, at))
    calmest = math.inf
    for _, _, at in sorted(priced):
        pools = tuple(
            PoolUsed(
                groups=tuple((group, filled[group.role]) for group in groups),
                offer=offer,
                nodes=number,
                spot=spot,
                risk=risks.of(pair.variant.card, offer, max(group.layout.nodes for group in groups)),
            )
            for groups, offer, number in zip(pair.pools, places[at], nodes, strict=True)
        )
        reclaims = sum(pool.risk.reclaims_per_hour for pool in pools) if spot else 0.0
        if reclaims < calmest:
            calmest = reclaims
            yield pools


def _counts(needed: Mapping[Role, float], request: SizeRequest) -> Iterator[Mapping[Role, int]]:
    """Replicas of both groups: just enough, one of each to spare, half as many again; more for an availability."""
    fewest: dict[Role, int] = {role: max(1, math.ceil(need - 1e-9)) for role, need in needed.items()}
    more: dict[Role, int] = {role: math.ceil(1.5 * number) for role, number in fewest.items()}
    wanted = [fewest, _spare(fewest, 1), more]
    if request.availability is not None:
        wanted += [_spare(fewest, spare) for spare in range(2, _MOST_SPARE + 1)]
    for at, counts in enumerate(wanted):
        if counts not in wanted[:at]:
            yield counts


def _spare(replicas: Mapping[Role, int], number: int) -> dict[Role, int]:
    return {role: own + number for role, own in replicas.items()}


def _nodes(groups: Sequence[GroupServed], replicas: Mapping[Role, int]) -> int:
    """Nodes that hold these groups; degrees are powers of two, so that smaller replicas fill what larger ones leave."""
    whole = sum(replicas[group.role] * group.layout.nodes for group in groups if group.layout.nodes > 1)
    shared = sum(replicas[group.role] * group.layout.gpus for group in groups if group.layout.nodes == 1)
    return whole + math.ceil(shared / groups[0].instance.gpus)


def _filled(
    groups: Sequence[GroupServed], replicas: Mapping[Role, int], needed: Mapping[Role, float], nodes: int
) -> dict[Role, int]:
    """The same nodes with no GPU idle that a replica has room on: more of the group with less to spare first."""
    counts: dict[Role, int] = {group.role: replicas[group.role] for group in groups}
    while True:
        free = nodes * groups[0].instance.gpus - sum(counts[group.role] * group.layout.gpus for group in groups)
        room: list[Role] = [group.role for group in groups if group.layout.nodes == 1 and group.layout.gpus <= free]
        if not room:
            return counts
        tightest = max(room, key=lambda role: needed[role] / counts[role])
        counts[tightest] += 1


def _availability(pools: Sequence[PoolUsed], needed: Mapping[Role, float]) -> float:
    """Both groups must have enough: the product of what each has on nodes of its own, so the worst that nodes in common
    can do; nothing while the market has the spot nodes of either pool."""
    share = 1.0
    for pool in pools:
        share *= 1 - pool.risk.reclaimed if pool.spot else 1.0
        for group, number in pool.groups:
            units = max(1, number // group.per_node)
            share *= availability(pool.risk, on_demand=units, spot=0, needed=needed[group.role] * units / number)
    return share
