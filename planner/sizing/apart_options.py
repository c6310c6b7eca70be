"""One answer with prefill and decode apart: its pools, its money, and what it is weighed by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.sizing.money import Offer
from planner.sizing.options import weighed
from planner.sizing.pairs import GroupServed, Pair
from planner.sizing.request import Dimension
from planner.sizing.resilience import Risk


def price_of(offer: Offer, *, spot: bool) -> float:
    """Dollars an hour of a node; infinite where there is no price."""
    price = offer.spot if spot else offer.on_demand
    return math.inf if price is None else price.usd


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUsed:
    """Nodes of one type, with the groups on them."""

    groups: tuple[tuple[GroupServed, int], ...]
    """Each with its replicas."""
    offer: Offer
    nodes: int
    spot: bool
    """All of them, or none."""
    risk: Risk

    @property
    def on_demand_nodes(self) -> int:
        """All or none."""
        return 0 if self.spot else self.nodes

    @property
    def spot_nodes(self) -> int:
        """All or none."""
        return self.nodes if self.spot else 0

    @property
    def usd_per_hour(self) -> float:
        """Of all nodes."""
        return self.nodes * price_of(self.offer, spot=self.spot)

    @property
    def guesses(self) -> int:
        """How many of the prices were not quoted for this region."""
        return self.offer.guesses(on_demand_nodes=self.on_demand_nodes, spot_nodes=self.spot_nodes)

    @property
    def prefill_share(self) -> float:
        """Of its GPUs that have a use."""
        gpus = {group.role: group.layout.gpus * replicas for group, replicas in self.groups}
        return gpus.get("prefill", 0) / sum(gpus.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ApartOption:
    """One way to serve the load with two groups."""

    pair: Pair
    pools: tuple[PoolUsed, ...]
    """One for both groups, or prefill's and decode's."""
    availability: float
    """Share of requests that meet enough capacity of both groups."""
    survives_node: float
    """Share of the load within the objectives after the node whose loss is worst: all of one group may stand on it."""
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
    def counts(self) -> tuple[tuple[GroupServed, int], ...]:
        """Prefill, then decode, each with its replicas."""
        return tuple(one for pool in self.pools for one in pool.groups)

    @property
    def gpu(self) -> str:
        """Of the nodes that answer."""
        return self.pair.decode.gpu

    @property
    def region(self) -> str:
        """Of all its nodes."""
        return self.pools[0].offer.region

    @property
    def nodes(self) -> int:
        """Of all pools."""
        return sum(pool.nodes for pool in self.pools)

    @property
    def spot(self) -> bool:
        """Whether all nodes are; else none is."""
        return self.pools[0].spot

    @property
    def usd_per_hour(self) -> float:
        """Of all nodes."""
        return sum(pool.usd_per_hour for pool in self.pools)

    @property
    def guesses(self) -> int:
        """How many of the prices were not quoted for this region."""
        return sum(pool.guesses for pool in self.pools)

    @property
    def prefill_share(self) -> float:
        """Of the money: a pool that both share is divided by their GPUs."""
        return sum(pool.usd_per_hour * pool.prefill_share for pool in self.pools) / self.usd_per_hour

    @property
    def nodes_words(self) -> str:
        """`3 p5.48xlarge + 1 p5en.48xlarge`."""
        return " + ".join(f"{pool.nodes} {pool.offer.instance.name}" for pool in self.pools)

    @property
    def words(self) -> str:
        """For people."""
        groups = " + ".join(
            f"{replicas} x {group.role} on {group.layout.gpus} x {group.gpu}" for group, replicas in self.counts
        )
        return f"{self.nodes_words} in {self.region}, {groups}, {self.pair.engine}, {self.pair.variant.words}"

    def vector(self, front: Sequence[Dimension]) -> tuple[float, ...]:
        """As every other option is weighed."""
        return weighed(self, front)

    def tie(self) -> tuple[object, ...]:
        """Which of two equals is told."""
        return (
            round(self.usd_per_hour, 4),
            self.guesses,
            not self.pair.variant.published,
            len(self.pools),
            round(self.latency, 6),
            -self.availability,
            self.words,
        )
