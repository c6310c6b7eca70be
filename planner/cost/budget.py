"""A budget judged: what the worst month costs, what is largest in it, and the nearest change that fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from planner.cost.lines import HOURS_PER_MONTH
from planner.cost.nodes import nodes_at_start
from planner.plan import CostPlan, ModelPlan, PoolPlan
from planner.problems import Findings
from settings.root import Budget, Settings


def judge(
    cost: CostPlan, settings: Settings, pools: Mapping[str, PoolPlan], models: Sequence[ModelPlan], findings: Findings
) -> None:
    """Problems where the worst month, or a model's tokens, cost more than the budget says."""
    budget = settings.budget
    if budget is None:
        return
    _judge_unknown(settings, pools, findings)
    if cost.peak_usd_per_month > budget.monthly_usd:
        largest = max(cost.lines, key=lambda line: line.peak_usd_per_hour)
        findings.problem(
            ("budget", "monthly_usd"),
            f"the worst month costs {cost.peak_usd_per_month:,.0f} $ at list prices, above {budget.monthly_usd:,.0f} "
            f"$; the largest part is {largest.item} ({largest.detail}): "
            f"{largest.peak_usd_per_hour * HOURS_PER_MONTH:,.0f} $",
            _nearest(cost, budget, settings, pools, models),
        )
    _judge_tokens(cost, settings, findings)


def _judge_unknown(settings: Settings, pools: Mapping[str, PoolPlan], findings: Findings) -> None:
    """A price that nobody knows counts as 0, which no budget can be judged by; a rung that is wrong is told already."""
    wrong = {problem.path for problem in findings.problems}
    for index, wanted in enumerate(settings.pools):
        pool = pools.get(wanted.name)
        for position, rung in enumerate(pool.rungs if pool else ()):
            path = ("pools", index, "capacity", position)
            if rung.usd_per_node_hour == 0 and rung.kind != "existing" and path not in wrong:
                findings.problem(
                    path,
                    f"{rung.price_note}, so the budget cannot be judged",
                    "take another kind of capacity or type, add the price to catalog/prices.yaml with its source "
                    "(`python -m ops prices refresh` asks AWS), or leave `budget` out",
                )


def _nearest(
    cost: CostPlan, budget: Budget, settings: Settings, pools: Mapping[str, PoolPlan], models: Sequence[ModelPlan]
) -> str:
    """The fewest nodes to take from rungs, dearest first, such that the minimum replicas keep their room."""
    over = (cost.peak_usd_per_month - budget.monthly_usd) / HOURS_PER_MONTH
    cuts: list[str] = []
    spare: list[tuple[float, int, int, int]] = []
    for index, wanted in enumerate(settings.pools):
        pool = pools.get(wanted.name)
        if pool is None:
            continue
        needed = dict(nodes_at_start(pool, models))
        for position, rung in enumerate(pool.rungs):
            free = 0 if rung.always_bills else rung.max_nodes - max(needed[rung.name], rung.min_nodes, 1)
            if free > 0 and rung.usd_per_node_hour:
                spare.append((rung.usd_per_node_hour, free, index, position))
    for usd, free, index, position in sorted(spare, key=lambda entry: (-entry[0], *entry[1:])):
        if over <= 0:
            break
        rung = pools[settings.pools[index].name].rungs[position]
        taken = min(free, math.ceil(round(over / usd, 9)))
        over -= taken * usd
        cuts.append(
            f"`pools[{index}].capacity[{position}].nodes.max` from {rung.max_nodes} to {rung.max_nodes - taken}"
        )
    if over > 0:
        least = budget.monthly_usd + over * HOURS_PER_MONTH
        return (
            f"no smaller ladder that holds the minimum replicas fits: {math.ceil(least):,} $ is the least; take "
            "cheaper nodes (`python -m ops size` finds some), fewer replicas, or raise the budget"
        )
    reached = budget.monthly_usd + over * HOURS_PER_MONTH
    return f"lower {', '.join(cuts)} (worst month {reached:,.0f} $), or raise the budget"


def _judge_tokens(cost: CostPlan, settings: Settings, findings: Findings) -> None:
    assert settings.budget is not None  # noqa: S101 - the caller has looked
    by_model = {entry.model: entry for entry in cost.tokens}
    names = [model.name for model in settings.models]
    for index, limit in enumerate(settings.budget.models):
        path = ("budget", "models", index)
        if limit.model not in names:
            findings.problem(
                (*path, "model"), f"no model is called `{limit.model}`", "it is one of " + ", ".join(names)
            )
            continue
        found = by_model.get(limit.model)
        if found is None or found.output_usd_per_million <= limit.max_usd_per_million_output_tokens:
            continue
        planned = "at the planned load" if found.basis == "traffic" else "even with full replicas"
        cheapest = min(found.rungs, key=lambda rung: rung.output_usd_per_million)
        findings.problem(
            (*path, "max_usd_per_million_output_tokens"),
            f"a million output tokens cost {found.output_usd_per_million:.2f} $ {planned} (GPUs alone), above "
            f"{limit.max_usd_per_million_output_tokens:.2f} $",
            f"on {cheapest.rung} alone they would cost {cheapest.output_usd_per_million:.2f} $; more "
            "traffic a replica, a smaller layout or quantised weights lower it, or raise the limit",
        )
