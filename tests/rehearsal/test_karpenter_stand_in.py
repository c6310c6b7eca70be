"""Karpenter's part in a rehearsal: no NodePool, no node; and no EC2NodeClass goes before the last node."""

from __future__ import annotations

import copy

import pytest

from components._objects import manifest
from components.karpenter import KarpenterNodes, node_classes, node_pools
from planner.naming import POOL_LABEL, RUNG_LABEL
from rehearsal.autoscaler import BACKOFF_SECONDS, FAILURE_SECONDS, Autoscaler
from rehearsal.karpenter import FINALIZER, Karpenter
from rehearsal.kube import NODE_CLASSES, NODE_POOLS, NODES, PODS, Json
from rehearsal.nodes import GPU, NODE_POOL, node_groups
from tests.factories import example_plan
from tests.rehearsal.fakes import FakeKube
from tests.rehearsal.test_autoscaler import gpu_pod

PLAN = example_plan("karpenter")
L40S = PLAN.pool("l40s")
SIDE = KarpenterNodes(
    endpoint="e",
    queue_name="q",
    instance_profile="p",
    subnet_ids={"l40s": "subnet-0a"},
    security_group_ids={"l40s": ["sg-0a"]},
    volume_key_arn="k",
)


class Case:
    """Both stand-ins over one API, at a clock of our own."""

    def __init__(self, capacity: dict[str, int] | None = None) -> None:
        self.kube = FakeKube()
        self.autoscaler = Autoscaler(self.kube, node_groups(PLAN), capacity=capacity, compression=1.0)  # type: ignore[arg-type]
        self.karpenter = Karpenter(self.kube)  # type: ignore[arg-type]
        self.now = 1000.0

    def declare(self) -> None:
        """What the program declares."""
        assert L40S.karpenter is not None
        for item in node_classes(L40S, L40S.karpenter, SIDE, {}):
            self.kube.create(NODE_CLASSES, manifest(item))
        for item in node_pools(L40S, L40S.karpenter):
            self.kube.create(NODE_POOLS, manifest(item))

    def look(self, after: float = 0.0) -> None:
        self.now += after
        self.autoscaler.reconcile(self.kube, self.now)  # type: ignore[arg-type]
        self.karpenter.reconcile(self.kube, self.now)  # type: ignore[arg-type]

    def nodes(self) -> list[Json]:
        return self.kube.all(NODES)

    def node_class(self) -> Json:
        (found,) = self.kube.all(NODE_CLASSES)
        return found


@pytest.fixture
def case() -> Case:
    return Case()


def l40s_pod(name: str) -> Json:
    """A pod that fits the smallest node of the pool."""
    pod = gpu_pod(name, pool="l40s", gpus=1)
    pod["spec"]["containers"][0]["resources"]["limits"] = {GPU: "1", "memory": "10Gi"}
    return pod


def test_without_a_node_pool_no_node_comes(case: Case) -> None:
    case.kube.create(PODS, l40s_pod("a"))
    case.look()
    case.look(1000)
    assert case.nodes() == []
    assert list(case.autoscaler.waiting.values()) == ["no node group has a node that this pod fits"]


def test_a_node_is_as_its_node_pool_says(case: Case) -> None:
    case.declare()
    case.kube.create(PODS, l40s_pod("a"))
    case.look()
    case.look(L40S.rungs[0].boot_seconds)
    (node,) = case.nodes()
    labels = node["metadata"]["labels"]
    assert (labels[POOL_LABEL], labels[RUNG_LABEL], labels[NODE_POOL]) == ("l40s", "l40s-spot", "l40s-spot")
    assert labels["karpenter.sh/capacity-type"] == "spot"
    assert "eks.amazonaws.com/nodegroup" not in labels
    assert [taint["key"] for taint in node["spec"]["taints"]] == [GPU]


def test_a_node_pool_without_the_pools_label_brings_no_node(case: Case) -> None:
    """Labels come from the object, not from the plan: a mistake in the program is seen."""
    case.declare()
    for pool in case.kube.all(NODE_POOLS):
        del pool["spec"]["template"]["metadata"]["labels"][POOL_LABEL]
    case.kube.create(PODS, l40s_pod("a"))
    case.look()
    case.look(1000)
    assert case.nodes() == []


def test_limits_hold_and_the_next_rung_takes_over(case: Case) -> None:
    case.declare()
    for index in range(7):
        case.kube.create(PODS, l40s_pod(f"p{index}"))
    case.look()
    case.look(1000)
    rungs = sorted(node["metadata"]["labels"][RUNG_LABEL] for node in case.nodes())
    assert rungs == ["l40s-on-demand"] * 2 + ["l40s-spot"] * 4  # 4 + 2 are all that the limits allow
    assert len(case.autoscaler.waiting) == 1


def test_an_exhausted_rung_makes_the_next_take_over() -> None:
    case = Case(capacity={"l40s-spot": 0})
    case.declare()
    case.kube.create(PODS, l40s_pod("a"))
    case.look()
    case.look(FAILURE_SECONDS)
    case.look(L40S.rungs[1].boot_seconds)
    assert FAILURE_SECONDS + L40S.rungs[1].boot_seconds < BACKOFF_SECONDS
    assert [node["metadata"]["labels"][RUNG_LABEL] for node in case.nodes()] == ["l40s-on-demand"]


def test_a_node_goes_with_its_pool_and_holds_its_class_until_then(case: Case) -> None:
    case.declare()
    case.kube.create(PODS, l40s_pod("a"))
    case.look()
    case.look(L40S.rungs[0].boot_seconds)
    assert case.node_class()["metadata"]["finalizers"] == [FINALIZER]
    case.node_class()["metadata"]["deletionTimestamp"] = "now"
    case.look()
    assert case.node_class()["metadata"]["finalizers"] == [FINALIZER], "nodes of it run"
    case.kube.objects[NODE_POOLS].clear()
    case.look()
    assert case.nodes() == []
    case.look()
    assert case.node_class()["metadata"]["finalizers"] == []


def test_nodes_of_node_groups_are_none_of_its_business(case: Case) -> None:
    group = next(group for group in node_groups(PLAN) if group.name == "a100-spot")
    case.kube.create(NODES, group.new_node(1))
    case.look()
    assert [node["metadata"]["name"] for node in case.nodes()] == ["a100-spot-1"]
    assert not group.node_pool


def test_an_older_look_takes_no_finalizer_of_others_away(case: Case) -> None:
    case.declare()
    older = FakeKube()
    older.objects = copy.deepcopy(case.kube.objects)
    key = ("", older.all(NODE_CLASSES)[0]["metadata"]["name"])
    case.kube.patch(NODE_CLASSES, key, {"metadata": {"finalizers": ["foregroundDeletion"]}})
    case.karpenter.reconcile(older, case.now)  # type: ignore[arg-type]
    assert case.node_class()["metadata"]["finalizers"] == ["foregroundDeletion"]
    case.look()
    assert set(case.node_class()["metadata"]["finalizers"]) == {"foregroundDeletion", FINALIZER}
