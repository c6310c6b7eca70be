"""Whole answers with prefill and decode apart: how many replicas of each group, on which nodes, at which prices.

Experimental (planner/handoff.py), so they stand beside the front of the others, never in it: each with what it gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from catalog.load import Catalog
from planner.sizing.money import Market, Offer, cheapest, market_of, offers
from planner.sizing.options import MOST_REPLICAS, Option, weighed
from planner.sizing.pairs import GroupServed, Pair, pairs
from planner.sizing.pareto import pareto
from planner.sizing.request import Dimension, SizeRequest, card_of
from planner.sizing.resilience import Risk, availability, per_month, risk_of, surviving_share

LEFT_OUT_APART = ("prefill and decode apart on nodes of two instance types, or on nodes of which only some are spot",)
_MOST_SPARE = 8
"""Replicas of each group beyond what the load needs, where an availability is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApartOption:
    """One way to serve the load with two groups, on nodes of one pool."""

    pair: Pair
    offer: Offer
    prefill_replicas: int
    decode_replicas: int
    nodes: int
    spot: bool
    usd_per_hour: float
    availability: float
    """Share of requests that meet enough capacity of both groups."""
    survives_node: float
    """Share of the load within the objectives after the node whose loss is worst: all of one group may stand on it."""
    risk: Risk
    prefill_ttft_ms: float
    """p99 at this load, of each group alone; with the transfer they add up to at most the whole."""
    decode_ttft_ms: float
    tpot_ms: float
    ttft_objective_ms: float
    tpot_objective_ms: float

    @property
    def ttft_ms(self) -> float:
        """p99, at most."""
        return self.prefill_ttft_ms + self.pair.transfer_ms + self.decode_ttft_ms

    @property
    def latency(self) -> float:
        """The worse of both latencies as a share of its objective."""
        return max(self.ttft_ms / self.ttft_objective_ms, self.tpot_ms / self.tpot_objective_ms)

    @property
    def counts(self) -> tuple[tuple[GroupServed, int], tuple[GroupServed, int]]:
        """Each group with its replicas."""
        return (self.pair.prefill, self.prefill_replicas), (self.pair.decode, self.decode_replicas)

    @property
    def on_demand_nodes(self) -> int:
        """All or none."""
        return 0 if self.spot else self.nodes

    @property
    def spot_nodes(self) -> int:
        """All or none."""
        return self.nodes if self.spot else 0

    @property
    def reclaims_per_month(self) -> float:
        """Times a month that the market is expected to take the nodes."""
        return per_month(self.risk) if self.spot else 0.0

    @property
    def gpu(self) -> str:
        """Of both groups."""
        return self.pair.gpu

    @property
    def prefill_gpu_share(self) -> float:
        """Of the GPUs of both groups."""
        gpus = [group.layout.gpus * replicas for group, replicas in self.counts]
        return gpus[0] / sum(gpus)

    @property
    def words(self) -> str:
        """For people."""
        groups = " + ".join(
            f"{replicas} x {group.role} on {group.layout.gpus} x {self.pair.gpu}" for group, replicas in self.counts
        )
        return (
            f"{self.nodes} x {self.offer.instance.name} in {self.offer.region}, {groups}, {self.pair.engine}, "
            f"{self.pair.variant.words}"
        )

    def vector(self, front: Sequence[Dimension]) -> tuple[float, ...]:
        """As every other option is weighed."""
        return weighed(
            front,
            usd=self.usd_per_hour,
            latency=self.latency,
            availability=self.availability,
            survives_node=self.survives_node,
        )

    def tie(self) -> tuple[object, ...]:
        """Which of two equals is told."""
        guesses = self.offer.guesses(on_demand_nodes=self.on_demand_nodes, spot_nodes=self.spot_nodes)
        return (
            round(self.usd_per_hour, 4),
            guesses,
            not self.pair.variant.published,
            round(self.latency, 6),
            -self.availability,
            self.nodes,
            self.offer.instance.name,
            self.offer.region,
            self.pair.words,
        )


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
    tried = pairs(card, request, (offered[0].instance for offered in places.values()), catalog)
    options: list[ApartOption] = []
    for name, found in tried.served.items():
        market = market_of(places[name])
        for pair in found:
            options += _options(pair, market, request)
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


def _options(pair: Pair, market: Market, request: SizeRequest) -> Iterator[ApartOption]:
    gpus = market.rates[0].offer.instance.gpus
    everywhere = range(len(market.rates))
    needed = [request.requests_per_second / group.capacity.requests_per_second for group in pair.groups]
    risks = [
        risk_of(pair.variant.card, rate.offer.instance, rate.offer.region, max(g.layout.nodes for g in pair.groups))
        for rate in market.rates
    ]
    for replicas in _counts(needed, request):
        nodes = _nodes(pair, replicas, gpus)
        filled = _filled(pair, replicas, needed, nodes * gpus)
        if nodes > request.max_nodes or max(filled) > MOST_REPLICAS:
            continue
        ttft, tpot = _latencies(pair, filled, request)
        for spot in (False, True) if request.spot_share >= 1 else (False,):
            best, _ = cheapest(market.rates, everywhere, 0 if spot else nodes, nodes if spot else 0)
            for usd, at in best:
                made = ApartOption(
                    pair=pair,
                    offer=market.rates[at].offer,
                    prefill_replicas=filled[0],
                    decode_replicas=filled[1],
                    nodes=nodes,
                    spot=spot,
                    usd_per_hour=usd,
                    availability=_availability(pair, filled, needed, gpus, risks[at], spot=spot),
                    survives_node=min(
                        surviving_share(units=number, lost=min(number, _together(group, gpus)), needed=need)
                        for group, number, need in zip(pair.groups, filled, needed, strict=True)
                    ),
                    risk=risks[at],
                    prefill_ttft_ms=ttft[0],
                    decode_ttft_ms=ttft[1],
                    tpot_ms=tpot,
                    ttft_objective_ms=request.ttft_p99_ms,
                    tpot_objective_ms=request.tpot_p99_ms,
                )
                if request.availability is None or made.availability >= request.availability:
                    yield made


def _counts(needed: Sequence[float], request: SizeRequest) -> Iterator[tuple[int, int]]:
    """Replicas of both groups: just enough, one of each to spare, half as many again; more for an availability."""
    fewest = [max(1, math.ceil(need - 1e-9)) for need in needed]
    wanted = [(0, 0), (1, 1), (math.ceil(0.5 * fewest[0]), math.ceil(0.5 * fewest[1]))]
    if request.availability is not None:
        wanted += [(spare, spare) for spare in range(2, _MOST_SPARE + 1)]
    for more in dict.fromkeys(wanted):
        yield fewest[0] + more[0], fewest[1] + more[1]


def _together(group: GroupServed, gpus: int) -> int:
    """Replicas that one node's loss takes at most."""
    return 1 if group.layout.nodes > 1 else gpus // group.layout.gpus_per_node


def _nodes(pair: Pair, replicas: tuple[int, int], gpus: int) -> int:
    """Nodes that hold both groups; degrees are powers of two, so that smaller replicas fill what larger ones leave."""
    whole = shared = 0
    for group, number in zip(pair.groups, replicas, strict=True):
        if group.layout.nodes > 1:
            whole += number * group.layout.nodes
        else:
            shared += number * group.layout.gpus_per_node
    return whole + math.ceil(shared / gpus)


def _filled(pair: Pair, replicas: tuple[int, int], needed: Sequence[float], gpus: int) -> tuple[int, int]:
    """The same nodes with no GPU idle that a replica has room on: more of the group with less to spare first."""
    counts = list(replicas)
    while True:
        free = gpus - sum(number * group.layout.gpus for group, number in zip(pair.groups, counts, strict=True))
        room = [at for at, group in enumerate(pair.groups) if group.layout.nodes == 1 and group.layout.gpus <= free]
        if not room:
            return counts[0], counts[1]
        counts[max(room, key=lambda at: needed[at] / counts[at])] += 1


def _latencies(pair: Pair, replicas: tuple[int, int], request: SizeRequest) -> tuple[tuple[float, float], float]:
    """((TTFT of prefill, of decode), TPOT), each p99 at its share of the load."""
    prefill, *_ = pair.prefill.curve.latencies(request.requests_per_second / replicas[0])
    decode, tpot, *_ = pair.decode.curve.latencies(request.requests_per_second / replicas[1])
    return (prefill.p99, decode.p99), tpot.p99


def _availability(
    pair: Pair, replicas: tuple[int, int], needed: Sequence[float], gpus: int, risk: Risk, *, spot: bool
) -> float:
    """Both groups must have enough: the product of what each has on nodes of its own, so the worst that nodes in common
    can do; nothing while the market has spot nodes."""
    share = 1 - risk.reclaimed if spot else 1.0
    for group, number, need in zip(pair.groups, replicas, needed, strict=True):
        units = max(1, number // _together(group, gpus))
        share *= availability(risk, on_demand=units, spot=0, needed=need * units / number)
    return share
