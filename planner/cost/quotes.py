"""How good the prices behind a plan are: missing, borrowed from elsewhere, or old."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from catalog.assumptions import assumed
from catalog.load import Catalog
from planner.plan import CostLine, CostPlan, Finding, PoolPlan
from planner.problems import Findings
from settings.root import Settings


def tell_missing_prices(
    lines: Sequence[CostLine],
    settings: Settings,
    pools: Mapping[str, PoolPlan],
    catalog: Catalog,
    region: str,
    findings: Findings,
) -> None:
    """Remarks on prices that the region does not have: whose they are instead, and how to get its own."""
    refresh = f"`python -m ops prices refresh --region {region}`"
    for index, wanted in enumerate(settings.pools):
        pool = pools.get(wanted.name)
        for position, rung in enumerate(pool.rungs if pool else ()):
            price = catalog.prices.of_rung(rung.kind, str(pool.hardware.instance_type if pool else ""), region)
            subject = f"pools[{index}].capacity[{position}]"
            if price is None and rung.kind != "existing":
                findings.remark(subject, f"{rung.price_note}; {refresh} asks AWS")
            elif price is not None and price.borrowed:
                kind = rung.kind.replace("_", " ")
                findings.remark(
                    subject,
                    f"no {kind} price of {region} is known: counted as in {price.region}, {price.usd:.2f} $/h; "
                    f"{refresh}",
                )
    others = [line for line in lines if "; borrowed from " in line.source and not line.item.startswith("Pool ")]
    if others:
        whose = sorted({line.source.split("; borrowed from ")[1].split(";")[0] for line in others})
        findings.remark(
            "prices", f"{len(others)} prices of services are those of {', '.join(whose)}, not of {region}; {refresh}"
        )


def stale_prices(cost: CostPlan, region: str | None, today: date) -> tuple[Finding, ...]:
    """A remark where prices behind a plan are older than the catalog allows; `today` is the caller's."""
    limit = int(assumed("price_max_age_days"))
    old = [
        (line.price_as_of, line.item)
        for line in cost.lines
        if line.price_as_of is not None and (today - line.price_as_of).days > limit
    ]
    if not old:
        return ()
    oldest, item = min(old)
    return (
        Finding(
            subject="prices",
            message=(
                f"{len(old)} of {len(cost.lines)} prices are older than {limit} days, the oldest is of {oldest} "
                f"({item}); `python -m ops prices refresh --region {region}` reads today's"
            ),
        ),
    )
