"""Nodes of one pool and the replicas on them: the ladder, boot and start times, losses, and what all that bills."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from planner.plan import ModelPlan, PoolPlan
from simulation.calendar import Minimums, minimum_at

EMPTY_SECONDS = 600.0
"""How long cluster-autoscaler keeps an empty node (`scale-down-unneeded-time`, components/cluster_autoscaler.py)."""

BLOCK_LEAD_SECONDS = 1800.0
"""EC2 takes the instances of a capacity block this long before its end."""

State = Literal["pending", "starting", "ready", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungConditions:
    """How one rung gives and loses nodes."""

    minimums: Minimums = ((0.0, 0),)
    """Nodes that it always has, from a second on."""
    per_hour: float = 0.0
    """Losses of each node."""
    notice_seconds: float = 0.0
    dry_seconds: float = 0.0
    """How long it gives no new node after a loss."""
    opens: float = -math.inf
    closes: float = math.inf
    """When its last node is taken: a capacity block ends."""


@dataclass(slots=True, eq=False)
class Node:
    """A machine that bills."""

    rung: int
    ready_at: float
    free_gpus: int
    empty_since: float
    """Only while nothing is on it."""
    doomed_at: float | None = None
    """When EC2 takes it back."""


@dataclass(slots=True, eq=False)
class Spare:
    """Placeholders that keep nodes, or parts of them, booted for whoever serves."""

    gpus: int
    """On each node."""
    wanted: int
    """Nodes, all on one rung."""
    nodes: list[Node] = field(default_factory=list[Node])


@dataclass(slots=True, eq=False)
class ReplicaState:
    """One copy of a model, over one node or a group of them."""

    model: int
    slot: int
    state: State = "pending"
    ready_at: float = 0.0
    leaves_at: float = 0.0
    """While draining: when it is cut off."""
    nodes: list[Node] = field(default_factory=list[Node])


class PoolState:
    """Nodes of one pool in one variant, with the replicas of all models on it."""

    def __init__(
        self, pool: PoolPlan, models: Mapping[int, ModelPlan], rungs: Sequence[RungConditions], *, seed: int
    ) -> None:
        self.pool, self.models, self.rungs = pool, models, rungs
        self.nodes: list[Node] = []
        self.replicas: list[ReplicaState] = []
        self.spares = [Spare(gpus=pool.hardware.gpus, wanted=1) for _ in range(pool.warm_nodes)]
        for model in models.values():
            shape = model.layout
            self.spares += [Spare(gpus=shape.gpus_per_node, wanted=shape.nodes) for _ in range(model.warm_replicas)]
        self.losses = 0
        self._dry_until = [-math.inf] * len(rungs)
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        for index in range(len(rungs)):
            self._keep_minimum(index, 0.0)

    def of(self, model: int) -> list[ReplicaState]:
        """A model's replicas, those that leave included."""
        return [replica for replica in self.replicas if replica.model == model]

    def add(self, model: int, slot: int) -> ReplicaState:
        """A new replica, which waits for nodes."""
        replica = ReplicaState(model=model, slot=slot)
        self.replicas.append(replica)
        return replica

    def place(self, now: float) -> None:
        """Give waiting replicas their nodes: those that are there first, then those of placeholders, then new ones of
        the first rung with room; placeholders take what is left."""
        for replica in self.replicas:
            if replica.state != "pending":
                continue
            layout = self.models[replica.model].layout
            gpus = layout.gpus_per_node
            nodes = self._find(layout.nodes, gpus, now)
            if nodes is None:
                continue
            self._take(nodes, gpus, now)
            replica.nodes = nodes
            replica.state = "starting"
            begin = max([now, *(node.ready_at for node in nodes)])
            replica.ready_at = begin + self.models[replica.model].startup_seconds
        for spare in self.spares:
            if not spare.nodes and (found := self._find(spare.wanted, spare.gpus, now, evicts=False)):
                self._take(found, spare.gpus, now)
                spare.nodes = found

    def start_at_once(self) -> None:
        """What was placed is ready now: the state that the replay begins with."""
        for replica in self.replicas:
            if replica.state == "starting":
                replica.state, replica.ready_at = "ready", 0.0
        for node in self.nodes:
            node.ready_at = 0.0

    def drain(self, replica: ReplicaState, now: float, *, by: float | None = None) -> None:
        """A replica takes no more requests; it is cut off after its drain time, or `by` then."""
        if replica.state in {"pending", "starting"}:
            self.remove(replica, now)
            return
        replica.state = "draining"
        limit = now + self.models[replica.model].drain.drain_seconds
        replica.leaves_at = limit if by is None else min(by, limit)

    def remove(self, replica: ReplicaState, now: float) -> None:
        """A replica is gone; its nodes are free."""
        self._free(replica.nodes, self.models[replica.model].layout.gpus_per_node, now)
        self.replicas.remove(replica)

    def _free(self, nodes: Sequence[Node], gpus: int, now: float) -> None:
        for node in nodes:
            node.free_gpus += gpus
            if node.free_gpus == self.pool.hardware.gpus:
                node.empty_since = now

    def _take(self, nodes: Sequence[Node], gpus: int, now: float) -> None:
        """GPUs of each node; placeholders that have them go, all of a set."""
        for node in nodes:
            for spare in self.spares:
                if node.free_gpus < gpus and node in spare.nodes:
                    self._evict(spare, now)
            node.free_gpus -= gpus

    def _evict(self, spare: Spare, now: float) -> None:
        self._free(spare.nodes, spare.gpus, now)
        spare.nodes = []

    def lose(self, now: float, seconds: float, forced: Sequence[str] = ()) -> list[ReplicaState]:
        """Nodes that go at random within `seconds`, those of a block that ends, and one of each `forced` rung are
        doomed; returns the replicas that lose one."""
        hit: list[ReplicaState] = []
        named = list(forced)
        for node in self.nodes:
            about = self.rungs[node.rung]
            if node.doomed_at is not None or node.ready_at > now:
                continue
            rung = self.pool.rungs[node.rung].name
            ends = now >= about.closes - about.notice_seconds - BLOCK_LEAD_SECONDS
            chance = -math.expm1(-about.per_hour * seconds / 3600)
            if rung in named:
                named.remove(rung)
            elif not ends and (chance <= 0 or self._random.random() >= chance):
                continue
            node.doomed_at = now + about.notice_seconds
            for spare in self.spares:
                if node in spare.nodes:
                    self._evict(spare, now)
            self._dry_until[node.rung] = now + about.dry_seconds
            self.losses += not ends
            hit += [r for r in self.replicas if node in r.nodes and r not in hit]
        return hit

    def settle(self, now: float) -> None:
        """Nodes that are taken back, and empty ones that nobody needs, go; each rung has its minimum."""
        for node in list(self.nodes):
            empty = node.free_gpus == self.pool.hardware.gpus
            taken = node.doomed_at is not None and now >= node.doomed_at
            idle = empty and node.ready_at <= now and now - max(node.empty_since, node.ready_at) >= EMPTY_SECONDS
            least = minimum_at(self.rungs[node.rung].minimums, now)
            if (taken and empty) or (idle and self._number(node.rung) > least):
                self.nodes.remove(node)
        for index in range(len(self.rungs)):
            self._keep_minimum(index, now)

    def billed_nodes(self, index: int) -> int:
        """Nodes of a rung that cost money; what is prepaid or reserved does whether or not its nodes run."""
        rung = self.pool.rungs[index]
        return rung.max_nodes if rung.always_bills else self._number(index)

    def _find(self, wanted: int, gpus: int, now: float, *, evicts: bool = True) -> list[Node] | None:
        """So many nodes with free GPUs, all on one rung; None where no rung has room.

        Running nodes first, whatever their rung: the scheduler binds before the autoscaler adds, and takes the places
        of placeholders (where it `evicts`) before it leaves a pod to the autoscaler.
        """
        views = [self._roomy(gpus, {})]
        if evicts and self.spares:
            held: dict[int, int] = {}
            for spare in self.spares:
                for node in spare.nodes:
                    held[id(node)] = held.get(id(node), 0) + spare.gpus
            views.append(self._roomy(gpus, held))
        for roomy in views:
            for there in roomy:
                ready = [node for node in there if node.ready_at <= now]
                if len(ready) >= wanted:
                    return ready[:wanted]
        for roomy in views:
            for index, there in enumerate(roomy):
                missing = wanted - len(there)
                if missing <= 0:
                    return sorted(there, key=lambda node: node.ready_at)[:wanted]
                if self._gives(index, now) and missing <= self._room(index):
                    return there + [self._add_node(index, now) for _ in range(missing)]
        return None

    def _roomy(self, gpus: int, held: Mapping[int, int]) -> list[list[Node]]:
        """By rung, nodes with so many GPUs that are free, or `held` by placeholders."""
        found: list[list[Node]] = [[] for _ in self.pool.rungs]
        for node in self.nodes:
            if node.free_gpus + held.get(id(node), 0) >= gpus and node.doomed_at is None:
                found[node.rung].append(node)
        return found

    def _room(self, index: int) -> int:
        return self.pool.rungs[index].max_nodes - self._number(index)

    def _number(self, index: int) -> int:
        return sum(node.rung == index for node in self.nodes)

    def _gives(self, index: int, now: float) -> bool:
        """Whether a rung gives new nodes."""
        about = self.rungs[index]
        return self._dry_until[index] <= now and about.opens <= now < about.closes - BLOCK_LEAD_SECONDS

    def _keep_minimum(self, index: int, now: float) -> None:
        while self._number(index) < minimum_at(self.rungs[index].minimums, now) and self._gives(index, now):
            self._add_node(index, now)

    def _add_node(self, index: int, now: float) -> Node:
        ready_at = now + self.pool.rungs[index].boot_seconds
        node = Node(rung=index, ready_at=ready_at, free_gpus=self.pool.hardware.gpus, empty_since=ready_at)
        self.nodes.append(node)
        return node
