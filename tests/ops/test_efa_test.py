"""`efa-test` against an API server on this machine that plays scheduler and Job controller, with recorded logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.scripts.efa import gate
from components.scripts.efa.findings import bus_bandwidth
from ops import efa_test as verb
from ops.__main__ import app
from ops.cluster import Cluster
from ops.efa_test import efa_test, subject
from ops.errors import UsageError
from tests.factories import stack_plan
from tests.ops.api_server import ApiServer, write_kubeconfig

LOGS = Path(__file__).parents[1] / "serving" / "data"
NAMESPACE = "/namespaces/inference/"


def results(**seconds_by_size: float) -> str:
    """What the first rank prints: 2 x p5 as published (the README that catalog/efa.yaml cites)."""
    lines: list[str] = []
    for size, seconds in seconds_by_size.items():
        count = int(size.removeprefix("b"))
        algorithm, bus = bus_bandwidth(count, seconds, 16)
        row = {"size": count, "seconds": seconds, "algbw": algorithm, "busbw": bus, "wrong": 0}
        lines.append(f"EFA_RESULT {json.dumps(row)}")
    return "\n".join(lines) + "\n"


HEALTHY = results(b1048576=123.2e-6, b1073741824=4607.6e-6, b8589934592=33605e-6)


class Cloud:
    """Plays what a cluster does with the Job."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.logs = {
            0: (LOGS / "nccl-efa.txt").read_text() + HEALTHY,
            1: (LOGS / "nccl-efa.txt").read_text(),
        }
        self.message: str | None = None
        self.nodes_come = True
        self.job: dict[str, Any] = {}
        api.on_create = self.created

    def created(self, path: str, item: dict[str, Any]) -> None:
        if item["kind"] != "Job":
            return
        self.job = item
        name = item["metadata"]["name"]
        for index in range(item["spec"]["completions"]):
            ended: dict[str, Any] = {"exitCode": 1 if self.message else 0, "message": self.message}
            pod: dict[str, Any] = {
                "metadata": {"labels": {"batch.kubernetes.io/job-name": name}},
                "spec": {"nodeName": f"node-{index}"},
                "status": {
                    "phase": "Failed" if self.message else "Succeeded",
                    "containerStatuses": [{"name": "efa-test", "state": {"terminated": ended}}],
                },
            }
            if not self.nodes_come:
                pod["spec"] = {}
                said = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
                pod["status"] = {"phase": "Pending", "conditions": [said]}
            at = f"/api/v1{NAMESPACE}pods/{name}-{index}-x"
            self.api.put(at, pod)
            self.api.texts[f"{at}/log"] = self.logs[index]
        if self.nodes_come:
            kind = "Failed" if self.message else "Complete"
            self.api.objects[path]["status"] = {"conditions": [{"type": kind, "status": "True"}]}


@pytest.fixture
def cloud(api: ApiServer) -> Cloud:
    return Cloud(api)


def outcome(cluster: Cluster, *, limit_seconds: float = 60) -> verb.EfaTestResult:
    pool, model = subject(stack_plan("prod"), "h100", 2)
    time_passes = iter(range(10_000))
    return efa_test(
        cluster,
        pool,
        model,
        nodes=2,
        limit_seconds=limit_seconds,
        tell=lambda _: None,
        pause=lambda _: None,
        clock=lambda: float(next(time_passes)),
    )


def test_a_fast_group_on_efa(cloud: Cloud, api: ApiServer, cluster: Cluster) -> None:
    result = outcome(cluster)
    assert result.ok, result.problem
    assert (result.providers, result.gpudirect_rdma, result.floor_gb_per_s) == (("efa",), True, 218.5)
    assert [round(row["busbw"]) for row in result.results] == [16, 437, 479]
    # All that was made is gone, the Job with its pods.
    assert sorted(path.rsplit("/", 2)[1] for path in api.deleted) == ["configmaps", "jobs", "services"]
    assert not [path for path in api.objects if "efa-test" in path and "/pods/" not in path]


def test_the_job_asks_for_whole_nodes_of_one_rung(cloud: Cloud, cluster: Cluster) -> None:
    outcome(cluster)
    spec = cloud.job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (
        "Indexed", 2, 2, 0,
    )  # fmt: skip
    assert spec["activeDeadlineSeconds"] == 60
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["resources"]["limits"]["vpc.amazonaws.com/efa"] == "32"
    assert pod["nodeSelector"] == {"inference-platform/pool": "h100"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    terms = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms[0]["topologyKey"] == "inference-platform/rung"
    name = cloud.job["metadata"]["name"]
    line = [part.replace("$(JOB_COMPLETION_INDEX)", "1") for part in container["args"]]
    options = gate.arguments(line)
    assert (options.devices, options.gpus, options.nodes, options.rank) == (32, 8, 2, 1)
    assert options.leader == f"{name}-0.{name}.inference"
    assert pod["subdomain"] == name
    assert options.state is None, "a test on demand believes no earlier one"
    assert not any("secretKeyRef" in str(one) for one in container["env"])


def test_what_the_pods_found_is_told(cloud: Cloud, cluster: Cluster) -> None:
    cloud.message = "not on EFA: node node-1: bus bandwidth of 12.1 GB/s is below the floor of 218.5 GB/s"
    result = outcome(cluster)
    assert not result.ok
    assert result.problem == cloud.message


def test_a_log_that_shows_tcp_is_not_talked_away(cloud: Cloud, cluster: Cluster) -> None:
    cloud.logs[1] = (LOGS / "nccl-socket.txt").read_text()
    result = outcome(cluster)
    assert "fell back to TCP" in str(result.problem)


def test_a_job_without_result_is_no_success(cloud: Cloud, cluster: Cluster) -> None:
    cloud.logs[0] = cloud.logs[1]
    assert outcome(cluster).problem == "no pod printed a result"


def test_nodes_that_do_not_come(cloud: Cloud, api: ApiServer, cluster: Cluster) -> None:
    cloud.nodes_come = False
    result = outcome(cluster, limit_seconds=3)
    assert "waiting for a node (0/3 nodes are available)" in str(result.problem)
    assert len(api.deleted) == 3


def test_what_was_made_is_removed_when_something_breaks(api: ApiServer, cluster: Cluster) -> None:
    def refuse(_path: str, item: dict[str, Any]) -> None:
        if item["kind"] == "Service":
            raise KeyboardInterrupt

    pool, model = subject(stack_plan("prod"), "h100", 2)

    class Broken(Cluster):
        def create(self, path: str, item: Any) -> dict[str, Any]:
            refuse(path, item)
            return super().create(path, item)

    broken = Broken(cluster.kubeconfig, None)
    with pytest.raises(KeyboardInterrupt):
        efa_test(broken, pool, model, nodes=2, limit_seconds=1, tell=lambda _: None)
    assert not [path for path in api.objects if "efa-test" in path]
    broken.close()


@pytest.mark.parametrize(
    ("pool", "nodes", "words"),
    [("l40s", 2, "uses no EFA"), ("h10", 2, "no pool"), ("h100", 9, "largest rung"), ("h100", 1, "largest rung")],
)
def test_what_cannot_be_tested(pool: str, nodes: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        subject(stack_plan("prod"), pool, nodes)


def test_the_verb(cloud: Cloud, api: ApiServer, tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "config", api.url)
    command = ["efa-test", "-s", "prod", "--pool", "h100", "--kubeconfig", str(kubeconfig)]
    asked = CliRunner().invoke(app, command)
    assert asked.exit_code != 0
    assert not api.objects, "nothing is made before somebody said yes"
    done = CliRunner().invoke(app, [*command, "--yes", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["instance_type"] == "p5.48xlarge"
    assert told["results"][1]["size"] == 1 << 30
    cloud.message = "not on EFA: node node-0: NCCL fell back to TCP"
    failed = CliRunner().invoke(app, [*command, "--yes"])
    assert failed.exit_code == 1
    assert "docs/runbooks/efa.md" in failed.output
