"""`simulate`: a day of traffic on a stack's plan, what would change it, and settings that do the same for less."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ops.console import FINDINGS, OK, PROJECT_DIRECTORY, err, out, print_json, table
from ops.errors import MissingError, UsageError
from planner import Plan, load_and_plan
from settings.cron import zone_of
from settings.errors import did_you_mean
from settings.load import stack_file
from settings.root import Settings

if TYPE_CHECKING:
    from simulation.replay import Conditions, Served
    from simulation.results import ModelResult, Replayed
    from simulation.subjects import Subject
    from simulation.traffic import Traffic
    from simulation.tune import Tuned

_INSTALL = ".venv/bin/python -m pip install -r requirements-simulation.txt"
_LONGEST_HOURS = 168
_MOST_REQUESTS_PER_DAY = 1e11


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """The command line of `simulate`."""

    trace: Path | None = None
    profile: Literal["diurnal", "bursty", "flat"] | None = None
    requests_per_day: float | None = None
    models: Sequence[str] = ()
    hours: float | None = None
    seed: int = 0
    day: str = "2026-06-17"
    timezone: str = "UTC"
    spot_interruptions: float | None = None
    refused_share: float = 0.001
    allow_gaps: bool = False
    compare: bool = True
    plot: Path | None = None
    series: Path | None = None
    tune: bool = False
    trials: int = 64


def show_simulation(stack: str, options: SimulateOptions, *, as_json: bool) -> int:
    """Replay, tell, plot and tune; FINDINGS where the stack as planned misses an objective."""
    start = _checked(options)
    needed = ["numpy", *(["matplotlib"] if options.plot else []), *(["optuna"] if options.tune else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(f"`simulate` needs {', '.join(missing)}", help=_INSTALL)
    # Arrays cost a tenth of a second to import, which no other verb should pay.
    from simulation.problems import TraceError  # noqa: PLC0415

    settings, plan = load_and_plan(stack_file(PROJECT_DIRECTORY, stack))
    try:
        return _Simulation(settings, plan, options, start).run(as_json=as_json)
    except TraceError as error:
        raise UsageError(str(error).removeprefix("error: ")) from None


def _checked(options: SimulateOptions) -> datetime:
    """The replay's start; raises UsageError for what the command line cannot mean."""
    if (options.trace is None) == (options.profile is None):
        raise UsageError(
            "a trace or a profile is replayed", help="say --profile diurnal, or --trace trace.csv, not both"
        )
    if options.trace is not None and options.requests_per_day is not None:
        raise UsageError("a trace has its own number of requests", help="leave --requests-per-day out")
    rate = options.requests_per_day
    if rate is not None and not 0 <= rate <= _MOST_REQUESTS_PER_DAY:
        raise UsageError(f"--requests-per-day {rate:g} is not within 0 and {_MOST_REQUESTS_PER_DAY:g}")
    if options.hours is not None and not 0 < options.hours <= _LONGEST_HOURS:
        raise UsageError(f"--hours {options.hours:g} is not within 0 and {_LONGEST_HOURS}")
    rate = options.spot_interruptions
    if rate is not None and not (math.isfinite(rate) and 0 <= rate <= 60):
        raise UsageError(
            f"--spot-interruptions {rate:g} is not within 0 and 60", help="interruptions an hour of each spot node"
        )
    for path in (options.plot, options.series):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"there is no directory {path.absolute().parent}", help=f"make it, for {path.name}")
    if options.plot is not None and options.plot.suffix not in {".png", ".svg", ".pdf"}:
        raise UsageError(f"{options.plot.name} is no kind of picture known here", help="name it .png, .svg or .pdf")
    try:
        return datetime.combine(date.fromisoformat(options.day), time(), zone_of(options.timezone))
    except ValueError as error:
        raise UsageError(f"--date or --timezone: {error}", help="for instance --date 2026-06-17") from None


class _Simulation:
    def __init__(self, settings: Settings, plan: Plan, options: SimulateOptions, start: datetime) -> None:
        self.settings, self.plan, self.options, self.start = settings, plan, options, start
        from simulation.subjects import subjects_of  # noqa: PLC0415

        names = [model.name for model in plan.models]
        for name in options.models:
            if name not in names:
                raise UsageError(f"stack {plan.stack} has no model `{name}`", help=did_you_mean(name, names))
        self.subjects = subjects_of(settings, plan)
        self.notes: list[str] = []

    def run(self, *, as_json: bool) -> int:
        from simulation.replay import replay  # noqa: PLC0415
        from simulation.variants import AS_PLANNED, variants_of  # noqa: PLC0415

        options = self.options
        traffic = self._traffic(options.seed)
        served = self._served(traffic)
        conditions = self._conditions()
        variants = [(AS_PLANNED, self.plan)]
        if options.compare:
            variants = variants_of(self.settings, self.plan, traffic, served)
        with _progress("replaying", quiet=as_json) as told:
            results = replay(variants, traffic, served, conditions, told)
        tuned = self._tune(served, conditions, quiet=as_json) if options.tune else None
        if options.series is not None:
            write_series(results[0], traffic, options.series)
        if options.plot is not None:
            from simulation.plot import plot  # noqa: PLC0415

            title = f"{self.plan.stack}: {traffic.requests:,} requests ({traffic.origin}), {results[0].usd:,.0f} $"
            plot(results[0], self.plan, traffic.start, title, options.plot)
        if as_json:
            self._print_json(traffic, results, tuned)
        else:
            self._print(traffic, results, tuned)
        return OK if results[0].objectives_met(options.refused_share) else FINDINGS

    def _chosen(self) -> list[Subject]:
        names = set(self.options.models)
        return [subject for name, subject in self.subjects.items() if not names or name in names]

    def _traffic(self, seed: int) -> Traffic:
        if self.options.trace is not None:
            return self._trace(self.options.trace)
        from simulation.traffic import DAY_SECONDS, ModelTraffic, Traffic, drawn, rates  # noqa: PLC0415

        assert self.options.profile is not None  # noqa: S101 - _checked
        seconds = int((self.options.hours or 24) * 3600)
        chosen = self._chosen()
        weights = [
            subject.requests_per_second if subject.requests_per_second is not None else self._guessed(subject)
            for subject in chosen
        ]
        per_day = self.options.requests_per_day
        if per_day is None:
            per_day = sum(weights) * DAY_SECONDS
        total = sum(weights) or 1.0
        models = tuple(
            ModelTraffic(
                model=subject.plan.name,
                counts=drawn(
                    rates(
                        self.options.profile,
                        start=self.start,
                        seconds=seconds,
                        per_day=per_day * (weight / total if sum(weights) else 1 / len(chosen)),
                        seed=seed,
                    ),
                    seed=seed,
                    stream=index,
                ),
                input=subject.input,
                output=subject.output,
                cached_share=subject.cached_share,
            )
            for index, (subject, weight) in enumerate(zip(chosen, weights, strict=True))
        )
        return Traffic(start=self.start, seconds=seconds, models=models, origin=self.options.profile)

    def _guessed(self, subject: Subject) -> float:
        """Mean rate of a model that the stack file gives none: half of what all its replicas can serve."""
        note = (
            f"{subject.plan.name}: `traffic` gives no rate; half of what its {subject.plan.scaling.max_replicas} "
            f"replicas can serve is taken, {subject.full_rate() / 2:.3g} requests/s on average"
        )
        if self.options.requests_per_day is None and note not in self.notes:
            self.notes.append(note)
        return subject.full_rate() / 2

    def _trace(self, path: Path) -> Traffic:
        from simulation.trace import TraceModel, TraceOptions, read_trace  # noqa: PLC0415

        models = [
            TraceModel(name=name, context_tokens=subject.plan.context_tokens) for name, subject in self.subjects.items()
        ]
        return read_trace(
            path,
            TraceOptions(
                models=models,
                only=self.options.models,
                start=self.start,
                hours=self.options.hours,
                allow_gaps=self.options.allow_gaps,
            ),
        )

    def _served(self, traffic: Traffic) -> dict[str, Served]:
        from simulation.replay import Served  # noqa: PLC0415
        from simulation.replicas import tabulate  # noqa: PLC0415

        found: dict[str, Served] = {}
        for asked in traffic.models:
            subject = self.subjects[asked.model]
            found[asked.model] = Served(
                table=tabulate(
                    subject.replica, input=asked.input, output=asked.output, cached_share=asked.cached_share
                ),
                ttft_objective_ms=subject.ttft_objective_ms,
                tpot_objective_ms=subject.tpot_objective_ms,
            )
        return found

    def _conditions(self) -> Conditions:
        from simulation.replay import Conditions  # noqa: PLC0415
        from simulation.subjects import hazards_of  # noqa: PLC0415

        return Conditions(
            seed=self.options.seed, hazards=hazards_of(self.plan, spot_per_hour=self.options.spot_interruptions)
        )

    def _tune(self, served: dict[str, Served], conditions: Conditions, *, quiet: bool) -> Tuned:
        from simulation.tune import Judged, Search, tune  # noqa: PLC0415

        search = Search(
            settings=self.settings,
            plan=self.plan,
            served=served,
            traffic_of=self._traffic,
            conditions=conditions,
            refused_share=self.options.refused_share,
            trials=self.options.trials,
        )

        with _progress("searching", quiet=quiet) as told:

            def heard(done: int, best: Judged) -> None:
                state = "meets the objectives" if best.meets else f"misses by {best.excess:.0%}"
                told(done / search.trials, f"best {best.usd:,.0f} $, {state}")

            return tune(search, heard)

    def _print(self, traffic: Traffic, results: list[Replayed], tuned: Tuned | None) -> None:
        now = results[0]
        hours = traffic.seconds / 3600
        out.print(
            f"[bold]{self.plan.stack}[/bold]: {traffic.requests:,} requests in {hours:g} h from "
            f"{traffic.start:%Y-%m-%d %H:%M %Z} ({traffic.origin}), seed {self.options.seed}\n"
        )
        out.print(_models_table(now, self.options.refused_share))
        out.print()
        rows = [
            (rung.pool, rung.kind.replace("_", " "), f"{rung.node_hours:,.1f}", f"{rung.usd:,.2f}")
            for rung in now.rungs
        ]
        rows += [("", "all else (control plane, network, storage)", "", f"{now.base_usd:,.2f}")]
        rows += [("[bold]all[/bold]", "", "", f"{now.usd:,.2f}")]
        out.print(table("Cost of the replay, list prices", ("pool", "capacity", "node hours", "$"), rows, right=(2, 3)))
        if now.losses:
            out.print(f"{now.losses} node(s) were taken back or failed")
        if len(results) > 1:
            out.print()
            out.print(_variants_table(results, self.options.refused_share))
        for note in self.notes:
            out.print(f"note: {note}", markup=False)
        for path in (self.options.plot, self.options.series):
            if path is not None:
                out.print(f"wrote {path}", markup=False)
        if tuned is not None:
            out.print()
            self._print_tuned(tuned)

    def _print_tuned(self, tuned: Tuned) -> None:
        from simulation.policy import changes  # noqa: PLC0415
        from simulation.snippet import snippet  # noqa: PLC0415

        out.print(f"{tuned.trials} settings tried, {tuned.feasible} met the objectives")
        best = tuned.proposal
        rows = [("current", tuned.current)]
        if best is not None:
            rows.append(("proposed", best))
        elif tuned.nearest is not None:
            rows.append(("nearest", tuned.nearest))
        cells = [
            (name, f"{judged.usd:,.2f}", "met" if judged.meets else f"missed by {judged.excess:.0%}")
            for name, judged in rows
        ]
        out.print(
            table("Search, mean of the days drawn", ("settings", "$", "objectives on the worst day"), cells, right=(1,))
        )
        if best is None:
            words = "nothing better than the current settings was found: keep them"
            if not tuned.current.meets:
                words = (
                    "no setting met the objectives: raise `replicas.max` and the rungs' `nodes.max`, or the objectives"
                )
            out.print(words)
            return
        saved = f"saves {tuned.saved_share:.1%}" if tuned.saved_share > 0 else f"costs {-tuned.saved_share:.1%} more"
        out.print(f"the proposal {saved} and meets every objective; below `inference-platform:platform`:\n")
        out.print(snippet(changes(self.settings, best.policy)), markup=False, soft_wrap=True)

    def _print_json(self, traffic: Traffic, results: list[Replayed], tuned: Tuned | None) -> None:
        from simulation.policy import changes  # noqa: PLC0415

        document: dict[str, object] = {
            "stack": self.plan.stack,
            "start": traffic.start.isoformat(),
            "seconds": traffic.seconds,
            "requests": traffic.requests,
            "origin": traffic.origin,
            "seed": self.options.seed,
            "objectives_met": results[0].objectives_met(self.options.refused_share),
            "notes": self.notes,
            "variants": [
                {
                    "usd": result.usd,
                    "objectives_met": result.objectives_met(self.options.refused_share),
                    **_plain(result),
                }
                for result in results
            ],
        }
        if tuned is not None:
            document["tuned"] = {
                "trials": tuned.trials,
                "feasible": tuned.feasible,
                "refused_by_planner": tuned.failed,
                "current": {"usd": tuned.current.usd, "excess": tuned.current.excess},
                "proposed": tuned.proposal
                and {
                    "usd": tuned.proposal.usd,
                    "excess": tuned.proposal.excess,
                    "saved_share": tuned.saved_share,
                    "changes": changes(self.settings, tuned.proposal.policy),
                },
                "nearest": tuned.nearest and {"usd": tuned.nearest.usd, "excess": tuned.nearest.excess},
            }
        print_json(document)


def _plain(result: Replayed) -> dict[str, object]:
    return {field.name: getattr(result, field.name) for field in fields(result)}


def write_series(result: Replayed, traffic: Traffic, path: Path) -> None:
    """The course over time as CSV: one row for each interval and model, with the $ of its rungs beside."""
    rungs = {rung.rung: {i.second: i for i in rung.series} for rung in result.rungs}
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        head = list(fields(result.models[0].series[0])) if result.models else []
        names = [field.name for field in head]
        writer.writerow(["time", "model", *names, *(f"{rung}_{what}" for rung in rungs for what in ("nodes", "usd"))])
        for model in result.models:
            for interval in model.series:
                at = datetime.fromtimestamp(traffic.start.timestamp() + interval.second, traffic.start.tzinfo)
                values = [getattr(interval, name) for name in names]
                money = [
                    round(getattr(series[interval.second], what), 4)
                    for series in rungs.values()
                    for what in ("nodes", "usd")
                ]
                writer.writerow([at.isoformat(), model.model, *("" if v is None else v for v in values), *money])


def _models_table(result: Replayed, refused_share: float) -> object:
    rows = [
        (
            model.model,
            f"{model.arrived:,}",
            f"{model.refused_share:.3%}",
            f"{model.interrupted:,}",
            f"{model.replicas_mean:.1f} / {model.replicas_most}",
            f"{model.most_waiting:,}",
            _pair(model.ttft_p50_ms, model.ttft_p99_ms, model.ttft_objective_ms),
            _pair(model.tpot_p50_ms, model.tpot_p99_ms, model.tpot_objective_ms),
            "met" if model.excess(refused_share) <= 0 else "[bold red]missed[/bold red]",
        )
        for model in result.models
    ]
    columns = (
        "model",
        "requests",
        "refused",
        "cut off",
        "replicas mean / most",
        "most waiting",
        "TTFT p50 / p99 (of) ms",
        "TPOT p50 / p99 (of) ms",
        "objectives",
    )
    return table("As planned", columns, rows, right=(1, 2, 3, 4, 5, 6, 7))


def _pair(p50: float | None, p99: float | None, objective: float) -> str:
    if p50 is None or p99 is None:
        return f"- ({objective:,.0f})"
    return f"{p50:,.0f} / {p99:,.0f} ({objective:,.0f})"


def _variants_table(results: list[Replayed], refused_share: float) -> object:
    rows: list[tuple[str, ...]] = []
    for result in results:
        worst: ModelResult = max(result.models, key=lambda model: model.excess(refused_share))
        arrived = sum(model.arrived for model in result.models) or 1
        rows.append(
            (
                result.variant,
                " ".join(_brief(model.ttft_p99_ms) for model in result.models),
                " ".join(_brief(model.tpot_p99_ms) for model in result.models),
                f"{sum(model.refused for model in result.models) / arrived:.3%}",
                f"{result.usd:,.0f}",
                f"{result.usd / results[0].usd - 1:+.1%}" if result is not results[0] and results[0].usd else "",
                "met" if worst.excess(refused_share) <= 0 else f"{worst.model} misses",
            )
        )
    names = ", ".join(model.model for model in results[0].models)
    columns = ("variant", "TTFT p99 ms", "TPOT p99 ms", "refused", "$", "", "objectives")
    return table(f"What would change it (p99 of {names})", columns, rows, right=(1, 2, 3, 4, 5))


def _brief(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


class _progress:  # noqa: N801 - a context manager that reads as a word
    """A bar on standard error where people look; nothing where a program reads."""

    def __init__(self, words: str, *, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
            console=err,
            transient=True,
            disable=quiet or not err.is_terminal,
        )
        self._task = self._bar.add_task(words, total=1.0, said="")

    def __enter__(self) -> Callable[..., None]:
        self._bar.start()
        return lambda share, said="": self._bar.update(self._task, completed=share, said=said)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
