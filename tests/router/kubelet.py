"""What a node does for the pods of models: an address for each, the simulated engine on it, its probes and its end.

Real pods are bound and their real status is set; the process on a loopback address of its own listens on the ports that
the pod declares, with the key of its Secret. A pod ends as its specification says: the `preStop` command runs, then
SIGTERM, then SIGKILL after the grace period. Ports are the rendered ones; of probes only the pauses are shorter.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.naming import MODEL_LABEL
from planner.plan import ModelPlan
from planner.router import COMPONENT_LABEL, MODEL_SERVER
from rehearsal.kube import NODES, PODS, Json, Kind, Kube, key_of
from rehearsal.pods import condition
from tests.router import engine

NODE = "loopback"
_BINDINGS = Kind(api_version="v1", plural="pods", kind="Binding")
_TICK_SECONDS = 0.1
_PROBE_TIMEOUT_SECONDS = 5
_LOAD_SECONDS = 8
"""An engine that crashed is not back at once: it loads its weights."""
_HANDOVER_VARIABLE = "VLLM_NIXL_SIDE_CHANNEL_PORT"
_HANDOVER_ANNOTATION = "sglang.ai/bootstrap-port"


@dataclass
class Running:
    """A pod that has a process."""

    name: str
    model: str
    address: str
    command: list[str]
    process: subprocess.Popen[bytes]
    probe: tuple[str, int, int]
    """Of readiness: path, port, and failures in a row that make it not ready."""
    pre_stop: list[str]
    ready: bool = False
    held_unready: bool = False
    """Whether the API says that it is not ready, whatever its probe says."""
    misses: int = 0
    hook: subprocess.Popen[bytes] | None = None
    ends_by: float = 0.0
    leaving: bool = False
    starts: float = 0.0

    @property
    def url(self) -> str:
        return f"{self.address}:{self.probe[1]}"


class Kubelet(threading.Thread):
    """Runs the pods of model servers in one namespace.

    Attributes:
        pods: those that have a process, by uid.
        room: how many replicas of a model have GPUs, all where nothing is said; a pod beyond waits until one is gone.
        killed: pods that did not end within their grace period.
    """

    def __init__(self, kube: Kube, namespace: str, models: Mapping[str, ModelPlan], keys: Mapping[str, str]) -> None:
        """`keys` are the values of Secrets by `<name>/<key>`."""
        super().__init__(daemon=True)
        self.pods: dict[str, Running] = {}
        self.room: dict[str, int] = {}
        self.killed: list[str] = []
        self._kube, self._namespace, self._models, self._keys = kube, namespace, models, keys
        net = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(255)}"
        self._addresses = (f"{net}.{host}" for host in itertools.count(1))
        self._end = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._end.wait(_TICK_SECONDS):
                self._tick()
        except BaseException as error:  # noqa: BLE001 - raised again where the test looks
            self._failure = error

    def check(self) -> None:
        """Raise what went wrong."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End everything at once."""
        self._end.set()
        self.join()
        for pod in self.pods.values():
            pod.process.kill()
            pod.process.wait()
            if pod.hook is not None:
                pod.hook.kill()
                pod.hook.wait()
        self.check()

    def of(self, model: str, *, ready: bool = True) -> list[Running]:
        """Pods of a model, those that are ready and stay."""
        self.check()
        found = [pod for pod in list(self.pods.values()) if pod.model == model]
        return [pod for pod in found if pod.ready and not pod.leaving] if ready else found

    def say_unready(self, pod: Running, *, unready: bool = True) -> None:
        """Say of a pod that it is not ready, as the control plane does when it hears nothing of a node."""
        pod.held_unready = unready
        self._report(pod, ready=not unready)

    def _tick(self) -> None:
        collection = PODS.path(self._namespace)
        found = self._kube.api.get(f"{collection}?labelSelector={COMPONENT_LABEL}={MODEL_SERVER}") or {"items": []}
        taken = Counter(pod.model for pod in self.pods.values())
        there: set[str] = set()
        for item in found["items"]:
            uid, model = item["metadata"]["uid"], item["metadata"]["labels"][MODEL_LABEL]
            there.add(uid)
            ends = "deletionTimestamp" in item["metadata"]
            if uid in self.pods:
                self._look(uid, self.pods[uid], item["metadata"] if ends else None)
            elif not ends and item.get("status", {}).get("phase") == "Pending" and taken[model] < self._room(model):
                taken[model] += 1
                self.pods[uid] = self._start(item)
        for uid in self.pods.keys() - there:
            gone = self.pods.pop(uid)
            gone.process.kill()
            gone.process.wait()

    def _room(self, model: str) -> int:
        return self.room.get(model, sys.maxsize)

    def _start(self, item: Json) -> Running:
        name, model = item["metadata"]["name"], item["metadata"]["labels"][MODEL_LABEL]
        (container,) = item["spec"]["containers"]
        port = next((one["containerPort"] for one in container.get("ports", ()) if one["name"] == "http"), None)
        asked = container.get("readinessProbe", {})
        address = self._free_address(port)
        # Workers of a group serve nobody: a listener on the port that leaders have shows whether they are asked.
        served = self._models[model]
        endpoint = port or served.container.port
        command = [sys.executable, engine.__file__, f"--host={address}", f"--port={endpoint}"]
        command += [f"--key={self._key(container)}", f"--kind={served.engine}"]
        group = served.disaggregation
        command.append(f"--model={group.peer if group and group.role == 'prefill' else model}")
        if group is not None:
            command.append(f"--role={group.role}")
            if (handover := _handover_port(item, container)) is not None:
                command.append(f"--handover-port={handover}")
        binding: Json = {
            "metadata": {"name": name, "namespace": self._namespace},
            "target": {"apiVersion": "v1", "kind": NODES.kind, "name": NODE},
        }
        self._kube.api.create(
            _BINDINGS.path(self._namespace, name, "binding"), {"apiVersion": "v1", "kind": "Binding", **binding}
        )
        path = asked.get("httpGet", {}).get("path", "/health")
        pod = Running(
            name=name,
            model=model,
            address=address,
            command=command,
            process=subprocess.Popen(command),
            probe=(path, endpoint, int(asked.get("failureThreshold", 3))),
            pre_stop=container["lifecycle"]["preStop"]["exec"]["command"],
        )
        self._report(pod, ready=False)
        return pod

    def _key(self, container: Mapping[str, Any]) -> str:
        """The only secret of an engine's environment is its API key; workers of a group have none."""
        found = {
            f"{reference['name']}/{reference['key']}"
            for one in container["env"]
            if (reference := one.get("valueFrom", {}).get("secretKeyRef")) is not None
        }
        assert len(found) <= 1
        return "".join(self._keys[name] for name in found)

    def _free_address(self, port: int | None) -> str:
        for address in self._addresses:
            with socket.socket() as one, contextlib.suppress(OSError):
                one.bind((address, port or 0))
                return address
        raise AssertionError("endless")

    def _look(self, uid: str, pod: Running, deleted: Json | None) -> None:
        if deleted is not None:
            self._lead_out(uid, pod, float(deleted["deletionGracePeriodSeconds"]))
        elif pod.process.poll() is not None:  # the container is started again in place
            if pod.ready:
                pod.starts = time.monotonic() + _LOAD_SECONDS
                self._report(pod, ready=False)
            if time.monotonic() >= pod.starts:
                pod.process = subprocess.Popen(pod.command)
        elif not pod.held_unready:
            passed = _passes(pod)
            pod.misses = 0 if passed else pod.misses + 1
            if passed != pod.ready and (passed or pod.misses >= pod.probe[2]):
                self._report(pod, ready=passed)

    def _lead_out(self, uid: str, pod: Running, grace_seconds: float) -> None:
        """One step of a pod's end."""
        if not pod.leaving:
            pod.leaving, pod.ends_by = True, time.monotonic() + grace_seconds
            pod.hook = subprocess.Popen(pod.pre_stop)
        if time.monotonic() > pod.ends_by:
            self.killed.append(pod.name)
            pod.process.kill()
            pod.process.wait()
        if pod.hook is not None and pod.hook.poll() is not None:
            pod.hook = None
            pod.process.terminate()
        if pod.process.poll() is not None:
            del self.pods[uid]
            self._kube.api.delete(f"{PODS.path(self._namespace, pod.name)}?gracePeriodSeconds=0")

    def _report(self, pod: Running, *, ready: bool) -> None:
        conditions = [
            condition(kind, met=ready, reason="Probed") for kind in ("Initialized", "ContainersReady", "Ready")
        ]
        status: Json = {"phase": "Running", "podIP": pod.address, "conditions": conditions}
        self._kube.patch(PODS, (self._namespace, pod.name), {"status": status}, subresource="status")
        pod.ready = ready


def make_node(kube: Kube) -> None:
    """The node that pods are bound to; its heartbeats are simulated."""
    capacity = {"cpu": "10k", "memory": "100Ti", "pods": "1k"}
    kube.create(
        NODES,
        {
            "metadata": {"name": NODE, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "spec": {"taints": [{"key": "loopback", "effect": "NoSchedule"}]},
            "status": {"capacity": capacity, "allocatable": capacity},
        },
    )


def remove_pods(kube: Kube, namespace: str) -> None:
    """All at once."""
    for item in kube.list(PODS):
        if key_of(item)[0] == namespace:
            kube.api.delete(f"{PODS.path(*key_of(item))}?gracePeriodSeconds=0")


def _handover_port(item: Json, container: Json) -> int | None:
    """Where decode reads a prompt's cache: what the pod tells the engine, or the router."""
    variables = {one["name"]: one.get("value") for one in container["env"]}
    port = item["metadata"]["annotations"].get(_HANDOVER_ANNOTATION) or variables.get(_HANDOVER_VARIABLE)
    return int(port) if port else None


def _passes(pod: Running) -> bool:
    path, port, _ = pod.probe
    connection = http.client.HTTPConnection(pod.address, port, timeout=_PROBE_TIMEOUT_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    return False
