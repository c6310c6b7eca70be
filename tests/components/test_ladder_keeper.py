"""The keeper as it is declared, and as it speaks to an API server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.ladder_keeper import files, rules
from components.scripts import ladder_keeper, ladder_world
from components.scripts.ladder_keeper import MEMORY_ANNOTATION, Api, ApiError, Keeper
from components.scripts.ladder_world import HOLD_ANNOTATION, backing_off, moment, orders_of, without_clock, world_of
from planner import naming
from planner.plan import KeeperPlan
from tests.components.conftest import declared
from tests.components.ladder_cases import BLOCK, NOW, SPOT, orders, rung
from tests.factories import stack_plan

STATUS = """\
time: 2026-11-22 20:35:10.1 +0000 UTC
autoscalerStatus: Running
clusterWide:
  scaleUp:
    status: InProgress
nodeGroups:
- name: eks-big-block-9abcdef0-20261122173000123400000001-6ec9c2e4-7a7b-4c1e-9d3f-0f3c5a1b2c3d
  health:
    status: Healthy
    nodeCounts:
      registered:
        total: 1
  scaleUp:
    status: Backoff
    backoffInfo:
      errorCode: placeholder-cannot-be-fulfilled
      errorMessage: AWS cannot provision any more instances for this node group
    lastProbeTime: "2026-11-22T20:35:10Z"
  scaleDown:
    status: NoCandidates
- name: eks-big-spot-20261122173000123400000002-7ec9c2e4-7a7b-4c1e-9d3f-0f3c5a1b2c3d
  health:
    status: Healthy
  scaleUp:
    status: NoActivity
"""


def keeper_plan() -> KeeperPlan:
    ladder = stack_plan("prod").ladder
    assert ladder is not None
    assert ladder.keeper is not None
    return ladder.keeper


class FakeApi(Api):
    """Answers from a dictionary, and remembers what was asked of it."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self.objects = objects
        self.calls: list[tuple[str, str, Any]] = []
        self.refuse: dict[str, int] = {}

    def call(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Any:
        if method != "GET":
            self.calls.append((method, path, body))
        for part, status in self.refuse.items():
            if part in path and method != "GET":
                raise ApiError(status, "as the test wants it")
        if method == "GET" and path not in self.objects:
            raise ApiError(404, path)
        if method in {"PUT", "POST"} and "/leases" in path:
            self.objects[f"/apis/coordination.k8s.io/v1/namespaces/ladder-keeper/leases/{naming.LADDER_KEEPER}"] = body
        return self.objects.get(path, {})

    def made(self, part: str) -> list[Any]:
        return [body for _, path, body in self.calls if part in path]


def raw_node(name: str, rung: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {naming.RUNG_LABEL: rung}, "creationTimestamp": "2026-11-22T10:00:00Z"},
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def raw_pod(name: str, worker: bool, node: str | None) -> dict[str, Any]:
    scheduled = {
        "type": "PodScheduled",
        "status": "True" if node else "False",
        "lastTransitionTime": "2026-11-22T10:00:00Z",
    }
    return {
        "metadata": {
            "name": name,
            "namespace": "inference",
            "uid": f"uid-of-{name}",
            "creationTimestamp": "2026-11-22T10:00:00Z",
            "labels": {
                naming.MODEL_LABEL: "r1",
                naming.GROUP_ROLE_LABEL: "worker" if worker else "leader",
                "leaderworkerset.sigs.k8s.io/group-index": "0",
            },
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"conditions": [scheduled if node else scheduled | {"reason": "Unschedulable"}]},
    }


def cluster(status: str = STATUS) -> FakeApi:
    """One of two pods has a node, long ago."""
    return FakeApi(
        {
            "/api/v1/nodes": {"items": [raw_node("a", BLOCK), raw_node("other", "somebody-elses")]},
            "/api/v1/namespaces/inference/pods": {
                "items": [raw_pod("r1-0", False, "a"), raw_pod("r1-0-1", True, None)]
            },
            "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status": {"data": {"status": status}},
        }
    )


def keeper(api: Api, identity: str = "me") -> Keeper:
    return Keeper(api, orders(), identity=identity)


def test_a_round_writes_down_cordons_and_evicts_in_this_order() -> None:
    api = cluster()
    keeper(api).round()
    paths = [path.rsplit("/", 1)[1] if "pods" not in path else path.split("/pods/")[1] for _, path, _ in api.calls]
    assert paths == ["leases", "a", "r1-0/eviction", "r1-0-1/eviction", "events"]
    (node,) = api.made("/nodes/")
    assert node["spec"] == {"unschedulable": True}
    assert json.loads(node["metadata"]["annotations"][HOLD_ANNOTATION])["why"] == "gave-up"
    assert api.made("eviction")[0]["deleteOptions"] == {"preconditions": {"uid": "uid-of-r1-0"}}
    (event,) = api.made("events")
    assert event["reason"] == "GaveUpRung"
    assert event["involvedObject"]["name"] == "r1-0"


def test_what_is_not_of_the_plan_is_not_even_seen() -> None:
    foreign = raw_pod("x", False, "a")
    foreign["metadata"]["labels"][naming.MODEL_LABEL] = "another"
    head = raw_pod("head", False, "a")
    head["metadata"]["labels"][naming.GROUP_ROLE_LABEL] = "ray-head"
    world = world_of(orders(), 0.0, [raw_node("other", "somebody-elses")], [foreign, head])
    assert not world.nodes
    assert not world.groups


@pytest.mark.parametrize(
    ("path", "status"), [("/eviction", 429), ("/nodes/", 409), ("/pods/", 404), ("r1-0/eviction", 500)]
)
def test_a_refusal_that_time_mends_ends_no_round(path: str, status: int) -> None:
    api = cluster()
    api.refuse = {path: status}
    one = keeper(api)
    one.round()
    assert one.last_round > 0
    assert api.made("r1-0-1/eviction"), "what follows is done all the same"


def test_a_keeper_that_lost_the_lease_does_nothing() -> None:
    api = cluster()
    api.refuse = {"/leases": 409}
    keeper(api).round()
    assert [path for _, path, _ in api.calls] == ["/apis/coordination.k8s.io/v1/namespaces/ladder-keeper/leases"]


def test_of_two_keepers_one_works() -> None:
    api = cluster()
    keeper(api, "one").round()
    done = len(api.calls)
    lease = next(iter(api.made("/leases")))
    assert lease["spec"]["holderIdentity"] == "one"
    keeper(api, "two").round()
    assert len(api.calls) == done
    lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
    keeper(api, "two").round()
    assert lease["spec"]["holderIdentity"] == "two"
    assert MEMORY_ANNOTATION in lease["metadata"]["annotations"]


def test_metrics_tell_rungs_and_stalls() -> None:
    one = keeper(cluster())
    one.round()
    lines = one.metrics.splitlines()
    assert 'ladder_keeper_stalled_groups{pool="big"} 1' in lines
    assert f'ladder_keeper_rung_backing_off{{pool="big",rung="{BLOCK}"}} 1' in lines
    assert f'ladder_keeper_rung_backing_off{{pool="big",rung="{SPOT}"}} 0' in lines
    assert (
        f'ladder_keeper_group_rung_position{{pool="big",model="r1",group="inference/r1/0",rung="{BLOCK}"}} 0' in lines
    )


def test_the_autoscalers_status_is_read_in_any_order() -> None:
    assert backing_off(STATUS) == [STATUS.split("- name: ")[1].split("\n", maxsplit=1)[0]]
    turned = (
        'autoscalerStatus: Running\nnodeGroups:\n  -\n    scaleUp:\n      backoffInfo:\n        errorCode: "x"\n'
        '      status: "Backoff"\n    name: "eks-a"\n  -\n    scaleUp:\n      status: "NoActivity"\n    name: "eks-b"\n'
    )
    assert backing_off(turned) == ["eks-a"]
    assert backing_off("") == []


def test_orders_are_the_plan() -> None:
    plan = keeper_plan()
    told = orders_of(files(plan)["orders.json"])
    assert [pool.name for pool in told.pools] == [pool.name for pool in plan.pools]
    assert told.interval_seconds == plan.interval_seconds
    fast = orders_of(files(plan)["orders.json"], time_scale=10)
    assert fast.pools[0].rungs[0].stall_seconds == plan.pools[0].rungs[0].stall_seconds / 10
    assert moment("2026-12-01T11:30:00Z") == 1796124600


def test_it_runs_with_the_standard_library_alone(tmp_path: Path) -> None:
    """As the pod does: the files of its ConfigMap at their paths, no package of ours or of others."""
    for name, text in files(keeper_plan()).items():
        path = tmp_path / (name if name.endswith(".json") else f"components/scripts/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ran = subprocess.run(
        [sys.executable, "-S", "-m", "components.scripts.ladder_keeper", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "--orders" in ran.stdout


def test_it_may_do_what_it_does_and_no_more() -> None:
    plan = keeper_plan()
    verbs = {
        (namespace, resource): set(rule["verbs"])
        for namespace, found in rules(plan).items()
        for rule in found
        for resource in rule["resources"]
        if rule.get("resourceNames") or resource != "leases"
    }
    assert verbs == {
        ("", "nodes"): {"get", "list", "patch"},
        ("inference", "pods"): {"get", "list"},
        ("inference", "pods/eviction"): {"create"},
        ("inference", "events"): {"create"},
        ("kube-system", "configmaps"): {"get"},
        ("ladder-keeper", "leases"): {"get", "update"},
    }
    assert not any("*" in json.dumps(rule) for found in rules(plan).values() for rule in found)


def test_its_pod_passes_the_strictest_level_and_restarts_with_its_orders() -> None:
    world = declared(stack_plan("prod"))
    (found,) = [r for r in world.objects("Deployment") if r.inputs["metadata"]["name"] == naming.LADDER_KEEPER]
    template = found.inputs["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert template["metadata"]["annotations"]["checksum/files"]
    (namespace,) = [r for r in world.objects("Namespace") if r.inputs["metadata"]["name"] == naming.LADDER_KEEPER]
    assert namespace.inputs["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_stack_without_a_ladder_has_no_keeper() -> None:
    ladder = stack_plan("dev").ladder
    assert ladder is not None
    assert ladder.keeper is None
    assert not list(declared(stack_plan("dev")).objects("Deployment"))


def test_without_a_clock_blocks_neither_begin_nor_end_and_windows_are_open_or_not() -> None:
    ladder = [rung(BLOCK, "capacity_block", starts="2020-01-01T00:00:00Z", ends="2020-02-01T00:00:00Z")]
    given = orders(rungs=ladder)
    assert not given.pools[0].rungs[0].usable(NOW)
    opened, closed = (without_clock(given, windows_open=how) for how in (True, False))
    assert opened.pools[0].rungs[0].usable(NOW)
    assert opened.pools[0].window is not None
    assert all(opened.pools[0].window.is_open(NOW + hour * 3600) for hour in range(24 * 7))
    assert closed.pools[0].window is None


def test_names_that_the_script_repeats_are_the_planners() -> None:
    """It runs where no planner is."""
    assert ladder_world.RUNG_LABEL == naming.RUNG_LABEL
    assert ladder_world.ROLE_LABEL == naming.GROUP_ROLE_LABEL
    assert ladder_world.MODEL_LABEL == naming.MODEL_LABEL
    assert ladder_world.HOLD_ANNOTATION == naming.HOLD_ANNOTATION
    assert (ladder_keeper.NAME, ladder_keeper.STATUS) == (naming.LADDER_KEEPER, naming.AUTOSCALER_STATUS)
