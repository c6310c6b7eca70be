"""What one measurement runs, in a process of its own.

`python -m bench.child plan|build <stack file>`, `simulate <stack file> <requests a day>` or `trace <stack file> <csv>`.
Prints the seconds of the work itself, without the start of the process and its imports.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from planner import Plan, load_and_plan


def timed_plan(path: Path) -> tuple[Plan, float, float]:
    """The plan of a stack file, the catalog read anew, and how long that took by the clock and by the processor."""
    start, start_cpu = time.perf_counter(), time.process_time()
    plan = load_and_plan(path)[1]
    return plan, time.perf_counter() - start, time.process_time() - start_cpu


def build_seconds(plan: Plan) -> tuple[int, float]:
    """How many resources the program declares, and how long that takes under the recorder, AWS simulated."""
    # Imported here: planning must be measured without the SDKs.
    import program  # noqa: PLC0415
    from rehearsal.aws.simulated import SimulatedEnvironment  # noqa: PLC0415
    from rehearsal.engines.answers import SimulatedAnswers  # noqa: PLC0415
    from rehearsal.engines.program import run_program  # noqa: PLC0415

    answers = SimulatedAnswers(environment=SimulatedEnvironment(), preview=False)
    start = time.perf_counter()
    run_program(lambda: program.build(plan), answers=answers, project=plan.project, stack=plan.stack)
    return len(answers.registrations), time.perf_counter() - start


def replayed(path: Path, *, per_day: float | None = None, trace: Path | None = None) -> dict[str, object]:
    """A day of this many requests, or a trace, replayed on a stack."""
    # Imported here: planning must be measured without the arrays.
    from datetime import UTC, datetime  # noqa: PLC0415

    from simulation.replay import Conditions, replay  # noqa: PLC0415
    from simulation.served import served_of  # noqa: PLC0415
    from simulation.subjects import hazards_of, subjects_of  # noqa: PLC0415
    from simulation.trace import TraceModel, TraceOptions, read_trace  # noqa: PLC0415
    from simulation.traffic import DAY_SECONDS, ModelTraffic, Traffic, drawn, rates  # noqa: PLC0415

    settings, plan = load_and_plan(path)
    subjects = subjects_of(settings, plan)
    start = time.perf_counter()
    midnight = datetime(2026, 6, 17, tzinfo=UTC)
    if trace is not None:
        models = [TraceModel(name=name, context_tokens=one.plan.context_tokens) for name, one in subjects.items()]
        traffic = read_trace(trace, TraceOptions(models=models, start=midnight))
    else:
        asked = tuple(
            ModelTraffic(
                model=name,
                counts=drawn(
                    rates(
                        "diurnal", start=midnight, seconds=DAY_SECONDS, per_day=(per_day or 0) / len(subjects), seed=0
                    ),
                    seed=0,
                    stream=index,
                ),
                input=one.input,
                output=one.output,
            )
            for index, (name, one) in enumerate(subjects.items())
        )
        traffic = Traffic(start=midnight, seconds=DAY_SECONDS, models=asked, origin="diurnal")
    read = time.perf_counter() - start
    served = {asked.model: served_of(subjects[asked.model], asked) for asked in traffic.models}
    found = replay([("", plan)], traffic, served, Conditions(hazards=hazards_of(plan, spot_per_hour=None)))[0]
    return {
        "requests": traffic.requests,
        "served": sum(model.served for model in found.models),
        "refused": sum(model.refused for model in found.models),
        "replicas": sum(model.replicas_most for model in found.models),
        "read_seconds": read,
        "seconds": time.perf_counter() - start,
    }


def main(verb: str, path: Path, argument: str = "") -> None:
    """One measurement."""
    if verb in {"simulate", "trace"}:
        result = replayed(path, per_day=float(argument)) if verb == "simulate" else replayed(path, trace=Path(argument))
        sys.stdout.write(json.dumps(result) + "\n")
        return
    plan, seconds, cpu_seconds = timed_plan(path)
    result: dict[str, object] = {"models": len(plan.models), "plan_seconds": seconds, "plan_cpu_seconds": cpu_seconds}
    if verb == "build":
        result["resources"], result["build_seconds"] = build_seconds(plan)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
