"""`wait`: until every model of a stack is ready in its cluster, telling what each waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from ops.cluster import Objects, connect
from ops.console import FINDINGS, OK, err, out, print_json
from ops.project import models_of, plan_of
from ops.readiness import Progress, progress_of
from planner import Plan
from planner.plan import ModelPlan

_POLL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOptions:
    """What the command line says."""

    models: list[str] | None
    timeout_seconds: int | None
    kubeconfig: Path | None
    context: str | None


def show_wait(stack: str, options: WaitOptions, *, as_json: bool) -> int:
    """Wait and tell; 1 where time was up or a model cannot become ready."""
    plan = plan_of(stack)
    models = models_of(plan, options.models)
    limit = options.timeout_seconds or timeout_of(plan, models)

    def tell(progress: Progress) -> None:
        if not as_json:
            detail = f": {progress.detail}" if progress.detail else ""
            err.print(
                f"{datetime.now():%H:%M:%S} {progress.model}: {progress.step} "
                f"({progress.ready} of {progress.wanted} pods ready){detail}",
                markup=False,
                soft_wrap=True,
            )

    with connect(plan, kubeconfig=options.kubeconfig, context=options.context) as cluster:
        began = time.monotonic()
        states = wait(cluster, plan, models, limit_seconds=limit, tell=tell)
        seconds = round(time.monotonic() - began, 1)
    ready = all(state.done for state in states)
    if as_json:
        print_json({"stack": stack, "ready": ready, "seconds": seconds, "limit_seconds": limit, "models": states})
    elif ready:
        out.print(f"all {len(states)} models are ready after {seconds:.0f} s", markup=False)
    else:
        late = [state.model for state in states if not state.done]
        out.print(
            f"not ready after {seconds:.0f} s (limit {limit} s): {', '.join(late)}\n"
            "  help: what each waits for is above; scarce capacity may take longer: --timeout SECONDS",
            markup=False,
            soft_wrap=True,
        )
    return OK if ready else FINDINGS


def timeout_of(plan: Plan, models: tuple[ModelPlan, ...]) -> int:
    """Seconds after which a start is late: the slowest node's boot, and twice the planned load and start."""
    limits: list[float] = []
    for model in models:
        boot = max(rung.boot_seconds for rung in plan.pool(model.pool).rungs)
        # The warm-up Job reads the revision once before pods read it, over the network of its own, smaller node.
        warming = max((warmup.seconds for warmup in plan.warmups_of(model.name)), default=0)
        limits.append(boot + 2 * (model.startup_seconds + warming))
    return int(max(limits))


def wait(
    objects: Objects,
    plan: Plan,
    models: tuple[ModelPlan, ...],
    *,
    limit_seconds: float,
    tell: Callable[[Progress], None],
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Progress, ...]:
    """The last state of every model: all ready, or as it was when time was up or nothing more could come."""
    until = clock() + limit_seconds
    known: dict[str, Progress] = {}
    while True:
        for model in models:
            before = known.get(model.name)
            if before is not None and before.done:
                continue
            state = known[model.name] = progress_of(objects, plan, model)
            if state != before:
                tell(state)
        states = tuple(known[model.name] for model in models)
        # What has failed for good is not waited for, but the others are.
        if all(state.done or state.step == "failed" for state in states) or clock() >= until:
            return states
        pause(min(_POLL_SECONDS, max(0.1, until - clock())))
