"""Warm capacity: what is kept booted so that a replica need not wait for a machine, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from planner.cost.nodes import fill, replicas_with_room
from planner.naming import WARM_NAMESPACE, WARM_PRIORITY
from planner.plan import ModelPlan, PoolPlan
from planner.plan.warm import WarmPlan
from planner.problems import Findings
from settings.errors import Path
from settings.root import Settings


def plan_warm(
    pools: Sequence[PoolPlan], models: Sequence[ModelPlan], image: str, settings: Settings, findings: Findings
) -> tuple[WarmPlan, ...]:
    """All placeholders; tells their price, and refuses those that could never stand.

    Args:
        pools: all pools.
        models: all models.
        image: of a container that does nothing.
        settings: the stack file, for the places of problems.
        findings: takes problems and remarks.
    """
    places: dict[str, Path] = {model.name: ("models", index) for index, model in enumerate(settings.models)}
    found: list[WarmPlan] = []
    for index, pool in enumerate(pools):
        own = [model for model in models if model.pool == pool.name]
        if pool.warm_nodes:
            _check_nodes(index, pool, own, findings)
            _tell_nodes(index, pool, own, findings)
            found.append(_placeholders(pool, image, name=pool.name, pods=pool.warm_nodes, gpus=pool.hardware.gpus))
        for model in own:
            if model.warm_replicas:
                served = model.disaggregation.serves if model.disaggregation else model.name
                path = (*places[served], "warm_replicas")
                _check_replicas(path, pool, model, own, findings)
                found += _replicas(path, pool, model, image, [other.name for other in pools], findings)
    return tuple(found)


def _replicas(
    path: Path, pool: PoolPlan, model: ModelPlan, image: str, pools: Sequence[str], findings: Findings
) -> Iterator[WarmPlan]:
    """Placeholders of a model's spare replicas: one set for all on one node, one for each group over several."""
    layout = model.layout
    groups = [""] if layout.nodes == 1 else [f"-{group}" for group in range(model.warm_replicas)]
    for group in groups:
        name = f"{model.name}-warm{group}"
        if name in pools:
            findings.problem(path, f"its placeholders would be called like the pool `{name}`", "rename one of the two")
        held = _placeholders(
            pool,
            image,
            name=name,
            pods=layout.nodes if group else model.warm_replicas,
            gpus=layout.gpus_per_node,
        )
        selector = {**pool.node_selector, **pool.later_labels}
        yield replace(held, model=model.name, one_rung=bool(group), node_selector=selector)


def _placeholders(pool: PoolPlan, image: str, *, name: str, pods: int, gpus: int) -> WarmPlan:
    return WarmPlan(
        name=name,
        pool=pool.name,
        pods=pods,
        namespace=WARM_NAMESPACE,
        image=image,
        priority_class=WARM_PRIORITY,
        gpus=gpus,
        node_selector=pool.node_selector,
        taints=pool.taints,
        zones=pool.zones,
    )


def _check_nodes(index: int, pool: PoolPlan, models: Sequence[ModelPlan], findings: Findings) -> None:
    """Refuses a pool that is full with its minimum replicas: the placeholders would wait for ever."""
    cold = sum(fill(pool, models, _minimum(models), warm=False).values())
    room = pool.max_nodes - cold
    if pool.warm_nodes > room:
        findings.problem(
            ("pools", index, "warm_nodes"),
            f"{pool.warm_nodes} warm node(s) beside the {cold} of the minimum replicas, and the pool has "
            f"{pool.max_nodes} at most",
            f"set it to {room}, or raise `nodes.max` of a rung" if room > 0 else "raise `nodes.max` of a rung",
        )


def _tell_nodes(index: int, pool: PoolPlan, models: Sequence[ModelPlan], findings: Findings) -> None:
    """What they cost, and what they are not enough for."""
    subject = f"pools[{index}].warm_nodes"
    extra = _price(replace(pool, warm_nodes=0), pool, models, models)
    findings.remark(subject, f"{pool.warm_nodes} warm node(s), {extra}")
    for model in models:
        if model.layout.nodes > pool.warm_nodes + 1 and not model.warm_replicas:
            findings.remark(
                subject,
                f"a group of {model.name} has {model.layout.nodes} nodes: beside those that survive the loss of one it "
                "needs one on the same rung, and a new group as many as it has (`models[].warm_replicas`)",
            )


def _check_replicas(
    path: Path, pool: PoolPlan, model: ModelPlan, models: Sequence[ModelPlan], findings: Findings
) -> None:
    """Refuses spare replicas that have no room beside the minimum of all models; tells the price of the others."""
    layout, minimum = model.layout, _minimum(models)
    if all(rung.kind == "existing" for rung in pool.rungs):
        findings.problem(path, f"nodes of `{pool.name}` exist already: none has to boot", "leave it out")
        return
    of = f"{layout.gpus_per_node} GPU(s)" if layout.nodes == 1 else f"{layout.nodes} nodes on one rung"
    room = replicas_with_room(pool, models, minimum)[model.name] - minimum[model.name]
    if room < model.warm_replicas:
        findings.problem(
            path,
            f"{model.warm_replicas} spare replica(s) of {of} each beside the minimum replicas, and `{pool.name}` has "
            f"room for {max(0, room)}",
            _fewer(room, of_two=model.disaggregation is not None),
        )
        return
    cold = [replace(one, warm_replicas=0) if one is model else one for one in models]
    price = _price(pool, pool, cold, models)
    findings.remark(f"models[{path[1]}].warm_replicas", f"{model.warm_replicas} spare replica(s) of {of} each, {price}")


def _fewer(room: int, *, of_two: bool) -> str:
    """What fits. Two groups may take each other's room, so a number that one of them could have is none."""
    more = "raise `nodes.max` of a rung"
    if room <= 0:
        return more
    return f"{more}, or set it to less: both groups keep as many" if of_two else f"set it to {room}, or {more}"


def _price(cold_pool: PoolPlan, pool: PoolPlan, cold: Sequence[ModelPlan], warm: Sequence[ModelPlan]) -> str:
    """What the nodes cost that are there because of placeholders, in words."""
    minimum = _minimum(warm)
    before, after = fill(cold_pool, cold, minimum), fill(pool, warm, minimum)
    extra = {rung.name: after[rung.name] - before[rung.name] for rung in pool.rungs}
    usd = sum(rung.usd_per_node_hour * extra[rung.name] for rung in pool.rungs if not rung.always_bills)
    where = ", ".join(f"{nodes} on {name}" for name, nodes in extra.items() if nodes) or "within nodes that run anyway"
    return f"at the start {where}: {usd:,.2f} $/h beyond what is used or paid for anyway"


def _minimum(models: Sequence[ModelPlan]) -> dict[str, int]:
    return {model.name: model.scaling.min_replicas for model in models}
