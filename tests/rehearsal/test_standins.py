"""The stand-ins of controllers make what the real ones would, and react as they do."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from planner.naming import IMAGE_PULL_NAMESPACE, MODEL_LABEL
from rehearsal.gang import GROUP_ANNOTATION as POD_GROUP
from rehearsal.gang import Gang
from rehearsal.kube import (
    CERTIFICATES,
    CLAIMS,
    JOBS,
    LEADER_WORKER_SETS,
    NAMESPACES,
    NODES,
    POD_GROUPS,
    PODS,
    RAY_SERVICES,
    SECRETS,
    SERVICES,
    STORAGE_CLASSES,
    VOLUMES,
    Json,
    Kind,
)
from rehearsal.kubelet import GROUP_KEY, GROUP_SIZE, NOT_STAGED, RAY_NODE, Kubelet, Startup
from rehearsal.kuberay import CLUSTER, SERVE, RayServices
from rehearsal.lws import GROUP, NAME, REVISION, WORKER, LeaderWorkerSets
from rehearsal.nodes import GPU
from rehearsal.operators import Certificates, GivenSecrets
from rehearsal.provisioner import Provisioner, default_class
from rehearsal.stages import KILLED_AT, READY_AT, JobOutcome, pod_stages
from tests.factories import stack_plan
from tests.rehearsal.fakes import READY, FakeKube, container, pod

NAMESPACE = "inference"


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


def look(stand_in: Any, kube: FakeKube, now: float = 0.0) -> float | None:
    return stand_in.reconcile(kube, now)


def names(kube: FakeKube, kind: Kind = PODS) -> list[str]:
    return sorted(item["metadata"]["name"] for item in kube.all(kind))


def by_name(kube: FakeKube, name: str, kind: Kind = PODS) -> Json:
    found = kube.get(kind, (NAMESPACE, name))
    assert found is not None
    return found


def make_ready(kube: FakeKube) -> None:
    for item in kube.all(PODS):
        item["status"] = {"phase": "Running", "conditions": READY}


class TestLeaderWorkerSets:
    @pytest.fixture
    def item(self, kube: FakeKube) -> Json:
        template = {"metadata": {"labels": {"app": "r1"}}, "spec": {"containers": [container(env=[{"name": "MINE"}])]}}
        spec = {
            "replicas": 2,
            "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
            "rolloutStrategy": {"rollingUpdateConfiguration": {"maxUnavailable": 1}},
            "leaderWorkerTemplate": {
                "size": 2,
                "restartPolicy": "RecreateGroupAfterStart",
                "leaderTemplate": copy.deepcopy(template),
                "workerTemplate": copy.deepcopy(template),
            },
        }
        kube.create(LEADER_WORKER_SETS, {"metadata": {"name": "r1", "namespace": NAMESPACE}, "spec": spec})
        return by_name(kube, "r1", LEADER_WORKER_SETS)

    def test_groups_with_what_the_webhook_injects(self, kube: FakeKube, item: Json) -> None:
        look(LeaderWorkerSets(kube), kube)  # type: ignore[arg-type]
        assert names(kube) == ["r1-0", "r1-0-1", "r1-1", "r1-1-1"]
        assert names(kube, SERVICES) == ["r1-0", "r1-1"]
        worker = by_name(kube, "r1-1-1")
        labels = worker["metadata"]["labels"]
        assert (labels[NAME], labels[GROUP], labels[WORKER], labels["app"]) == ("r1", "1", "1", "r1")
        assert labels[GROUP_KEY] == by_name(kube, "r1-1")["metadata"]["labels"][GROUP_KEY]
        assert labels[GROUP_KEY] != by_name(kube, "r1-0")["metadata"]["labels"][GROUP_KEY]
        env = {one["name"]: one.get("value") for one in worker["spec"]["containers"][0]["env"]}
        assert list(env) == ["LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX", "MINE"]
        assert env["LWS_LEADER_ADDRESS"] == "r1-1.r1-1.inference"
        assert (env["LWS_GROUP_SIZE"], env["LWS_WORKER_INDEX"]) == ("2", "1")
        assert worker["metadata"]["ownerReferences"][0]["uid"] == item["metadata"]["uid"]
        assert item["metadata"]["labels"] == {}

    def test_status_for_the_scale_subresource(self, kube: FakeKube, item: Json) -> None:
        stand_in = LeaderWorkerSets(kube)  # type: ignore[arg-type]
        look(stand_in, kube)
        look(stand_in, kube)
        assert item["status"]["readyReplicas"] == 0
        make_ready(kube)
        look(stand_in, kube)
        status = item["status"]
        assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 2, 2)
        assert status["hpaPodSelector"] == f"{NAME}=r1,{WORKER}=0"

    def test_scaling_removes_whole_groups(self, kube: FakeKube, item: Json) -> None:
        stand_in = LeaderWorkerSets(kube)  # type: ignore[arg-type]
        look(stand_in, kube)
        item["spec"]["replicas"] = 1
        look(stand_in, kube)
        assert names(kube) == ["r1-0", "r1-0-1"]

    def test_a_lost_pod_takes_its_group_along_after_the_start_only(self, kube: FakeKube, item: Json) -> None:
        stand_in = LeaderWorkerSets(kube)  # type: ignore[arg-type]
        look(stand_in, kube)
        kube.delete(PODS, (NAMESPACE, "r1-0-1"))
        look(stand_in, kube)
        assert names(kube) == ["r1-0", "r1-0-1", "r1-1", "r1-1-1"], "pending groups are only filled up"
        make_ready(kube)
        leader = by_name(kube, "r1-0")["metadata"]["uid"]
        kube.delete(PODS, (NAMESPACE, "r1-0-1"))
        look(stand_in, kube)
        assert names(kube) == ["r1-1", "r1-1-1"]
        look(stand_in, kube)
        assert by_name(kube, "r1-0")["metadata"]["uid"] != leader

    def test_a_rollout_takes_one_group_at_a_time(self, kube: FakeKube, item: Json) -> None:
        stand_in = LeaderWorkerSets(kube)  # type: ignore[arg-type]
        look(stand_in, kube)
        make_ready(kube)
        old = by_name(kube, "r1-0")["metadata"]["labels"][REVISION]
        item["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]["image"] = "vllm:v2"
        look(stand_in, kube)
        assert names(kube) == ["r1-0", "r1-0-1"]
        look(stand_in, kube)
        assert names(kube) == ["r1-0", "r1-0-1", "r1-1", "r1-1-1"]
        look(stand_in, kube)
        assert by_name(kube, "r1-0")["metadata"]["labels"][REVISION] == old, "the new group does not serve yet"
        make_ready(kube)
        look(stand_in, kube)
        look(stand_in, kube)
        assert {pod["metadata"]["labels"][REVISION] for pod in kube.all(PODS)} != {old}
        assert len(names(kube)) == 4


class TestRayServices:
    @pytest.fixture
    def item(self, kube: FakeKube) -> Json:
        template = {"metadata": {"labels": {MODEL_LABEL: "m"}}, "spec": {"containers": [container()]}}
        group = {"groupName": "a100", "replicas": 2, "minReplicas": 2, "numOfHosts": 1, "template": template}
        config = {"headGroupSpec": {"template": copy.deepcopy(template)}, "workerGroupSpecs": [group]}
        metadata = {
            "name": "m",
            "namespace": NAMESPACE,
            "labels": {MODEL_LABEL: "m"},
            "annotations": {"ray.io/initializing-timeout": "10m"},
        }
        spec = {
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterConfig": config,
            "excludeHeadPodFromServeSvc": True,
        }
        kube.create(RAY_SERVICES, {"metadata": metadata, "spec": spec})
        return by_name(kube, "m", RAY_SERVICES)

    def ray(self, kube: FakeKube, seconds: float = 120.0) -> RayServices:
        return RayServices(kube, {"m": seconds}, compression=1.0)  # type: ignore[arg-type]

    def test_serves_once_its_pods_run_and_the_model_is_loaded(self, kube: FakeKube, item: Json) -> None:
        stand_in = self.ray(kube)
        look(stand_in, kube, 0)
        assert [pod["metadata"]["labels"][RAY_NODE] for pod in kube.all(PODS)] == ["head", "worker", "worker"]
        assert names(kube, SERVICES) == []
        make_ready(kube)
        assert look(stand_in, kube, 10) == 130
        assert item["status"]["conditions"][0]["status"] == "False"
        look(stand_in, kube, 130)
        assert item["status"]["conditions"][0]["status"] == "True"
        selector = by_name(kube, "m-serve-svc", SERVICES)["spec"]["selector"]
        chosen = [pod for pod in kube.all(PODS) if selector.items() <= pod["metadata"]["labels"].items()]
        assert [pod["metadata"]["labels"][RAY_NODE] for pod in chosen] == ["worker", "worker"], "the head is left out"

    def test_gives_up_after_its_timeout(self, kube: FakeKube, item: Json) -> None:
        stand_in = self.ray(kube, seconds=700)
        look(stand_in, kube, 0)
        make_ready(kube)
        look(stand_in, kube, 1)
        look(stand_in, kube, 2)
        assert item["status"]["conditions"][0]["reason"] == "InitializingTimeout"
        (killed,) = stand_in.killed
        assert (killed.needs_seconds, killed.allows_seconds) == (700, 600)

    def test_replicas_change_in_place_and_all_else_makes_a_new_cluster(self, kube: FakeKube, item: Json) -> None:
        stand_in = self.ray(kube, seconds=0)
        look(stand_in, kube)
        make_ready(kube)
        look(stand_in, kube)
        first = by_name(kube, "m-serve-svc", SERVICES)["spec"]["selector"][CLUSTER]
        group = item["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
        group["replicas"] = 3
        look(stand_in, kube)
        assert len(names(kube)) == 4
        group["template"]["spec"]["containers"][0]["image"] = "ray:v2"
        look(stand_in, kube)
        assert len(names(kube)) == 8, "both clusters run"
        make_ready(kube)
        look(stand_in, kube)
        assert len(names(kube)) == 4
        selector = by_name(kube, "m-serve-svc", SERVICES)["spec"]["selector"]
        assert selector[CLUSTER] != first
        assert selector[SERVE] == "true"

    def test_upgrade_strategy_none_keeps_the_cluster(self, kube: FakeKube, item: Json) -> None:
        item["spec"]["upgradeStrategy"] = {"type": "None"}
        stand_in = self.ray(kube, seconds=0)
        look(stand_in, kube)
        make_ready(kube)
        look(stand_in, kube)
        before = names(kube)
        item["spec"]["rayClusterConfig"]["rayVersion"] = "2.99.0"
        look(stand_in, kube)
        assert names(kube) == before


def warm_up(name: str, marker: str, status: Json) -> Json:
    script = container(args=[f"--marker={marker}"])
    spec = {"template": {"spec": {"containers": [script]}}}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec, "status": status}


class TestKubelet:
    def placed(self, name: str = "a", **changes: Any) -> Json:
        limits = {"limits": {GPU: "8"}}
        probe = {"periodSeconds": 10, "failureThreshold": 60}
        engine = container(resources=limits, startupProbe=probe, **changes.pop("engine", {}))
        labels = {MODEL_LABEL: "m", **changes.pop("labels", {})}
        return pod(name, labels=labels, nodeName="node", containers=[engine], **changes)

    def kubelet(self, kube: FakeKube, seconds: float = 300.0) -> Kubelet:
        return Kubelet(kube, {"m": Startup(seconds=seconds)}, compression=60.0)  # type: ignore[arg-type]

    def test_starts_what_can_start(self, kube: FakeKube) -> None:
        kube.create(PODS, self.placed())
        kubelet = self.kubelet(kube)
        look(kubelet, kube)
        assert READY_AT in by_name(kube, "a")["metadata"]["annotations"]
        assert (kubelet.held, kubelet.killed) == ({}, [])

    @pytest.mark.parametrize(
        ("image", "stood", "planned"),
        [("engine:1", 60, 225), ("engine:1", 1, 300), ("other:1", 60, 300)],
        ids=["pulled", "not yet", "another"],
    )
    def test_a_node_that_stood_has_the_image(self, kube: FakeKube, image: str, stood: float, planned: float) -> None:
        engine = {"name": "pull-0", "image": "engine:1", "command": ["true"]}
        first = {"name": "settle", "image": "python:1", "command": ["sleep", "150"]}
        puller = pod("pull", nodeName="node", initContainers=[first, engine], containers=[container()])
        created = datetime.now(UTC) - timedelta(seconds=stood)
        puller["metadata"] |= {"namespace": IMAGE_PULL_NAMESPACE, "creationTimestamp": created.isoformat()}
        kube.add(PODS, [puller, self.placed(engine={"image": image})])
        startups = {"m": Startup(seconds=300, pull_seconds=75)}
        look(Kubelet(kube, startups, compression=60.0), kube)  # type: ignore[arg-type]
        at = datetime.fromisoformat(by_name(kube, "a")["metadata"]["annotations"][READY_AT])
        assert (at - datetime.now(UTC)).total_seconds() * 60 == pytest.approx(planned, abs=30)

    def test_kills_what_starts_too_slowly_for_its_own_probe(self, kube: FakeKube) -> None:
        kube.create(PODS, self.placed())
        kubelet = self.kubelet(kube, seconds=601)
        look(kubelet, kube)
        annotations = by_name(kube, "a")["metadata"]["annotations"]
        assert KILLED_AT in annotations
        assert READY_AT not in annotations
        assert [(one.needs_seconds, one.allows_seconds) for one in kubelet.killed] == [(601, 600)]

    def test_an_init_container_that_writes_shards_is_no_slow_start(self, kube: FakeKube) -> None:
        def seconds_of(name: str) -> float:
            at = datetime.fromisoformat(by_name(kube, name)["metadata"]["annotations"][READY_AT])
            return (at - datetime.now(UTC)).total_seconds() * 60

        kube.create(PODS, self.placed())
        startups = {"m": Startup(seconds=900, shards_seconds=400)}
        kubelet = Kubelet(kube, startups, compression=60.0)  # type: ignore[arg-type]
        look(kubelet, kube)
        assert kubelet.killed == []
        assert seconds_of("a") == pytest.approx(900, abs=30)
        # Once they are there, no other pod writes them.
        by_name(kube, "a")["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
        kube.create(PODS, self.placed("b"))
        look(kubelet, kube)
        assert seconds_of("b") == pytest.approx(500, abs=30)
        # What passes in the engine's own container counts against its probe.
        kube.create(PODS, self.placed("c", labels={MODEL_LABEL: "slow"}))
        slow = Kubelet(kube, {"slow": Startup(seconds=1001, shards_seconds=400)}, compression=60.0)  # type: ignore[arg-type]
        look(slow, kube)
        assert [(one.needs_seconds, one.allows_seconds) for one in slow.killed] == [(601, 600)]

    def test_waits_for_a_secret_and_its_key(self, kube: FakeKube) -> None:
        reference = {"name": "key", "key": "api-key"}
        kube.create(PODS, self.placed(engine={"env": [{"name": "K", "valueFrom": {"secretKeyRef": reference}}]}))
        kubelet = self.kubelet(kube)
        look(kubelet, kube)
        assert kubelet.held[NAMESPACE, "a"] == "Secret inference/key does not exist"
        kube.create(SECRETS, {"metadata": {"name": "key", "namespace": NAMESPACE}, "data": {"other": ""}})
        look(kubelet, kube)
        assert "has no key api-key" in kubelet.held[NAMESPACE, "a"]
        by_name(kube, "key", SECRETS)["data"]["api-key"] = ""
        look(kubelet, kube)
        assert kubelet.held == {}

    def test_waits_for_companions_and_weights(self, kube: FakeKube) -> None:
        waiting = {"name": "wait", "env": [{"name": "READY_MARKERS", "value": "/m/.ready /adapter/.ready"}]}
        group = {"labels": {GROUP_KEY: "g"}, "annotations": {GROUP_SIZE: "2"}, "initContainers": [waiting]}
        kube.add(PODS, [self.placed("a", **copy.deepcopy(group)), self.placed("b", **copy.deepcopy(group))])
        del by_name(kube, "b")["spec"]["nodeName"]
        kubelet = self.kubelet(kube)
        look(kubelet, kube)
        assert kubelet.held == {(NAMESPACE, "a"): "1 of the 2 pods of its group have a node"}
        by_name(kube, "b")["spec"]["nodeName"] = "other"
        look(kubelet, kube)
        assert kubelet.held[NAMESPACE, "b"] == "what makes /m/.ready does not exist"
        done = {"conditions": [{"type": "Complete", "status": "True"}]}
        kube.create(JOBS, warm_up("weights", "/m/.ready", {}))
        look(kubelet, kube)
        assert kubelet.held[NAMESPACE, "b"] == "the warm-up Job weights has not made /m/.ready"
        by_name(kube, "weights", JOBS)["status"] = done
        look(kubelet, kube)
        assert kubelet.held[NAMESPACE, "b"] == "what makes /adapter/.ready does not exist"
        kube.create(JOBS, warm_up("adapter", "/adapter/.ready", done))
        look(kubelet, kube)
        assert kubelet.held == {}

    @pytest.mark.parametrize("medium", ["bucket", "cache"])
    def test_what_is_not_staged_holds_a_pod(self, kube: FakeKube, medium: str) -> None:
        prefix = "models/acme/m/1"
        waiting: Json = {"name": "wait-for-weights", "args": ["--stack=s", "--revision", "acme/m", "1", prefix]}
        if medium == "cache":
            waiting = {"name": "wait-for-weights", "env": [{"name": "READY_MARKERS", "value": f"/c/{prefix}/.ready"}]}
            kube.create(JOBS, warm_up("weights", f"/c/{prefix}/.ready", {}))
        kube.create(PODS, self.placed(initContainers=[waiting]))
        startups = {"m": Startup(seconds=300)}
        held = Kubelet(kube, startups, compression=60.0, unstaged=frozenset({prefix}))  # type: ignore[arg-type]
        look(held, kube)
        assert NOT_STAGED in held.held[NAMESPACE, "a"]
        assert prefix in held.held[NAMESPACE, "a"]
        assert READY_AT not in by_name(kube, "a")["metadata"].get("annotations", {})
        if medium == "bucket":
            look(self.kubelet(kube), kube)
            assert READY_AT in by_name(kube, "a")["metadata"]["annotations"]


class TestProvisioner:
    def claim(self, kube: FakeKube, storage_class: str, **spec: Any) -> Json:
        body = {"storageClassName": storage_class, "accessModes": ["ReadWriteOnce"], **spec}
        body["resources"] = {"requests": {"storage": "1Gi"}}
        kube.create(CLAIMS, {"metadata": {"name": "c", "namespace": NAMESPACE, "annotations": {}}, "spec": body})
        return by_name(kube, "c", CLAIMS)

    def test_waits_for_the_first_consumer(self, kube: FakeKube) -> None:
        kube.create(STORAGE_CLASSES, default_class("standard"))
        claim = self.claim(kube, "standard")
        look(Provisioner(kube), kube)  # type: ignore[arg-type]
        assert kube.all(VOLUMES) == []
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = "node"
        look(Provisioner(kube), kube)  # type: ignore[arg-type]
        (volume,) = kube.all(VOLUMES)
        assert volume["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
        volume["status"]["phase"] = "Released"
        claim["spec"]["volumeName"] = "taken"
        look(Provisioner(kube), kube)  # type: ignore[arg-type]
        assert kube.all(VOLUMES) == []

    @pytest.mark.parametrize(("name", "spec"), [("absent", {}), ("standard", {"volumeName": "pv"})])
    def test_leaves_others_alone(self, kube: FakeKube, name: str, spec: Json) -> None:
        kube.create(STORAGE_CLASSES, {**default_class("standard"), "volumeBindingMode": "Immediate"})
        self.claim(kube, name, **spec)
        look(Provisioner(kube), kube)  # type: ignore[arg-type]
        assert kube.all(VOLUMES) == []


def test_a_gang_is_let_go_when_all_of_it_fits(kube: FakeKube) -> None:
    def member(name: str) -> Json:
        engine = container(resources={"limits": {GPU: "8"}})
        gates = [{"name": "volcano.sh/gang"}]
        return pod(
            name, annotations={POD_GROUP: "g"}, schedulerName="volcano", schedulingGates=gates, containers=[engine]
        )

    def node(name: str) -> Json:
        offered = {GPU: "8", "pods": "100"}
        return {"metadata": {"name": name, "labels": {}}, "status": {"allocatable": offered}}

    kube.create(POD_GROUPS, {"metadata": {"name": "g", "namespace": NAMESPACE}, "spec": {"minMember": 2}})
    kube.add(PODS, [member("a")])
    kube.add(NODES, [node("n1"), node("n2")])
    look(Gang(kube), kube)  # type: ignore[arg-type]
    assert by_name(kube, "a")["spec"]["schedulingGates"], "one member is missing"
    kube.add(PODS, [member("b")])
    kube.delete(NODES, ("", "n2"))
    look(Gang(kube), kube)  # type: ignore[arg-type]
    assert by_name(kube, "a")["spec"]["schedulingGates"], "one node is missing"
    kube.add(NODES, [node("n2")])
    look(Gang(kube), kube)  # type: ignore[arg-type]
    assert all("schedulingGates" not in pod["spec"] for pod in kube.all(PODS))


def test_certificates_get_their_secret(kube: FakeKube) -> None:
    spec = {"secretName": "ca"}
    kube.create(CERTIFICATES, {"metadata": {"name": "c", "namespace": NAMESPACE}, "spec": spec})
    look(Certificates(kube), kube)  # type: ignore[arg-type]
    assert set(by_name(kube, "ca", SECRETS)["stringData"]) == {"tls.crt", "tls.key", "ca.crt"}
    assert by_name(kube, "c", CERTIFICATES)["status"]["conditions"][0]["status"] == "True"


def test_a_withheld_secret_goes_as_soon_as_it_comes(kube: FakeKube) -> None:
    stand_in = GivenSecrets(kube, stack_plan("prod"), withheld=(NAMESPACE, "key"))  # type: ignore[arg-type]
    kube.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    kube.add(SECRETS, [{"metadata": {"name": name, "namespace": NAMESPACE}} for name in ("key", "other")])
    look(stand_in, kube)
    assert names(kube, SECRETS) == ["other"]


def test_stages_tell_jobs_apart() -> None:
    outcomes = {"good": JobOutcome(seconds=120), "bad": JobOutcome(seconds=60, exit_code=3, message="it's wrong")}
    stages = {stage["metadata"]["name"]: stage["spec"] for stage in pod_stages(outcomes, compression=60)}
    assert stages["job-good"]["delay"] == {"durationMilliseconds": 2000}
    assert '"exitCode": 3' in stages["job-bad"]["next"]["statusTemplate"]
    assert '"message": "it\'s wrong"' in stages["job-bad"]["next"]["statusTemplate"]
    others = stages["pod-completed"]["selector"]["matchExpressions"]
    assert {
        "key": '.metadata.labels["batch.kubernetes.io/job-name"]',
        "operator": "NotIn",
        "values": ["good", "bad"],
    } in others
