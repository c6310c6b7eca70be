"""`plan`, `cost` and `check`: what a stack file means, without touching anything."""

from __future__ import annotations

from collections.abc import Iterable

from ops.console import OK, PROJECT_DIRECTORY, USAGE, err, out, print_json, table
from ops.cost import price_findings, print_cost, print_parts
from ops.explain import show_explanation
from ops.performance import print_performance
from planner import Plan, StackFileError, load_and_plan
from planner.plan import EksPlan, Finding, ModelPlan, PoolPlan
from settings.load import stack_file


def planned(stack: str) -> Plan | None:
    """The Plan of a stack; None after its problems were printed."""
    try:
        return load_and_plan(stack_file(PROJECT_DIRECTORY, stack))[1]
    except StackFileError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        return None


def show_plan(stack: str, *, as_json: bool, explain: str | None) -> int:
    """Models, pools, nodes and money of a stack."""
    plan = planned(stack)
    if plan is None:
        return USAGE
    if explain is not None:
        return show_explanation(plan, explain, as_json=as_json)
    if as_json:
        print_json(plan)
        return OK
    out.print(f"[bold]{plan.project}[/bold] stack [bold]{plan.stack}[/bold]: {_where(plan)}\n")
    out.print(_models(plan))
    out.print()
    print_performance(plan.models)
    out.print(_pools(plan))
    _print_cache(plan)
    out.print()
    print_cost(plan.cost)
    _print_findings((*plan.findings, *price_findings(plan)))
    return OK


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        out.print(f"note: {finding.subject}: {finding.message}", markup=False, soft_wrap=True)


def _print_cache(plan: Plan) -> None:
    held = plan.cache.fsx or plan.cache.volume_claim
    if held is not None:
        out.print(
            f"cache: {plan.cache.planned_gigabytes:,.0f} of {held.storage_gib * 2**30 / 1e9:,.0f} GB are planned, "
            f"{plan.cache.keep_revisions} earlier revision(s) of each repository among them",
            markup=False,
            soft_wrap=True,
        )


def _where(plan: Plan) -> str:
    if isinstance(plan.target, EksPlan):
        return f"EKS {plan.target.kubernetes_version} in {plan.region}, zones {', '.join(plan.zones)}"
    return f"existing cluster ({plan.target.kubeconfig})"


def _models(plan: Plan) -> object:
    rows = [
        (
            model.name,
            f"{model.engine} {model.engine_version}, {model.runtime}",
            f"tp {model.layout.tensor} pp {model.layout.pipeline}",
            _gpus(model, plan.pool(model.pool)),
            f"{model.memory.weights_gib:.0f} + {model.memory.kv_gib:.0f} of {model.memory.gpu_gib:.0f}",
            f"{model.memory.max_sequences} x {model.context_tokens}",
            f"{model.scaling.min_replicas} to {model.scaling.max_replicas}",
            f"{model.weights.load.seconds:.0f} / {model.startup_seconds}",
        )
        for model in plan.models
    ]
    columns = (
        "model",
        "engine, runtime",
        "layout",
        "GPUs a replica",
        "weights + KV GiB a GPU",
        "full sequences",
        "replicas",
        "load / start s",
    )
    return table("Models", columns, rows, right=(5, 6, 7))


def _pools(plan: Plan) -> object:
    rows = [
        (
            pool.name,
            _nodes(pool),
            rung.zone or ", ".join(pool.zones),
            rung.kind.replace("_", " "),
            f"{rung.min_nodes} to {rung.max_nodes}",
            f"{rung.usd_per_node_hour:.2f}",
            f"{pool.hardware.efa_devices} EFA" if pool.hardware.efa_devices else "",
        )
        for pool in plan.pools
        for rung in pool.rungs
    ]
    return table("Pools", ("pool", "nodes", "zone", "capacity", "count", "$/h each", "network"), rows, right=(4, 5))


def _gpus(model: ModelPlan, pool: PoolPlan) -> str:
    if pool.sharing is not None:
        return f"1/{pool.sharing.slices_per_gpu} {pool.hardware.gpu}"
    return f"{model.layout.nodes} x {model.layout.gpus_per_node} {pool.hardware.gpu}"


def _nodes(pool: PoolPlan) -> str:
    if pool.karpenter:
        name = f"{' or '.join(pool.instance_types)} (Karpenter)"
    else:
        name = pool.hardware.instance_type or f"{pool.gpus_per_node} x {pool.hardware.gpu}"
    return f"{name}, {pool.sharing.words}" if pool.sharing else name


def show_cost(stack: str, *, as_json: bool) -> int:
    """What a stack costs, with the source of every price in JSON."""
    plan = planned(stack)
    if plan is None:
        return USAGE
    if as_json:
        print_json(plan.cost)
    else:
        print_cost(plan.cost)
        print_parts(plan.cost)
        _print_findings(price_findings(plan))
    return OK


def check(stacks: list[str], *, as_json: bool) -> int:
    """Judge stack files; every problem of each with its line."""
    results: list[dict[str, object]] = []
    for stack in stacks:
        try:
            plan = load_and_plan(stack_file(PROJECT_DIRECTORY, stack))[1]
        except StackFileError as error:
            results.append({"stack": stack, "ok": False, "problems": error.problems})
            if not as_json:
                err.print(str(error), markup=False, soft_wrap=True)
            continue
        old = price_findings(plan)
        results.append({"stack": stack, "ok": True, "problems": [], "findings": (*plan.findings, *old)})
        if not as_json:
            out.print(f"{stack}: fine, worst month {plan.cost.peak_usd_per_month:,.0f} $")
            _print_findings(old)
    if as_json:
        print_json(results)
    return OK if all(result["ok"] for result in results) else USAGE
