"""All that bills of one stack, and what follows: the cost section of the Plan."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from catalog.load import Catalog
from planner.cost.budget import judge
from planner.cost.interruptions import availability, rung_cost, there
from planner.cost.lines import HOURS_PER_MONTH, Quantity, always, line
from planner.cost.load import Load, load_of
from planner.cost.network import TokenFlow, Usage, bucket_requests, network_lines
from planner.cost.nodes import expected_nodes, fill, nodes_at_start, replicas_by_rung
from planner.cost.platform import control_plane, secrets, storage, store_volumes, system_nodes, volumes
from planner.cost.quotes import tell_missing_prices
from planner.cost.tokens import Shared, token_cost
from planner.plan import (
    AvailabilityPlan,
    CachePlan,
    CostLine,
    CostPlan,
    CreatedNetworkPlan,
    EksPlan,
    ExistingClusterPlan,
    ExistingNetworkPlan,
    ModelPlan,
    PoolPlan,
    RungCostPlan,
    RungPlan,
    TokenCostPlan,
)
from planner.problems import Findings
from settings.root import Settings


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What the rest of the plan has decided and money follows from."""

    target: EksPlan | ExistingClusterPlan
    network: CreatedNetworkPlan | ExistingNetworkPlan | None
    pools: Mapping[str, PoolPlan]
    cache: CachePlan
    models: tuple[ModelPlan, ...]

    @functools.cached_property
    def loads(self) -> Mapping[str, Load]:
        """By model; one that serves nothing within its objectives is counted with its minimum replicas."""
        return {model.name: load for model in self.models if (load := load_of(model)) is not None}


def plan_cost(
    decided: Decided, settings: Settings, *, region: str | None, catalog: Catalog, findings: Findings
) -> CostPlan:
    """All that bills; a budget that the worst month passes is a problem. Nodes that exist cost this stack nothing."""
    budget = settings.budget
    if not isinstance(decided.target, EksPlan) or region is None:
        return CostPlan(
            lines=(),
            base_usd_per_hour=0.0,
            idle_usd_per_hour=0.0,
            peak_usd_per_hour=0.0,
            hours_per_month=HOURS_PER_MONTH,
            budget_monthly_usd=budget.monthly_usd if budget else None,
        )
    ladders = [Ladder.of(pool, decided, region) for pool in decided.pools.values()]
    nodes = [ladder.nodes for ladder in ladders]
    usage = Usage(
        nodes=_total(nodes),
        # Without stated traffic, bytes of tokens would be those of an assumption: none are counted.
        tokens=tuple(
            _flow(model, load)
            for model in decided.models
            if model.is_endpoint and (load := decided.loads.get(model.name)) is not None and load.basis == "traffic"
        ),
        images_from_internet=settings.images.mirror is None or ".dkr.ecr." not in settings.images.mirror,
        scrape_interval_seconds=settings.observability.scrape_interval_seconds,
    )
    lines = (
        *control_plane(decided.target, catalog, region),
        *system_nodes(decided.target, catalog, region),
        *network_lines(decided.network, usage, catalog, region),
        *volumes(tuple(decided.pools.values()), nodes, settings.observability.prometheus.storage_gib, catalog, region),
        *store_volumes(settings.valkey, catalog, region),
        *storage(decided.cache, decided.models, catalog, region),
        *bucket_requests(decided.cache, decided.models, usage.nodes, catalog, region),
        *secrets(settings, catalog, region),
        *(entry for ladder in ladders for entry in ladder.lines(catalog, region)),
    )
    rungs = tuple(cost for ladder in ladders for cost in ladder.rung_costs(decided.models, region))
    planned = sum(entry.planned_usd_per_hour for entry in lines)
    gpus = sum(entry.planned_usd_per_hour for ladder in ladders for entry in ladder.lines(catalog, region))
    cost = CostPlan(
        lines=lines,
        base_usd_per_hour=round(sum(entry.base_usd_per_hour for entry in lines), 4),
        idle_usd_per_hour=round(sum(entry.idle_usd_per_hour for entry in lines), 4),
        planned_usd_per_hour=round(planned, 4),
        peak_usd_per_hour=round(sum(entry.peak_usd_per_hour for entry in lines), 4),
        hours_per_month=HOURS_PER_MONTH,
        budget_monthly_usd=budget.monthly_usd if budget else None,
        rungs=rungs,
        tokens=tuple(_tokens(ladders, rungs, decided, planned / gpus if gpus else 1.0)),
        availability=tuple(entry for ladder in ladders for entry in ladder.availability(decided, region)),
    )
    tell_missing_prices(lines, settings, decided.pools, catalog, region, findings)
    judge(cost, settings, decided.pools, decided.models, findings)
    return cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """One pool with the nodes of each rung at every level of use."""

    pool: PoolPlan
    replicas: Mapping[str, int]
    """Planned, by model."""
    running: Mapping[str, Quantity]
    """Nodes of each rung."""

    @classmethod
    def of(cls, pool: PoolPlan, decided: Decided, region: str) -> Ladder:
        """The pool of a plan."""
        replicas = {model.name: planned_replicas(model, decided.loads) for model in decided.models}
        start = dict(nodes_at_start(pool, decided.models))
        idle = fill(pool, decided.models, {})
        mean = expected_nodes(pool, decided.models, replicas, there(pool, region))
        return cls(
            pool=pool,
            replicas=replicas,
            running={
                rung.name: Quantity(
                    idle=idle[rung.name],
                    base=start[rung.name],
                    planned=mean[rung.name],
                    peak=rung.max_nodes,
                    name="nodes",
                    unit="",
                    source=f"pools[].capacity of {pool.name}: replicas of the planned load, rungs filled in order",
                )
                for rung in pool.rungs
            },
        )

    def billed(self, rung: RungPlan) -> Quantity:
        """Nodes of a rung that bill: prepaid and reserved ones do whether they run or not."""
        if rung.always_bills:
            return always(rung.max_nodes, "nodes", "", f"pools[].capacity of {self.pool.name}, paid for either way")
        return self.running[rung.name]

    @property
    def nodes(self) -> Quantity:
        """Of all rungs."""
        return _total(list(self.running.values()))

    def lines(self, catalog: Catalog, region: str) -> Iterator[CostLine]:
        """One line a rung."""
        for rung in self.pool.rungs:
            quantity = self.billed(rung)
            count = (
                f"{rung.max_nodes}, used or not,"
                if rung.always_bills
                else f"{rung.min_nodes} to {rung.max_nodes}, {quantity.planned:.2f} at the planned load,"
            )
            price = catalog.prices.of_rung(rung.kind, str(self.pool.hardware.instance_type), region)
            yield line(
                f"Pool {self.pool.name}",
                f"{rung.kind.replace('_', ' ')}{f' in {rung.zone}' if rung.zone else ''}, {count} x "
                f"{self.pool.hardware.instance_type}",
                price,
                quantity,
                usd=rung.usd_per_node_hour,
                source=rung.price_note,
            )

    def rung_costs(self, models: Sequence[ModelPlan], region: str) -> Iterator[RungCostPlan]:
        """Useful hours of each rung."""
        for rung in self.pool.rungs:
            found = rung_cost(self.pool, rung, models, self.billed(rung).planned, region)
            if found is not None:
                yield found

    def availability(self, decided: Decided, region: str) -> Iterator[AvailabilityPlan]:
        """Of each model of the pool."""
        spot = frozenset(rung.name for rung in self.pool.rungs if rung.kind == "spot")
        on = replicas_by_rung(self.pool, decided.models, self.replicas)
        others = replicas_by_rung(self.pool, decided.models, self.replicas, without=spot)
        for model in decided.models:
            if model.name not in on:
                continue
            room = sum(others[model.name].values())
            found = availability(model, self.pool, on[model.name], room, self.replicas[model.name], region)
            if found is not None:
                yield found


def planned_replicas(model: ModelPlan, loads: Mapping[str, Load]) -> int:
    """Replicas at the planned load: what it needs, within what scaling allows."""
    wanted = loads[model.name].replicas if model.name in loads else model.scaling.min_replicas
    return min(max(wanted, model.scaling.min_replicas), model.scaling.max_replicas)


def _flow(model: ModelPlan, load: Load) -> TokenFlow:
    return TokenFlow(
        model=model.name,
        input_per_second=load.requests_per_second * load.input_tokens,
        output_per_second=load.requests_per_second * load.output_tokens,
        peak_factor=model.scaling.max_replicas / load.replicas,
        source=load.source,
    )


def _tokens(
    ladders: Sequence[Ladder], rungs: Sequence[RungCostPlan], decided: Decided, all_in: float
) -> Iterator[TokenCostPlan]:
    by_name = {rung.rung: rung for rung in rungs}
    for ladder in ladders:
        used = fill(ladder.pool, decided.models, ladder.replicas)
        total = sum(quantity.planned for quantity in ladder.running.values())
        own = [model for model in decided.models if model.pool == ladder.pool.name]
        shared = Shared(
            pool=ladder.pool,
            rungs={name: by_name[name] for name in ladder.running if name in by_name},
            gpus=sum(ladder.replicas[model.name] * model.layout.gpus for model in own),
            nodes=max(total, sum(used.values())),
        )
        on = {name: quantity.planned / total if total else 0.0 for name, quantity in ladder.running.items()}
        for model in own:
            if model.name in decided.loads:
                yield token_cost(model, decided.loads[model.name], shared, on, all_in)


def _total(parts: Sequence[Quantity]) -> Quantity:
    return Quantity(
        idle=sum(part.idle for part in parts),
        base=sum(part.base for part in parts),
        planned=sum(part.planned for part in parts),
        peak=sum(part.peak for part in parts),
        name="nodes",
        unit="",
        source="pools[].capacity in the stack file, at the planned load",
    )
