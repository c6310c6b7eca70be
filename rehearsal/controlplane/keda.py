"""KEDA's operator and metrics adapter as local processes, so that ScaledObjects get real autoscalers and metrics."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import urllib3

from rehearsal.controlplane.api import ApiError
from rehearsal.controlplane.binaries import KedaBinaries
from rehearsal.controlplane.certificates import Authority
from rehearsal.controlplane.cluster import ControlPlane, free_ports
from rehearsal.controlplane.components import LOOPBACK
from rehearsal.controlplane.errors import ControlPlaneError

_OPERATOR = "keda-operator"
_ADAPTER = "keda-adapter"
_API_SERVICE = "v1beta1.external.metrics.k8s.io"
_API_SERVICE_PATH = f"/apis/apiregistration.k8s.io/v1/apiservices/{_API_SERVICE}"

# Not KEDA's own namespace: its chart owns objects there, and destroying that namespace must not take ours along.
_NAMESPACE = "rehearsal-keda"
_SERVICE = "metrics-adapter"
_SERVICE_PATH = f"/api/v1/namespaces/{_NAMESPACE}/services/{_SERVICE}"

#: Where KEDA looks for the Secrets of cluster-wide trigger authentications: the namespace of its chart.
KEDA_NAMESPACE = "keda"

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.2


class KedaProcesses:
    """KEDA running against a control plane; `KedaProcesses.start` makes one, `stop` ends it.

    Start it after KEDA's CRDs are served and stop it before namespaces are deleted: while the API server knows an
    aggregated API that nobody serves, it finishes the deletion of no namespace.

    The adapter's own /metrics listener knows no bind address: it opens a free port on every interface, and shows
    nothing but its own counters there. All else is on the loopback interface.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._running = True

    @classmethod
    def start(
        cls, plane: ControlPlane, binaries: KedaBinaries, *, proxy: str, progress: Callable[[str], None]
    ) -> KedaProcesses:
        """Start both processes and wait until the API server serves external metrics through them.

        Args:
            plane: a running control plane that serves KEDA's kinds.
            binaries: what `binaries.ensure_keda` returned.
            proxy: the URL of a `MetricsStandIn`, which answers for every host that a trigger names.
            progress: told what happens, in words for a person.

        Raises:
            ControlPlaneError: a process ended or external metrics were not served in time. Neither runs then.
        """
        keda = cls(plane)
        try:
            keda._run(binaries, proxy, progress)
        except BaseException:
            with contextlib.suppress(ApiError, urllib3.exceptions.HTTPError):
                keda.stop()
            raise
        return keda

    def __enter__(self) -> KedaProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the aggregated API away and end both processes. Calling it twice is fine."""
        if not self._running:
            return
        self._running = False
        try:
            for path in (_API_SERVICE_PATH, _SERVICE_PATH, f"/api/v1/namespaces/{_NAMESPACE}"):
                self._plane.api.delete(path)
        finally:
            self._plane.processes.end(_ADAPTER)
            self._plane.processes.end(_OPERATOR)

    def check(self) -> None:
        """Raise if one of the processes ended by itself.

        Raises:
            ControlPlaneError: names the process and shows the end of its log.
        """
        self._plane.check(_OPERATOR, _ADAPTER)

    def _run(self, binaries: KedaBinaries, proxy: str, progress: Callable[[str], None]) -> None:
        began = time.monotonic()
        plane = self._plane
        grpc_port, adapter_port = free_ports(2)
        directory = plane.directory / "keda"
        authority = Authority(directory, "ca")
        # The folder is what KEDA calls its certificate directory: ca.crt, tls.crt and tls.key.
        pair = authority.issue("keda", hosts=("localhost", LOOPBACK, f"{_SERVICE}.{_NAMESPACE}.svc"), stem="tls")
        progress(f"Starting KEDA {binaries.version}")
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(directory),
            "KUBECONFIG": str(plane.kubeconfig),
            "KEDA_CLUSTER_OBJECT_NAMESPACE": KEDA_NAMESPACE,
            "POD_NAMESPACE": KEDA_NAMESPACE,
            "WATCH_NAMESPACE": "",
            # Go sends what goes to loopback addresses past the proxy, so the API server is reached directly.
            "HTTP_PROXY": proxy,
        }
        plane.processes.spawn(
            _OPERATOR,
            [
                binaries.operator,
                "--enable-cert-rotation=false",
                "--enable-prometheus-metrics=false",
                f"--cert-dir={directory}",
                f"--metrics-service-bind-address={LOOPBACK}:{grpc_port}",
                "--health-probe-bind-address=0",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
            environment=environment,
        )
        plane.processes.spawn(
            _ADAPTER,
            [
                binaries.adapter,
                f"--secure-port={adapter_port}",
                f"--bind-address={LOOPBACK}",
                "--port=0",
                f"--cert-dir={directory}",
                f"--tls-cert-file={pair.certificate}",
                f"--tls-private-key-file={pair.key}",
                f"--metrics-service-address=localhost:{grpc_port}",
                f"--kubeconfig={plane.kubeconfig}",
                f"--lister-kubeconfig={plane.kubeconfig}",
                f"--authentication-kubeconfig={plane.kubeconfig}",
                f"--authorization-kubeconfig={plane.kubeconfig}",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
            environment=environment,
        )
        self._aggregate(adapter_port, authority)
        self._wait()
        progress(f"KEDA {binaries.version} serves external metrics after {time.monotonic() - began:.1f} s")

    def _served(self) -> bool:
        try:
            return self._plane.api.get("/apis/external.metrics.k8s.io/v1beta1") is not None
        except ApiError:  # 503 while the adapter is not up yet
            return False

    def _aggregate(self, port: int, authority: Authority) -> None:
        api = self._plane.api
        api.apply(
            f"/api/v1/namespaces/{_NAMESPACE}",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}},
        )
        api.apply(
            _SERVICE_PATH,
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": _SERVICE, "namespace": _NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
            },
        )
        api.apply(_API_SERVICE_PATH, _api_service(port, authority.data))

    def _wait(self) -> None:
        until = time.monotonic() + _READY_SECONDS
        reason = "the API server says nothing of it"
        while time.monotonic() < until:
            self.check()
            service = self._plane.api.get(_API_SERVICE_PATH) or {}
            conditions: list[dict[str, str]] = service.get("status", {}).get("conditions", [])
            for condition in conditions:
                if condition["type"] == "Available":
                    if condition["status"] == "True" and self._served():
                        return
                    reason = condition.get("message", "")
            time.sleep(_POLL_SECONDS)
        raise ControlPlaneError(
            f"KEDA served no external metrics after {_READY_SECONDS:.0f} s ({reason}). The end of "
            f"the operator's log:\n{self._plane.processes.tail(_OPERATOR)}\n",
            "Apply KEDA's CRDs before it is started, or run again when the machine is less busy.",
        )


def _api_service(port: int, ca_data: str) -> dict[str, Any]:
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": _API_SERVICE},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "caBundle": ca_data,
            "service": {"name": _SERVICE, "namespace": _NAMESPACE, "port": port},
        },
    }
