"""How many nodes of each rung run: at the start, at the planned load, and on the expected mix of a ladder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from planner.plan import ModelPlan, PoolPlan


def nodes_at_start(pool: PoolPlan, models: Sequence[ModelPlan]) -> list[tuple[str, int]]:
    """(rung, nodes) that the minimum replicas of a pool's models need, rungs filled in order, groups kept whole."""
    return list(fill(pool, models, {model.name: model.scaling.min_replicas for model in models}).items())


def fill(
    pool: PoolPlan,
    models: Sequence[ModelPlan],
    replicas: Mapping[str, int],
    *,
    without: frozenset[str] = frozenset(),
    warm: bool = True,
) -> dict[str, int]:
    """Nodes of each rung that so many replicas need, with the rungs `without` having nothing to give.

    `warm`: with the replicas and nodes that placeholders hold beside them.
    """
    rooms = {rung.name: 0 if rung.name in without else rung.max_nodes for rung in pool.rungs}
    used = {rung.name: 0 for rung in pool.rungs}
    for _, rung, nodes in _placed(pool, _orders(pool, models, replicas, warm=warm), rooms):
        used[rung] += nodes
    left = pool.warm_nodes if warm else 0
    standing = {rung.name: min(rung.min_nodes, rooms[rung.name]) for rung in pool.rungs}
    for limits in (standing, rooms):  # nodes that run anyway are held first
        for name in rooms:
            held = min(left, max(0, limits[name] - used[name]))
            used[name] += held
            left -= held
    return {
        rung.name: used[rung.name] if rung.name in without else max(used[rung.name], rung.min_nodes)
        for rung in pool.rungs
    }


def replicas_by_rung(
    pool: PoolPlan,
    models: Sequence[ModelPlan],
    replicas: Mapping[str, int],
    *,
    without: frozenset[str] = frozenset(),
) -> dict[str, dict[str, int]]:
    """By model, its replicas on each rung; those without room are on none."""
    rooms = {rung.name: 0 if rung.name in without else rung.max_nodes for rung in pool.rungs}
    found = {model.name: dict.fromkeys(rooms, 0) for model in models if model.pool == pool.name}
    for name, rung, _ in _placed(pool, _orders(pool, models, replicas, warm=False), rooms):
        found[name][rung] += 1
    return found


def replicas_with_room(pool: PoolPlan, models: Sequence[ModelPlan], replicas: Mapping[str, int]) -> dict[str, int]:
    """By model, so many replicas and those that placeholders hold beside them, as far as the pool has room."""
    rooms = {rung.name: rung.max_nodes for rung in pool.rungs}
    found = {model.name: 0 for model in models if model.pool == pool.name}
    for name, _, _ in _placed(pool, _orders(pool, models, replicas, warm=True), rooms):
        found[name] += 1
    return found


def _orders(
    pool: PoolPlan, models: Sequence[ModelPlan], replicas: Mapping[str, int], *, warm: bool
) -> list[tuple[ModelPlan, int]]:
    """Who is placed, in which order: the largest first, and placeholders after all that serve."""
    own = sorted((model for model in models if model.pool == pool.name), key=lambda model: -model.layout.gpus)
    held = [(model, model.warm_replicas) for model in own] if warm else []
    return [*((model, replicas.get(model.name, 0)) for model in own), *held]


def _placed(
    pool: PoolPlan, orders: Sequence[tuple[ModelPlan, int]], rooms: Mapping[str, int]
) -> Iterator[tuple[str, str, int]]:
    """(model, rung, new nodes) of each replica that finds room; small ones share nodes.

    Nodes that always run are taken before any is added: the scheduler is faster than the autoscaler.
    """
    free = dict(rooms)
    standing = {rung.name: min(rung.min_nodes, rooms[rung.name]) for rung in pool.rungs}
    spare = dict.fromkeys(rooms, 0)  # GPUs of nodes that run and have room
    for model, wanted in orders:
        layout = model.layout
        for _ in range(wanted):
            shared = next((name for name in rooms if layout.nodes == 1 and spare[name] >= layout.gpus_per_node), None)
            if shared is not None:
                spare[shared] -= layout.gpus_per_node
                yield model.name, shared, 0
                continue
            rung = next((name for name in rooms if standing[name] >= layout.nodes), None)
            rung = rung or next((name for name in rooms if free[name] >= layout.nodes), None)
            if rung is None:
                break
            free[rung] -= layout.nodes
            standing[rung] = max(0, standing[rung] - layout.nodes)
            spare[rung] += layout.nodes * (pool.hardware.gpus - layout.gpus_per_node)
            yield model.name, rung, layout.nodes


def expected_nodes(
    pool: PoolPlan, models: Sequence[ModelPlan], replicas: Mapping[str, int], there: Mapping[str, float]
) -> dict[str, float]:
    """Mean nodes of each rung at a load, `there` giving the share of time that each spot rung has capacity.

    A rung of spot is one type in one zone, whose instances go together (92 % of co-interruptions within three minutes:
    Spot-and-Scoot, arXiv), so it is there or not: each combination is filled by itself and weighed by its probability.
    """
    spot = [rung.name for rung in pool.rungs if there.get(rung.name, 1.0) < 1.0]
    mean = {rung.name: 0.0 for rung in pool.rungs}
    for gone in product((False, True), repeat=len(spot)):
        weight = 1.0
        for name, is_gone in zip(spot, gone, strict=True):
            weight *= 1 - there[name] if is_gone else there[name]
        without = frozenset(name for name, is_gone in zip(spot, gone, strict=True) if is_gone)
        for name, nodes in fill(pool, models, replicas, without=without).items():
            mean[name] += weight * nodes
    return mean
