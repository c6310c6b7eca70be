"""Warm nodes: what is kept booted so that a replica need not wait for a machine, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from planner.cost.nodes import fill
from planner.naming import WARM_NAMESPACE, WARM_PRIORITY
from planner.plan import ModelPlan, PoolPlan
from planner.plan.warm import WarmPlan
from planner.problems import Findings


def plan_warm(
    pools: Sequence[PoolPlan], models: Sequence[ModelPlan], image: str, findings: Findings
) -> tuple[WarmPlan, ...]:
    """Placeholders of all pools that want some; tells their price, and refuses those that could never stand.

    Args:
        pools: all pools.
        models: all models.
        image: of a container that does nothing.
        findings: takes problems and remarks.
    """
    found: list[WarmPlan] = []
    for index, pool in enumerate(pools):
        if not pool.warm_nodes:
            continue
        _check_room(index, pool, models, findings)
        _tell(index, pool, models, findings)
        found.append(
            WarmPlan(
                pool=pool.name,
                nodes=pool.warm_nodes,
                namespace=WARM_NAMESPACE,
                image=image,
                priority_class=WARM_PRIORITY,
                gpus=pool.hardware.gpus,
                node_selector=pool.node_selector,
                taints=pool.taints,
                zones=pool.zones,
            )
        )
    return tuple(found)


def _check_room(index: int, pool: PoolPlan, models: Sequence[ModelPlan], findings: Findings) -> None:
    """Refuses a pool that is full with its minimum replicas: the placeholders would wait for ever."""
    cold = sum(fill(pool, models, _minimum(models), warm=0).values())
    room = pool.max_nodes - cold
    if pool.warm_nodes > room:
        findings.problem(
            ("pools", index, "warm_nodes"),
            f"{pool.warm_nodes} warm node(s) beside the {cold} of the minimum replicas, and the pool has "
            f"{pool.max_nodes} at most",
            f"set it to {room}, or raise `nodes.max` of a rung" if room > 0 else "raise `nodes.max` of a rung",
        )


def _tell(index: int, pool: PoolPlan, models: Sequence[ModelPlan], findings: Findings) -> None:
    """What they cost, and what they are not enough for."""
    minimum = _minimum(models)
    cold, warm = fill(pool, models, minimum, warm=0), fill(pool, models, minimum)
    extra = {rung.name: warm[rung.name] - cold[rung.name] for rung in pool.rungs}
    usd = sum(rung.usd_per_node_hour * extra[rung.name] for rung in pool.rungs if not rung.always_bills)
    where = ", ".join(f"{nodes} on {name}" for name, nodes in extra.items() if nodes) or "within the rungs' minimum"
    findings.remark(
        f"pools[{index}].warm_nodes",
        f"{pool.warm_nodes} warm node(s), at the start {where}: {usd:,.2f} $/h beyond what is used or paid for anyway",
    )
    for model in models:
        if model.pool == pool.name and model.layout.nodes > pool.warm_nodes + 1:
            findings.remark(
                f"pools[{index}].warm_nodes",
                f"a group of {model.name} has {model.layout.nodes} nodes: beside those that survive the loss of one it "
                "needs one on the same rung, and a new group as many as it has",
            )


def _minimum(models: Sequence[ModelPlan]) -> dict[str, int]:
    return {model.name: model.scaling.min_replicas for model in models}
