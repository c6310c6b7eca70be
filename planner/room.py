"""Whether a pool has room for a model's replicas."""

from __future__ import annotations

from planner.drafts import Draft
from planner.plan import LayoutPlan, PoolPlan
from planner.problems import Findings


def replicas_that_fit(pool: PoolPlan, layout: LayoutPlan) -> int:
    """Replicas of one layout that a pool holds with nothing else on it; a group keeps to one rung."""
    if layout.nodes > 1:
        return sum(rung.max_nodes // layout.nodes for rung in pool.rungs)
    return pool.max_nodes * (pool.hardware.gpus // layout.gpus_per_node)


def check_room(sketch: Draft, pool: PoolPlan, findings: Findings) -> None:
    """Refuses what can never be placed; remarks on what can wait for ever."""
    layout, replicas = sketch.fit.layout, sketch.model.replicas
    room = replicas_that_fit(pool, layout)
    largest = max(rung.max_nodes for rung in pool.rungs)
    if layout.nodes > largest:
        findings.problem(
            (*sketch.path, "pool"),
            f"one replica needs {layout.nodes} nodes on one rung, and the largest rung of `{pool.name}` has {largest}",
            f"raise a rung of the pool to {layout.nodes} nodes or more",
        )
    elif layout.nodes > 1:
        _remark_on_groups(sketch, pool, findings)
    elif replicas.min <= room < replicas.max:
        findings.remark(
            f"models[{sketch.index}]",
            f"`{pool.name}` has room for {room} of {replicas.max} replicas",
        )
    elif room < replicas.min:
        findings.problem(
            (*sketch.path, "replicas", "min"),
            f"`{pool.name}` holds {room} replicas at most",
            "add nodes to a rung of the pool, or lower min",
        )


def _remark_on_groups(sketch: Draft, pool: PoolPlan, findings: Findings) -> None:
    """Where groups of nodes can wait for each other: nothing gangs them, so two may each hold half of the last room."""
    layout, replicas = sketch.fit.layout, sketch.model.replicas
    subject = f"models[{sketch.index}]"
    room = replicas_that_fit(pool, layout)
    if replicas.max > room:
        findings.remark(
            subject, f"`{pool.name}` has room for {room} of {replicas.max} replicas (whole groups on one rung)"
        )
    odd = [rung.name for rung in pool.rungs if rung.max_nodes % layout.nodes]
    if odd:
        findings.remark(subject, f"{', '.join(odd)}: no whole number of groups of {layout.nodes} nodes fits")
    if replicas.min > 1 and pool.rungs[0].max_nodes < replicas.min * layout.nodes:
        findings.remark(
            subject,
            f"{replicas.min} groups start together, and `{pool.rungs[0].name}` cannot hold them all: two may each "
            "take one of its nodes, and the ladder keeper then sends one of them to the next rung (docs/adr/0005)",
        )
