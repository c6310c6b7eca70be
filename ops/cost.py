"""`cost`: what a stack costs, line by line, by hour and by token, and how much of the time it is there."""

from __future__ import annotations

from datetime import UTC, date, datetime

from ops.console import out, table
from planner.cost import stale_prices
from planner.plan import CostPlan, Finding, Plan


def today() -> date:
    """The day that prices are judged at; the planner itself asks no clock."""
    return datetime.now(UTC).date()


def price_findings(plan: Plan, at: date | None = None) -> tuple[Finding, ...]:
    """Remarks on the age of the prices behind a plan."""
    return stale_prices(plan.cost, plan.region, at or today())


def print_cost(cost: CostPlan) -> None:
    """The money of a stack, line by line."""
    rows = [
        (
            line.item,
            line.detail,
            f"{line.idle_usd_per_hour:.3f}",
            f"{line.planned_usd_per_hour:.3f}",
            f"{line.peak_usd_per_hour:.3f}",
            f"{line.planned_usd_per_hour * cost.hours_per_month:,.0f}",
        )
        for line in cost.lines
    ]
    rows.append(
        (
            "[bold]all[/bold]",
            "",
            f"{cost.idle_usd_per_hour:.2f}",
            f"{cost.planned_usd_per_hour:.2f}",
            f"{cost.peak_usd_per_hour:.2f}",
            f"{cost.planned_usd_per_month:,.0f}",
        )
    )
    columns = ("item", "what", "idle $/h", "planned $/h", "peak $/h", "planned $/month")
    out.print(table("Cost at list prices, excl. tax, discounts and support", columns, rows, right=(2, 3, 4, 5)))
    out.print(
        f"at the start {cost.base_usd_per_hour:.2f} $/h; worst month {cost.peak_usd_per_month:,.0f} $"
        + (f" of a budget of {cost.budget_monthly_usd:,.0f} $" if cost.budget_monthly_usd else "")
    )


def print_parts(cost: CostPlan) -> None:
    """Hours, tokens and availability."""
    if cost.rungs:
        out.print()
        out.print(_rungs(cost))
    if cost.tokens:
        out.print()
        out.print(_tokens(cost))
    if cost.availability:
        out.print()
        out.print(_availability(cost))


def _rungs(cost: CostPlan) -> object:
    rows = [
        (
            rung.rung,
            f"{rung.nodes:.2f}",
            f"{rung.usd_per_node_hour:.2f}",
            f"{rung.interruptions_per_node_month:.2f}",
            f"{rung.lost_hours_per_interruption * 60:.0f}",
            f"{rung.usd_per_useful_hour:.2f}",
        )
        for rung in cost.rungs
    ]
    columns = ("rung", "nodes planned", "$/h", "losses a month", "min lost each", "$ a useful hour")
    return table("Hours: interruptions and failures of a node counted", columns, rows, right=(1, 2, 3, 4, 5))


def _tokens(cost: CostPlan) -> object:
    rows: list[tuple[str, ...]] = []
    for entry in cost.tokens:
        load = f"{entry.requests_per_second:.3g} requests/s, {entry.replicas} replica(s)"
        load += "" if entry.basis == "traffic" else " (full, no traffic given)"
        both = _pair(entry.input_usd_per_million, entry.output_usd_per_million)
        rows.append((f"[bold]{entry.model}[/bold]", load, *both))
        factor = entry.all_in_factor
        rows.append(
            (
                "",
                f"all that bills (x {factor:.2f})",
                *_pair(entry.input_usd_per_million * factor, entry.output_usd_per_million * factor),
            )
        )
        rows += [
            ("", f"{rung.rung} alone", *_pair(rung.input_usd_per_million, rung.output_usd_per_million))
            for rung in entry.rungs
            if len(entry.rungs) > 1
        ]
    title = "Tokens: $ a million of GPUs, on the expected mix of the ladder"
    return table(title, ("model", "at", "input", "output"), rows, right=(2, 3))


def _pair(first: float, second: float) -> tuple[str, str]:
    return f"{first:.3f}", f"{second:.3f}"


def _availability(cost: CostPlan) -> object:
    rows = [
        (
            entry.model,
            _share(entry.endpoint),
            _share(entry.capacity),
            _share(entry.endpoint_tight),
            _share(entry.capacity_tight),
        )
        for entry in cost.availability
    ]
    columns = ("model", "a replica serves", "of the replicas", "tight market: a replica", "of the replicas")
    return table("Availability of GPUs, zone and software not counted", columns, rows, right=(1, 2, 3, 4))


def _share(value: float) -> str:
    """Of time; no rate behind it is known well enough for a sixth nine."""
    return "> 99.999%" if value > 0.99999 else f"{value:.3%}"
