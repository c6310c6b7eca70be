"""The longest that models may take to come back: from what stands when they are hit, and from the plan's times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from planner.plan import ModelPlan, PoolPlan, RungPlan
from rehearsal.autoscaler import FAILURE_SECONDS
from rehearsal.kube import Json, key_of
from rehearsal.scenarios.results import Limit, Source, Step
from rehearsal.scenarios.world import Theatre, free_gpus, leaving, name_of, rung_of

SPARE_SECONDS: Final = 30.0
"""A replica whose nodes stand idle has its pods on them within this."""
WARM_SECONDS: Final = 120.0
"""The same where warm nodes must first be cleared."""
GROUP_SERVING_SECONDS: Final = 720.0
"""A group over several nodes serves again within this where its nodes stand."""
_LOOP_SECONDS: Final = 10.0
"""cluster-autoscaler looks again after so long (`scan-interval`)."""
_KEEPER_FLOOR: Final = 0.5
"""The keeper rests at least so long on the wall, however much time is compressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a pool has for replicas that were hit."""

    free: Mapping[str, Mapping[str, float]]
    """Rung -> node -> GPUs that are or will be free there."""
    warm: Mapping[str, Mapping[str, float]]
    """The same, with the GPUs that balloons hold."""
    more: Mapping[str, int]
    """Rung -> machines that can still be had."""
    refused: Mapping[str, int]
    """Rung -> machines that the autoscaler will ask for in vain, as the rung is not full by its own count."""

    @classmethod
    def of(cls, theatre: Theatre, pool: PoolPlan, *, gone: Iterable[str]) -> Room:
        """As it is once the nodes `gone` are, and the pods that were hit have left."""
        lost = set(gone)
        hit = [model for model in theatre.models_on(lost) if model.pool == pool.name]
        leave = [key_of(pod) for model in hit if model.layout.nodes > 1 for pod in theatre.pods(model)]
        balloons = [key_of(pod) for pod in theatre.balloons(pool.name)]
        there = [node for node in theatre.nodes(pool.name) if name_of(node) not in lost and _open(node)]
        free: dict[str, dict[str, float]] = {rung.name: {} for rung in pool.rungs}
        warm: dict[str, dict[str, float]] = {rung.name: {} for rung in pool.rungs}
        for node in there:
            free[rung_of(node)][name_of(node)] = free_gpus(theatre, node, without=leave)
            warm[rung_of(node)][name_of(node)] = free_gpus(theatre, node, without=(*leave, *balloons))
        count = {rung.name: len(free[rung.name]) for rung in pool.rungs}
        most = {rung.name: theatre.operators.autoscaler.available(rung.name) for rung in pool.rungs}
        return cls(
            free=free,
            warm=warm,
            more={name: max(0, most[name] - count[name]) for name in count},
            refused={rung.name: max(0, rung.max_nodes - max(most[rung.name], count[rung.name])) for rung in pool.rungs},
        )


def bounds(
    theatre: Theatre, model: ModelPlan, room: Room, pods_hit: int, before: tuple[Step, ...] = ()
) -> tuple[Source, Limit, Limit]:
    """Where the nodes of a model come from, and its limits: rescheduled, and serving again."""
    pool = theatre.plan.pool(model.pool)
    source, rescheduled = _rescheduled(theatre, model, pool, room, pods_hit)
    rescheduled = replace(rescheduled, steps=(*before, *rescheduled.steps))
    # Only a group's new pods take the names of its old ones, and wait until those have left.
    drain = [Step(what="drain", seconds=float(model.drain.grace_seconds))] if model.layout.nodes > 1 else []
    stood = source in {"spare", "warm"}
    # Nodes that stood have pulled the image.
    saved = sum(pull.seconds_saved for pull in theatre.plan.image_pulls if stood and pull.pool == model.pool)
    start = Step(what="start with the image there" if saved else "start", seconds=float(model.startup_seconds - saved))
    steps = (*drain, *rescheduled.steps, start)
    cap = GROUP_SERVING_SECONDS if model.layout.nodes > 1 and stood else None
    return source, rescheduled, Limit(steps=steps, cap=cap)


def _rescheduled(theatre: Theatre, model: ModelPlan, pool: PoolPlan, room: Room, pods_hit: int) -> tuple[Source, Limit]:
    size = model.layout.nodes
    if _holds(room.free, model, pods_hit):
        return "spare", Limit(steps=(Step(what="nodes stand idle", seconds=SPARE_SECONDS),))
    if _holds(room.warm, model, pods_hit):
        return "warm", Limit(steps=(Step(what="warm nodes are handed over", seconds=WARM_SECONDS),))
    steps: list[Step] = []
    left = pods_hit
    for rung in pool.rungs:
        idle = _slots(room.free[rung.name], model)
        if size > 1:
            if idle and idle + room.more[rung.name] < size:
                steps += _given_up(theatre, model, rung)
            elif room.more[rung.name] + idle < size:
                steps += _in_vain(rung) if room.refused[rung.name] else []
            else:
                return "booted", Limit(steps=(*steps, _boot(rung)))
            continue
        left -= idle + room.more[rung.name] * (pool.hardware.gpus // model.layout.gpus_per_node)
        if left <= 0:
            return "booted", Limit(steps=(*steps, _boot(rung)))
        steps += _in_vain(rung) if room.refused[rung.name] else []
    return "nowhere", Limit(steps=(*steps, *[_boot(rung) for rung in pool.rungs[-1:]]))


def _boot(rung: RungPlan) -> Step:
    return Step(what=f"boot on {rung.name}", seconds=rung.boot_seconds + SPARE_SECONDS)


def _in_vain(rung: RungPlan) -> list[Step]:
    return [Step(what=f"{rung.name} has none", seconds=FAILURE_SECONDS + _LOOP_SECONDS)]


def _given_up(theatre: Theatre, model: ModelPlan, rung: RungPlan) -> list[Step]:
    """A group has one node of this rung and asks in vain for the others, until the keeper makes it leave."""
    keeper = theatre.plan.ladder.keeper if theatre.plan.ladder else None
    if keeper is None:
        return []
    interval = max(float(keeper.interval_seconds), _KEEPER_FLOOR * theatre.compression)
    return [
        *_in_vain(rung),
        Step(what="the keeper gives it up", seconds=keeper.confirm_seconds + 2 * interval),
        Step(what="the half group leaves", seconds=float(model.drain.grace_seconds)),
    ]


def _slots(nodes: Mapping[str, float], model: ModelPlan) -> int:
    """Pods of a model that fit on free GPUs."""
    per_node = 1 if model.layout.nodes > 1 else 10**6
    return sum(min(per_node, int(gpus // model.layout.gpus_per_node)) for gpus in nodes.values())


def _holds(nodes: Mapping[str, Mapping[str, float]], model: ModelPlan, pods_hit: int) -> bool:
    """Whether replicas that lost so many pods fit; a group needs all of its nodes on one rung."""
    if model.layout.nodes == 1:
        return sum(_slots(there, model) for there in nodes.values()) >= pods_hit
    return any(_slots(there, model) >= model.layout.nodes for there in nodes.values())


def _open(node: Json) -> bool:
    return not node["spec"].get("unschedulable")


def pods_lacking(theatre: Theatre, model: ModelPlan, gone: Iterable[str]) -> int:
    """Pods of a model that need a new node once these are gone."""
    lost = set(gone)
    kept = [
        pod for pod in theatre.pods(model) if not leaving(pod) and pod["spec"].get("nodeName", "") not in {"", *lost}
    ]
    return max(0, model.scaling.min_replicas * model.layout.nodes - len(kept))
