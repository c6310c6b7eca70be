"""`simulate`: a day of traffic on a stack's plan, what would change it, and settings that do the same for less."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ops.console import FINDINGS, OK, PROJECT_DIRECTORY, err, print_json
from ops.errors import MissingError, UsageError
from ops.simulation_report import Report, write_series
from planner import Plan, load_and_plan
from settings.cron import zone_of
from settings.errors import did_you_mean
from settings.load import stack_file
from settings.root import Settings

if TYPE_CHECKING:
    from simulation.replay import Conditions
    from simulation.served import Served
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
        raise UsageError(f"--requests-per-day {rate:g}: must be 0 to {_MOST_REQUESTS_PER_DAY:g}")
    if options.hours is not None and not 0 < options.hours <= _LONGEST_HOURS:
        raise UsageError(f"--hours {options.hours:g}: must be above 0 and {_LONGEST_HOURS} at most")
    rate = options.spot_interruptions
    if rate is not None and not (math.isfinite(rate) and 0 <= rate <= 60):
        raise UsageError(
            f"--spot-interruptions {rate:g}: must be 0 to 60", help="interruptions an hour of each spot node"
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

        self.subjects = subjects_of(settings, plan)
        for name in options.models:
            if name not in self.subjects:
                raise UsageError(f"stack {plan.stack} has no model `{name}`", help=did_you_mean(name, self.subjects))
        self.notes: list[str] = []

    def run(self, *, as_json: bool) -> int:
        from simulation.replay import replay  # noqa: PLC0415
        from simulation.variants import AS_PLANNED, shortfalls, variants_of  # noqa: PLC0415

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
        report = Report(
            settings=self.settings,
            plan=self.plan,
            traffic=traffic,
            seed=options.seed,
            results=results,
            tuned=tuned,
            refused_share=options.refused_share,
            notes=(*self.notes, *shortfalls(self.plan, traffic, served)),
            written=tuple(path for path in (options.plot, options.series) if path is not None),
        )
        if as_json:
            print_json(report.document())
        else:
            report.show()
        return OK if results[0].objectives_met(options.refused_share) else FINDINGS

    def _chosen(self) -> list[Subject]:
        names = set(self.options.models)
        return [subject for name, subject in self.subjects.items() if not names or name in names]

    def _traffic(self, seed: int) -> Traffic:
        if self.options.trace is not None:
            return self._trace(self.options.trace)
        from simulation.traffic import DAY_SECONDS, ModelTraffic, Traffic, drawn, mean_share, rates  # noqa: PLC0415

        assert self.options.profile is not None  # noqa: S101 - _checked
        seconds = int((self.options.hours or 24) * 3600)
        chosen = self._chosen()
        mean = mean_share(self.options.profile)
        weights = [mean * (self._assumed(one) if one.busy_rate is None else one.busy_rate) for one in chosen]
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

    def _assumed(self, subject: Subject) -> float:
        """Busy hours of a model that the stack file gives no traffic: what all its replicas serve, with a margin."""
        rate = subject.full_rate()
        note = (
            f"{subject.plan.name}: the stack file gives no `traffic`; {rate:.3g} requests/s in the busy hours are "
            f"taken, what its {subject.plan.scaling.max_replicas} replicas can serve, and lengths of the catalog"
        )
        if note not in self.notes:
            self.notes.append(note)
        return rate

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
        from simulation.served import served_of  # noqa: PLC0415

        return {asked.model: served_of(self.subjects[asked.model], asked) for asked in traffic.models}

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
                state = "meets the objectives" if best.meets else "misses an objective"
                told(done / search.trials, f"best {best.usd:,.0f} $, {state}")

            return tune(search, heard)


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
        return self._tell

    def _tell(self, share: float, said: str = "") -> None:
        self._bar.update(self._task, completed=share, said=said)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
