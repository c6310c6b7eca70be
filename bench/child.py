"""What one measurement runs, in a process of its own: `python -m bench.child plan|build <stack file>`.

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


def main(verb: str, path: Path) -> None:
    """One measurement."""
    plan, seconds, cpu_seconds = timed_plan(path)
    result: dict[str, object] = {"models": len(plan.models), "plan_seconds": seconds, "plan_cpu_seconds": cpu_seconds}
    if verb == "build":
        result["resources"], result["build_seconds"] = build_seconds(plan)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
