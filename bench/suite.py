"""What is measured, and how much it may be: the limits of docs/explanation/bench.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.generate import busy_stack_file, stack_file, trace_file
from bench.measure import Sample, repeated, run

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10, 100, 400)
DAYS = (1.2e6, 12e6, 120e6)
"""Requests of a replayed day."""
TRACE_ROWS = (1_000_000, 10_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One number against its limit."""

    name: str
    value: float
    unit: str
    limit: float | None
    """At most this; None where the number is only told."""
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the limit holds."""
        return self.limit is None or self.value <= self.limit


def verb(times: int) -> Iterator[Result]:
    """`ops plan --stack prod`, as a user waits for it: start of the process included."""
    samples = repeated([sys.executable, "-m", "ops", "plan", "--stack", "prod"], ROOT, times)
    yield Result(name="ops plan --stack prod", value=_wall(samples), unit="s", limit=1.0, note=_cpu(samples))
    yield Result(name="ops plan --stack prod, peak memory", value=_peak(samples), unit="MiB", limit=100)


def planning(times: int, directory: Path) -> Iterator[Result]:
    """Generated stack files: how planning grows with the number of models."""
    cpu: dict[int, float] = {}
    for size in SIZES:
        path = stack_file(size, directory)
        samples = repeated([sys.executable, "-m", "bench.child", "plan", str(path)], ROOT, times)
        best = min(float(_said(sample)["plan_seconds"]) for sample in samples)
        cpu[size] = min(float(_said(sample)["plan_cpu_seconds"]) for sample in samples)
        yield Result(
            name=f"{size} models planned",
            value=best,
            unit="s",
            limit=5.0 if size == 100 else None,
            note=f"processor {cpu[size]:.3f} s, peak {_peak(samples):.0f} MiB",
        )
    yield Result(
        name="400 models against 100", value=cpu[400] / cpu[100], unit="x", limit=4.5, note="by processor time"
    )


def building(times: int, directory: Path) -> Iterator[Result]:
    """100 models declared under the recorder, with every AWS answer simulated."""
    path = stack_file(100, directory)
    samples = repeated([sys.executable, "-m", "bench.child", "build", str(path)], ROOT, times)
    said = min((_said(sample) for sample in samples), key=lambda item: float(item["build_seconds"]))
    yield Result(
        name="100 models built",
        value=float(said["build_seconds"]),
        unit="s",
        limit=30,
        note=f"{said['resources']} resources; whole process: {_cpu(samples)}",
    )
    yield Result(name="100 models built, peak memory", value=_peak(samples), unit="MiB", limit=300)


def simulating(times: int, directory: Path) -> Iterator[Result]:
    """A day on one model with up to 200 replicas, then a trace of single requests; how both grow."""
    path = busy_stack_file(directory)
    seconds: dict[float, float] = {}
    for requests in DAYS:
        samples = repeated([sys.executable, "-m", "bench.child", "simulate", str(path), str(requests)], ROOT, times)
        said = min((_said(sample) for sample in samples), key=lambda item: float(item["seconds"]))
        seconds[requests] = float(said["seconds"])
        top = requests == DAYS[-1]
        yield Result(
            name=f"{requests / 1e6:g} million requests in a day replayed",
            value=seconds[requests],
            unit="s",
            limit=60 if top else None,
            note=f"{said['replicas']} replicas at most, {int(said['refused']):,} refused; {_cpu(samples)}",
        )
        if top:
            yield Result(name="the same, peak memory", value=_peak(samples), unit="MiB", limit=2000)
    yield Result(
        name=f"{DAYS[-1] / 1e6:g} million against {DAYS[0] / 1e6:g}",
        value=seconds[DAYS[-1]] / seconds[DAYS[0]],
        unit="x",
        limit=DAYS[-1] / DAYS[0],
        note="counts of each time step, not single requests: replicas cost more than requests",
    )
    per_row: dict[int, float] = {}
    for rows in TRACE_ROWS:
        trace = trace_file(rows, directory)
        sample = run([sys.executable, "-m", "bench.child", "trace", str(path), str(trace)], ROOT)
        trace.unlink()
        said = _said(sample)
        per_row[rows] = float(said["read_seconds"]) / rows
        yield Result(
            name=f"trace of {rows / 1e6:g} million rows read",
            value=float(said["read_seconds"]),
            unit="s",
            limit=None,
            note=f"peak {sample.peak_mib:.0f} MiB",
        )
        if rows == TRACE_ROWS[-1]:
            yield Result(name="the same, peak memory", value=sample.peak_mib, unit="MiB", limit=500)
    yield Result(
        name="a row of the longer trace against one of the shorter",
        value=per_row[TRACE_ROWS[-1]] / per_row[TRACE_ROWS[0]],
        unit="x",
        limit=2,
    )


def rehearsing() -> Iterator[Result]:
    """prod rehearsed in-process: up, second run, destroy. Once: it is long, and its own steps are timed inside."""
    sample = run([sys.executable, "-m", "ops", "rehearse", "--stack", "prod", "--json"], ROOT)
    phases = ", ".join(f"{phase['name']} {phase['seconds']:.0f} s" for phase in _said(sample).get("phases", ()))
    yield Result(name="ops rehearse --stack prod", value=sample.wall_seconds, unit="s", limit=90, note=phases)


def capacities(times: int) -> Iterator[Result]:
    """The performance model: what `ops size` asks thousands of times."""
    samples = repeated([sys.executable, "-m", "bench.capacity"], ROOT, times)
    said = max((_said(sample) for sample in samples), key=lambda item: float(item["per_second"]))
    yield Result(
        name="one capacity()",
        value=1e3 / float(said["per_second"]),
        unit="ms",
        limit=2.0,
        note=f"{said['per_second']:,.0f} a second over {said['replicas']} replicas",
    )


def sizing(times: int) -> Iterator[Result]:
    """`size` of every model over every type and region, and of every fourth: the work grows with the options."""
    whole, part = (
        min(
            (_said(sample) for sample in repeated([sys.executable, "-m", "bench.size", step], ROOT, times)),
            key=lambda said: float(said["cpu_seconds"]),
        )
        for step in ("1", "4")
    )
    yield Result(
        name="size over the whole catalog",
        value=float(whole["seconds"]),
        unit="s",
        limit=5.0,
        note=(
            f"{whole['models']} models, {whole['regions']} regions, {whole['options']:,} options; processor "
            f"{whole['cpu_seconds']:.2f} s"
        ),
    )
    each, each_of_fewer = (float(said["cpu_seconds"]) / float(said["options"]) for said in (whole, part))
    yield Result(
        name="an option of all models against one of a fourth",
        value=each / each_of_fewer,
        unit="x",
        limit=1.5,
        note=f"by processor time; {1e6 * each:.0f} us an option",
    )


def _said(sample: Sample) -> dict[str, Any]:
    return json.loads(sample.output)


def _wall(samples: list[Sample]) -> float:
    return min(sample.wall_seconds for sample in samples)


def _cpu(samples: list[Sample]) -> str:
    return f"processor {min(sample.cpu_seconds for sample in samples):.2f} s"


def _peak(samples: list[Sample]) -> float:
    return max(sample.peak_mib for sample in samples)
