"""The day as small multiples: one column a model; traffic, replicas, latencies, queue and money over the hours."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# matplotlib types its figures and axes in part.

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.dates import ConciseDateFormatter, HourLocator
from matplotlib.ticker import FuncFormatter, NullFormatter

from planner.plan import Plan
from simulation.results import INTERVAL_SECONDS, ModelResult, Replayed

mpl.use("Agg")

from matplotlib import pyplot as plt

_INK, _MUTED, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_BLUE, _LIGHT, _RED, _GREEN = "#2563a8", "#9cc3e6", "#c8402f", "#3b8f5a"
_RUNGS = {
    "capacity_block": "#5b4b8a",
    "capacity_reservation": "#8577b3",
    "spot": "#3b8f5a",
    "on_demand": "#d98e32",
    "existing": "#7b8794",
}
_ROLES = {"prefill": "#d98e32", "decode": _BLUE}
_ROWS = ("requests/s", "replicas", "TTFT, s", "TPOT, ms", "waiting", "$/h of nodes")
_HEIGHTS = (1.2, 1.0, 1.2, 0.9, 0.8, 1.1)
_WIDTH_A_MODEL, _HEIGHT = 5.2, 11.5


def plot(result: Replayed, plan: Plan, start: datetime, title: str, path: Path) -> None:
    """Write the figure as PNG, PDF or SVG, after the name's ending."""
    columns = len(result.models)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            len(_ROWS),
            columns,
            figsize=(1.4 + _WIDTH_A_MODEL * columns, _HEIGHT),
            sharex=True,
            squeeze=False,
            height_ratios=_HEIGHTS,
            layout="constrained",
        )
        for column, model in enumerate(result.models):
            names = {model.model, *(part.result.model for part in model.groups)}
            pools = tuple(dict.fromkeys(m.pool for m in plan.models if m.name in names))
            _column([axes[row][column] for row in range(len(_ROWS))], model, result, pools, start)
        for row, name in enumerate(_ROWS):
            axes[row][0].set_ylabel(name)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.savefig(path, dpi=130)
        plt.close(figure)


_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.color": _INK,
}


def _column(axes: Sequence[Any], model: ModelResult, result: Replayed, pools: Sequence[str], start: datetime) -> None:
    times = _times(start, [interval.second for interval in model.series])
    series = model.series
    traffic, replicas, ttft, tpot, waiting, money = axes
    traffic.set_title(
        f"{model.model}\n{model.arrived:,} requests, {model.refused_share:.2%} refused", loc="left", fontsize=9.5
    )
    traffic.fill_between(times, [i.arrived / INTERVAL_SECONDS for i in series], color=_LIGHT, lw=0, step="post")
    traffic.plot(times, [i.served / INTERVAL_SECONDS for i in series], color=_BLUE, lw=1, label="served")
    if model.refused:
        traffic.plot(times, [i.refused / INTERVAL_SECONDS for i in series], color=_RED, lw=1, label="refused")
    traffic.legend(loc="upper left", ncols=2)
    traffic.set_ylim(top=1.2 * max(1.0, *(i.arrived for i in series)) / INTERVAL_SECONDS)
    _replicas(replicas, times, model)
    _latency(ttft, times, [(i.ttft_p50_ms, i.ttft_p99_ms) for i in series], model.ttft_objective_ms, 1e-3)
    _latency(tpot, times, [(i.tpot_p50_ms, i.tpot_p99_ms) for i in series], model.tpot_objective_ms, 1)
    ttft.set_yscale("log")
    ttft.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ttft.yaxis.set_minor_formatter(NullFormatter())
    ttft.set_ylim(top=ttft.get_ylim()[1] * 4)
    tpot.set_ylim(top=1.35 * max(model.tpot_objective_ms, *(i.tpot_p99_ms or 0.0 for i in series)))
    waiting.set_ylim(top=max(1.0, *(i.waiting for i in series)) * 1.1)
    for part in model.groups:
        waits = [i.waiting for i in part.result.series]
        waiting.plot(times, waits, color=_ROLES[part.role], lw=1, label=f"for {part.role}")
    if model.groups:
        waiting.legend(loc="upper left", ncols=2)
    waiting.fill_between(times, [i.waiting for i in series], color=_RED, alpha=0.5, lw=0, step="post")
    _money(money, result, pools, start)
    for axis in axes:
        if axis is not ttft:
            axis.set_ylim(bottom=0)
        axis.margins(x=0)
    locator = HourLocator(byhour=range(0, 24, 4), tz=start.tzinfo)
    money.xaxis.set_major_locator(locator)
    money.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=start.tzinfo))


def _replicas(axis: Any, times: Sequence[datetime], model: ModelResult) -> None:
    """Of a disaggregated model each group in its own color."""
    shown = [(f"{part.role} ", _ROLES[part.role], part.result.series) for part in model.groups]
    for words, color, series in shown or [("", _BLUE, model.series)]:
        dashed: Any = (0, (3, 2)) if model.groups else "-"
        axis.step(
            times,
            [i.replicas_wanted for i in series],
            color=color if model.groups else _MUTED,
            ls=dashed,
            lw=1,
            where="post",
            label=f"{words}wanted",
        )
        axis.step(times, [i.replicas_ready for i in series], color=color, lw=1.4, where="post", label=f"{words}ready")
    axis.legend(loc="upper left", ncols=2)
    axis.set_ylim(top=1.3 * max(1.0, *(i.replicas_wanted for i in model.series)))


def _times(start: datetime, seconds: Sequence[int]) -> list[datetime]:
    """On the clocks of the start's zone, which may change meanwhile."""
    return [(start.astimezone(UTC) + timedelta(seconds=second)).astimezone(start.tzinfo) for second in seconds]


def _latency(
    axis: Any,
    times: Sequence[datetime],
    values: Sequence[tuple[float | None, float | None]],
    objective: float,
    unit: float,
) -> None:
    low = [float("nan") if p50 is None else p50 * unit for p50, _ in values]
    high = [float("nan") if p99 is None else p99 * unit for _, p99 in values]
    axis.fill_between(times, low, high, color=_LIGHT, alpha=0.5, lw=0)
    axis.plot(times, high, color=_BLUE, lw=1.2, label="p99")
    axis.plot(times, low, color=_BLUE, lw=0.8, ls=(0, (3, 2)), label="p50")
    axis.axhline(objective * unit, color=_RED, lw=1, ls=(0, (5, 3)), label="objective of p99")
    axis.legend(loc="upper left", ncols=3)


def _money(axis: Any, result: Replayed, pools: Sequence[str], start: datetime) -> None:
    rungs = [rung for rung in result.rungs if rung.pool in pools and rung.node_hours]
    if not rungs:
        return
    times = _times(start, [interval.second for interval in rungs[0].series])
    axis.stackplot(
        times,
        [[interval.usd * 3600 / INTERVAL_SECONDS for interval in rung.series] for rung in rungs],
        colors=[_RUNGS[rung.kind] for rung in rungs],
        labels=[
            (f"{rung.pool}, " if len(pools) > 1 else "") + f"{rung.kind.replace('_', ' ')}, {rung.usd:,.0f} $"
            for rung in rungs
        ],
        step="post",
        lw=0,
    )
    axis.legend(loc="upper left", ncols=min(3, len(rungs)))
    axis.set_ylim(top=axis.get_ylim()[1] * 1.25)
