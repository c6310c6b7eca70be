"""`drain`: takes every model's pods down in order, requests finished, before a destroy; `--undo` brings them back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.prompt import Confirm

from ops.cluster import (
    NODE_CLAIMS,
    Objects,
    connect,
    job_path,
    placeholders_path,
    pods_path,
    scaler_path,
    serving_pods,
    workload_path,
)
from ops.console import FINDINGS, OK, err, out, print_json, table
from ops.drain_networking import end_load_balancers, load_balancers
from ops.errors import UsageError
from ops.project import plan_of
from planner import Plan
from planner.naming import POOL_LABEL, RUNG_LABEL

PAUSED: Final = "autoscaling.keda.sh/paused-replicas"
"""KEDA's annotation: hold the target at this number of replicas. https://keda.sh/docs/latest/concepts/scaling-deployments/"""
NODE_POOL_LABEL: Final = "karpenter.sh/nodepool"
_MARGIN_SECONDS: Final = 60
_LEAVE_SECONDS: Final = 600
"""What Karpenter's last nodes are given to end: EC2 takes minutes to stop a GPU instance."""
_POLL_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOptions:
    """What the command line says."""

    yes: bool
    undo: bool
    load_balancers: bool
    """Delete Services and Ingresses that hold a load balancer, too."""
    kubeconfig: Path | None
    context: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainingNodes:
    """GPU nodes that still run, and bill."""

    pool: str
    rung: str
    nodes: int
    usd_per_hour: float
    held_by_minimum: int
    """Nodes that stay whatever happens: the rung's minimum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What a drain did."""

    pods_left: tuple[str, ...]
    """Pods that did not end in time."""
    absent: tuple[str, ...]
    """Models without a workload."""
    claims_left: tuple[str, ...]
    """Karpenter's nodes that did not end in time."""
    nodes: tuple[RemainingNodes, ...]
    seconds: float
    load_balancers: tuple[str, ...] = ()
    """Services and Ingresses that hold one; a destroy would take the controller from them."""

    @property
    def whole(self) -> bool:
        """Whether a destroy can follow."""
        return not self.pods_left and not self.load_balancers


def show_drain(stack: str, options: DrainOptions, *, as_json: bool) -> int:
    """Ask, drain and tell what remains; 1 where pods did not end."""
    plan = plan_of(stack)
    with connect(plan, kubeconfig=options.kubeconfig, context=options.context) as cluster:
        if options.undo:
            back = undo(cluster, plan)
            if as_json:
                print_json({"stack": stack, "restored": back})
            else:
                out.print(f"scaling again: {', '.join(back) or 'nothing'}; follow with `python -m ops wait -s {stack}`")
            return OK
        if not options.yes:
            _ask(plan, cluster)
        result = drain(
            cluster,
            plan,
            tell=lambda line: err.print(line, markup=False, soft_wrap=True),
            end_balancers=options.load_balancers,
        )
    if as_json:
        print_json({"stack": stack, "drained": result.whole, **_fields(result)})
    else:
        _print(stack, result)
    return OK if result.whole else FINDINGS


def _fields(result: Drained) -> dict[str, Any]:
    return {
        "pods_left": result.pods_left,
        "absent": result.absent,
        "claims_left": result.claims_left,
        "load_balancers": result.load_balancers,
        "nodes": result.nodes,
        "seconds": result.seconds,
    }


def _ask(plan: Plan, objects: Objects) -> None:
    count = sum(len(objects.list(pods_path(model.namespace), serving_pods(model))) for model in plan.models)
    names = ", ".join(model.name for model in plan.models)
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask", help="--yes says that you mean it")
    question = f"Stop {count} pods of {len(plan.models)} models ({names}) in stack {plan.stack}? They stop serving."
    if not Confirm.ask(question, console=err, default=False):
        raise UsageError("not confirmed; nothing was changed")


def _print(stack: str, result: Drained) -> None:
    for pod in result.pods_left:
        out.print(f"still there: {pod}", markup=False)
    for name in result.claims_left:
        out.print(f"node of Karpenter still there: {name}; a destroy waits for it", markup=False)
    for name in result.load_balancers:
        out.print(f"{name} holds a load balancer: delete it, or drain with --load-balancers", markup=False)
    for name in result.absent:
        out.print(f"not deployed: {name}", markup=False)
    if result.nodes:
        rows = [
            (one.pool, one.rung, str(one.nodes), f"{one.usd_per_hour:.2f}", str(one.held_by_minimum))
            for one in result.nodes
        ]
        columns = ("pool", "capacity", "nodes", "$/h", "minimum")
        out.print(table("GPU nodes that remain", columns, rows, right=(2, 3, 4)))
        out.print("cluster-autoscaler removes idle nodes above the minimum in about ten minutes; destroy removes all")
    else:
        out.print("no GPU node remains")
    if result.whole:
        out.print(f"drained after {result.seconds:.0f} s; next: pulumi destroy --stack {stack}", markup=False)
    else:
        out.print(f"not yet fit to destroy, after {result.seconds:.0f} s", markup=False)


def drain(
    objects: Objects,
    plan: Plan,
    *,
    tell: Callable[[str], None],
    end_balancers: bool = False,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Drained:
    """Scalers first, since they would bring pods back; then weights' Jobs and warm nodes; then workloads; then wait for
    the pods."""
    began = clock()
    for model in plan.models:
        if model.scaling.owner == "keda" and objects.merge(scaler_path(model), _annotation("0")):
            tell(f"{model.name}: autoscaling paused")
    for warmup in plan.warmups:
        job = objects.get(job_path(warmup.namespace, warmup.name))
        if job is not None and not _ended(job):
            objects.merge(job_path(warmup.namespace, warmup.name), {"spec": {"suspend": True}})
            tell(f"{warmup.name}: suspended")
    for warm in plan.warm:  # else they would ask for the nodes that are given back
        if objects.merge(placeholders_path(warm), {"spec": {"replicas": 0}}):
            tell(f"{warm.name}: nothing is kept warm")
    absent: list[str] = []
    for model in plan.models:
        stop: dict[str, Any] = {"suspend": True} if model.runtime == "ray_service" else {"replicas": 0}
        if objects.merge(workload_path(model), {"spec": stop}):
            tell(f"{model.name}: stopping, up to {model.drain.grace_seconds} s for running requests")
        else:
            absent.append(model.name)
    limit = max(model.drain.grace_seconds for model in plan.models) + _MARGIN_SECONDS
    left = _pods(objects, plan)
    said = -1
    while left and clock() - began < limit:
        if len(left) != said:
            said = len(left)
            tell(f"{said} pod(s) still finishing")
        pause(_POLL_SECONDS)
        left = _pods(objects, plan)
    return Drained(
        pods_left=left,
        absent=tuple(absent),
        claims_left=() if left else _end_claims(objects, plan, tell=tell, pause=pause, clock=clock),
        nodes=remaining_nodes(objects, plan),
        load_balancers=end_load_balancers(objects, tell=tell, pause=pause, clock=clock)
        if end_balancers
        else tuple(load_balancers(objects)),
        seconds=round(clock() - began, 1),
    )


def _end_claims(
    objects: Objects,
    plan: Plan,
    *,
    tell: Callable[[str], None],
    pause: Callable[[float], None],
    clock: Callable[[], float],
) -> tuple[str, ...]:
    """Ends Karpenter's empty nodes. Their NodePools stay: nothing asks for nodes now, and `--undo` needs them."""
    if plan.karpenter is None:
        return ()
    for name in _claims(objects, plan):
        objects.delete(f"{NODE_CLAIMS}/{name}")
        tell(f"{name}: ending a node of Karpenter")
    until = clock() + _LEAVE_SECONDS
    left = _claims(objects, plan)
    while left and clock() < until:
        pause(_POLL_SECONDS)
        left = _claims(objects, plan)
    return left


def _claims(objects: Objects, plan: Plan) -> tuple[str, ...]:
    """NodeClaims of the plan's pools; those of somebody else's NodePools are not ours to end."""
    pools = {item.name for pool in plan.pools if pool.karpenter for item in pool.karpenter.node_pools}
    return tuple(
        claim["metadata"]["name"]
        for claim in objects.list(NODE_CLAIMS, NODE_POOL_LABEL)
        if claim["metadata"]["labels"][NODE_POOL_LABEL] in pools
    )


def undo(objects: Objects, plan: Plan) -> tuple[str, ...]:
    """Bring models back to their minimum, scalers last; returns those that have a workload."""
    back: list[str] = []
    for warmup in plan.warmups:
        job = objects.get(job_path(warmup.namespace, warmup.name))
        if job is not None and job["spec"].get("suspend"):
            objects.merge(job_path(warmup.namespace, warmup.name), {"spec": {"suspend": False}})
    for warm in plan.warm:
        objects.merge(placeholders_path(warm), {"spec": {"replicas": warm.pods}})
    for model in plan.models:
        change: dict[str, Any] = {"replicas": model.scaling.min_replicas}
        if model.runtime == "ray_service":
            change = {"suspend": False}
        if objects.merge(workload_path(model), {"spec": change}):
            back.append(model.name)
    for model in plan.models:
        if model.scaling.owner == "keda":
            objects.merge(scaler_path(model), _annotation(None))
    return tuple(back)


def remaining_nodes(objects: Objects, plan: Plan) -> tuple[RemainingNodes, ...]:
    """Nodes of the plan's pools, by rung."""
    counts: dict[tuple[str, str], int] = {}
    for node in objects.list("/api/v1/nodes", POOL_LABEL):
        labels = node["metadata"].get("labels", {})
        key = (labels.get(POOL_LABEL, ""), labels.get(RUNG_LABEL, ""))
        counts[key] = counts.get(key, 0) + 1
    found: list[RemainingNodes] = []
    for pool in plan.pools:
        for rung in pool.rungs:
            labels = {**pool.node_selector, **rung.labels}
            nodes = counts.get((labels.get(POOL_LABEL, pool.name), labels.get(RUNG_LABEL, "")), 0)
            if nodes:
                found.append(
                    RemainingNodes(
                        pool=pool.name,
                        rung=rung.name,
                        nodes=nodes,
                        usd_per_hour=round(nodes * rung.usd_per_node_hour, 2),
                        held_by_minimum=rung.min_nodes,
                    )
                )
    return tuple(found)


def _pods(objects: Objects, plan: Plan) -> tuple[str, ...]:
    return tuple(
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for model in plan.models
        for pod in objects.list(pods_path(model.namespace), serving_pods(model))
        if pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
    )


def _ended(job: dict[str, Any]) -> bool:
    conditions: list[dict[str, Any]] = job.get("status", {}).get("conditions") or []
    return any(one["type"] in {"Complete", "Failed"} and one["status"] == "True" for one in conditions)


def _annotation(value: str | None) -> dict[str, Any]:
    return {"metadata": {"annotations": {PAUSED: value}}}
