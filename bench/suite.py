"""What is measured, and how much it may be: the limits of docs/explanation/bench.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.generate import stack_file
from bench.measure import Sample, repeated, run

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10, 100, 400)


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


def rehearsing() -> Iterator[Result]:
    """prod rehearsed in-process: up, second run, destroy. Once: it is long, and its own steps are timed inside."""
    sample = run([sys.executable, "-m", "ops", "rehearse", "--stack", "prod", "--json"], ROOT)
    phases = ", ".join(f"{phase['name']} {phase['seconds']:.0f} s" for phase in _said(sample).get("phases", ()))
    yield Result(name="ops rehearse --stack prod", value=sample.wall_seconds, unit="s", limit=90, note=phases)


def _said(sample: Sample) -> dict[str, Any]:
    return json.loads(sample.output)


def _wall(samples: list[Sample]) -> float:
    return min(sample.wall_seconds for sample in samples)


def _cpu(samples: list[Sample]) -> str:
    return f"processor {min(sample.cpu_seconds for sample in samples):.2f} s"


def _peak(samples: list[Sample]) -> float:
    return max(sample.peak_mib for sample in samples)
