"""What interruptions cost, and how much of the time a ladder's GPUs are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catalog.assumptions import assumed
from catalog.interruptions import Interruption, interruptions
from planner.cost.lines import HOURS_PER_MONTH
from planner.cost.platform import from_assumption
from planner.plan import AvailabilityPlan, Explained, Input, ModelPlan, PoolPlan, RungCostPlan, RungPlan

_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazard:
    """How often one node of a rung goes away, and how long there is no other."""

    per_hour: float
    notice_seconds: float
    hours_without: float
    """Until spot has capacity again; 0 for what is not spot."""
    sources: tuple[Input, ...]


def hazard_of(rung: RungPlan, instance: str, region: str, *, tight: bool = False) -> Hazard:
    """Of a rung: EC2 takes spot back, other nodes fail."""
    if rung.kind != "spot":
        hours = from_assumption("gpu_node_hours_between_failures")
        rate = Input(name="rate", value=1 / float(hours.value), unit="/h of a node", source=hours.source)
        return Hazard(per_hour=1 / float(hours.value), notice_seconds=0.0, hours_without=0.0, sources=(rate,))
    known = interruptions()
    market = known.tight
    if tight:
        per_hour = 1 / market.hours_between
        told = f"{market.source}, {market.as_of}: one V100 instance runs {market.hours_between} h ({market.evidence})"
    else:
        found: Interruption = known.of(instance, region)
        per_hour = found.per_hour
        told = f"-ln(1 - {found.band.monthly}) / {HOURS_PER_MONTH} h; {found.source}"
    return Hazard(
        per_hour=per_hour,
        notice_seconds=assumed("spot_notice_seconds"),
        hours_without=market.hours_without,
        sources=(Input(name="rate", value=per_hour, unit="/h of a node", source=told),),
    )


def there(pool: PoolPlan, region: str) -> dict[str, float]:
    """Share of time that each spot rung of a pool has capacity: up / (up + down), a market that is there or not."""
    found: dict[str, float] = {}
    for rung in pool.rungs:
        if rung.kind == "spot" and pool.hardware.instance_type:
            hazard = hazard_of(rung, pool.hardware.instance_type, region)
            found[rung.name] = 1 / (1 + hazard.per_hour * hazard.hours_without)
    return found


def rung_cost(
    pool: PoolPlan, rung: RungPlan, models: Sequence[ModelPlan], nodes: float, region: str
) -> RungCostPlan | None:
    """An hour of a rung with interruptions counted; None where no model runs on the pool.

    Each interruption of one node lets the `group` nodes of its replica bill for the notice, the boot of another and
    the start of the engine without serving: $ per useful hour = $ per hour x (1 + rate x group x lost hours). Where a
    pool serves several models, the longest start and the largest group stand for all.
    """
    own = [model for model in models if model.pool == pool.name]
    if not own or not pool.hardware.instance_type:
        return None
    hazard = hazard_of(rung, pool.hardware.instance_type, region)
    slowest = max(own, key=lambda model: model.startup_seconds)
    group = max(model.layout.nodes for model in own)
    lost = (hazard.notice_seconds + rung.boot_seconds + slowest.startup_seconds) / _SECONDS
    useful = rung.usd_per_node_hour * (1 + hazard.per_hour * group * lost)
    inputs = (
        Input(name="price", value=rung.usd_per_node_hour, unit="$/h", source=rung.price_note),
        *hazard.sources,
        Input(name="group", value=group, unit="nodes", source=f"layout of {max(own, key=_nodes).name}"),
        Input(
            name="notice", value=hazard.notice_seconds, unit="s", source=from_assumption("spot_notice_seconds").source
        ),
        Input(name="boot", value=rung.boot_seconds, unit="s", source=_boot_source(pool)),
        Input(name="start", value=slowest.startup_seconds, unit="s", source=f"startup_seconds of {slowest.name}"),
    )
    explained = Explained(
        section="cost",
        name=f"useful hour of {rung.name}",
        value=useful,
        unit="$/h of a node that serves",
        formula="price x (1 + rate x group x (notice + boot + start) / 3600)",
        inputs=inputs,
    )
    return RungCostPlan(
        pool=pool.name,
        rung=rung.name,
        kind=rung.kind,
        nodes=nodes,
        usd_per_node_hour=rung.usd_per_node_hour,
        interruptions_per_node_month=hazard.per_hour * HOURS_PER_MONTH,
        lost_hours_per_interruption=lost * group,
        usd_per_useful_hour=useful,
        explained=(explained,),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shares:
    """Shares of time, each of one cause of absence."""

    market: float
    """All spot replicas together: the market takes them, and others take over or not."""
    spot_node: float
    """One spot replica, by the failure of its own nodes."""
    firm: float
    """One replica that is not on spot."""


def availability(
    model: ModelPlan, pool: PoolPlan, on: dict[str, int], fallback: int, replicas: int, region: str
) -> AvailabilityPlan | None:
    """Availability of a model's GPUs by a renewal argument: share gone = rate x gap / (1 + rate x gap).

    Args:
        model: the model.
        pool: its pool.
        on: its replicas on each rung at the planned load.
        fallback: replicas that have room when spot has nothing to give.
        replicas: those planned.
        region: AWS region.

    The market takes all spot replicas of a rung at once (see `nodes.expected_nodes`). A share `p` of the replacements
    on the other rungs is met at once and is there after boot and start, less the notice in which the old one still
    serves; the rest, and replicas without room, wait until spot is back. Nodes also fail one by one.
    """
    if not pool.hardware.instance_type or not replicas:
        return None
    spot = [rung for rung in pool.rungs if rung.kind == "spot" and on[rung.name]]
    on_spot = sum(on[rung.name] for rung in spot)
    firm = sum(on.values()) - on_spot
    room = max(0, min(on_spot, fallback - firm))
    plain, tight = (_shares(model, pool, spot, on_spot, room, region, tight=value) for value in (False, True))
    explained = _explained(model, pool, spot, region, plain, (on_spot, firm, room, replicas))
    return AvailabilityPlan(
        model=model.name,
        endpoint=_endpoint(plain, on_spot, firm),
        capacity=_capacity(plain, on_spot, firm, replicas),
        endpoint_tight=_endpoint(tight, on_spot, firm),
        capacity_tight=_capacity(tight, on_spot, firm, replicas),
        explained=explained,
    )


def _endpoint(shares: _Shares, on_spot: int, firm: int) -> float:
    spot_gone = shares.market + (1 - shares.market) * shares.spot_node**on_spot if on_spot else 1.0
    return 1 - spot_gone * shares.firm**firm


def _capacity(shares: _Shares, on_spot: int, firm: int, replicas: int) -> float:
    serving = on_spot * (1 - shares.market) * (1 - shares.spot_node) + firm * (1 - shares.firm)
    return serving / replicas


def _gap_hours(model: ModelPlan, pool: PoolPlan, notice: float, dry: float, met: float) -> float:
    """Mean hours from losing a replica to another one, where a share `met` of the replacements comes at once."""
    back = _back_hours(model, pool)
    return met * max(0.0, back - notice / _SECONDS) + (1 - met) * (dry + back)


def _back_hours(model: ModelPlan, pool: PoolPlan) -> float:
    return (max(rung.boot_seconds for rung in pool.rungs) + model.startup_seconds) / _SECONDS


def _gone(rate: float, gap: float) -> float:
    return rate * gap / (1 + rate * gap)


def _shares(
    model: ModelPlan, pool: PoolPlan, spot: Sequence[RungPlan], on_spot: int, room: int, region: str, *, tight: bool
) -> _Shares:
    instance, group = str(pool.hardware.instance_type), model.layout.nodes
    fails = group / assumed("gpu_node_hours_between_failures")
    alone = _gone(fails, _back_hours(model, pool))
    if not spot:
        return _Shares(market=0.0, spot_node=alone, firm=alone)
    hazard = hazard_of(spot[0], instance, region, tight=tight)
    met = assumed("on_demand_obtainable_share") * room / on_spot
    gap = _gap_hours(model, pool, hazard.notice_seconds, hazard.hours_without, met)
    return _Shares(market=_gone(hazard.per_hour, gap), spot_node=alone, firm=alone)


def _explained(
    model: ModelPlan,
    pool: PoolPlan,
    spot: Sequence[RungPlan],
    region: str,
    shares: _Shares,
    counts: tuple[int, int, int, int],
) -> tuple[Explained, ...]:
    on_spot, firm, room, replicas = counts
    hours = from_assumption("gpu_node_hours_between_failures")
    fail = Input(name="gone_one", value=shares.firm, unit="share", source=f"failures of its own nodes: {hours.source}")
    where = "pools[].capacity, replicas at the planned load"
    inputs: tuple[Input, ...] = (
        Input(name="on_spot", value=on_spot, unit="replicas", source=where),
        Input(name="firm", value=firm, unit="replicas", source=where),
        fail,
    )
    if spot:
        instance = str(pool.hardware.instance_type)
        hazard, tight = hazard_of(spot[0], instance, region), interruptions().tight
        inputs += (
            *hazard.sources,
            Input(
                name="p",
                value=assumed("on_demand_obtainable_share") * room / on_spot,
                unit="share",
                source=f"room for {room} on other rungs x " + from_assumption("on_demand_obtainable_share").source,
            ),
            Input(name="back", value=_back_hours(model, pool), unit="h", source="boot and start of the plan"),
            Input(
                name="notice",
                value=hazard.notice_seconds / _SECONDS,
                unit="h",
                source=from_assumption("spot_notice_seconds").source,
            ),
            Input(
                name="dry",
                value=tight.hours_without,
                unit="h",
                source=f"{tight.source}: mean gap of one V100 zone ({tight.evidence})",
            ),
        )
        gone = "gone_market = r x gap / (1 + r x gap), r = rate, gap = p x (back - notice) + (1 - p) x (dry + back)"
        whole = "1 - (gone_market + (1 - gone_market) x gone_one^on_spot) x gone_one^firm; " + gone
    else:
        gone = "no spot: gone_market = 0"
        whole = "1 - gone_one^firm"
    return (
        Explained(
            section="cost",
            name=f"endpoint of {model.name} is there",
            value=_endpoint(shares, on_spot, firm),
            unit="share of time",
            formula=whole,
            inputs=inputs,
        ),
        Explained(
            section="cost",
            name=f"capacity of {model.name}",
            value=_capacity(shares, on_spot, firm, replicas),
            unit="share of the planned replicas",
            formula=f"(on_spot x (1 - gone_market) + firm) x (1 - gone_one) / planned; {gone}",
            inputs=(*inputs, Input(name="planned", value=replicas, unit="replicas", source="the planned load")),
        ),
    )


def _nodes(model: ModelPlan) -> int:
    return model.layout.nodes


def _boot_source(pool: PoolPlan) -> str:
    name = "boot_seconds_eight_gpu" if pool.gpus_per_node >= 8 else "boot_seconds_single_gpu"
    return from_assumption(name).source
