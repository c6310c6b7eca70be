"""What is left when nodes go away: by a failure of their own, or all spot ones together when the market takes them.

The same hazards and gaps as in the cost of a stack (planner/cost/interruptions.py).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

from catalog.assumptions import assumed
from catalog.interruptions import interruptions
from catalog.types import Instance, ModelCard
from planner.cost.lines import HOURS_PER_MONTH
from planner.plan import LoadPlan
from planner.start import startup_seconds, steps_of

_NEGLIGIBLE = 1e-9
"""Of the time: how often more units are gone than are weighed."""
_GBPS_TO_MB_PER_S = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """How often what stands together goes away, and how long it stays away.

    A unit is what one node's loss takes with it: all nodes of a replica, or all replicas of a node.
    """

    nodes: int
    """Of a unit."""
    failures_per_hour: float
    """Of one node."""
    reclaims_per_hour: float
    """Of spot: the market takes all of a pool's spot nodes at once."""
    back_seconds: float
    """From the loss to the first token of the replacement: boot, image, weights from S3, compile."""

    failed: float = field(init=False)
    """Share of the time that a unit is away for its own nodes' failures: rate x gap / (1 + rate x gap)."""
    reclaimed: float = field(init=False)
    """Share of the time that the market has the spot nodes.

    A share p of the replacements is met on demand at once, less the notice in which the old nodes still serve; the rest
    waits until spot is back: gap = p x (back - notice) + (1 - p) x (dry + back).
    """

    def __post_init__(self) -> None:
        back = self.back_seconds / 3600
        met, notice = assumed("on_demand_obtainable_share"), assumed("spot_notice_seconds") / 3600
        gap = met * max(0.0, back - notice) + (1 - met) * (interruptions().tight.hours_without + back)
        object.__setattr__(self, "failed", _gone(self.nodes * self.failures_per_hour, back))
        object.__setattr__(self, "reclaimed", _gone(self.reclaims_per_hour, gap))

    def useful_factor(self, *, spot: bool) -> float:
        """$ of an hour that serves over $ of an hour: what bills without serving after each loss."""
        per_hour = self.reclaims_per_hour if spot else self.failures_per_hour
        lost = self.back_seconds + (assumed("spot_notice_seconds") if spot else 0.0)
        return 1 + per_hour * self.nodes * lost / 3600


def risk_of(card: ModelCard, instance: Instance, region: str, nodes: int) -> Risk:
    """Of units of `nodes` nodes of a type in a region."""
    boot = assumed("boot_seconds_eight_gpu" if instance.gpus >= 8 else "boot_seconds_single_gpu")
    client = instance.card0_gbps * _GBPS_TO_MB_PER_S * assumed("s3_client_share")
    load = LoadPlan(
        gigabytes_per_node=card.checkpoint.gigabytes,
        readers=1,
        bottleneck="client network",
        limits_mb_per_s={"client network": client},
        seconds=card.checkpoint.gigabytes * 1000 / client,
    )
    return Risk(
        nodes=nodes,
        failures_per_hour=1 / assumed("gpu_node_hours_between_failures"),
        reclaims_per_hour=interruptions().of(instance.name, region).per_hour,
        back_seconds=boot + startup_seconds(steps_of(card, load)),
    )


def availability(risk: Risk, *, on_demand: int, spot: int, needed: float) -> float:
    """Share of requests that meet enough capacity, of so many units of each kind.

    Units fail independently (binomial); with k of them gone the rest serve min(1, (units - k) / needed) of the load.
    While the market has the spot nodes, those on demand serve alone. `needed` is the load over what one unit serves
    within the objectives.
    """
    units = on_demand + spot
    served = 0.0
    for k, share in enumerate(_lost(units, risk.failed)):
        served += share * min(1.0, (units - k) / needed)
    if not spot:
        return served
    return (1 - risk.reclaimed) * served + risk.reclaimed * min(served, on_demand / needed)


def surviving_share(*, units: int, lost: int, needed: float) -> float:
    """Share of the load that is served within the objectives after `lost` units went."""
    return min(1.0, max(0, units - lost) / needed)


def nines(share: float) -> float:
    """0.999 is 3.0; at most 6, beyond which none of the rates is known well enough."""
    return min(6.0, -math.log10(max(1e-6, 1 - share)))


def per_month(risk: Risk) -> float:
    """Reclaims of spot nodes that a month brings."""
    return risk.reclaims_per_hour * HOURS_PER_MONTH


def _gone(per_hour: float, gap_hours: float) -> float:
    return per_hour * gap_hours / (1 + per_hour * gap_hours)


@functools.lru_cache(maxsize=8192)
def _lost(units: int, chance: float) -> tuple[float, ...]:
    """Probabilities that 0, 1, 2 ... units are gone at once, as far as they matter; the rest counts as no service."""
    shares: list[float] = []
    left = 1.0
    for k in range(units + 1):
        shares.append(math.comb(units, k) * chance**k * (1 - chance) ** (units - k))
        left -= shares[-1]
        if left < _NEGLIGIBLE:
            break
    return tuple(shares)
