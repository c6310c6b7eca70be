"""`rehearse`: a stack against a real control plane on this machine, and the report for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ops.console import PROJECT_DIRECTORY, err, out, print_json, table, to_json
from ops.errors import FindingsError, MissingError, OpsError, UsageError
from ops.project import plan_of
from rehearsal.options import COMPRESSION as DEFAULT_COMPRESSION
from rehearsal.report import ENVIRONMENT, USAGE, Report
from rehearsal.run import RehearsalError, RehearsalOptions, rehearse
from rehearsal.scenarios import COMPRESSION, ScenarioResult
from settings.load import stack_file

EngineName = Literal["in-process", "pulumi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearseOptions:
    """What the command line says."""

    engine: EngineName
    inject: str | None
    capacity: list[str]
    """`<rung>=<nodes>`; `all=0` for every rung that is not named."""
    crd_dir: Path | None
    charts_dir: Path | None = None
    """Real charts; those of `charts.mirror` where that is a directory and this is left out."""
    port: int | None
    climb: bool = False
    """Windows are open: groups climb back when withheld capacity comes."""
    scenarios: tuple[str, ...] = ()
    """Failures to play on the settled stack."""
    spare_nodes: int = 0


def show_rehearsal(stack: str, options: RehearseOptions, *, as_json: bool) -> int:
    """Rehearse and report; the exit code is the report's."""
    report = run(stack, options)
    if as_json:
        print_json({"ok": report.ok, **to_json(report)})
    else:
        print_report(report)
    return report.exit_code


def problems_of(stack: str) -> Sequence[str]:
    """What a plain rehearsal of a stack finds."""
    options = RehearseOptions(engine="in-process", inject=None, capacity=[], crd_dir=None, port=None)
    return [str(finding) for finding in run(stack, options).findings]


def run(stack: str, options: RehearseOptions) -> Report:
    """Rehearse, telling each phase on standard error.

    Raises:
        OpsError: the rehearsal could not be made.
    """
    if options.climb and not options.capacity:
        raise UsageError("nothing to climb back to", help="withhold capacity first: --capacity <rung>=0 --climb")
    if options.spare_nodes and not options.scenarios:
        raise UsageError("spare nodes are for a failure", help="name one: --scenario node-loss --spare 1")
    wanted = RehearsalOptions(
        engine=options.engine,
        inject=options.inject,
        capacity=capacity_of(stack, options.capacity),
        crd_dir=options.crd_dir,
        charts_dir=options.charts_dir,
        port=options.port,
        climb=options.climb,
        scenarios=options.scenarios,
        spare_nodes=options.spare_nodes,
        compression=COMPRESSION if options.scenarios else DEFAULT_COMPRESSION,
        progress=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    try:
        return rehearse(stack_file(PROJECT_DIRECTORY, stack), wanted)
    except RehearsalError as error:
        raise _told(error) from error


def _told(error: RehearsalError) -> OpsError:
    first, _, rest = str(error).partition("\n")
    kind = {USAGE: UsageError, ENVIRONMENT: MissingError}.get(error.exit_code, FindingsError)
    return kind(first, help=rest.strip() or None)


def capacity_of(stack: str, given: list[str]) -> dict[str, int]:
    """Machines that can be had, by rung; raises UsageError for what is no rung or no number."""
    if not given:
        return {}
    rungs = [rung.name for pool in plan_of(stack).pools for rung in pool.rungs]
    found: dict[str, int] = {}
    for text in given:
        name, _, count = text.partition("=")
        if not count.isdigit():
            raise UsageError(f"`{text}` is not <rung>=<nodes>", help="for instance --capacity all=0")
        if name == "all":
            found = {**dict.fromkeys(rungs, int(count)), **found}
        elif name in rungs:
            found[name] = int(count)
        else:
            raise UsageError(f"stack {stack} has no rung `{name}`", help=f"rungs: all, {', '.join(rungs)}")
    return found


def print_report(report: Report) -> None:
    """What a person wants to see, what is wrong last."""
    out.print(
        f"[bold]{report.stack}[/bold] rehearsed on Kubernetes {report.kubernetes_version} by the {report.engine} "
        f"engine, {report.compression:.0f} planned seconds in each"
        + (f", with `{report.injected}` injected" if report.injected else "")
    )
    out.print()
    out.print(_resources(report))
    out.print()
    out.print(_models(report))
    out.print()
    out.print(_pools(report))
    out.print()
    out.print(_pods(report))
    out.print()
    for line in report.autoscalers:
        out.print(f"autoscaler: {line}", markup=False, soft_wrap=True)
    cost = report.cost
    out.print(
        f"cost at list prices: {cost.base_usd_per_hour:.2f} $/h at the start, {cost.idle_usd_per_hour:.2f} idle, "
        f"{cost.peak_usd_per_hour:.2f} at the peak"
    )
    out.print()
    rows = [(part.name, part.level, part.how) for part in report.fidelity]
    out.print(table("How near this is to the real platform", ("part", "", "how"), rows))
    out.print()
    out.print("time: " + ", ".join(f"{phase.name} {phase.seconds:.1f} s" for phase in report.phases), soft_wrap=True)
    for result in report.scenarios:
        print_scenario(result)
    for note in report.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    for finding in report.findings:
        out.print(f"finding: {finding}", markup=False, soft_wrap=True)
    out.print("[green]nothing was found[/green]" if report.ok else f"[red]{len(report.findings)} finding(s)[/red]")


def print_scenario(result: ScenarioResult) -> None:
    """One failure: what happened, and two numbers for each model beside what they may be."""
    rows = [
        (
            one.model,
            f"{one.replicas_hit} of {one.replicas}",
            one.nodes_from,
            f"{one.drained_seconds:.0f}" if one.drained_seconds else "",
            _against(one.rescheduled_seconds, one.rescheduled_limit.seconds),
            _against(one.serving_seconds, one.serving_limit.seconds),
            f"{one.dropped.total:.0f}",
            f"{one.dropped.unserved:.0f}",
            ", ".join(one.rungs),
        )
        for one in result.outcomes
    ]
    columns = ("model", "hit", "nodes", "drained", "rescheduled", "serving", "cut off", "unserved", "now on")
    out.print()
    out.print(table(f"{result.name}: {result.does}", columns, rows, right=(3, 6, 7)))
    for line in result.did:
        out.print(f"did: {line}", markup=False, soft_wrap=True)
    for one in result.outcomes:
        out.print(f"limit: {one.model}: serving within {one.serving_limit.words}", markup=False, soft_wrap=True)
    if result.noticed_seconds:
        out.print(
            f"on top, not rehearsed: {result.noticed_seconds:.0f} s until it is noticed ({result.noticed_by})",
            markup=False,
            soft_wrap=True,
        )
    for line in result.lost:
        out.print(f"[yellow]lost by design:[/yellow] {line}", soft_wrap=True)
    out.print("seconds are planned ones, each beside its limit; requests at the plan's traffic")


def _against(seconds: float | None, limit: float) -> str:
    if seconds is None:
        return f"[red]never[/red] / {limit:.0f}"
    return f"{seconds:.0f} / {limit:.0f}" if seconds <= limit else f"[red]{seconds:.0f}[/red] / {limit:.0f}"


def _resources(report: Report) -> object:
    """By kind, the most first."""
    rows = [(str(count), kind.split(":", 1)[0], kind.rsplit(":", 1)[-1]) for kind, count in report.resources.items()]
    title = f"{sum(report.resources.values())} resources of {len(rows)} kinds"
    return table(title, ("count", "provider", "kind"), rows, right=(0,))


def _models(report: Report) -> object:
    rows = [
        (
            one.model,
            "[green]ready[/green]" if one.ready else "[yellow]waits[/yellow]",
            f"{one.pods_ready} of {one.pods_wanted}",
            "; ".join((*one.waits_for, *([one.scheduler] if one.scheduler else []))),
        )
        for one in report.models
    ]
    return table("Models", ("model", "", "pods", "waits for"), rows)


def _pools(report: Report) -> object:
    rows = [
        (use.pool, str(use.nodes), str(use.gpus_there), str(use.gpus_asked), str(use.gpus_given))
        for use in report.pools
    ]
    columns = ("pool", "nodes", "GPUs", "asked", "given")
    return table("GPUs", columns, rows, right=(1, 2, 3, 4))


def _pods(report: Report) -> object:
    """Pods with GPUs each, the others by namespace."""
    rows = [
        (pod.name, pod.rung or "", pod.node or "pending", str(pod.gpus), "ready" if pod.ready else pod.phase)
        for pod in report.pods
        if pod.gpus
    ]
    others = [pod for pod in report.pods if not pod.gpus]
    ready = Counter(pod.namespace for pod in others if pod.ready or pod.phase == "Succeeded")
    for namespace, count in sorted(Counter(pod.namespace for pod in others).items()):
        pods = "pod" if count == 1 else "pods"
        rows.append((f"{count} {pods} in {namespace}", "", "", "", f"{ready[namespace]} ready or done"))
    return table(f"{len(report.pods)} pods", ("pod", "capacity", "node", "GPUs", ""), rows, right=(3,))
