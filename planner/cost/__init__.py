"""Money: what bills, what an hour and a token cost, what a budget allows. Formulas: docs/explanation/cost.md."""

from __future__ import annotations

from planner.cost.lines import HOURS_PER_MONTH
from planner.cost.load import Load, load_of
from planner.cost.nodes import expected_nodes, fill, nodes_at_start
from planner.cost.planning import Decided, plan_cost
from planner.cost.quotes import stale_prices

__all__ = [
    "HOURS_PER_MONTH",
    "Decided",
    "Load",
    "expected_nodes",
    "fill",
    "load_of",
    "nodes_at_start",
    "plan_cost",
    "stale_prices",
]
