"""The ladder keeper over random histories of a cluster: what holds whatever happens."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from components.scripts.ladder_actions import Cordon, Evict, Uncordon, memory_of
from components.scripts.ladder_decisions import Decision
from tests.components.ladder_cases import BLOCK, DEMAND, SPOT, Cluster, as_json, evicted, told

RUNGS = (BLOCK, SPOT, DEMAND)
GROUPS = 3


class KeptCluster(RuleBasedStateMachine):
    """Groups of two on three rungs; nodes come, go, fill up and are drained, and the keeper looks now and then."""

    @initialize()
    def begin(self) -> None:
        self.case = Cluster()
        self.serial = 0
        self.last = Decision(actions=(), memory=self.case.memory)
        self.seen = self.case.world()
        for index in range(GROUPS):
            self.case.group(index, None, None, age=0)

    def pods(self, index: int) -> list[str]:
        return sorted(name for name, pod in self.case.pods.items() if pod.group == f"inference/r1/{index}")

    @rule(rung=st.sampled_from(RUNGS))
    def node_comes(self, rung: str) -> None:
        self.serial += 1
        self.case.node(f"n{self.serial}", rung, created=self.case.now)

    @rule(which=st.integers(0, 20))
    def empty_node_goes(self, which: int) -> None:
        used = {pod.node for pod in self.case.pods.values()}
        empty = [name for name in self.case.nodes if name not in used]
        if empty:
            self.case.nodes.pop(empty[which % len(empty)])

    @rule(index=st.integers(0, GROUPS - 1))
    def scheduler_binds(self, index: int) -> None:
        """One pod, to a free node on the rung of its group."""
        used = {pod.node for pod in self.case.pods.values()}
        mine = {
            self.case.nodes[pod.node].rung
            for n in self.pods(index)
            if (pod := self.case.pods[n]).node in self.case.nodes
        }
        waiting = [name for name in self.pods(index) if self.case.pods[name].unschedulable]
        free = [
            node
            for node in self.case.nodes.values()
            if node.name not in used and not node.cordoned and not node.leaving and (not mine or node.rung in mine)
        ]
        if waiting and free:
            self.case.change_pod(waiting[0], node=free[0].name, bound_at=self.case.now, unschedulable=False)

    @rule(index=st.integers(0, GROUPS - 1))
    def group_starts(self, index: int) -> None:
        if all(self.case.pods[name].node and self.case.pods[name].deleted_at is None for name in self.pods(index)):
            for name in self.pods(index):
                self.case.change_pod(name, ready=True)

    @rule(index=st.integers(0, GROUPS - 1))
    def leaving_group_is_made_anew(self, index: int) -> None:
        if any(self.case.pods[name].deleted_at is not None for name in self.pods(index)):
            self.case.gone(index)
            self.case.group(index, None, None, age=0)

    @rule(which=st.integers(0, 20), how=st.sampled_from(["cordon", "taint", "uncordon"]))
    def somebody_else_touches_a_node(self, which: int, how: str) -> None:
        if not self.case.nodes:
            return
        node = self.case.nodes[sorted(self.case.nodes)[which % len(self.case.nodes)]]
        changes = {"cordon": {"cordoned": True}, "taint": {"leaving": True}, "uncordon": {"cordoned": False}}[how]
        self.case.nodes[node.name] = replace(node, **changes)

    @rule(rungs=st.frozensets(st.sampled_from(RUNGS)))
    def autoscaler_backs_off(self, rungs: frozenset[str]) -> None:
        self.case.backing_off = rungs

    @rule(seconds=st.sampled_from([1, 30, 300, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.case.now += seconds

    @rule()
    def keeper_looks(self) -> None:
        self.case.now += 10
        self.seen = self.case.world()
        self.last = self.case.look()

    @rule()
    def keeper_starts_again(self) -> None:
        assert memory_of(as_json(self.case.memory)) == self.case.memory

    @invariant()
    def it_acts_on_what_is_there_and_only_where_something_changes(self) -> None:
        for action in self.last.actions:
            if isinstance(action, Evict):
                pods = {pod.uid: pod for group in self.seen.groups.values() for pod in group.pods}
                assert not pods[action.uid].leaving
            elif isinstance(action, Cordon):
                assert not self.seen.nodes[action.node].cordoned
            elif isinstance(action, Uncordon):
                assert self.seen.nodes[action.node].hold is not None

    @invariant()
    def a_climb_begins_only_while_all_serve(self) -> None:
        if "ClimbStarted" in told(self.last):
            assert all(group.healthy for group in self.seen.groups.values())

    @invariant()
    def of_its_own_will_it_moves_one_group(self) -> None:
        """Without a drain or a stall, whatever it evicts is of the one group on the move."""
        reasons = set(told(self.last))
        if not reasons & {"FollowsDrain", "GaveUpRung"} and self.last.memory.move is not None:
            taken = any(pod.leaving for group in self.seen.groups.values() for pod in group.pods)
            drained = any(node.leaving or (node.cordoned and not node.hold) for node in self.seen.nodes.values())
            if not taken and not drained:
                groups = {
                    group.key
                    for group in self.seen.groups.values()
                    for pod in group.pods
                    if pod.name in evicted(self.last)
                }
                assert groups <= {self.last.memory.move.group}


TestKeptCluster = KeptCluster.TestCase
TestKeptCluster.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
