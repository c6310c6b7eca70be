"""`efa-test`: an all-reduce over nodes of a pool, from 1 KiB to 8 GiB, as nccl-tests makes it; is it EFA, and fast?

No MPI: an Indexed Job starts the engine's own EFA image on each node, with the EFA gate's own scripts, so that what is
measured is what will serve. Whole nodes are asked for; cluster-autoscaler brings those that are not there.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from components.scripts.efa.findings import RESULT_MARK, nccl_problem, read_nccl
from ops.cluster import Json, Workbench, connect, job_path, pods_path
from ops.console import FINDINGS, OK, err, out, print_json, table
from ops.efa_test_objects import JOB_LABEL, TEST_SECONDS, objects_of
from ops.errors import UsageError
from ops.project import plan_of
from planner import Plan
from planner.efa import reference_floor
from planner.plan import ModelPlan, PoolPlan
from settings.errors import did_you_mean

_POLL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EfaTestOptions:
    """What the command line says."""

    pool: str
    nodes: int
    timeout_seconds: int | None
    yes: bool
    kubeconfig: Path | None
    context: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EfaTestResult:
    """What was measured, and the verdict."""

    pool: str
    instance_type: str | None
    nodes: int
    ok: bool
    problem: str | None
    providers: tuple[str, ...]
    """What aws-ofi-nccl selected on any node."""
    gpudirect_rdma: bool
    floor_gb_per_s: float | None
    floor_note: str
    results: tuple[Mapping[str, Any], ...]
    """Rows of nccl-tests: `size` (bytes), `seconds`, `algbw` and `busbw` (GB/s), `wrong` (elements)."""
    seconds: float


def show_efa_test(stack: str, options: EfaTestOptions, *, as_json: bool) -> int:
    """Test and tell; 1 where it is not EFA, too slow, or did not end."""
    plan = plan_of(stack)
    pool, model = subject(plan, options.pool, options.nodes)
    if not options.yes:
        _ask(pool, options.nodes)

    def tell(words: str) -> None:
        if not as_json:
            err.print(f"{datetime.now():%H:%M:%S} {words}", markup=False, soft_wrap=True)

    with connect(plan, kubeconfig=options.kubeconfig, context=options.context) as cluster:
        limit = options.timeout_seconds or timeout_of(pool)
        result = efa_test(
            cluster, pool, model, nodes=options.nodes, limit_seconds=limit, tell=tell, pull_secret=plan.pull_secret
        )
    if as_json:
        print_json(result)
    else:
        _print(result)
    return OK if result.ok else FINDINGS


def subject(plan: Plan, name: str, nodes: int) -> tuple[PoolPlan, ModelPlan]:
    """The pool, and a model on it whose image carries EFA; raises UsageError where there is none."""
    pools = {pool.name: pool for pool in plan.pools}
    if name not in pools:
        raise UsageError(f"stack {plan.stack} has no pool `{name}`", help=did_you_mean(name, pools))
    pool = pools[name]
    model = next((model for model in plan.models if model.pool == name and model.container.efa_devices), None)
    if model is None:
        fast = sorted(pool.name for pool in plan.pools if pool.hardware.efa_devices)
        raise UsageError(
            f"pool `{name}` uses no EFA: no model on it spans nodes",
            help=f"pools with EFA: {', '.join(fast)}" if fast else "no pool of this stack has EFA",
        )
    room = max(rung.max_nodes for rung in pool.rungs)
    if not 2 <= nodes <= room:
        raise UsageError(f"--nodes {nodes}: the largest rung of `{name}` has {room}", help=f"say 2 to {room}")
    return pool, model


def timeout_of(pool: PoolPlan) -> int:
    """Seconds: the slowest boot twice, an image pull, the test itself."""
    return 2 * max(rung.boot_seconds for rung in pool.rungs) + 600 + TEST_SECONDS


def efa_test(
    bench: Workbench,
    pool: PoolPlan,
    model: ModelPlan,
    *,
    nodes: int,
    limit_seconds: float,
    tell: Callable[[str], None],
    pull_secret: str | None = None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> EfaTestResult:
    """One test; what it made is gone when this returns, however it ends."""
    name = f"efa-test-{secrets.token_hex(3)}"
    namespace = model.namespace
    began = clock()
    try:
        objects = objects_of(name, pool, model, nodes=nodes, limit_seconds=int(limit_seconds), pull_secret=pull_secret)
        for path, item in objects.items():
            bench.create(path, item)
        tell(f"Job {namespace}/{name} asks for {nodes} whole nodes of `{pool.name}`")
        problem = _wait(bench, namespace, name, began + limit_seconds, tell, pause, clock)
        logs = _logs(bench, namespace, name)
        return _result(pool, nodes, logs, problem, clock() - began)
    finally:
        for path in (
            job_path(namespace, name),
            f"/api/v1/namespaces/{namespace}/configmaps/{name}",
            f"/api/v1/namespaces/{namespace}/services/{name}",
        ):
            bench.delete(path)
        tell(f"removed {name}")


def _wait(
    bench: Workbench,
    namespace: str,
    name: str,
    until: float,
    tell: Callable[[str], None],
    pause: Callable[[float], None],
    clock: Callable[[], float],
) -> str | None:
    """Waits for the Job's end; gives why it failed."""
    told = ""
    while True:
        job = bench.get(job_path(namespace, name)) or {}
        pods = bench.list(pods_path(namespace), f"{JOB_LABEL}={name}")
        ended = {one["type"] for one in job.get("status", {}).get("conditions") or () if one["status"] == "True"}
        if "Complete" in ended:
            return None
        if "Failed" in ended:
            return next((said for pod in pods if (said := _last_words(pod))), "the Job failed and no pod said why")
        words = ", ".join(sorted(_state(pod) for pod in pods)) or "no pods yet"
        if words != told:
            tell(words)
            told = words
        if clock() >= until:
            return f"not ended in time; last seen: {words}"
        pause(min(_POLL_SECONDS, max(0.1, until - clock())))


def _state(pod: Json) -> str:
    if not pod["spec"].get("nodeName"):
        said = next(
            (
                one.get("message", "")
                for one in pod.get("status", {}).get("conditions") or ()
                if one["status"] == "False"
            ),
            "",
        )
        return f"waiting for a node{f' ({said})' if said else ''}"
    return f"{pod['spec']['nodeName']} {str(pod.get('status', {}).get('phase', 'Pending')).lower()}"


def _last_words(pod: Json) -> str:
    for one in pod.get("status", {}).get("containerStatuses") or ():
        ended: Json = one.get("state", {}).get("terminated") or {}
        if ended.get("exitCode") and ended.get("message"):
            return str(ended["message"]).strip()
    return ""


def _logs(bench: Workbench, namespace: str, name: str) -> list[str]:
    pods = bench.list(pods_path(namespace), f"{JOB_LABEL}={name}")
    started = (pod for pod in pods if pod.get("status", {}).get("phase") in {"Running", "Succeeded", "Failed"})
    return [bench.text(f"{pods_path(namespace)}/{pod['metadata']['name']}/log") for pod in started]


def _result(pool: PoolPlan, nodes: int, logs: list[str], problem: str | None, seconds: float) -> EfaTestResult:
    floor, note = reference_floor(pool.hardware.instance_type)
    reports = [read_nccl(log) for log in logs]
    rows = tuple(
        json.loads(line.removeprefix(RESULT_MARK))
        for log in logs
        for line in log.splitlines()
        if line.startswith(RESULT_MARK)
    )
    if problem is None:
        # The pods have judged already; a verdict that their own logs do not bear out is none.
        found = (nccl_problem(report, gdr=pool.hardware.gdr) for report in reports)
        problem = next((one for one in found if one), None if rows else "no pod printed a result")
    return EfaTestResult(
        pool=pool.name,
        instance_type=pool.hardware.instance_type,
        nodes=nodes,
        ok=problem is None,
        problem=problem,
        providers=tuple(sorted({name for report in reports for name in report.providers})),
        gpudirect_rdma=any(report.gdr for report in reports),
        floor_gb_per_s=floor,
        floor_note=note,
        results=rows,
        seconds=round(seconds, 1),
    )


def _print(result: EfaTestResult) -> None:
    rows = [
        (
            f"{row['size']}",
            f"{row['seconds'] * 1e6:.1f}",
            f"{row['algbw']:.2f}",
            f"{row['busbw']:.2f}",
            str(row["wrong"]),
        )
        for row in result.results
    ]
    title = f"All-reduce over {result.nodes} x {result.instance_type} ({result.pool})"
    columns = ("bytes", "us", "algbw GB/s", "busbw GB/s", "wrong")
    if rows:
        out.print(table(title, columns, rows, right=(0, 1, 2, 3, 4)))
    provider = ", ".join(result.providers) or "none seen"
    rdma = "with" if result.gpudirect_rdma else "without"
    floor = f"{result.floor_gb_per_s:g} GB/s at 1 GiB: {result.floor_note}" if result.floor_gb_per_s else "none"
    out.print(f"provider {provider}, {rdma} GPUDirect RDMA; floor {floor}", markup=False, soft_wrap=True)
    if result.ok:
        out.print("[green]EFA works[/green]")
    else:
        out.print(
            f"not good: {result.problem}\n  help: docs/runbooks/efa.md says what each finding means",
            markup=False,
            soft_wrap=True,
        )


def _ask(pool: PoolPlan, nodes: int) -> None:
    price = max(rung.usd_per_node_hour for rung in pool.rungs)
    err.print(
        f"This takes {nodes} whole nodes of `{pool.name}` ({pool.hardware.instance_type}), up to {price:.2f} $/h each "
        "where they must be started. Models that serve are not touched.",
        markup=False,
        soft_wrap=True,
    )
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask", help="--yes says that you mean it")
    if input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise UsageError("not confirmed; nothing was changed")
