"""What a stack costs at list prices: idle, at the start, and at its peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from catalog.load import Catalog
from catalog.types import Price
from planner.plan import (
    CachePlan,
    CostLine,
    CostPlan,
    CreatedNetworkPlan,
    EksPlan,
    ExistingClusterPlan,
    ModelPlan,
    PoolPlan,
)
from planner.pools import price_note
from planner.problems import Findings
from settings.root import Budget

HOURS_PER_MONTH = 730
_SYSTEM_ROOT_GIB = 50
_PUBLIC_ADDRESSES_PER_NAT = 1
# Logs of a quiet control plane and the flow logs of a small VPC; an assumption, told in the line itself.
_LOG_GB_PER_MONTH = 20


def nodes_at_start(pool: PoolPlan, models: Sequence[ModelPlan]) -> list[tuple[str, int]]:
    """(rung, nodes) that the minimum replicas of a pool's models need, rungs filled in order, groups kept whole."""
    rooms = {rung.name: rung.max_nodes for rung in pool.rungs}
    used = dict.fromkeys(rooms, 0)
    spare_gpus = 0
    for model in sorted((m for m in models if m.pool == pool.name), key=lambda m: -m.layout.gpus):
        layout = model.layout
        for _ in range(model.scaling.min_replicas):
            if layout.nodes == 1 and spare_gpus >= layout.gpus_per_node:
                spare_gpus -= layout.gpus_per_node
                continue
            rung = next((name for name in rooms if rooms[name] - used[name] >= layout.nodes), None)
            if rung is None:
                break
            used[rung] += layout.nodes
            spare_gpus += layout.nodes * (pool.hardware.gpus - layout.gpus_per_node)
    return [(rung.name, max(used[rung.name], rung.min_nodes)) for rung in pool.rungs]


def plan_cost(
    *,
    target: EksPlan | ExistingClusterPlan,
    network: object,
    pools: tuple[PoolPlan, ...],
    cache: CachePlan,
    models: tuple[ModelPlan, ...],
    prometheus_gib: int,
    region: str | None,
    budget: Budget | None,
    catalog: Catalog,
    findings: Findings,
) -> CostPlan:
    """All that bills; a budget that the worst month passes is a problem. Nodes that exist cost this stack nothing."""
    lines: list[CostLine] = []
    base = 0.0
    if isinstance(target, EksPlan) and region is not None:
        fixed = [*_control_plane(catalog, region), *_system(target, catalog, region)]
        fixed += _network(network, catalog, region)
        fixed += _storage(cache, models, prometheus_gib, catalog, region)
        pool_lines = [line for pool in pools for line in _pool(pool)]
        lines = fixed + pool_lines
        started = {rung: nodes for pool in pools for rung, nodes in nodes_at_start(pool, models)}
        rates = {rung.name: rung.usd_per_node_hour for pool in pools for rung in pool.rungs}
        base = sum(line.idle_usd_per_hour for line in fixed)
        base += sum(nodes * rates[rung] for rung, nodes in started.items())
    cost = CostPlan(
        lines=tuple(lines),
        base_usd_per_hour=round(base, 4),
        idle_usd_per_hour=round(sum(line.idle_usd_per_hour for line in lines), 4),
        peak_usd_per_hour=round(sum(line.peak_usd_per_hour for line in lines), 4),
        hours_per_month=HOURS_PER_MONTH,
        budget_monthly_usd=budget.monthly_usd if budget else None,
    )
    if budget and cost.peak_usd_per_month > budget.monthly_usd:
        findings.problem(
            ("budget", "monthly_usd"),
            f"the worst month costs {cost.peak_usd_per_month:,.0f} $ at list prices, above {budget.monthly_usd:,.0f} $",
            "lower the rungs' max nodes, or raise the budget",
        )
    return cost


def _line(item: str, detail: str, price: Price, units: float, *, peak_units: float | None = None) -> CostLine:
    """A line from a price by hour or by month; `units` is what is always there."""
    hourly = price.usd / HOURS_PER_MONTH if price.unit in {"month", "gb_month"} else price.usd
    return CostLine(
        item=item,
        detail=detail,
        idle_usd_per_hour=hourly * units,
        peak_usd_per_hour=hourly * (units if peak_units is None else peak_units),
        source=price_note(price, item, "service"),
    )


def _control_plane(catalog: Catalog, region: str) -> Iterator[CostLine]:
    service = catalog.prices.service
    yield _line("EKS control plane", "1 cluster", service("eks_control_plane", region), 1)
    yield _line("KMS keys", "2 keys", service("kms_key", region), 2)
    logs = service("cloudwatch_logs_ingest", region)
    yield CostLine(
        item="Logs",
        detail=f"about {_LOG_GB_PER_MONTH} GB a month of control-plane and flow logs (assumed)",
        idle_usd_per_hour=logs.usd * _LOG_GB_PER_MONTH / HOURS_PER_MONTH,
        peak_usd_per_hour=logs.usd * _LOG_GB_PER_MONTH / HOURS_PER_MONTH,
        source=price_note(logs, "logs", "service"),
    )


def _system(target: EksPlan, catalog: Catalog, region: str) -> Iterator[CostLine]:
    system = target.system
    price = catalog.prices.on_demand(system.instance_type, region)
    rate = price.usd if price else 0.0
    yield CostLine(
        item="System nodes",
        detail=f"{system.min_nodes} to {system.max_nodes} x {system.instance_type}, on demand",
        idle_usd_per_hour=rate * system.min_nodes,
        peak_usd_per_hour=rate * system.max_nodes,
        source=price_note(price, system.instance_type, "on_demand"),
    )
    gp3 = catalog.prices.service("ebs_gp3", region)
    low, high = system.min_nodes * _SYSTEM_ROOT_GIB, system.max_nodes * _SYSTEM_ROOT_GIB
    yield _line("System volumes", f"{_SYSTEM_ROOT_GIB} GiB gp3 a node", gp3, low, peak_units=high)


def _network(network: object, catalog: Catalog, region: str) -> Iterator[CostLine]:
    if not isinstance(network, CreatedNetworkPlan):
        return
    service = catalog.prices.service
    gateways = sum(zone.nat_gateway for zone in network.zones)
    if gateways:
        yield _line("NAT gateways", f"{gateways} (traffic not counted)", service("nat_gateway", region), gateways)
        addresses = gateways * _PUBLIC_ADDRESSES_PER_NAT
        yield _line("Public addresses", f"{addresses}", service("public_ipv4", region), addresses)
    if network.interface_endpoints:
        zones = sum(zone.control_plane for zone in network.zones)
        count = len(network.interface_endpoints) * zones
        yield _line(
            "Interface endpoints",
            f"{len(network.interface_endpoints)} in {zones} zones",
            service("interface_endpoint", region),
            count,
        )


def _storage(
    cache: CachePlan, models: Sequence[ModelPlan], prometheus_gib: int, catalog: Catalog, region: str
) -> Iterator[CostLine]:
    service = catalog.prices.service
    yield _line("Prometheus volume", f"{prometheus_gib} GiB gp3", service("ebs_gp3", region), prometheus_gib)
    if cache.fsx is not None:
        price = service(f"fsx_lustre_persistent_2_ssd_{cache.fsx.throughput_mbps_per_tib}", region)
        detail = f"{cache.fsx.storage_gib} GiB at {cache.fsx.throughput_mbps_per_tib} MB/s a TiB"
        yield _line("FSx for Lustre", detail, price, cache.fsx.storage_gib)
    if cache.bucket:
        stored = {model.weights.object_prefix: model.weights.gigabytes for model in models}
        total = sum(stored.values())
        yield _line("S3 weights", f"{total:,.0f} GB, one revision each", service("s3_standard", region), total)


def _pool(pool: PoolPlan) -> Iterator[CostLine]:
    for rung in pool.rungs:
        # Prepaid or reserved: it costs the same whether its nodes run or not.
        floor = rung.max_nodes if rung.always_bills else rung.min_nodes
        paid = {"capacity_block": "prepaid,", "capacity_reservation": "used or not,"}.get(rung.kind)
        count = f"{floor}, {paid}" if paid else f"{floor} to {rung.max_nodes}"
        yield CostLine(
            item=f"Pool {pool.name}",
            detail=f"{rung.kind.replace('_', ' ')}, {count} x {pool.hardware.instance_type}",
            idle_usd_per_hour=rung.usd_per_node_hour * floor,
            peak_usd_per_hour=rung.usd_per_node_hour * rung.max_nodes,
            source=rung.price_note,
        )
