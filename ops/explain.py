"""`plan --explain`: every number with its formula, what went into it, and where that came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.text import Text

from ops.console import OK, USAGE, err, out, print_json
from planner.plan import CostPlan, Explained, Input, ModelPlan, Plan

COST = "cost"
"""Subject that explains money; a model of that name wins."""


def show_explanation(plan: Plan, subject: str, *, as_json: bool) -> int:
    """Explain one model, or `cost`."""
    model = next((m for m in plan.models if m.name == subject), None)
    if model is None and subject != COST:
        known = ", ".join([*(m.name for m in plan.models), COST])
        err.print(f"error: stack {plan.stack} has no model `{subject}`\n  help: it has {known}", markup=False)
        return USAGE
    numbers = numbers_of(plan, subject)
    if not numbers and not as_json:
        out.print(f"nothing of stack {plan.stack} bills here: its nodes are those of an existing cluster", markup=False)
        return OK
    if as_json:
        decisions = decisions_of(model) if model else {}
        options = arguments_of(model) if model else []
        print_json({"subject": subject, "decisions": decisions, "options": options, "numbers": numbers})
        return OK
    if model is not None:
        for decision, reason in decisions_of(model).items():
            out.print(f"[bold]{decision}[/bold]")
            out.print(f"  {reason}", markup=False, soft_wrap=True)
        _print_arguments(model)
    for section, entries in groupby(numbers, key=lambda number: number.section):
        _print(section, entries)
    return OK


def decisions_of(model: ModelPlan) -> dict[str, str]:
    """What was decided in words; numbers in them are those of the sections."""
    told = {number.section for number in model.numbers}
    words = {name: reason for name, reason in model.why.items() if name not in told}
    return {**words, "command": " ".join((*model.container.command, *model.container.args)) or "ray start (by KubeRay)"}


def arguments_of(model: ModelPlan) -> list[dict[str, str]]:
    """Options of the engine with their reasons."""
    return [{"option": " ".join(argument.tokens), "why": argument.why} for argument in model.arguments]


def numbers_of(plan: Plan, subject: str) -> tuple[Explained, ...]:
    """Every number that the plan has about a model, or about money."""
    model = next((m for m in plan.models if m.name == subject), None)
    if model is not None:
        return (*model.numbers, *_money_of(plan.cost, model.name))
    return tuple(_money(plan.cost))


def _money_of(cost: CostPlan, model: str) -> Iterator[Explained]:
    for found in (*cost.tokens, *cost.availability):
        if found.model == model:
            yield from found.explained


def _money(cost: CostPlan) -> Iterator[Explained]:
    for line in cost.lines:
        yield Explained(
            section=COST,
            name=f"{line.item}: {line.detail}",
            value=line.planned_usd_per_hour,
            unit="$/h at the planned load",
            formula=line.formula,
            inputs=line.inputs,
        )
    if not cost.lines:
        return
    parts = Input(name="lines", value=len(cost.lines), unit="lines", source="the lines above")
    for name, value in (
        ("idle", cost.idle_usd_per_hour),
        ("at the start", cost.base_usd_per_hour),
        ("at the planned load", cost.planned_usd_per_hour),
        ("at the peak", cost.peak_usd_per_hour),
    ):
        yield Explained(section="totals", name=name, value=value, unit="$/h", formula="sum of lines", inputs=(parts,))
    hours = Input(name="hours", value=cost.hours_per_month, unit="h", source="365 x 24 / 12, as AWS counts a month")
    for name, value in (
        ("month at the planned load", cost.planned_usd_per_hour),
        ("worst month", cost.peak_usd_per_hour),
    ):
        yield Explained(
            section="totals",
            name=name,
            value=value * cost.hours_per_month,
            unit="$",
            formula="usd_per_hour x hours",
            inputs=(Input(name="usd_per_hour", value=value, unit="$/h", source="totals, above"), hours),
        )
    yield from _of_parts(cost)


def _of_parts(cost: CostPlan) -> Iterator[Explained]:
    for part in (*cost.rungs, *cost.tokens, *cost.availability):
        yield from part.explained


def _print_arguments(model: ModelPlan) -> None:
    """Every option of the engine with its reason."""
    out.print(Text("options", style="bold"))
    for argument in model.arguments:
        line = Text(f"  {' '.join(argument.tokens)}")
        line.append(f"  ({argument.why})", style="dim")
        out.print(line, soft_wrap=True)


def _print(section: str, numbers: Iterable[Explained]) -> None:
    """One section; lines are never cut, since a source that ends in the middle is none."""
    out.print(Text(section, style="bold"))
    for number in numbers:
        out.print(Text(f"  {number.name}: {shown(number.value)} {number.unit}".rstrip()), soft_wrap=True)
        out.print(Text(f"    = {number.formula}", style="italic"), soft_wrap=True)
        for given in number.inputs:
            leaf = Text(f"      {given.name} = {shown(given.value)} {given.unit}".rstrip())
            leaf.append(f"  ({given.source})", style="dim")
            out.print(leaf, soft_wrap=True)


def shown(value: float | str) -> str:
    """A number as people read it: no more digits than mean something."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or float(value).is_integer():
        return f"{value:,.0f}"
    if 0.999 < value < 1:
        # A share that is not whole must not read as 1: digits up to the second that is no nine.
        return f"{value:.{max(6, math.ceil(-math.log10(1 - value)) + 1)}f}"
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"
