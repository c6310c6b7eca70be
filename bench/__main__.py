"""`python -m bench`: measure, print, and end with 1 where a limit is broken."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench import suite
from bench.measure import BenchError, machine
from ops.console import ENVIRONMENT, FINDINGS, OK, err, out, print_json, table


def bench(
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each measurement; the best one counts.")] = 5,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Also rehearse prod; the first time that builds a control plane.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Measure planning, building and rehearsing on this machine."""
    here = machine()
    results: list[suite.Result] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            results += suite.verb(repeat)
            results += suite.planning(repeat, Path(folder))
            results += suite.capacities(min(repeat, 2))
            results += suite.sizing(min(repeat, 3))
            results += suite.building(min(repeat, 2), Path(folder))
            results += suite.simulating(min(repeat, 2), Path(folder))
            if rehearse:
                results += suite.rehearsing()
    except BenchError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(ENVIRONMENT) from None
    kept = all(result.kept for result in results)
    if as_json:
        print_json({"machine": asdict(here), "ok": kept, "results": [{**asdict(r), "kept": r.kept} for r in results]})
    else:
        rows = [
            (
                result.name,
                f"{result.value:.2f} {result.unit}",
                "" if result.limit is None else f"{result.limit:g} {result.unit}",
                "" if result.limit is None else "kept" if result.kept else "[bold red]missed[/bold red]",
                result.note,
            )
            for result in results
        ]
        out.print(table(str(here), ("what", "measured", "at most", "", "note"), rows, right=(1, 2)))
        if here.load > here.cores:
            err.print(f"note: load {here.load:.0f} on {here.cores} cores: others ran too, so wall times are too long")
    raise typer.Exit(OK if kept else FINDINGS)


if __name__ == "__main__":
    sys.exit(typer.run(bench))
