"""What `simulate` tells: tables for people, one document for machines, the course over time as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ops.console import out, table
from planner import Plan
from settings.root import Settings

if TYPE_CHECKING:
    from simulation.results import ModelResult, Replayed
    from simulation.traffic import Traffic
    from simulation.tune import Judged, Tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a run of `simulate` found."""

    settings: Settings
    plan: Plan
    traffic: Traffic
    seed: int
    results: Sequence[Replayed]
    """The stack as planned, then its variants."""
    tuned: Tuned | None
    refused_share: float
    notes: Sequence[str]
    written: Sequence[Path]

    def show(self) -> None:
        """For people."""
        now, traffic = self.results[0], self.traffic
        out.print(
            f"[bold]{self.plan.stack}[/bold]: {traffic.requests:,} requests in {traffic.seconds / 3600:.4g} h from "
            f"{traffic.start:%Y-%m-%d %H:%M %Z} ({traffic.origin}), seed {self.seed}\n"
        )
        out.print(_requests(now))
        out.print()
        out.print(_latencies(now, self.refused_share))
        out.print()
        out.print(_cost(now))
        for text in _transfers(now):
            out.print(text, markup=False, soft_wrap=True)
        if now.losses:
            out.print(f"{now.losses} node(s) were taken back or failed")
        if len(self.results) > 1:
            out.print()
            out.print(_variants(self.results, self.refused_share))
        for note in self.notes:
            out.print(f"note: {note}", markup=False)
        for path in self.written:
            out.print(f"wrote {path}", markup=False)
        if self.tuned is not None:
            out.print()
            self._show_tuned(self.tuned)

    def _show_tuned(self, tuned: Tuned) -> None:
        from simulation.policy import changes  # noqa: PLC0415 - arrays are imported only where they are used
        from simulation.snippet import snippet  # noqa: PLC0415

        best = tuned.proposal
        rows = [("current", tuned.current)]
        if best is not None:
            rows.append(("proposed", best))
        elif tuned.nearest is not None:
            rows.append(("nearest", tuned.nearest))
        out.print(f"search: {tuned.trials} settings tried, {tuned.feasible} met the objectives\n")
        cells = [(name, f"{judged.usd:,.2f}", self._verdict(judged)) for name, judged in rows]
        out.print(
            table("Current settings and the search's", ("settings", "$ a replay", "objectives"), cells, right=(1,))
        )
        if best is None:
            words = "nothing better than the current settings was found: keep them"
            if not tuned.current.meets:
                words = "no settings met the objectives: give more room (`replicas.max`, rungs' `nodes.max`), or time"
            out.print(words)
            return
        saved = f"saves {tuned.saved_share:.1%}" if tuned.saved_share > 0 else f"costs {-tuned.saved_share:.1%} more"
        out.print(
            f"the proposal {saved} and meets every objective on {len(best.days)} days drawn; each key takes the place "
            "of the whole one that is there (what it no longer names, such as a floor, goes), below "
            "`inference-platform:platform`:\n"
        )
        out.print(snippet(changes(self.settings, best.policy)), markup=False, soft_wrap=True)

    def _verdict(self, judged: Judged) -> str:
        if judged.meets:
            return "met"
        day = max(judged.days, key=lambda one: max(model.excess(self.refused_share) for model in one.models))
        worst = max(day.models, key=lambda model: model.excess(self.refused_share))
        return f"{worst.model}: " + ", ".join(worst.misses(self.refused_share))

    def document(self) -> dict[str, object]:
        """For machines."""
        from simulation.policy import changes  # noqa: PLC0415

        found: dict[str, object] = {
            "stack": self.plan.stack,
            "start": self.traffic.start.isoformat(),
            "seconds": self.traffic.seconds,
            "requests": self.traffic.requests,
            "origin": self.traffic.origin,
            "seed": self.seed,
            "objectives_met": self.results[0].objectives_met(self.refused_share),
            "notes": list(self.notes),
            "variants": [
                {
                    **{field.name: getattr(result, field.name) for field in fields(result)},
                    "usd": result.usd,
                    "objectives_met": result.objectives_met(self.refused_share),
                }
                for result in self.results
            ],
        }
        tuned = self.tuned
        if tuned is not None:
            best = tuned.proposal
            found["tuned"] = {
                "trials": tuned.trials,
                "feasible": tuned.feasible,
                "refused_by_planner": tuned.failed,
                "current": self._judged(tuned.current),
                "proposed": best
                and {
                    **self._judged(best),
                    "saved_share": tuned.saved_share,
                    "changes": changes(self.settings, best.policy),
                },
                "nearest": tuned.nearest and self._judged(tuned.nearest),
            }
        return found

    def _judged(self, judged: Judged) -> dict[str, object]:
        return {"usd": judged.usd, "objectives_met": judged.meets, "verdict": self._verdict(judged)}


def write_series(result: Replayed, traffic: Traffic, path: Path) -> None:
    """The course over time as CSV: one row for each interval and model, all rungs beside it; of a disaggregated model
    one more for each group, which the column `group` names."""
    rungs = {rung.rung: {interval.second: interval for interval in rung.series} for rung in result.rungs}
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        names = [field.name for field in fields(result.models[0].series[0])]
        money_names = [f"{rung}_{what}" for rung in rungs for what in ("nodes", "usd")]
        writer.writerow(["time", "model", "group", *names, *money_names])
        for name, group, shown in _rows(result):
            for interval in shown.series:
                at = datetime.fromtimestamp(traffic.start.timestamp() + interval.second, traffic.start.tzinfo)
                values = [getattr(interval, name) for name in names]
                money = [
                    round(getattr(series[interval.second], what), 4)
                    for series in rungs.values()
                    for what in ("nodes", "usd")
                ]
                writer.writerow([at.isoformat(), name, group, *("" if v is None else v for v in values), *money])


def _rows(result: Replayed) -> Iterator[tuple[str, str, ModelResult]]:
    """(model, group, result): every model, a disaggregated one before its groups."""
    for model in result.models:
        yield model.model, "", model
        for part in model.groups:
            yield model.model, part.role, part.result


def _name(model: str, group: str) -> str:
    return f"  {group}" if group else model


def _requests(result: Replayed) -> object:
    rows = [
        (
            _name(name, group),
            f"{found.arrived:,}",
            f"{found.refused_share:.3%}",
            f"{found.interrupted:,}",
            f"{found.held:,}",
            f"{found.most_waiting:,}",
            f"{found.replicas_mean:.1f}",
            str(found.replicas_most),
            f"{found.gpu_hours:,.1f}",
        )
        for name, group, found in _rows(result)
    ]
    columns = ("model", "requests", "refused", "cut off", "held", "most waiting", "replicas", "most", "GPU hours")
    return table("As planned", columns, rows, right=tuple(range(1, len(columns))))


def _latencies(result: Replayed, refused_share: float) -> object:
    rows: list[tuple[str, ...]] = []
    for name, group, found in _rows(result):
        verdict = "[bold red]missed[/bold red]" if found.misses(refused_share) else "met"
        tpot = (_brief(found.tpot_p50_ms), _brief(found.tpot_p99_ms), f"{found.tpot_objective_ms:,.0f}")
        rows.append(
            (
                _name(name, group),
                _brief(found.ttft_p50_ms),
                _brief(found.ttft_p99_ms),
                f"{found.ttft_objective_ms:,.0f}",
                *(("", "", "") if group == "prefill" else tpot),
                "" if group else verdict,
            )
        )
        if group == "prefill":
            transfer = next(model.transfer for model in result.models if model.model == name)
            if transfer is not None:
                rows.append(("  transfer", _brief(transfer.p50_ms), _brief(transfer.p99_ms), "", "", "", "", ""))
    columns = ("ms", "TTFT p50", "p99", "of", "TPOT p50", "p99", "of", "objectives")
    return table("Latencies of the whole replay", columns, rows, right=(1, 2, 3, 4, 5, 6))


def _transfers(result: Replayed) -> Iterator[str]:
    for model in result.models:
        if model.transfer is not None:
            yield (
                f"{model.model}: {model.transfer.caches:,} KV caches of {model.transfer.tokens:,.0f} tokens went from "
                f"prefill to decode, {model.transfer.gigabytes / 1e3:,.1f} TB"
            )


def _cost(result: Replayed) -> object:
    rows = [
        (f"{rung.pool}, {rung.kind.replace('_', ' ')}", f"{rung.node_hours:,.1f}", f"{rung.usd:,.2f}")
        for rung in result.rungs
    ]
    rows.append(("all that is no GPU node", "", f"{result.base_usd:,.2f}"))
    rows.append(("[bold]all[/bold]", "", f"{result.usd:,.2f}"))
    return table("Cost of the replay, list prices", ("what", "node hours", "$"), rows, right=(1, 2))


def _variants(results: Sequence[Replayed], refused_share: float) -> object:
    rows: list[tuple[str, ...]] = []
    for result in results:
        worst: ModelResult = max(result.models, key=lambda model: model.excess(refused_share))
        arrived = sum(model.arrived for model in result.models) or 1
        rows.append(
            (
                result.variant,
                " ".join(_brief(model.ttft_p99_ms) for model in result.models),
                " ".join(_brief(model.tpot_p99_ms) for model in result.models),
                f"{sum(model.refused for model in result.models) / arrived:.2%}",
                f"{result.usd:,.0f}",
                f"{result.usd / results[0].usd - 1:+.1%}" if result is not results[0] and results[0].usd else "",
                "met" if worst.excess(refused_share) <= 0 else "missed",
            )
        )
    names = ", ".join(model.model for model in results[0].models)
    columns = ("variant", "TTFT p99", "TPOT p99", "refused", "$", "", "objectives")
    return table(f"What would change it; p99 in ms of {names}", columns, rows, right=(1, 2, 3, 4, 5))


def _brief(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
