"""`plan`, `cost` and `check`: what a stack file means, without touching anything."""

from __future__ import annotations

from ops.console import OK, PROJECT_DIRECTORY, USAGE, err, out, print_json, table
from ops.explain import show_explanation
from planner import Plan, StackFileError, load_and_plan
from planner.plan import CostPlan, EksPlan, PoolPlan
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
    out.print(_pools(plan))
    out.print()
    print_cost(plan.cost)
    for finding in plan.findings:
        out.print(f"note: {finding.subject}: {finding.message}", markup=False)
    return OK


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
            f"{model.layout.nodes} x {model.layout.gpus_per_node} {plan.pool(model.pool).hardware.gpu}",
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
            pool.zone or "",
            rung.kind.replace("_", " "),
            f"{rung.min_nodes} to {rung.max_nodes}",
            f"{rung.usd_per_node_hour:.2f}",
            f"{pool.hardware.efa_devices} EFA" if pool.hardware.efa_devices else "",
        )
        for pool in plan.pools
        for rung in pool.rungs
    ]
    return table("Pools", ("pool", "nodes", "zone", "capacity", "count", "$/h each", "network"), rows, right=(4, 5))


def _nodes(pool: PoolPlan) -> str:
    if pool.karpenter:
        return f"{' or '.join(pool.karpenter.instance_types)} (Karpenter)"
    return pool.hardware.instance_type or f"{pool.hardware.gpus} x {pool.hardware.gpu}"


def print_cost(cost: CostPlan) -> None:
    """The money of a stack, line by line."""
    rows = [
        (line.item, line.detail, f"{line.idle_usd_per_hour:.3f}", f"{line.peak_usd_per_hour:.3f}")
        for line in cost.lines
    ]
    rows.append(("[bold]all[/bold]", "", f"{cost.idle_usd_per_hour:.2f}", f"{cost.peak_usd_per_hour:.2f}"))
    title = "Cost at list prices, excl. tax and data transfer"
    out.print(table(title, ("item", "what", "idle $/h", "peak $/h"), rows, right=(2, 3)))
    out.print(
        f"at the start {cost.base_usd_per_hour:.2f} $/h; worst month {cost.peak_usd_per_month:,.0f} $"
        + (f" of a budget of {cost.budget_monthly_usd:,.0f} $" if cost.budget_monthly_usd else "")
    )


def show_cost(stack: str, *, as_json: bool) -> int:
    """What a stack costs, with the source of every price in JSON."""
    plan = planned(stack)
    if plan is None:
        return USAGE
    if as_json:
        print_json(plan.cost)
    else:
        print_cost(plan.cost)
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
        results.append({"stack": stack, "ok": True, "problems": [], "findings": plan.findings})
        if not as_json:
            out.print(f"{stack}: fine, worst month {plan.cost.peak_usd_per_month:,.0f} $")
    if as_json:
        print_json(results)
    return OK if all(result["ok"] for result in results) else USAGE
