"""`ops ladder` against an API server: rungs, prices and reasons."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from components.scripts.ladder_actions import Failure, Memory, Move
from components.scripts.ladder_keeper import MEMORY_ANNOTATION
from ops.cluster import Cluster
from ops.errors import UsageError
from ops.ladder import GroupOnLadder, Ladder, LadderOptions, ladder_of, show_ladder
from planner.naming import GROUP_ROLE_LABEL, HOLD_ANNOTATION, MODEL_LABEL, RUNG_LABEL
from tests.components.ladder_cases import as_json
from tests.factories import example_plan, stack_plan
from tests.ops.api_server import ApiServer, write_kubeconfig

NOW = datetime(2027, 2, 3, 12, 0, tzinfo=UTC).timestamp()  # a Wednesday, while the block lasts
BLOCK, RESERVED, SPOT, DEMAND = "h100-block-9abcde01", "h100-reserved-9abcde02", "h100-spot", "h100-on-demand"


def node(
    api: ApiServer, name: str, rung: str, annotations: Mapping[str, str] | None = None, *, cordoned: bool = False
) -> None:
    api.put(
        f"/api/v1/nodes/{name}",
        {
            "metadata": {"labels": {RUNG_LABEL: rung}, "annotations": dict(annotations or {})},
            "spec": {"unschedulable": cordoned},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        },
    )


def pod(
    api: ApiServer, model: str, index: int, worker: int, on: str | None, *, minutes: int = 90, ready: bool = True
) -> None:
    at = datetime.fromtimestamp(NOW - 60 * minutes, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = f"{model}-{index}" + (f"-{worker}" if worker else "")
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at}
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": at}
    api.put(
        f"/api/v1/namespaces/inference/pods/{name}",
        {
            "metadata": {
                "uid": name,
                "creationTimestamp": at,
                "labels": {
                    MODEL_LABEL: model,
                    GROUP_ROLE_LABEL: "worker" if worker else "leader",
                    "leaderworkerset.sigs.k8s.io/group-index": str(index),
                },
            },
            "spec": {"nodeName": on} if on else {},
            "status": {
                "conditions": [
                    scheduled if on else waiting,
                    {"type": "Ready", "status": str(bool(on) and ready)},
                ]
            },
        },
    )


def look(cluster: Cluster) -> Ladder:
    return ladder_of(cluster, example_plan("capacity-ladder"), now=NOW)


def group(ladder: Ladder, key: str) -> GroupOnLadder:
    return next(one for one in ladder.groups if one.group == f"inference/{key}")


def remember(api: ApiServer, memory: Memory) -> None:
    api.put(
        "/apis/coordination.k8s.io/v1/namespaces/ladder-keeper/leases/ladder-keeper",
        {"metadata": {"annotations": {MEMORY_ANNOTATION: json.dumps(as_json(memory))}}},
    )


@pytest.fixture
def full(api: ApiServer) -> ApiServer:
    """R1 on two nodes on demand, while the reservation has one node that another group gave up."""
    for name in ("d1", "d2"):
        node(api, name, DEMAND)
    hold = json.dumps({"why": "gave-up", "group": "inference/deepseek-r1/0", "at": NOW - 300})
    node(api, "r1", RESERVED, {HOLD_ANNOTATION: hold}, cordoned=True)
    pod(api, "deepseek-r1", 0, 0, "d1", minutes=95)
    pod(api, "deepseek-r1", 0, 1, "d2")
    remember(api, Memory())
    return api


def test_a_group_with_its_place_its_price_and_its_reason(full: ApiServer, cluster: Cluster) -> None:
    found = group(look(cluster), "deepseek-r1/0")
    plan = example_plan("capacity-ladder").pool("h100")
    prices = {rung.name: rung.usd_per_node_hour for rung in plan.rungs}
    assert (found.pool, found.rung, found.nodes) == ("h100", DEMAND, ("d1", "d2"))
    assert found.since_seconds == 90 * 60
    assert found.serves
    assert found.usd_per_hour == pytest.approx(2 * prices[DEMAND])
    assert found.over_cheapest_usd_per_hour == pytest.approx(2 * (prices[DEMAND] - min(prices.values())))
    assert found.blocked == "the maintenance window opens tue,thu at 03:00 Europe/Berlin"


def test_rungs_tell_nodes_held_and_ends(full: ApiServer, cluster: Cluster) -> None:
    rungs = {rung.rung: rung for rung in look(cluster).rungs}
    assert (rungs[DEMAND].nodes, rungs[DEMAND].idle) == (2, 0)
    assert (rungs[RESERVED].nodes, rungs[RESERVED].idle, rungs[RESERVED].held) == (1, 1, 1)
    assert rungs[BLOCK].state == "ends in 25 d 23 h"
    assert {rung.pool for rung in rungs.values()} == {"h100", "a100", "h200"}, "Karpenter's too"


def test_what_the_autoscaler_leaves_alone(full: ApiServer, cluster: Cluster) -> None:
    names = [f"eks-{rung}-{'0' * 26}-0000" for rung in (BLOCK, RESERVED, SPOT)]
    items = "".join(f"- name: {name}\n  scaleUp:\n    status: Backoff\n" for name in names)
    path = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"
    full.put(path, {"data": {"status": f"autoscalerStatus: Running\nnodeGroups:\n{items}"}})
    ladder = look(cluster)
    assert {rung.rung for rung in ladder.rungs if "no capacity" in rung.state} == {BLOCK, RESERVED, SPOT}
    why = group(ladder, "deepseek-r1/0").blocked
    assert f"{BLOCK} has no capacity" in why
    assert f"{RESERVED} is full (1 of 2 nodes, 0 free)" in why


def test_a_move_and_a_failure_are_told(full: ApiServer, cluster: Cluster) -> None:
    inside = datetime(2027, 2, 4, 3, 0, tzinfo=UTC).timestamp()  # Thursday, in the window
    plan = example_plan("capacity-ladder")
    remember(full, Memory(failures={"h100": Failure(count=2, until=inside + 1800)}))
    found = group(ladder_of(cluster, plan, now=inside), "deepseek-r1/0")
    assert found.blocked == "2 climb(s) failed: not again for 30 min"
    move = Move(
        kind="climb", group="g", model="m", pool="h100", origin=SPOT, nodes=(), pods=(), began=inside, gone_at=None
    )
    remember(full, Memory(move=move))
    ladder = ladder_of(cluster, plan, now=inside)
    assert ladder.move == f"climb: g from {SPOT}"
    assert group(ladder, "deepseek-r1/0").blocked == "g is on the move"
    remember(full, Memory())
    assert group(ladder_of(cluster, plan, now=inside), "deepseek-r1/0").blocked == "it climbs next"


def test_a_group_without_nodes_is_a_finding(api: ApiServer, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pod(api, "deepseek-r1", 0, 0, None)
    options = LadderOptions(kubeconfig=write_kubeconfig(tmp_path / "kubeconfig", api.url), context=None)
    stack = "examples/capacity-ladder/Pulumi.ladder.yaml"
    assert show_ladder(stack, options, as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["groups"][0]["rung"] is None
    assert document["groups"][0]["blocked"] == "waits for nodes"
    assert document["keeper_missing"] is True
    assert show_ladder(stack, options, as_json=False) == 1
    assert "no keeper has looked yet" in capsys.readouterr().out


def test_karpenters_groups_are_its_own_affair(api: ApiServer, cluster: Cluster) -> None:
    node(api, "k", "h200-on-demand")
    pod(api, "r1-h200", 0, 0, "k")
    assert group(look(cluster), "r1-h200/0").blocked == "Karpenter moves no pod that runs"


def test_a_cluster_that_exists_has_no_ladder() -> None:
    assert stack_plan("local").ladder is None
    with pytest.raises(UsageError, match="nobody adds any"):
        show_ladder("local", LadderOptions(kubeconfig=None, context=None), as_json=False)


def test_it_takes_the_time_of_now(full: ApiServer, cluster: Cluster) -> None:
    assert ladder_of(cluster, example_plan("capacity-ladder"), now=time.time()).groups
