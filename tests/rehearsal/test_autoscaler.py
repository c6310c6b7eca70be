"""Nodes appear for pods that have none: by priority, as many as needed, a group on one rung."""

from __future__ import annotations

import re
from typing import Any

import pytest

from components.scripts.ladder_world import backing_off
from planner.naming import POOL_LABEL, RUNG_LABEL, scaling_group_pattern
from rehearsal.autoscaler import FAILURE_SECONDS, UNNEEDED_SECONDS, Autoscaler
from rehearsal.kube import CONFIG_MAPS, NODES, PODS, Json
from rehearsal.nodes import EFA, GPU, NodeGroup, node_groups
from tests.factories import stack_plan
from tests.rehearsal.fakes import UNSCHEDULABLE, FakeKube, container, pod

LADDER = stack_plan("prod").ladder
assert LADDER is not None
TIMES = LADDER.autoscaler
BLOCK = "h100-block-9abcdef0"
TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}


def gpu_pod(name: str, *, pool: str = "h100", gpus: int = 8, group: str | None = None, **changes: Any) -> Json:
    limits = {GPU: str(gpus), "memory": "100Gi"}
    affinity: Json = {}
    if group:
        selector = {
            "matchLabels": {"app": "r1"},
            "matchExpressions": [{"key": "g", "operator": "In", "values": [group]}],
        }
        term = {"topologyKey": RUNG_LABEL, "labelSelector": selector}
        affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return pod(
        name,
        conditions=UNSCHEDULABLE,
        containers=[container(resources={"limits": limits})],
        nodeSelector={POOL_LABEL: pool},
        tolerations=[TOLERATION],
        affinity=affinity,
        **changes,
    )


class Case:
    """An autoscaler of the prod plan, at a clock of our own, without compression."""

    def __init__(self, capacity: dict[str, int] | None = None) -> None:
        self.kube = FakeKube()
        self.groups = node_groups(stack_plan("prod"))
        self.autoscaler = Autoscaler(
            self.kube,  # type: ignore[arg-type]
            self.groups,
            capacity=capacity,
            times=TIMES,
            compression=1.0,
        )
        self.now = 1000.0

    def boot(self, name: str) -> float:
        return next(group.boot_seconds for group in self.groups if group.name == name)

    def look(self, after: float = 0.0) -> float | None:
        self.now += after
        return self.autoscaler.reconcile(self.kube, self.now)  # type: ignore[arg-type]

    def nodes(self) -> list[str]:
        return sorted(node["metadata"]["name"] for node in self.kube.all(NODES))

    def bind(self, name: str, node: str) -> None:
        bound = self.kube.get(PODS, ("inference", name))
        assert bound is not None
        bound["spec"]["nodeName"] = node


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_node_comes_after_its_boot_and_not_before(case: Case) -> None:
    case.kube.create(PODS, gpu_pod("a"))
    assert case.look() == case.now + case.boot("h100-block-9abcdef0")
    case.look(case.boot("h100-block-9abcdef0") - 1)
    assert case.nodes() == []
    case.look(1)
    assert case.nodes() == ["h100-block-9abcdef0-1"]


def test_a_pod_that_has_asked_does_not_ask_again(case: Case) -> None:
    case.kube.create(PODS, gpu_pod("a"))
    for _ in range(5):
        case.look(1)
    case.look(case.boot("h100-block-9abcdef0"))
    assert case.nodes() == ["h100-block-9abcdef0-1"]


def test_small_pods_share_a_node() -> None:
    case = Case()
    case.kube.add(PODS, [gpu_pod("a", gpus=4), gpu_pod("b", gpus=4), gpu_pod("c", gpus=4)])
    case.look()
    case.look(case.boot("h100-block-9abcdef0"))
    assert case.nodes() == ["h100-block-9abcdef0-1", "h100-block-9abcdef0-2"]


def test_pods_of_a_group_get_nodes_of_one_rung() -> None:
    """One machine is left of the first rung: a group of two goes to the next one whole."""
    case = Case()
    case.kube.create(PODS, gpu_pod("single"))
    case.look()
    case.kube.add(PODS, [gpu_pod("a", group="0"), gpu_pod("b", group="0")])
    case.look()
    case.look(case.boot("h100-spot"))
    assert case.nodes() == ["h100-block-9abcdef0-1", "h100-spot-1", "h100-spot-2"]


def test_the_rest_of_a_group_follows_its_first_pod() -> None:
    case = Case()
    node = next(group for group in case.groups if group.name == "h100-on-demand").new_node(1)
    case.kube.create(NODES, node)
    case.kube.add(PODS, [gpu_pod("a", group="0"), gpu_pod("b", group="0")])
    case.bind("a", "h100-on-demand-1")
    case.look()
    case.look(case.boot("h100-on-demand"))
    assert case.nodes() == ["h100-on-demand-1", "h100-on-demand-2"]


def test_a_rung_without_capacity_backs_off_and_the_next_takes_over() -> None:
    case = Case(capacity={"h100-block-9abcdef0": 0})
    case.kube.create(PODS, gpu_pod("a"))
    case.look()
    case.look(FAILURE_SECONDS)
    assert case.autoscaler.no_capacity == {"h100-block-9abcdef0": 1}
    case.look(case.boot("h100-spot"))
    assert case.nodes() == ["h100-spot-1"]


def test_the_status_tells_what_is_left_alone_and_each_failure_doubles_the_pause() -> None:
    case = Case(capacity={BLOCK: 0})
    case.kube.create(PODS, gpu_pod("a"))
    case.autoscaler.make_minimum()

    def resting() -> list[str]:
        status = case.kube.get(CONFIG_MAPS, ("kube-system", "cluster-autoscaler-status"))
        assert status is not None
        return [name for name in backing_off(status["data"]["status"]) if re.search(scaling_group_pattern(BLOCK), name)]

    assert resting() == []
    pauses = []
    for _ in range(3):
        case.look()
        case.look(FAILURE_SECONDS)
        assert len(resting()) == 1
        began = case.now
        while resting():
            case.look(30)
        pauses.append(case.now - began)
        case.kube.delete(PODS, ("inference", "a"))
        case.look()
        case.kube.create(PODS, gpu_pod("a"))
    first = TIMES.initial_backoff_seconds
    assert pauses == [first, min(2 * first, TIMES.max_backoff_seconds), TIMES.max_backoff_seconds]


def test_an_empty_cordoned_node_is_handed_back_and_any_other_kept() -> None:
    case = Case()
    for name in (f"{BLOCK}-1", f"{BLOCK}-2", "h100-spot-1"):
        group = next(group for group in case.groups if name.startswith(group.name))
        case.kube.create(NODES, group.new_node(int(name[-1])))
    case.kube.create(PODS, gpu_pod("a"))
    case.bind("a", f"{BLOCK}-2")
    for name in (f"{BLOCK}-1", f"{BLOCK}-2"):
        case.kube.patch(NODES, ("", name), {"spec": {"unschedulable": True}})
    assert case.look() == case.now + UNNEEDED_SECONDS
    case.look(UNNEEDED_SECONDS)
    assert case.nodes() == [f"{BLOCK}-2", "h100-spot-1"]


def daemon(name: str, **changes: Any) -> Json:
    """A pod of a DaemonSet."""
    made = gpu_pod(name, **changes)
    made["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "h100", "uid": "1"}]
    return made


def test_pods_of_daemon_sets_neither_keep_nor_bring_a_node() -> None:
    case = Case()
    group = next(group for group in case.groups if group.name == BLOCK)
    case.kube.create(NODES, group.new_node(1))
    case.kube.create(PODS, daemon("pull"))
    case.bind("pull", f"{BLOCK}-1")
    case.kube.patch(NODES, ("", f"{BLOCK}-1"), {"spec": {"unschedulable": True}})
    case.look()
    case.look(UNNEEDED_SECONDS)
    assert case.nodes() == []
    case.kube.create(PODS, daemon("waiting"))
    assert case.look() is None


def test_a_cordoned_node_still_counts_to_the_maximum() -> None:
    """What a stalled group has given up cannot be asked for again at once: the next rung takes over."""
    case = Case()
    group = next(group for group in case.groups if group.name == BLOCK)
    case.kube.create(NODES, group.new_node(1))
    case.kube.patch(NODES, ("", f"{BLOCK}-1"), {"spec": {"unschedulable": True}})
    case.kube.add(PODS, [gpu_pod("a", group="0"), gpu_pod("b", group="0")])
    case.look()
    case.look(case.boot("h100-spot"))
    assert {"h100-spot-1", "h100-spot-2"} <= set(case.nodes())


def test_a_pod_waits_with_its_reason_and_gets_its_node_when_there_is_one() -> None:
    rungs = ("h100-block-9abcdef0", "h100-spot", "h100-on-demand")
    case = Case(capacity=dict.fromkeys(rungs, 0))
    case.kube.create(PODS, gpu_pod("a"))
    case.look()
    for _ in rungs:
        case.look(FAILURE_SECONDS)
    reason = case.autoscaler.waiting["inference", "a"]
    assert all(f"{rung} has no capacity" in reason for rung in rungs)
    # It keeps saying so while the first rung is asked once more.
    case.look(TIMES.initial_backoff_seconds)
    assert case.autoscaler.waiting["inference", "a"] == reason
    case.autoscaler.set_capacity({})
    assert case.autoscaler.waiting == {}  # else a look at once would take it for stuck for good
    case.look(FAILURE_SECONDS)  # the question that was under way is still answered with no
    case.look(case.boot("h100-spot"))
    assert case.nodes() == ["h100-spot-1"]


def test_no_more_than_the_maximum(case: Case) -> None:
    case.kube.add(PODS, [gpu_pod(f"p{number}") for number in range(9)])
    case.look()
    case.look(1000)
    assert len(case.nodes()) == 2 + 4 + 2
    assert len(case.autoscaler.waiting) == 1
    assert "at its maximum" in next(iter(case.autoscaler.waiting.values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"nodeSelector": {POOL_LABEL: "absent"}},
        {"tolerations": []},
        {"containers": [container(resources={"limits": {GPU: "16"}})]},
        {"containers": [container(resources={"limits": {"example.com/device": "1"}})]},
    ],
)
def test_a_pod_that_fits_nowhere_gets_nothing(case: Case, changes: Json) -> None:
    misfit = gpu_pod("a")
    misfit["spec"] |= changes
    case.kube.create(PODS, misfit)
    case.look()
    case.look(1000)
    assert case.nodes() == []
    assert "no node group" in case.autoscaler.waiting["inference", "a"]


def test_only_unschedulable_pods_count(case: Case) -> None:
    """As with the real one: a pod that a gang gate holds back brings no node."""
    gated = gpu_pod("a")
    gated["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    case.kube.create(PODS, gated)
    assert case.look() is None


def test_nodes_may_lack_what_the_plan_promises() -> None:
    """The autoscaler believes the plan and makes nodes; that they lack the device is for a check to find."""
    groups: tuple[NodeGroup, ...] = node_groups(stack_plan("prod"), absent=frozenset({EFA}))
    h100 = next(group for group in groups if group.name == "h100-spot")
    assert h100.node["status"]["allocatable"][EFA] == "32"
    assert EFA not in h100.new_node(1)["status"]["allocatable"]
    assert EFA not in h100.new_node(1)["status"]["capacity"]


def test_minimum_nodes_are_made_at_once(case: Case) -> None:
    plan = stack_plan("prod")
    assert plan.target.kind == "eks"
    made = case.autoscaler.make_minimum()
    rungs = [rung for pool in plan.pools for rung in pool.rungs]
    assert made == len(case.nodes()) == plan.target.system.min_nodes + sum(rung.desired_nodes for rung in rungs)


def test_what_a_node_keeps_for_itself() -> None:
    """Source of the numbers: nodeadm's reservations and Karpenter's memory overhead (rehearsal/nodes.py)."""
    node = next(group for group in node_groups(stack_plan("prod")) if group.name == "h100-spot").new_node(1)
    offered = node["status"]["allocatable"]
    assert offered["cpu"] == f"{192_000 - (80 + int(2.5 * 188))}m"
    assert offered[GPU] == "8"
    assert offered["hugepages-2Mi"] == "10256Mi"
    memory = int(2048 * 1024 * 0.925) - (255 + 11 * int(offered["pods"]) + 100) - 10256
    assert abs(int(offered["memory"].removesuffix("Mi")) - memory) <= 1
    assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == "us-east-1a"
    layers = [node["metadata"]["labels"][f"topology.k8s.aws/network-node-layer-{layer}"] for layer in (1, 2, 3)]
    assert len(set(layers)) == 3
