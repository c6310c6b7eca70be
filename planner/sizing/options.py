"""Whole answers: a replica that serves, how many of them, on which nodes, at which prices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from planner.performance import Performance
from planner.performance.queueing import Curve
from planner.sizing.money import Offer
from planner.sizing.request import Dimension, SizeRequest
from planner.sizing.resilience import Risk, availability, nines, per_month, surviving_share
from planner.sizing.serving import Served, layout_words

MOST_REPLICAS = 200
"""Of one model in a stack file."""
_LATENCY_STEP = 0.1
"""Of the objective: closer latencies count as equal, since predictions are no better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to serve the load."""

    served: Served
    offer: Offer
    replicas: int
    needed_replicas: float
    """The load over what one replica serves within the objectives."""
    nodes_per_unit: int
    """Nodes that go together: those of one replica, or the one that holds several."""
    on_demand_nodes: int
    spot_nodes: int
    curve: Curve = field(repr=False, compare=False)
    requests_per_second: float
    """Of each replica: its share of the load."""
    usd_per_hour: float
    availability: float
    """Share of requests that meet enough capacity."""
    survives_node: float
    """Share of the load within the objectives after one node, with all that stands on it, is gone."""
    survives_spot: float
    """The same after all spot nodes are gone."""
    risk: Risk
    ttft_share: float
    """p99 over the objective."""
    tpot_share: float

    @property
    def performance(self) -> Performance:
        """Of each replica at its share of the load."""
        return self.curve.performance(self.requests_per_second)

    @property
    def gpu(self) -> str:
        """Of its nodes."""
        return self.served.gpu

    @property
    def region(self) -> str:
        """Of its nodes."""
        return self.offer.region

    @property
    def guesses(self) -> int:
        """How many of the prices were not quoted for this region."""
        return self.offer.guesses(on_demand_nodes=self.on_demand_nodes, spot_nodes=self.spot_nodes)

    @property
    def nodes(self) -> int:
        """All nodes."""
        return self.on_demand_nodes + self.spot_nodes

    @property
    def spot_share(self) -> float:
        """Share of the nodes that are spot."""
        return self.spot_nodes / self.nodes

    @property
    def reclaims_per_month(self) -> float:
        """Times a month that the market is expected to take the spot nodes."""
        return per_month(self.risk) if self.spot_nodes else 0.0

    @property
    def spare_replicas(self) -> int:
        """Replicas beyond what the load needs."""
        return self.replicas - math.ceil(self.needed_replicas)

    @property
    def latency(self) -> float:
        """The worse of both latencies as a share of its objective."""
        return max(self.ttft_share, self.tpot_share)

    @property
    def words(self) -> str:
        """For people."""
        served = self.served
        return (
            f"{self.nodes} x {self.offer.instance.name} in {self.offer.region}, {self.replicas} replica(s) of "
            f"{served.layout.gpus} x {served.gpu} ({layout_words(served.layout)}), {served.engine}, "
            f"{served.variant.words}"
        )

    def vector(self, front: Sequence[Dimension]) -> tuple[float, ...]:
        """What the option is weighed by; the lower the better."""
        return weighed(self, front)

    def tie(self) -> tuple[object, ...]:
        """Which of two equals is told: quoted prices and published weights first, then the simpler and the faster."""
        layout = self.served.layout
        guesses = self.offer.guesses(on_demand_nodes=self.on_demand_nodes, spot_nodes=self.spot_nodes)
        return (
            round(self.usd_per_hour, 4),
            guesses,
            not self.served.variant.published,
            layout.nodes,
            round(self.latency, 6),
            -self.availability,
            layout.gpus,
            self.nodes,
            self.offer.instance.name,
            self.offer.region,
            self.served.words,
        )


class Weighable(Protocol):
    """What any answer has, with its prefill apart or not."""

    @property
    def usd_per_hour(self) -> float: ...
    @property
    def latency(self) -> float: ...
    @property
    def availability(self) -> float: ...
    @property
    def survives_node(self) -> float: ...


def weighed(option: Weighable, front: Sequence[Dimension]) -> tuple[float, ...]:
    """What any answer is weighed by; the lower the better."""
    found: tuple[float, ...] = ()
    for name in front:
        if name == "cost":
            found += (round(option.usd_per_hour, 4),)
        elif name == "latency":
            found += (math.ceil(option.latency / _LATENCY_STEP - 1e-9),)
        else:
            found += (-math.floor(nines(option.availability) + 1e-9), 0.0 if option.survives_node >= 1 else 1.0)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How replicas of one kind fill nodes of one type."""

    served: Served
    replicas_per_unit: int
    nodes_per_unit: int
    needed_replicas: float

    @property
    def needed_units(self) -> float:
        """Fractional: how many units the load fills."""
        return self.needed_replicas / self.replicas_per_unit

    @property
    def fewest_units(self) -> int:
        """Whole units that serve the load."""
        return max(1, math.ceil(self.needed_units - 1e-9))


def spread_of(served: Served, gpus_per_node: int, request: SizeRequest) -> Spread:
    """A node is filled with replicas; a replica over several nodes takes them whole."""
    layout = served.layout
    return Spread(
        served=served,
        replicas_per_unit=1 if layout.nodes > 1 else gpus_per_node // layout.gpus_per_node,
        nodes_per_unit=layout.nodes,
        needed_replicas=request.requests_per_second / served.capacity.requests_per_second,
    )


def mixes(spread: Spread, request: SizeRequest, risk: Risk) -> Iterator[tuple[int, int]]:
    """(on demand, spot) units worth pricing.

    All on demand, half of each, a floor of one on demand, all spot, as far as the share of spot allows; of each kind
    just enough units, one to spare, half as many again and, where an availability is asked for, the fewest
    that reach it.
    """
    fewest, most = spread.fewest_units, most_units(spread, request)
    seen: set[tuple[int, int]] = set()
    for kind in _KINDS if request.spot_share else _KINDS[:1]:
        counts = {fewest, fewest + 1, math.ceil(1.5 * fewest)}
        if request.availability is not None:
            counts.add(_enough(kind, spread, request, risk, most))
        for units in sorted(count for count in counts if count <= most):
            spot = min(kind(units), int(request.spot_share * units + 1e-9))
            if (units - spot, spot) not in seen:
                seen.add((units - spot, spot))
                yield units - spot, spot


_KINDS: tuple[Callable[[int], int], ...] = (
    lambda _: 0,
    lambda units: units // 2,
    lambda units: units - 1,
    lambda units: units,
)
"""Spot units of so many: none, half, all but one, all."""


def most_units(spread: Spread, request: SizeRequest) -> int:
    """What `--max-nodes` and a stack file's replicas leave room for."""
    return min(request.max_nodes // spread.nodes_per_unit, MOST_REPLICAS // spread.replicas_per_unit)


def _enough(kind: Callable[[int], int], spread: Spread, request: SizeRequest, risk: Risk, most: int) -> int:
    """Fewest units of a kind of mix that reach the availability asked for: more never reach less."""
    low, high = spread.fewest_units, max(spread.fewest_units, most)
    while low < high:
        middle = (low + high) // 2
        spot = min(kind(middle), int(request.spot_share * middle + 1e-9))
        if availability(risk, on_demand=middle - spot, spot=spot, needed=spread.needed_units) < (
            request.availability or 0.0
        ):
            low = middle + 1
        else:
            high = middle
    return low


class Loads:
    """Latencies of a replica at its share of the load, worked out once for each number of replicas.

    `planner.performance.performance` makes a curve for each rate; here dozens of rates share one.
    """

    def __init__(self, request: SizeRequest) -> None:
        self._request = request
        self._curves: dict[int, Curve] = {}
        self._shares: dict[tuple[int, int], tuple[float, float]] = {}

    def curve(self, served: Served) -> Curve:
        """Of the replica under these lengths."""
        found = self._curves.get(id(served))
        if found is None:
            request = self._request
            found = Curve(served.replica, request.input, request.output, request.cached_share)
            self._curves[id(served)] = found
        return found

    def shares(self, served: Served, replicas: int) -> tuple[float, float]:
        """p99 of TTFT and TPOT over their objectives, of each of `replicas`."""
        key = (id(served), replicas)
        found = self._shares.get(key)
        if found is None:
            request = self._request
            ttft, tpot, *_ = self.curve(served).latencies(request.requests_per_second / replicas)
            found = self._shares[key] = (ttft.p99 / request.ttft_p99_ms, tpot.p99 / request.tpot_p99_ms)
        return found


def option(
    spread: Spread,
    offer: Offer,
    request: SizeRequest,
    risk: Risk,
    loads: Loads,
    *,
    on_demand: int,
    spot: int,
    usd: float,
) -> Option:
    """An answer of `on_demand` and `spot` units at `usd` an hour."""
    replicas = (on_demand + spot) * spread.replicas_per_unit
    ttft_share, tpot_share = loads.shares(spread.served, replicas)
    per_node, units, needed = spread.nodes_per_unit, on_demand + spot, spread.needed_units
    return Option(
        served=spread.served,
        offer=offer,
        replicas=replicas,
        needed_replicas=spread.needed_replicas,
        nodes_per_unit=per_node,
        on_demand_nodes=on_demand * per_node,
        spot_nodes=spot * per_node,
        curve=loads.curve(spread.served),
        requests_per_second=request.requests_per_second / replicas,
        usd_per_hour=usd,
        availability=availability(risk, on_demand=on_demand, spot=spot, needed=needed),
        survives_node=surviving_share(units=units, lost=1, needed=needed),
        survives_spot=surviving_share(units=units, lost=spot, needed=needed),
        risk=risk,
        ttft_share=ttft_share,
        tpot_share=tpot_share,
    )
