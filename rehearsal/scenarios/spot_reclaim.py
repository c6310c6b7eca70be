"""EC2 takes one spot node of every pool back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from rehearsal.findings import Finding
from rehearsal.injections import NotApplicableError, World
from rehearsal.kube import Json
from rehearsal.scenarios.results import ScenarioResult
from rehearsal.scenarios.scenario import Scenario
from rehearsal.scenarios.trial import Trial, replicas_hit
from rehearsal.scenarios.world import Theatre, leaving, name_of, rung_of

NOTICE_SECONDS: Final = 120.0
"""From EC2's interruption notice to the end of the instance. Source: EC2 user guide, "Spot Instance interruption
notices". A rebalance recommendation comes earlier, if it comes."""
_RETRY_SECONDS: Final = 5.0
"""Between two tries to evict a pod that a budget protects, as `kubectl drain` waits."""
_LATE_SECONDS: Final = 0.75
"""On the wall: the stand-in kubelet may be so late with a pod whose grace period is over."""


def prepare(world: World) -> World:
    """Pools with a spot rung get nothing better, so that load stands on spot."""
    capacity: dict[str, int] = {}
    for pool in world.plan.pools:
        spot = [rung.priority for rung in pool.rungs if rung.kind == "spot"]
        if spot:
            capacity |= {rung.name: 0 for rung in pool.rungs if rung.priority > max(spot)}
    if not any(rung.kind == "spot" for pool in world.plan.pools for rung in pool.rungs):
        raise NotApplicableError("no pool of this stack has a spot rung")
    return replace(world, capacity={**capacity, **world.capacity})


def play(theatre: Theatre) -> tuple[ScenarioResult, Sequence[Finding]]:
    """Cordon and drain a node of each spot rung at the notice, and take it two minutes later."""
    nodes = victims(theatre)
    spot = {rung_of(node) for node in nodes}
    if theatre.world.no_evictions:
        theatre.forbid_evictions()
    capacity = {**theatre.world.capacity, **{rung: theatre.existing()[rung] - 1 for rung in spot}}
    theatre.offer(capacity)
    names = [name_of(node) for node in nodes]
    trial = Trial.begin(theatre, NAME, gone=names, doomed=True)
    reclaim = _Reclaim(theatre=theatre, nodes=names)
    trial.follow(meanwhile=reclaim.go_on)
    outcomes = trial.outcomes(killed=reclaim.killed, noticed_seconds=0.0)
    if not nodes:
        trial.found("any", "no replica came to stand on spot", "see what the settled stack waits for")
    for outcome in outcomes:
        if outcome.dropped.total:
            trial.found(
                outcome.model,
                f"{outcome.dropped.total:.0f} requests were cut off: {reclaim.killed[outcome.model]:g} replica(s) had "
                f"not drained when the node went, {NOTICE_SECONDS:.0f} s after the notice",
                "keep the grace period below two minutes, and let the disruption budget spare one replica",
            )
    result = ScenarioResult(
        name=NAME,
        does=SCENARIO.does,
        holds=SCENARIO.holds,
        did=tuple(f"{name_of(node)} was taken back; {rung_of(node)} had nothing more" for node in nodes),
        noticed_seconds=0.0,
        noticed_by="EKS and Karpenter are told by EC2, and drain at once",
        outcomes=outcomes,
    )
    return result, trial.findings


def victims(theatre: Theatre) -> list[Json]:
    """A node with a model on it of the spot rungs of each pool."""
    found: list[Json] = []
    for pool in theatre.plan.pools:
        spot = {rung.name for rung in pool.rungs if rung.kind == "spot"}
        used = [
            node for node in theatre.nodes(pool.name) if rung_of(node) in spot and theatre.models_on([name_of(node)])
        ]
        found += used[-1:]
    return found


@dataclass(kw_only=True)
class _Reclaim:
    """A managed node group (or Karpenter) that drains nodes which EC2 then takes."""

    theatre: Theatre
    nodes: Sequence[str]
    killed: dict[str, float] = field(default_factory=dict[str, float])
    """Replicas that had not drained, by model."""
    _began: float = field(default_factory=time.monotonic)
    _leave_at: dict[str, float] = field(default_factory=dict[str, float])
    """Uid -> planned seconds after the notice at which an evicted pod has drained."""
    _next_try: float = 0.0
    _gone: bool = False

    def go_on(self) -> bool:
        """Do what is due; whether all is over."""
        if self._gone:
            return True
        theatre, passed = self.theatre, time.monotonic() - self._began
        now = passed * theatre.compression
        if not self._next_try:
            for node in self.nodes:
                theatre.cordon(node)
        if now >= self._next_try:
            self._next_try = now + _RETRY_SECONDS
            for pod in [pod for node in self.nodes for pod in theatre.pods_on(node)]:
                if not leaving(pod) and theatre.evict(pod):
                    grace = float(pod["spec"].get("terminationGracePeriodSeconds", 30))
                    # An eviction that was granted at the first try took the API's own time, not a planned one.
                    since = now if now > _RETRY_SECONDS else passed
                    self._leave_at.setdefault(pod["metadata"]["uid"], since + grace)
        drains = any(
            leaving(pod) and self._leave_at.get(pod["metadata"]["uid"], 0.0) <= NOTICE_SECONDS
            for node in self.nodes
            for pod in theatre.pods_on(node)
        )
        if now >= NOTICE_SECONDS and not (drains and now < NOTICE_SECONDS + _LATE_SECONDS * theatre.compression):
            self._count_killed()
            theatre.vanish(self.nodes)
            self._gone = True
        return self._gone

    def _count_killed(self) -> None:
        lost: Mapping[str, list[str]] = {
            node: [
                pod["metadata"]["uid"]
                for pod in self.theatre.pods_on(node)
                if not leaving(pod) or self._leave_at.get(pod["metadata"]["uid"], 0.0) > NOTICE_SECONDS
            ]
            for node in self.nodes
        }
        undrained = [node for node, pods in lost.items() if pods]
        for model in self.theatre.plan.models:
            mine = [
                node
                for node in undrained
                if any(pod["metadata"]["uid"] in lost[node] for pod in self.theatre.pods(model))
            ]
            if mine:
                self.killed[model.name] = float(max(1, replicas_hit(self.theatre, model, mine)))


NAME: Final = "spot-reclaim"
SCENARIO: Final = Scenario(
    name=NAME,
    does="EC2 takes a spot node of every pool: drained at the notice, gone two minutes later, nothing more on its rung",
    holds=(
        "every replica is rescheduled within 30 s where nodes stand idle, 120 s where warm nodes are handed over, else "
        "within what the plan gives the ladder and a boot",
        "every replica serves again within its planned drain, nodes and start; a group within 12 minutes where its "
        "nodes stand",
        "no request is cut off: what is drained has drained when the node goes",
        "a group leaves whole, is never on two rungs, and never holds half of its nodes beyond the stall limit",
    ),
    prepare=prepare,
    play=play,
)
