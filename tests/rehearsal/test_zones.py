"""Simulated nodes of pools in several zones: balanced, and none where a zone is lost."""

from __future__ import annotations

from typing import Any

from planner.naming import POOL_LABEL
from rehearsal.autoscaler import Autoscaler
from rehearsal.kube import NODES, PODS, Json
from rehearsal.nodes import GPU, SYSTEM_GROUP, ZONE, node_groups
from tests.factories import example_plan
from tests.rehearsal.fakes import UNSCHEDULABLE, FakeKube, container, pod

A, B = "us-east-1a", "us-east-1b"
GROUPS = {group.name: group for group in node_groups(example_plan("resilient"))}


class Case:
    """An autoscaler of the example, at a clock of our own, without compression."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        cluster: Any = self.kube
        self.autoscaler = Autoscaler(cluster, list(GROUPS.values()), compression=1.0)
        self.now = 1000.0

    def ask(self, *names: str) -> None:
        for name in names:
            limits = {GPU: "1", "memory": "1Gi"}
            made = pod(
                name,
                conditions=UNSCHEDULABLE,
                containers=[container(resources={"limits": limits})],
                nodeSelector={POOL_LABEL: "l40s"},
                tolerations=[{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
            )
            self.kube.create(PODS, made)
        self.look()

    def look(self, seconds: float = 0.0) -> None:
        self.now += seconds
        cluster: Any = self.kube
        self.autoscaler.reconcile(cluster, self.now)

    def zones(self) -> list[str]:
        nodes: list[Json] = self.kube.all(NODES)
        return sorted(node["metadata"]["labels"][ZONE] for node in nodes)


def test_zones_of_one_step_are_balanced() -> None:
    case = Case()
    case.ask("a", "b")
    case.look(1000)
    assert case.zones() == [A, B]
    case.ask("c", "d")
    case.look(1000)
    assert case.zones() == [A, A, B, B]


def test_a_lost_zone_gives_nothing_and_the_other_takes_over() -> None:
    case = Case()
    case.autoscaler.set_capacity({}, lost_zones=frozenset({A}))
    assert case.autoscaler.available("l40s-spot-1a") == 0
    assert case.autoscaler.available("l40s-spot-1b") == GROUPS["l40s-spot-1b"].max_nodes
    case.ask("a")
    for _ in range(3):
        case.look(300)
    assert case.zones() == [B]
    assert set(case.autoscaler.no_capacity) == {"l40s-spot-1a"}


def test_a_group_in_several_zones_goes_on_in_those_that_are_left() -> None:
    karpenter, system = GROUPS["a10g-spot"], GROUPS[SYSTEM_GROUP]
    assert {karpenter.new_node(number)["metadata"]["labels"][ZONE] for number in (1, 2)} == {A, B}
    lost = [karpenter.new_node(number, lost_zones=frozenset({A})) for number in (1, 2)]
    assert {node["metadata"]["labels"][ZONE] for node in lost} == {B}
    assert len({system.new_node(number)["metadata"]["labels"][ZONE] for number in (1, 2, 3)}) == 3


def test_spare_nodes_stand_as_far_as_their_rung_has_room() -> None:
    case = Case()
    assert case.autoscaler.add_nodes("l40s-spot-1a", 2) == 2
    case.look()
    assert case.autoscaler.add_nodes("l40s-spot-1a", 5) == 1
    assert case.zones() == [A, A, A]


def test_whoever_waits_for_a_machine_is_known() -> None:
    case = Case()
    case.ask("a")
    (waiting,) = case.kube.all(PODS)
    boot = GROUPS["l40s-spot-1a"].boot_seconds
    assert case.autoscaler.machine_wait(waiting) == (case.now, case.now + boot)
    case.look(boot)
    assert case.autoscaler.machine_wait(waiting) is None, "it came: the scheduler's turn"
