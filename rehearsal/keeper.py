"""The ladder keeper itself, as a local process: the script, the orders and the rights that the program declares.

It runs while its Deployment has a ready pod, out of that pod's ConfigMap, with a token of its own ServiceAccount, so
that what its roles forbid is forbidden here. Planned time is compressed.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from planner.naming import GROUP_ROLE_LABEL, LADDER_KEEPER, MODEL_LABEL, RUNG_LABEL
from planner.plan import ModelPlan, Plan
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.findings import Finding
from rehearsal.kube import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS, SERVICE_ACCOUNTS, Caches, Json, Kind, Kube
from rehearsal.pods import is_ready

_EVENTS: Final = Kind(api_version="v1", plural="events", kind="Event")
_KEY: Final = (LADDER_KEEPER, LADDER_KEEPER)
_TOKEN_SECONDS: Final = 3600
_POLL_SECONDS: Final = 0.25


class LadderKeeper:
    """Starts and ends the keeper with its Deployment."""

    kinds: Sequence[Kind] = (DEPLOYMENTS, CONFIG_MAPS)

    def __init__(self, kube: Kube, plane: ControlPlane, *, compression: float) -> None:
        self._kube = kube
        self._plane = plane
        self._compression = compression
        # A rehearsal must end alike on every day: maintenance windows and blocks' ends keep to no clock.
        self._calendar = "closed"
        self._runs: str | None = None
        """The calendar that it runs with."""

    def open_windows(self) -> None:
        """From now on groups may climb: the keeper starts again with every window open."""
        self._calendar = "open"

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Run where a pod would."""
        deployment = caches.get(DEPLOYMENTS, _KEY)
        files = caches.get(CONFIG_MAPS, _KEY)
        if deployment and files and deployment.get("status", {}).get("readyReplicas"):
            if self._runs != self._calendar:
                self._plane.processes.end(LADDER_KEEPER)
                self._start(deployment, files, self._calendar)
        elif self._runs:
            self._plane.processes.end(LADDER_KEEPER)
            self._runs = None
        return None

    def _start(self, deployment: Json, files: Json, calendar: str) -> None:
        """Lay the ConfigMap's files where the pod would have them, and run its command."""
        pod: Json = deployment["spec"]["template"]["spec"]
        container: Json = pod["containers"][0]
        home = self._plane.directory / "keeper"
        for item in pod["volumes"][0]["configMap"]["items"]:
            path = home / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files["data"][item["key"]])
        (home / "ca.crt").write_bytes(base64.b64decode(self._plane.ca_data))
        (home / "token").write_text(self._token(pod["serviceAccountName"]))
        arguments = [str(one).replace(container["workingDir"], str(home)) for one in container["args"]]
        self._plane.processes.spawn(
            LADDER_KEEPER,
            [
                sys.executable,
                *container["command"][1:],
                *arguments,
                "--no-metrics",
                f"--time-scale={self._compression}",
                f"--calendar={calendar}",
            ],
            environment={
                "PATH": os.environ.get("PATH", ""),
                "HOSTNAME": f"{LADDER_KEEPER}-rehearsed",
                "PYTHONPATH": str(home),
                "KEEPER_API_URL": self._plane.endpoint,
                "KEEPER_CA_FILE": str(home / "ca.crt"),
                "KEEPER_TOKEN_FILE": str(home / "token"),
            },
            directory=home,
        )
        self._runs = calendar

    def _token(self, account: str) -> str:
        request: Json = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": _TOKEN_SECONDS},
        }
        return str(
            self._kube.api.create(SERVICE_ACCOUNTS.path(*(LADDER_KEEPER, account), "token"), request)["status"]["token"]
        )


def await_climb(
    kube: Kube, keeper: LadderKeeper | None, plan: Plan, caches: Caches, *, limit_seconds: float
) -> list[Finding]:
    """Groups of node-group pools come to their best rung, as far as it holds them, and the keeper has seen it."""
    if keeper is None:
        return []
    keeper.open_windows()
    until = time.monotonic() + limit_seconds
    while True:
        left = [model for model in plan.models if not _climbed(plan, model, caches)]
        if (not left and _at_rest(kube)) or time.monotonic() > until:
            break
        time.sleep(_POLL_SECONDS)
    return [
        Finding(
            check="climb",
            subject=f"model {model.name}",
            field="",
            problem=f"is not on {plan.pool(model.pool).rungs[0].name} {limit_seconds:.0f} s after that had its nodes",
            remedy="read what the ladder keeper says in its notes",
        )
        for model in left
    ]


def _at_rest(kube: Kube) -> bool:
    """Whether every climb that the keeper began has ended."""
    reasons = [line.split(": ")[1] for line in told(kube)]
    return reasons.count("ClimbStarted") <= sum(reasons.count(end) for end in ("ClimbDone", "ClimbFailed"))


def _climbed(plan: Plan, model: ModelPlan, caches: Caches) -> bool:
    pool = plan.pool(model.pool)
    best = pool.rungs[0]
    groups = min(model.scaling.min_replicas, best.max_nodes // model.layout.nodes)
    if pool.provisioner != "node_group" or model.scaling.min_replicas > groups:
        return True
    on_best = {node["metadata"]["name"] for node in caches.all(NODES) if best.name == _rung_of(node)}
    pods = [pod for pod in caches.all(PODS) if pod["metadata"].get("labels", {}).get(MODEL_LABEL) == model.name]
    with_gpus = [pod for pod in pods if pod["metadata"]["labels"].get(GROUP_ROLE_LABEL)]
    return bool(with_gpus) and all(is_ready(pod) and pod["spec"].get("nodeName") in on_best for pod in with_gpus)


def _rung_of(node: Json) -> str:
    return str(node["metadata"]["labels"].get(RUNG_LABEL, ""))


def told(kube: Kube) -> list[str]:
    """What the keeper has said in Events, oldest first."""
    mine = [event for event in kube.list(_EVENTS) if event.get("source", {}).get("component") == LADDER_KEEPER]
    mine.sort(key=lambda event: str(event.get("firstTimestamp", "")))
    return [f"ladder keeper: {event['reason']}: {event['message']}" for event in mine]
