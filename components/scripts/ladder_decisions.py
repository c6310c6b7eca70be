"""What the ladder keeper does about what it sees: pure functions from the world to a few small actions.

Every action can be repeated: it is derived anew from the world in each round, so a round that was cut short, or told
the keeper of old objects, is mended by the next. What a move needs to know across rounds is in `Memory`, which is
written before anything is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from components.scripts.ladder_actions import Action, Cordon, Evict, Failure, Memory, Move, Tell, Uncordon
from components.scripts.ladder_world import Group, Node, Orders, Pod, Pool, Rung, World

BLOCK_OPENING_SECONDS = 24 * 3600
"""How long after its start groups may climb to a block, whatever the window: its nodes are paid for."""


@dataclass(frozen=True)
class Decision:
    """What to do now, and what to remember."""

    actions: tuple[Action, ...]
    memory: Memory


def decide(world: World, orders: Orders, memory: Memory) -> Decision:
    """One round. Without need, no group is touched; of its own will, the keeper never has two on the move."""
    round_ = _Round(world, orders, memory)
    round_.follow_drains()
    round_.follow_move()
    round_.give_up_rungs()
    round_.leave_ending_blocks()
    round_.release_nodes()
    round_.climb()
    return Decision(actions=tuple(dict.fromkeys(round_.actions)), memory=round_.memory)


def stalled(world: World, orders: Orders, group: Group) -> Rung | None:
    """The rung on which a group has had only part of its nodes for too long."""
    rung = partly_on(world, orders, group)
    if rung is None:
        return None
    bound = [pod.bound_at or pod.created for pod in group.pods if pod.node]
    since = max(min(bound), *(pod.created for pod in group.pods if not pod.node))
    limit = rung.stall_seconds
    if any(_idle(world, node) for node in world.on(rung.name)):
        limit *= 2  # A node is free: the scheduler may be about to use it.
    elif rung.name in world.backing_off:
        limit = min(limit, orders.confirm_seconds)
    return rung if world.now - since >= limit else None


def partly_on(world: World, orders: Orders, group: Group) -> Rung | None:
    """The rung of a group of which some pods have nodes and others find none."""
    bound = [pod for pod in group.pods if pod.node]
    if not bound or not any(pod.unschedulable for pod in group.pods) or any(pod.leaving for pod in group.pods):
        return None
    return orders.rung(world.rung_of(group))


def blocked(world: World, orders: Orders, memory: Memory, group: Group) -> str | None:
    """Why a group does not climb now; None for one that may."""
    pool = orders.pool(group.model.pool)
    here = pool.position(world.rung_of(group))
    if here == 0:
        return "it is on the best rung"
    better = [(rung, _no_room(world, rung, group.model.nodes)) for rung in pool.above(here)]
    open_rungs = [rung for rung, why in better if why is None]
    if not open_rungs:
        return "; ".join(f"{rung.name} {why}" for rung, why in better)
    if not any(_may_climb_to(pool, rung, world.now) for rung in open_rungs):
        return _window_words(pool)
    failure = memory.failures.get(pool.name)
    if failure is not None and failure.until > world.now:
        return f"{failure.count} climb(s) failed: not again for {(failure.until - world.now) / 60:.0f} min"
    if memory.move is not None:
        return f"{memory.move.group} is on the move"
    if memory.rest_until > world.now:
        return f"the last move is given {(memory.rest_until - world.now) / 60:.0f} min more"
    ill = [one.key for one in world.groups.values() if one.model.pool == pool.name and not one.healthy]
    if ill:
        return f"{ill[0]} does not serve"
    mine = [world.nodes[name] for name in sorted(group.nodes) if name in world.nodes]
    if held := [node.name for node in mine if node.cordoned or node.leaving]:
        return f"{held[0]} is cordoned"
    shared = sorted(node for node in group.nodes if world.users(node) != {group.key})
    return f"it shares {shared[0]} with another replica" if shared else None


def _may_climb_to(pool: Pool, rung: Rung, now: float) -> bool:
    fresh = rung.starts is not None and 0 <= now - rung.starts < BLOCK_OPENING_SECONDS
    return fresh or (pool.window is not None and pool.window.is_open(now))


def _window_words(pool: Pool) -> str:
    if pool.window is None:
        return "its pool has no maintenance window"
    window = pool.window
    return f"the maintenance window opens {','.join(window.days)} at {window.start} {window.timezone}"


def _no_room(world: World, rung: Rung, nodes: int) -> str | None:
    """Why a group of so many nodes cannot come to a rung; None where it can, or where only trying tells."""
    if not rung.usable(world.now):
        return "has not begun" if rung.starts is not None and world.now < rung.starts else "ends"
    there = world.on(rung.name)
    idle = sum(_idle(world, node) for node in there)
    if idle >= nodes:
        return None
    if idle + max(0, rung.max_nodes - len(there)) < nodes:
        return f"is full ({len(there)} of {rung.max_nodes} nodes, {idle} free)"
    return "has no capacity" if rung.name in world.backing_off else None


def _idle(world: World, node: Node) -> bool:
    return node.ready and not node.cordoned and not node.leaving and not world.users(node.name)


class _Round:
    """One look at the world, and what follows."""

    def __init__(self, world: World, orders: Orders, memory: Memory) -> None:
        self.actions: list[Action] = []
        self.memory = memory
        self._world = world
        self._orders = orders
        self._calm = True
        """Whether nothing has happened in this round that a climb should wait for."""

    def follow_drains(self) -> None:
        """One node of a group is taken: the others are of no use alone, so the group leaves as one.

        Managed node groups drain a spot node on a mere rebalance recommendation and cannot be told not to. On other
        rungs a cordon alone is a person's affair; there the drain is seen by its first eviction.
        """
        for group in self._world.groups.values():
            taken = [pod for pod in group.pods if pod.leaving or self._node_is_taken(pod)]
            if group.model.nodes == 1 or not taken:
                continue
            # A pod that was made after the first deletion belongs to the next life of the group.
            first = min((pod.deleted_at for pod in taken if pod.deleted_at is not None), default=float("inf"))
            rest = [pod for pod in group.pods if pod.node and not pod.leaving and pod.created < first]
            self._calm = False
            if rest:
                self._evict(rest)
                self._tell(group, "FollowsDrain", f"{taken[0].name} loses its node: all pods leave together")

    def _node_is_taken(self, pod: Pod) -> bool:
        node = self._world.nodes.get(pod.node or "")
        if node is None:
            return False
        rung = self._orders.rung(node.rung)
        on_spot = rung is not None and rung.kind == "spot"
        return node.leaving or (on_spot and node.cordoned and node.hold is None)

    def follow_move(self) -> None:
        """Carry on with the move under way, or end it."""
        move = self.memory.move
        if move is None:
            return
        self._calm = False
        world, pool = self._world, self._orders.pool(move.pool)
        left = [pod for group in world.groups.values() for pod in group.pods if pod.uid in move.pods]
        if left:
            self._cordon((world.nodes[name] for name in move.nodes if name in world.nodes), move.kind, move.group)
            self._evict(pod for pod in left if not pod.leaving)
            if world.now - move.began > self._move_seconds(move):
                self._end(move, arrived=False, words="its pods could not be evicted")
            return
        if move.gone_at is None:
            move = replace(move, gone_at=world.now)
            self.memory = replace(self.memory, move=move)
        # The API rounds to seconds.
        fresh = [
            group
            for group in world.groups.values()
            if f"{group.model.namespace}/{group.model.name}" == move.model
            and all(pod.created >= move.began - 1 for pod in group.pods)
        ]
        if fresh and all(group.whole for group in fresh):
            now_on = max((world.rung_of(group) for group in fresh), key=pool.position)
            there, origin = pool.position(now_on), pool.position(move.origin)
            better = there < origin if move.kind == "climb" else now_on != move.origin
            self._end(move, arrived=better, words=f"it is on {now_on} now")
            return
        waited = world.now - (move.gone_at or world.now)
        better_rungs = pool.above(pool.position(move.origin))
        size = next((m.nodes for m in self._orders.models if f"{m.namespace}/{m.name}" == move.model), 1)
        no_room = all(_no_room(world, rung, size) for rung in better_rungs)
        hopeless = no_room and waited > self._orders.confirm_seconds
        placed = fresh and all(pod.node for group in fresh for pod in group.pods)
        late = waited > max(rung.stall_seconds for rung in pool.rungs) + self._orders.confirm_seconds
        if move.kind == "climb" and not placed and (hopeless or late):
            self._end(move, arrived=False, words="no better rung had its nodes in time: it comes home")
        elif late:
            self._end(move, arrived=move.kind == "ends", words="it waits for nodes of any rung")

    def _end(self, move: Move, *, arrived: bool, words: str) -> None:
        failures = dict(self.memory.failures)
        if arrived:
            failures.pop(move.pool, None)
        elif move.kind == "climb":
            count = failures[move.pool].count + 1 if move.pool in failures else 1
            orders = self._orders
            pause = min(orders.max_climb_backoff_seconds, orders.climb_backoff_seconds * 2 ** (count - 1))
            failures[move.pool] = Failure(count=count, until=self._world.now + pause)
            self._uncordon(name for name in move.nodes)
        self.memory = Memory(move=None, rest_until=self._world.now + self._move_seconds(move), failures=failures)
        reason = f"{move.kind.capitalize()}{'Done' if arrived else 'Failed'}"
        self.actions.append(
            Tell(group=move.group, reason=reason, message=f"from {move.origin}: {words}", warning=not arrived)
        )

    def _move_seconds(self, move: Move) -> float:
        known = {f"{model.namespace}/{model.name}": model.move_seconds for model in self._orders.models}
        return known.get(move.model, max((*known.values(), 0.0)))

    def give_up_rungs(self) -> None:
        """A group with part of its nodes gives the rung up, so that it gets all of them on the next.

        Of several on one rung only the youngest goes at a time: its nodes may be what an older one waits for.
        """
        world = self._world
        by_rung: dict[str, list[Group]] = {}
        for group in world.groups.values():
            rung = stalled(world, self._orders, group)
            if rung is not None:
                by_rung.setdefault(rung.name, []).append(group)
        for rung, groups in by_rung.items():
            self._calm = False
            if self._shareable(rung, {group.key for group in groups}):
                continue
            group = max(groups, key=lambda one: (max(pod.created for pod in one.pods), one.key))
            alone = [world.nodes[n] for n in group.nodes if n in world.nodes and world.users(n) == {group.key}]
            self._cordon(alone, "gave-up", group.key)
            self._evict(group.pods)
            placed = sum(1 for pod in group.pods if pod.node)
            message = f"{rung} gave {placed} of {group.model.nodes} nodes: the group leaves it whole"
            self._tell(group, "GaveUpRung", message, warning=True)

    def _shareable(self, rung: str, waiting: set[str]) -> list[Node]:
        """Empty nodes that one group has given up and another one on the rung can use."""
        return [
            node
            for node in self._world.on(rung)
            if node.hold and node.hold.why == "gave-up" and waiting - {node.hold.group} and not self._users(node)
        ]

    def _users(self, node: Node) -> set[str]:
        return self._world.users(node.name)

    def leave_ending_blocks(self) -> None:
        """Before a block's end its groups leave, one at a time; shortly before, whatever is left, at once."""
        world, now = self._world, self._world.now
        for pool in self._orders.pools:
            for rung in pool.rungs:
                if rung.ends is None or now < rung.ends - rung.drain_lead_seconds:
                    continue
                self._cordon((node for node in world.on(rung.name) if not node.leaving), "ends", rung.name)
                groups = [
                    group
                    for group in world.groups.values()
                    if world.rung_of(group) == rung.name and not all(pod.leaving for pod in group.pods)
                ]
                if not groups:
                    continue
                self._calm = False
                if now >= rung.ends - self._orders.forced_lead_seconds:
                    for group in groups:
                        self._evict(pod for pod in group.pods if not pod.leaving)
                        self._tell(group, "BlockEnds", f"{rung.name} ends: it leaves now", warning=True)
                elif self.memory.move is None and self.memory.rest_until <= now:
                    self._start("ends", pool, groups[0], rung.name)

    def release_nodes(self) -> None:
        """Give back nodes that nobody took away, or that a group on the same rung can use."""
        world, orders = self._world, self._orders
        moving = self.memory.move.nodes if self.memory.move else ()
        waiting = {
            rung.name: {g.key for g in world.groups.values() if partly_on(world, orders, g) == rung}
            for pool in orders.pools
            for rung in pool.rungs
        }
        for rung, groups in waiting.items():
            shareable = [node for node in self._shareable(rung, groups) if node.hold]
            self._uncordon(n.name for n in shareable if n.hold and world.now - n.hold.at >= orders.confirm_seconds)
        for node in world.nodes.values():
            if node.hold is None or node.name in moving:
                continue
            rung = orders.rung(node.rung)
            if node.hold.why == "ends":
                over = rung is None or rung.usable(world.now)
            else:
                over = world.now - node.hold.at >= orders.release_seconds
            if over or not node.cordoned:
                self._uncordon([node.name])

    def climb(self) -> None:
        """Bring one group to a better rung, the one on the worst rung first."""
        if not self._calm or self.memory.move is not None:
            return
        world, orders = self._world, self._orders
        ladder = {group.key: orders.pool(group.model.pool) for group in world.groups.values()}
        worst_first = sorted(
            world.groups.values(), key=lambda group: (-ladder[group.key].position(world.rung_of(group)), group.key)
        )
        for group in worst_first:
            rung = world.rung_of(group)
            if rung is not None and blocked(world, orders, self.memory, group) is None:
                self._start("climb", ladder[group.key], group, rung)
                return

    def _start(self, kind: Literal["climb", "ends"], pool: Pool, group: Group, origin: str) -> None:
        """Remember the move; it is carried out from the next round on, when it is surely written down."""
        self.memory = replace(
            self.memory,
            move=Move(
                kind=kind,
                group=group.key,
                model=f"{group.model.namespace}/{group.model.name}",
                pool=pool.name,
                origin=origin,
                nodes=tuple(sorted(group.nodes)),
                pods=tuple(pod.uid for pod in group.pods),
                began=self._world.now,
            ),
        )
        self._tell(group, f"{kind.capitalize()}Started", f"it leaves {origin}")

    def _cordon(self, nodes: Iterable[Node], why: Literal["gave-up", "climb", "ends"], group: str) -> None:
        self.actions += [Cordon(node=node.name, why=why, group=group) for node in nodes if not node.cordoned]

    def _uncordon(self, names: Iterable[str]) -> None:
        held = (self._world.nodes.get(name) for name in names)
        self.actions += [Uncordon(node=node.name) for node in held if node is not None and node.hold is not None]

    def _evict(self, pods: Iterable[Pod]) -> None:
        """Leaders first: with one its group leaves the load balancer."""
        ordered = sorted(pods, key=lambda pod: (not pod.leader, pod.name))
        self.actions += [Evict(namespace=pod.namespace, pod=pod.name, uid=pod.uid) for pod in ordered]

    def _tell(self, group: Group, reason: str, message: str, *, warning: bool = False) -> None:
        self.actions.append(Tell(group=group.key, reason=reason, message=message, warning=warning))
