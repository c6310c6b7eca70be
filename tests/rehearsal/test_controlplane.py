"""The control plane: its processes, its failures, and the real thing."""

from __future__ import annotations

import errno
import http.client
import itertools
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.serving.custom_resources import PrometheusTrigger, ScaledObject, ScaleRule
from planner.plan import MetricTrigger
from rehearsal import crds
from rehearsal.charts import stand_in_chart
from rehearsal.controlplane import binaries, cluster
from rehearsal.controlplane.api import ApiError
from rehearsal.controlplane.binaries import Binaries
from rehearsal.controlplane.certificates import Authority
from rehearsal.controlplane.cluster import ControlPlane, owner
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.controlplane.keda import KedaProcesses
from rehearsal.controlplane.metrics import MetricsStandIn
from rehearsal.controlplane.processes import ProcessGroup
from simulation.scaling import KedaScaler, Observation
from tests.factories import stack_plan

ROOT = Path(__file__).parents[2]

_Usage = namedtuple("_Usage", "total used free")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(status.strip()) and not status.startswith("Z")


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition; fail when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


class TestProcessGroup:
    def test_stop_leaves_nothing(self, tmp_path: Path) -> None:
        group = ProcessGroup(tmp_path)
        # A child of a child, and one that does not listen to SIGTERM.
        shell = group.spawn("shell", ["sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait"])
        until(lambda: group.log("shell").read_text())
        pids = (*group.pids, int(group.log("shell").read_text()))
        assert all(alive(pid) for pid in pids)
        group.stop()
        until(lambda: not any(alive(pid) for pid in pids), 5)
        assert shell.returncode == -signal.SIGKILL
        group.stop()
        with pytest.raises(ControlPlaneError, match="was stopped"):
            group.spawn("late", ["true"])

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_nothing_outlives_its_parent(self, tmp_path: Path, number: signal.Signals) -> None:
        script = textwrap.dedent(f"""
            import time
            from pathlib import Path
            from rehearsal.controlplane.processes import ProcessGroup
            group = ProcessGroup(Path({str(tmp_path)!r}))
            group.spawn("sleeper", ["sleep", "600"])
            print(*group.pids, flush=True)
            time.sleep(600)
        """)
        parent = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.stdout.close()
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        parent.send_signal(number)
        parent.wait(10)
        until(lambda: not any(alive(pid) for pid in pids), 5)

    def test_exit_and_log(self, tmp_path: Path) -> None:
        with ProcessGroup(tmp_path) as group:
            group.spawn("failing", ["sh", "-c", "seq 1 20; exit 3"]).wait()
            group.spawn("fine", ["sleep", "600"])
            assert group.exited() == {"failing": 3}
            assert group.tail("failing", 2) == "19\n20"
            group.end("fine")
            group.end("fine")
            with pytest.raises(ControlPlaneError, match="nowhere"):
                group.spawn("absent", [tmp_path / "nowhere"])


def test_certificates_serve_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server", hosts=("127.0.0.1", "a.b.svc"))
    assert pair.key.stat().st_mode & 0o077 == 0
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)

    def shakes_hands(trusted: Path, name: str) -> bool:
        client = ssl.create_default_context(cafile=str(trusted))
        ends = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
        objects = [
            client.wrap_bio(ends[0][0], ends[0][1], server_hostname=name),
            server.wrap_bio(ends[1][0], ends[1][1], server_side=True),
        ]
        done = [False, False]
        for _round in range(6):
            for index, one in enumerate(objects):
                try:
                    one.do_handshake()
                    done[index] = True
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    return False
                ends[1 - index][0].write(ends[index][1].read())
        return all(done)

    assert shakes_hands(authority.certificate, "127.0.0.1")
    assert shakes_hands(authority.certificate, "a.b.svc")
    assert not shakes_hands(authority.certificate, "other.svc")
    assert not shakes_hands(Authority(tmp_path, "stranger").certificate, "127.0.0.1")


class TestMetricsStandIn:
    URL = "http://prometheus-operated.monitoring.svc:9090/api/v1/query"

    @staticmethod
    def opener(stand_in: MetricsStandIn) -> urllib.request.OpenerDirector:
        return urllib.request.build_opener(urllib.request.ProxyHandler({"http": stand_in.url}))

    def value(self, stand_in: MetricsStandIn, query: str) -> float:
        url = f"{self.URL}?{urllib.parse.urlencode({'query': query})}"
        answer = yaml.safe_load(self.opener(stand_in).open(url, timeout=5).read())
        assert answer["status"] == "success"
        return float(answer["data"]["result"][0]["value"][1])

    def test_answers_for_any_host(self) -> None:
        with MetricsStandIn() as stand_in:
            assert self.value(stand_in, "sum(x)") == 0
            stand_in.set("sum( x )", 12.5)
            assert self.value(stand_in, "sum(x)") == 12.5
            assert self.value(stand_in, "sum(y)") == 0
            assert stand_in.seen == {"sum(x)": 2, "sum(y)": 1}

    def test_unavailable_and_unknown(self) -> None:
        with MetricsStandIn() as stand_in:
            stand_in.set_available(False)
            with pytest.raises(urllib.error.HTTPError, match="503"):
                self.value(stand_in, "x")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                self.opener(stand_in).open("http://a.b.svc/api/v1/series", timeout=5)


@pytest.fixture
def pretended(tmp_path: Path) -> Binaries:
    """Programs that say why they end, in place of the real ones."""

    def program(name: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho {name} ends; exit 7\n")
        path.chmod(0o755)
        return path

    return Binaries(
        kube_apiserver=program("kube-apiserver"),
        kube_controller_manager=program("kube-controller-manager"),
        kube_scheduler=program("kube-scheduler"),
        etcd=program("etcd"),
        kwok=program("kwok"),
        helm=program("helm"),
        kubernetes_version="1.35.4",
        note="",
        source="cached",
    )


class TestFailures:
    @staticmethod
    def start(workdir: Path, made: Binaries, port: int | None = None) -> ControlPlane:
        return ControlPlane.start(workdir, made, token="t", progress=lambda _text: None, port=port)

    def test_component_that_ends(self, tmp_path: Path, pretended: Binaries) -> None:
        with pytest.raises(ControlPlaneError, match=r"etcd ended by itself with status 7[\s\S]*etcd ends"):
            self.start(tmp_path / "w", pretended)
        assert owner(tmp_path / "w") is None

    def test_port_in_use(self, tmp_path: Path, pretended: Binaries) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(ControlPlaneError, match=f"Port {port} .*in use") as caught:
                self.start(tmp_path / "w", pretended, port)
        assert "free port" in caught.value.remedy

    def test_port_taken_meanwhile_is_tried_again(self, tmp_path: Path, pretended: Binaries) -> None:
        tries = tmp_path / "tries"
        pretended.etcd.write_text(f"#!/bin/sh\necho x >> {tries}\necho 'listen: address already in use'; exit 1\n")
        with pytest.raises(ControlPlaneError, match="port is in use"):
            self.start(tmp_path / "w", pretended)
        assert len(tries.read_text().split()) == 3

    def test_no_disk_space(self, tmp_path: Path, pretended: Binaries, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(cluster.shutil, "disk_usage", lambda _path: _Usage(10**12, 10**12, 10**6))
            with pytest.raises(ControlPlaneError, match="No disk space"):
                self.start(tmp_path / "w", pretended)

        def full(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(cluster, "write_yaml", full)
        with pytest.raises(ControlPlaneError, match="No disk space"):
            self.start(tmp_path / "w", pretended)

    def test_no_right_to_write(self, tmp_path: Path, pretended: Binaries) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ControlPlaneError, match="cannot use"):
            self.start(tmp_path / "file" / "w", pretended)


def node(name: str, **resources: str) -> dict[str, Any]:
    capacity = {"cpu": "96", "memory": "1000Gi", "pods": "110", **resources}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {"role": name}},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def pod(name: str, *, scheduler: str = "default-scheduler", gpus: int = 8) -> dict[str, Any]:
    container = {"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": scheduler, "containers": [container]},
    }


def phase(plane: ControlPlane, name: str) -> str:
    found = plane.api.get(f"/api/v1/namespaces/default/pods/{name}") or {}
    return str(found.get("status", {}).get("phase"))


def deployment(plane: ControlPlane, path: str) -> Mapping[str, Any]:
    return (plane.api.get(path) or {}).get("status", {})


@pytest.fixture(scope="module")
def programs() -> Binaries:
    return binaries.ensure("1.35", print)


@pytest.fixture(scope="module")
def plane(programs: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    workdir = tmp_path_factory.mktemp("plane")
    with ControlPlane.start(workdir, programs, token=secrets.token_urlsafe(), progress=print) as started:
        pids = started.processes.pids
        yield started
    until(lambda: not any(alive(pid) for pid in pids), 5)
    assert [entry.name for entry in (workdir / "control-plane").iterdir()] == ["logs"]


@pytest.mark.control_plane
class TestReal:
    def test_says_its_version_and_checks_strictly(self, plane: ControlPlane) -> None:
        version = plane.api.get("/version") or {}
        assert (version["gitVersion"], version["major"], version["minor"]) == ("v1.35.4", "1", "35")
        wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dataa": {}}
        with pytest.raises(ApiError, match="dataa"):
            plane.api.create("/api/v1/namespaces/default/configmaps", wrong)

    def test_lets_nobody_else_in(self, plane: ControlPlane) -> None:
        context = ssl.create_default_context(cafile=None)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            connection = http.client.HTTPSConnection(
                plane.endpoint.removeprefix("https://"), context=context, timeout=5
            )
            connection.request("GET", "/api", headers=headers)
            assert connection.getresponse().status == http.HTTPStatus.UNAUTHORIZED
            connection.close()

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux serves all of 127.0.0.0/8")
    def test_listens_on_one_loopback_address_only(self, plane: ControlPlane) -> None:
        port = urllib.parse.urlsplit(plane.endpoint).port
        assert port is not None
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        # A listener on every interface would answer here as well.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)

    def test_one_directory_one_control_plane(self, plane: ControlPlane, programs: Binaries) -> None:
        workdir = plane.directory.parent
        assert owner(workdir) == os.getpid()
        with pytest.raises(ControlPlaneError, match="Another control plane"):
            ControlPlane.start(workdir, programs, token="t", progress=print)

    def test_eight_gpus_fill_a_node(self, plane: ControlPlane) -> None:
        plane.api.create("/api/v1/nodes", node("gpu", **{"nvidia.com/gpu": "8"}))
        plane.api.create("/api/v1/namespaces/default/pods", pod("first", scheduler="volcano"))
        until(lambda: phase(plane, "first") == "Running")
        plane.api.create("/api/v1/namespaces/default/pods", pod("second"))

        def refused() -> bool:
            found = plane.api.get("/api/v1/namespaces/default/pods/second") or {}
            conditions = found.get("status", {}).get("conditions", [])
            return any("Insufficient nvidia.com/gpu" in one.get("message", "") for one in conditions)

        until(refused)
        plane.api.delete("/api/v1/namespaces/default/pods/first")
        until(lambda: phase(plane, "second") == "Running")
        plane.api.delete("/api/v1/namespaces/default/pods/second")

    def test_helm_waits_for_a_stand_in_chart(self, plane: ControlPlane, programs: Binaries, tmp_path: Path) -> None:
        plane.api.create("/api/v1/nodes", node("system"))
        chart = stand_in_chart(tmp_path, "kuberay-operator", "1.7.0", node_selector={"role": "system"})
        lost = stand_in_chart(tmp_path, "lost", "1.0.0", node_selector={"role": "nowhere"})

        def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [str(programs.helm), *arguments, "--kubeconfig", str(plane.kubeconfig), "--namespace", "ray"]
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

        installed = helm("install", "ray", str(chart), "--create-namespace", "--wait", "--set", "image.tag=x,a.b=c")
        assert installed.returncode == 0, installed.stderr
        status = deployment(plane, "/apis/apps/v1/namespaces/ray/deployments/ray-stand-in")
        assert status["readyReplicas"] == 1
        refused = helm("install", "lost", str(lost), "--wait", "--timeout", "3s")
        assert refused.returncode != 0, "a pod without a node must not pass for ready"
        assert helm("uninstall", "ray", "--wait").returncode == 0
        assert not deployment(plane, "/apis/apps/v1/namespaces/ray/deployments/ray-stand-in")

    def test_upstream_definitions_are_served(self, plane: ControlPlane) -> None:
        if not (crd_dir := os.environ.get("CRD_DIR")):
            pytest.skip("CRD_DIR names no upstream definitions")
        definitions = crds.load([Path(crd_dir)])
        assert len(definitions) > 100
        crds.install(plane.api, definitions)
        assert {one.name for one in definitions} <= crds.established(plane.api)

    def test_keda_scales_by_what_prometheus_says(self, plane: ControlPlane) -> None:
        if not (crd_dir := os.environ.get("CRD_DIR")):
            pytest.skip("KEDA reads its own definitions; CRD_DIR names none")
        crds.install(plane.api, crds.load(sorted(Path(crd_dir).glob("keda-*"))))
        plane.api.apply("/api/v1/nodes/room", node("room"))
        scaled = yaml.safe_load_all(_SCALED)
        deployments, objects = (
            "/apis/apps/v1/namespaces/default/deployments",
            "/apis/keda.sh/v1alpha1/namespaces/default/scaledobjects",
        )
        plane.api.create(deployments, next(scaled))
        with (
            MetricsStandIn() as metrics,
            KedaProcesses.start(plane, binaries.ensure_keda(print), proxy=metrics.url, progress=print) as keda,
        ):
            plane.api.create(objects, next(scaled))
            until(lambda: metrics.seen)
            assert deployment(plane, f"{deployments}/scaled").get("replicas") == 1
            metrics.set("sum(waiting)", 40)
            until(lambda: deployment(plane, f"{deployments}/scaled").get("readyReplicas") == 8, 60)
            keda.check()
        # With KEDA gone, its aggregated API must not keep a namespace from being deleted.
        plane.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "brief"}})
        plane.api.delete("/api/v1/namespaces/brief")
        until(lambda: plane.api.get("/api/v1/namespaces/brief") is None)

    def test_the_hpa_takes_the_steps_that_a_replay_takes(self, plane: ControlPlane) -> None:
        """One more replica or as many as there are in a period, of 10 s here: the declared policies, both ways."""
        if not (crd_dir := os.environ.get("CRD_DIR")):
            pytest.skip("KEDA reads its own definitions; CRD_DIR names none")
        crds.install(plane.api, crds.load(sorted(Path(crd_dir).glob("keda-*"))))
        plane.api.apply("/api/v1/nodes/room", node("room"))
        deployments = "/apis/apps/v1/namespaces/default/deployments"
        plane.api.create(deployments, yaml.safe_load(_SCALED.split("---", maxsplit=1)[0].replace("scaled", "stepped")))
        most, period = 11, 10
        scaler = ScaledObject(
            name="stepped",
            namespace="default",
            labels={},
            target_api_version="apps/v1",
            target_kind="Deployment",
            target_name="stepped",
            min_replicas=1,
            max_replicas=most,
            polling_seconds=1,
            cooldown_seconds=60,
            initial_cooldown_seconds=0,
            prometheus=(
                PrometheusTrigger(
                    name="concurrency",
                    server="http://prometheus-operated.monitoring.svc:9090",
                    query="sum(asked)",
                    threshold="10",
                    metric_type="AverageValue",
                ),
            ),
            cron=(),
            up=ScaleRule(pods=1, percent=100, period_seconds=period, stabilization_seconds=0),
            down=ScaleRule(pods=1, period_seconds=600, stabilization_seconds=600),
        )
        declared = {"apiVersion": scaler.api_version, "kind": scaler.kind, "metadata": scaler.metadata()}
        course: dict[int, float] = {}
        with (
            MetricsStandIn() as metrics,
            KedaProcesses.start(plane, binaries.ensure_keda(print), proxy=metrics.url, progress=print),
        ):
            metrics.set("sum(asked)", 1)
            plane.api.create(
                "/apis/keda.sh/v1alpha1/namespaces/default/scaledobjects", {**declared, "spec": scaler.spec()}
            )
            until(lambda: metrics.seen)
            metrics.set("sum(asked)", 1000)

            def grown() -> bool:
                replicas = (plane.api.get(f"{deployments}/stepped") or {})["spec"]["replicas"]
                course.setdefault(replicas, time.monotonic())
                return replicas == most

            until(grown, 240)
        assert list(course) == replayed(most, period)
        times = list(course.values())[1:]
        assert all(later - earlier >= period - 2 for earlier, later in itertools.pairwise(times))

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_nothing_is_left_of_an_interrupted_one(
        self, programs: Binaries, tmp_path: Path, number: signal.Signals
    ) -> None:
        assert programs.etcd.exists()  # made before, so that `up` finds it in the cache
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        made = programs.etcd.parents[2]
        (tmp_path / "inference-platform" / "controlplane").mkdir(parents=True)
        for entry in made.glob("k*-linux-*"):
            (tmp_path / "inference-platform" / "controlplane" / entry.name).symlink_to(entry)
        command = [sys.executable, "-m", "rehearsal.controlplane", "up"]
        environment.pop("CRD_DIR", None)
        running = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert running.stdout is not None
        kubeconfig = Path(running.stdout.readline().strip().removeprefix("export KUBECONFIG="))
        assert kubeconfig.exists()

        def left() -> str:
            found = subprocess.run(["pgrep", "-f", str(kubeconfig.parent)], capture_output=True, text=True, check=False)
            return found.stdout

        assert len(left().split()) >= 4
        running.send_signal(number)
        _output, said = running.communicate(timeout=30)
        until(lambda: not left(), 10)
        assert "Traceback" not in said
        if number != signal.SIGKILL:  # after a kill -9 the next start cleans up
            assert not kubeconfig.exists()


def replayed(most: int, period: int) -> list[int]:
    """The numbers of replicas that a replay goes through from one on, asked for far more than `most` serve."""
    scaling = replace(
        stack_plan("prod").models[0].scaling,
        min_replicas=1,
        max_replicas=most,
        triggers=(MetricTrigger(name="concurrency", query="", threshold="10", metric_type="AverageValue"),),
        scale_up_pods=1,
        scale_up_percent=100,
        scale_up_period_seconds=period,
    )
    scaler, replicas, found = KedaScaler(scaling, ()), 1, [1]
    for second in range(20 * period):
        seen = Observation(
            second=second, waiting=0, running=1000, ttft_p99_seconds=0, replicas=replicas, ready=replicas
        )
        replicas = scaler.wanted(seen)
        found += [replicas] if replicas != found[-1] else []
    return found


_SCALED = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: scaled, namespace: default}
spec:
  selector: {matchLabels: {app: scaled}}
  template:
    metadata: {labels: {app: scaled}}
    spec: {nodeSelector: {role: room}, containers: [{name: c, image: x}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: scaled, namespace: default}
spec:
  scaleTargetRef: {name: scaled}
  minReplicaCount: 1
  maxReplicaCount: 8
  triggers:
    - type: prometheus
      metadata: {serverAddress: "http://prometheus-operated.monitoring.svc:9090", query: sum(waiting), threshold: "5"}
"""
