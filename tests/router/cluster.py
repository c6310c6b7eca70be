"""What our components render for models, on a real control plane, and the real router as a pod of it would run.

The router has the rendered arguments and the rights of its rendered account, whose token it finds where a pod has it;
where this machine allows no mounts of one's own, a kubeconfig names the same token.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.priorities import PRIORITY_CLASSES
from planner.plan import ModelPlan, Plan
from rehearsal import lws
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.controlplane.components import kubeconfig, write_yaml
from rehearsal.kube import (
    DEPLOYMENTS,
    LEADER_WORKER_SETS,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Json,
    Kind,
    Kube,
)
from tests.router.fleet import PYTHON, Fleet, fleet
from tests.router.kubelet import Kubelet, Running, make_node, remove_pods
from tests.router.load import get, until
from tests.serving.worlds import manifest, serve

ROLES = Kind(api_version="rbac.authorization.k8s.io/v1", plural="roles", kind="Role")
BINDINGS = Kind(api_version="rbac.authorization.k8s.io/v1", plural="rolebindings", kind="RoleBinding")
_PRIORITIES = Kind(api_version="scheduling.k8s.io/v1", plural="priorityclasses", kind="PriorityClass", namespaced=False)
_RENDERED = (SERVICE_ACCOUNTS, ROLES, BINDINGS, SECRETS, DEPLOYMENTS, LEADER_WORKER_SETS)
_TOKEN_SECONDS = 3600
_IN_POD = "/var/run/secrets/kubernetes.io/serviceaccount"
_OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
_AS_IN_A_POD = f'mount -t tmpfs tmpfs /var/run/ && mkdir -p {_IN_POD} && cp "$ACCOUNT"/* {_IN_POD} && exec "$@"'


@dataclass
class Cluster:
    """One model with its router's account, other models beside it, and pods that run."""

    plane: ControlPlane
    kube: Kube
    model: ModelPlan
    objects: Mapping[tuple[str, str], Json]
    """By kind and name, as they are rendered."""
    kubelet: Kubelet
    fleet: Fleet

    @property
    def key(self) -> str:
        """That clients of the model send."""
        return self.fleet.key

    @property
    def port(self) -> int:
        """Of the router."""
        return self.fleet.port

    def deploy(self, *models: str) -> None:
        """Create what is rendered for them, but for their routers' pods and rights."""
        self.create(*((SERVICE_ACCOUNTS, name) for name in models), *((DEPLOYMENTS, name) for name in models))

    def deploy_group(self, model: str) -> None:
        """The pods that the LeaderWorkerSet's controller makes of one group."""
        self.create((SERVICE_ACCOUNTS, model))
        spec = self.objects[LEADER_WORKER_SETS.kind, model]["spec"]["leaderWorkerTemplate"]
        for worker in range(spec["size"]):
            template = spec["workerTemplate" if worker else "leaderTemplate"]
            labels = {**template["metadata"]["labels"], lws.NAME: model, lws.GROUP: "0", lws.WORKER: str(worker)}
            metadata = {**template["metadata"], "labels": labels, "namespace": self.model.namespace}
            name = f"{model}-0-{worker}" if worker else f"{model}-0"
            self.kube.create(PODS, {**template, "metadata": {**metadata, "name": name}})

    def create(self, *objects: tuple[Kind, str]) -> None:
        for kind, name in objects:
            assert self.kube.create(kind, self.objects[kind.kind, name])

    def scale(self, model: str, replicas: int) -> None:
        """As KEDA's HorizontalPodAutoscaler does."""
        self.kube.patch(DEPLOYMENTS, (self.model.namespace, model), {"spec": {"replicas": replicas}})

    def restart(self, model: str) -> None:
        """`kubectl rollout restart`; new pods wait for the GPUs of old ones, which are all that there are."""
        self.kubelet.room[model] = len(self.kubelet.of(model))
        stamp = {"kubectl.kubernetes.io/restartedAt": datetime.now(UTC).isoformat()}
        change = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
        self.kube.patch(DEPLOYMENTS, (self.model.namespace, model), change)

    def rolled_out(self, model: str) -> bool:
        """`kubectl rollout status`, and every old pod is gone."""
        found = self.kube.get(DEPLOYMENTS, (self.model.namespace, model)) or {}
        status, wanted = found["status"], found["spec"]["replicas"]
        counts = {status.get(key) for key in ("replicas", "updatedReplicas", "availableReplicas")}
        seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        return seen and counts == {wanted} and len(self.kubelet.of(model, ready=False)) == wanted

    async def ready(self, model: str, replicas: int) -> list[Running]:
        """Its pods, once so many are ready."""
        await until(lambda: len(self.kubelet.of(model)) == replicas, f"{replicas} ready pods of {model}")
        return self.kubelet.of(model)

    async def known(self) -> dict[str, bool]:
        """Whom the router knows, and whether it takes them for healthy."""
        _, text = await get(self.port, "/workers", key=self.key)
        workers: list[dict[str, Any]] = json.loads(text)["workers"]
        return {worker["url"].removeprefix("http://"): worker["is_healthy"] for worker in workers}

    def grant(self) -> None:
        """The rights that are rendered for the router."""
        assert self.model.router is not None
        self.create((ROLES, self.model.router.name), (BINDINGS, self.model.router.name))

    def token(self) -> str:
        """Of the router's account."""
        assert self.model.router is not None
        path = SERVICE_ACCOUNTS.path(self.model.namespace, self.model.router.name, "token")
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        answer = self.kube.api.create(path, {**asked, "spec": {"expirationSeconds": _TOKEN_SECONDS}})
        return str(answer["status"]["token"])

    def start_router(self) -> None:
        """The container of the router's rendered pod, on ports of its own."""
        assert self.model.router is not None
        pod = self.objects[DEPLOYMENTS.kind, self.model.router.name]["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == self.model.router.name
        container = next(one for one in pod["containers"] if one["name"] == "router")
        variables = {one["name"]: self._secret(one["valueFrom"]["secretKeyRef"]) for one in container["env"]}
        arguments = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], arg) for arg in container["args"]]
        listeners = {
            "host": "127.0.0.1",
            "port": self.fleet.port,
            "prometheus-host": "127.0.0.1",
            "prometheus-port": self.fleet.metrics_port,
        }
        arguments += [f"--{option}={value}" for option, value in listeners.items()]  # the last one counts
        before, environment = self._identity()
        self.fleet.spawn_router([*before, str(PYTHON), *container["command"][1:], *arguments], environment)

    def _identity(self) -> tuple[list[str], dict[str, str]]:
        """What makes a process the pod's account: a command to begin with, and variables."""
        home = self.fleet.folder / "account"
        home.mkdir()
        token = self.token()
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(home)}
        if not own_mounts():
            config = kubeconfig(self.plane.endpoint, self.plane.ca_data, token)
            return [], {**environment, "KUBECONFIG": str(write_yaml(home / "kubeconfig", config, secret=True))}
        (home / "token").write_text(token)
        (home / "ca.crt").write_bytes(base64.b64decode(self.plane.ca_data))
        (home / "namespace").write_text(self.model.namespace)
        host, _, port = self.plane.endpoint.removeprefix("https://").partition(":")
        of_pod = {"ACCOUNT": str(home), "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        return [*_OWN_MOUNTS, "sh", "-c", _AS_IN_A_POD, "sh"], {**environment, **of_pod}

    def _secret(self, reference: Mapping[str, str]) -> str:
        return str(self.objects[SECRETS.kind, reference["name"]]["stringData"][reference["key"]])


@functools.cache
def own_mounts() -> bool:
    """Whether a process without rights may have mounts of its own."""
    tried = [*_OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/var/run/"]
    return (
        shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    )


@contextlib.contextmanager
def cluster(plane: ControlPlane, plan: Plan, name: str, folder: Path) -> Generator[Cluster]:
    """The namespace of models with the account and the key of one of them; empty again afterwards."""
    kube = Kube(endpoint=plane.endpoint, ca_data=plane.ca_data, token=plane.token)
    models = {model.name: model for model in plan.models}
    model = models[name]
    kinds = {kind.kind for kind in _RENDERED}
    rendered = [manifest(one) for one in serve(plan) if one.inputs.get("kind") in kinds]
    objects = {(one["kind"], one["metadata"]["name"]): one for one in rendered}
    keys = {
        f"{found}/{key}": value
        for (kind, found), one in objects.items()
        if kind == SECRETS.kind
        for key, value in one["stringData"].items()
    }
    make_node(kube)
    for one in PRIORITY_CLASSES:
        kube.create(_PRIORITIES, {"metadata": {"name": one.name}, "value": one.value})
    assert kube.create(NAMESPACES, {"metadata": {"name": model.namespace}})
    kubelet = Kubelet(kube, model.namespace, models, keys)
    assert model.router is not None
    with fleet(model, folder, keys[f"{model.api_key.name}/{model.api_key.key}"]) as found:
        built = Cluster(plane, kube, model, objects, kubelet, found)
        built.create((SERVICE_ACCOUNTS, model.router.name), (SECRETS, model.api_key.name))
        kubelet.start()
        try:
            yield built
        finally:
            _empty(kube, model.namespace)
            kubelet.stop()


def _empty(kube: Kube, namespace: str) -> None:
    """Take everything away, so that the next test finds nothing of this one."""
    kube.delete(NAMESPACES, ("", namespace))
    for _ in range(600):
        remove_pods(kube, namespace)
        if kube.get(NAMESPACES, ("", namespace)) is None:
            return
        time.sleep(0.1)
    raise AssertionError(f"namespace {namespace} is still there")
