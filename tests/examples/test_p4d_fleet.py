"""The p4d fleet: its README says what the planner gives. UPDATE_GOLDEN=1 writes the figures anew."""

from __future__ import annotations

import copy
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.interruptions import interruptions
from ops.explain import numbers_of
from planner import load_and_plan
from planner.cost import expected_nodes
from planner.plan import Plan

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "p4d-fleet"
README = FOLDER / "README.md"
PLATFORM = "inference-platform:platform"
LIST_PRICE_UNTIL_JUNE_2025 = 32.7726
"""Dollars an hour of a p4d.24xlarge on demand in us-east-1 before AWS cut it by a third."""
PUBLISHED = {"before": 12_000, "after": 3_800, "hour": -0.76, "availability": 0.9995}


def document(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"Pulumi.{name}.yaml").read_text(encoding="utf-8"))


@cache
def committed(name: str) -> Plan:
    return load_and_plan(FOLDER / f"Pulumi.{name}.yaml")[1]


def crossed(directory: Path, name: str, *, ladder: str, model: str) -> Plan:
    """The ladder of one file with the model of another."""
    data = document(ladder)
    pool = data["config"][PLATFORM]["pools"][0]
    data["config"][PLATFORM]["models"] = copy.deepcopy(document(model)["config"][PLATFORM]["models"])
    for rung in pool["capacity"]:
        rung["nodes"]["max"] = 30
    path = directory / f"Pulumi.{name}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return load_and_plan(path)[1]


def per_day(plan: Plan) -> float:
    return plan.cost.planned_usd_per_hour * 24


def nodes(plan: Plan) -> str:
    counts = {rung.kind: rung.nodes for rung in plan.cost.rungs}
    return " + ".join(f"{count:.0f} {kind.replace('_', ' ')}" for kind, count in counts.items() if count >= 0.5)


def in_tight_market(plan: Plan) -> tuple[float, float]:
    """(share of time that spot is there, $ a day) where spot comes and goes within hours."""
    tight, pool = interruptions().tight, plan.pools[0]
    share = tight.hours_between / (tight.hours_between + tight.hours_without)
    replicas = {plan.models[0].name: plan.cost.tokens[0].replicas}
    mean = expected_nodes(pool, plan.models, replicas, {r.name: share for r in pool.rungs if r.kind == "spot"})
    gpus = sum(mean[rung.name] * rung.usd_per_node_hour for rung in pool.rungs)
    others = sum(line.planned_usd_per_hour for line in plan.cost.lines if not line.item.startswith("Pool "))
    return share, (gpus + others) * 24


def figures(directory: Path) -> str:
    before, after = committed("before"), committed("after")
    int4 = crossed(directory, "int4", ladder="before", model="after")
    spot = crossed(directory, "spot", ladder="after", model="before")
    rows = [
        ("before: bf16, on demand", before),
        ("INT4 alone", int4),
        ("spot with a floor alone", spot),
        ("after: both", after),
    ]
    start = per_day(before)
    table = [
        "| | p4d nodes | $ a day | against before | $/1M input | $/1M output |",
        "|---|---|---|---|---|---|",
    ]
    for name, plan in rows:
        entry, day = plan.cost.tokens[0], per_day(plan)
        change = "" if plan is before else f"{day / start - 1:+.0%}"
        prices = f"{entry.input_usd_per_million:.2f} | {entry.output_usd_per_million:.2f}"
        table.append(f"| {name} | {nodes(plan)} | {day:,.0f} | {change} | {prices} |")
    on_demand = before.pools[0].rungs[0].usd_per_node_hour
    spot_price = after.pools[0].rungs[0].usd_per_node_hour
    there, tight_day = in_tight_market(after)
    kept = after.cost.availability[0]
    useful = next(rung for rung in after.cost.rungs if rung.kind == "spot")
    published, ours = PUBLISHED, per_day(after) / start - 1
    return "\n".join(
        [
            *table,
            "",
            "| | published | here |",
            "|---|---|---|",
            f"| before, $ a day | {published['before']:,} | {start:,.0f} |",
            f"| after, $ a day | {published['after']:,} | {per_day(after):,.0f} |",
            f"| saved | {published['after'] / published['before'] - 1:.0%} | {ours:.0%} |",
            f"| spot against on demand, an hour | {published['hour']:.0%} | {spot_price / on_demand - 1:.0%} "
            f"({spot_price:.2f} against {on_demand:.2f} $); {spot_price / LIST_PRICE_UNTIL_JUNE_2025 - 1:.0%} against "
            f"the {LIST_PRICE_UNTIL_JUNE_2025:.2f} $ of before June 2025 |",
            f"| availability | {published['availability']:.2%} | a replica answers {shown(kept.endpoint)} of the time, "
            f"{kept.capacity:.3%} of the replicas are there on average |",
            f"| the same in a tight spot market | | a replica answers {shown(kept.endpoint_tight)}, "
            f"{kept.capacity_tight:.1%} of the replicas; {tight_day:,.0f} $ a day, spot being there "
            f"{there:.0%} of the time |",
            f"| an hour of spot with interruptions counted | | {useful.usd_per_useful_hour:.3f} $ "
            f"({useful.usd_per_useful_hour / useful.usd_per_node_hour - 1:.2%} more, "
            f"{useful.interruptions_per_node_month:.2f} interruptions of a node a month, "
            f"{useful.lost_hours_per_interruption * 60:.0f} minutes each) |",
        ]
    )


def shown(share: float) -> str:
    return "more than 99.999%" if share > 0.99999 else f"{share:.3%}"


BLOCK = re.compile(r"(<!-- figures: .*? -->\n).*?(\n<!-- end of figures -->)", re.DOTALL)


def test_the_readme_says_what_the_planner_gives(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    assert BLOCK.search(text), "the README has no block of figures"
    fresh = BLOCK.sub(lambda found: f"{found[1]}{figures(tmp_path)}{found[2]}", text)
    if os.environ.get("UPDATE_GOLDEN"):
        README.write_text(fresh, encoding="utf-8")
    assert README.read_text(encoding="utf-8") == fresh, "UPDATE_GOLDEN=1 writes the figures anew"


def test_both_files_serve_the_same_load_within_the_same_objectives() -> None:
    before, after = (document(name)["config"][PLATFORM]["models"][0] for name in ("before", "after"))
    assert before["traffic"] == after["traffic"]
    assert before["objectives"] == after["objectives"]
    for name in ("before", "after"):
        predicted = committed(name).models[0].performance
        assert predicted is not None
        assert predicted.at_traffic is not None
        assert predicted.at_traffic.tpot_ms.p99 <= before["objectives"]["tpot_p99_ms"] * 1.001
        assert predicted.at_traffic.ttft_ms.p99 <= before["objectives"]["ttft_p99_ms"]


def test_the_case_holds_in_kind() -> None:
    """Not a fit: if prices or the performance model move, this says when the published case no longer follows."""
    before, after = per_day(committed("before")), per_day(committed("after"))
    assert before == pytest.approx(PUBLISHED["before"], rel=0.15)
    assert after == pytest.approx(PUBLISHED["after"], rel=0.25)
    assert committed("after").cost.availability[0].capacity >= PUBLISHED["availability"]


def test_int4_needs_more_nodes_where_the_objective_is_loose(tmp_path: Path) -> None:
    """What the README warns of: A100 widens INT4 weights before each product, and full batches pay for it."""
    needed: dict[str, int] = {}
    for name in ("before", "after"):
        data = document(name)
        platform = data["config"][PLATFORM]
        platform["models"][0]["objectives"]["tpot_p99_ms"] = 80
        path = tmp_path / f"Pulumi.{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        predicted = load_and_plan(path)[1].models[0].performance
        assert predicted is not None
        needed[name] = predicted.replicas_needed or 0
    assert needed["after"] > needed["before"] > 0


def test_every_figure_can_be_explained() -> None:
    for name in ("before", "after"):
        assert len(numbers_of(committed(name), "cost")) > 15
        assert len(numbers_of(committed(name), "llama-70b")) > 15
