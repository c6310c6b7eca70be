"""Command lines of the control plane's components.

Everything listens on the loopback interface only. What differs from a production control plane is written beside the
flag that makes it differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rehearsal.controlplane.certificates import KeyPair

LOOPBACK = "127.0.0.1"

#: How often the HorizontalPodAutoscaler looks at its metrics, in seconds; 15 in production. A rehearsal compresses time
#: by this much and its report says so.
HPA_SYNC_SECONDS = 5
HPA_SYNC_SECONDS_IN_PRODUCTION = 15

#: The scheduler profiles: a pod with another `schedulerName` stays Pending. Volcano's own scheduler does not run here.
SCHEDULER_PROFILES = ("default-scheduler", "volcano")

#: KWOK manages only nodes that carry this annotation.
FAKE_NODE_ANNOTATION = "kwok.x-k8s.io/node"
FAKE_NODE_VALUE = "fake"

#: Environment of the API server. It lives for minutes and takes megabytes of schemas in its first seconds: fewer rounds
#: of garbage collection took a third off its processor time (128 CRDs: 28 to 19 s), and the limit bounds its memory.
API_SERVER_ENVIRONMENT = {"GOGC": "400", "GOMEMLIMIT": "2GiB"}

# Requests per second that the controllers may send; the production defaults (20 to 50) are for shared API servers.
_CLIENT_QPS = 1000
_CLIENT_BURST = 2000


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The loopback ports of one control plane."""

    api_server: int
    etcd: int
    etcd_peer: int


@dataclass(frozen=True, kw_only=True)
class Pki:
    """The certificates and keys of one control plane."""

    authority: Path
    serving: KeyPair
    front_proxy_authority: Path
    front_proxy_client: KeyPair
    service_account_key: Path


def etcd(binary: Path, data: Path, ports: Ports) -> list[str]:
    client = f"http://{LOOPBACK}:{ports.etcd}"
    peer = f"http://{LOOPBACK}:{ports.etcd_peer}"
    return [
        str(binary),
        "--name=rehearsal",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=rehearsal={peer}",
        "--log-level=warn",
        # The data is thrown away at the end, so a crash may lose it.
        "--unsafe-no-fsync",
    ]


def kube_apiserver(binary: Path, ports: Ports, pki: Pki, token_file: Path) -> list[str]:
    return [
        str(binary),
        f"--etcd-servers=http://{LOOPBACK}:{ports.etcd}",
        f"--bind-address={LOOPBACK}",
        f"--advertise-address={LOOPBACK}",
        f"--secure-port={ports.api_server}",
        # The `kubernetes` Service would get the loopback address as an endpoint, which Kubernetes refuses.
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={pki.serving.certificate}",
        f"--tls-private-key-file={pki.serving.key}",
        f"--token-auth-file={token_file}",
        # Nobody has a client certificate; aggregated API servers insist on an authority to check them by.
        f"--client-ca-file={pki.authority}",
        "--authorization-mode=RBAC",
        "--anonymous-auth=false",
        # No container runs, so nobody would answer a webhook.
        "--disable-admission-plugins=MutatingAdmissionWebhook,ValidatingAdmissionWebhook",
        "--allow-privileged=true",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki.service_account_key}",
        f"--service-account-signing-key-file={pki.service_account_key}",
        # Aggregated APIs (KEDA's metrics adapter) trust the API server by these.
        f"--requestheader-client-ca-file={pki.front_proxy_authority}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki.front_proxy_client.certificate}",
        f"--proxy-client-key-file={pki.front_proxy_client.key}",
        # One client at a time: no need to be fair.
        "--enable-priority-and-fairness=false",
        "--max-requests-inflight=0",
        "--max-mutating-requests-inflight=0",
        "--profiling=false",
    ]


def kube_controller_manager(binary: Path, kubeconfig: Path, pki: Pki) -> list[str]:
    return [
        str(binary),
        *_client_of(kubeconfig),
        f"--bind-address={LOOPBACK}",
        "--secure-port=0",
        "--leader-elect=false",
        f"--root-ca-file={pki.authority}",
        f"--service-account-private-key-file={pki.service_account_key}",
        f"--kube-api-qps={_CLIENT_QPS}",
        f"--kube-api-burst={_CLIENT_BURST}",
        f"--horizontal-pod-autoscaler-sync-period={HPA_SYNC_SECONDS}s",
        "--concurrent-deployment-syncs=20",
        "--concurrent-replicaset-syncs=20",
        "--concurrent-statefulset-syncs=20",
        "--concurrent-job-syncs=20",
        "--concurrent-namespace-syncs=30",
        "--concurrent-gc-syncs=40",
    ]


def kube_scheduler(binary: Path, configuration: Path, kubeconfig: Path) -> list[str]:
    return [
        str(binary),
        f"--config={configuration}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        "--secure-port=0",
    ]


def scheduler_configuration(kubeconfig: Path) -> dict[str, Any]:
    """The scheduler's configuration: the same plugins under each name of `SCHEDULER_PROFILES`."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": _CLIENT_QPS, "burst": _CLIENT_BURST},
        "leaderElection": {"leaderElect": False},
        # 1 and 10 s in production: simulated nodes come fast, so a pod that waits for one should not sleep long.
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 2,
        "profiles": [{"schedulerName": name} for name in SCHEDULER_PROFILES],
    }


def kwok(binary: Path, kubeconfig: Path, stages: Path) -> list[str]:
    return [
        str(binary),
        f"--kubeconfig={kubeconfig}",
        f"--config={stages}",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={FAKE_NODE_ANNOTATION}={FAKE_NODE_VALUE}",
        # Heartbeats are leases, as a kubelet's.
        "--node-lease-duration-seconds=40",
    ]


def kubeconfig(endpoint: str, ca_data: str, token: str) -> dict[str, Any]:
    """A kubeconfig that authenticates with a static token."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "rehearsal", "cluster": {"server": endpoint, "certificate-authority-data": ca_data}},
        ],
        "users": [{"name": "rehearsal", "user": {"token": token}}],
        "contexts": [{"name": "rehearsal", "context": {"cluster": "rehearsal", "user": "rehearsal"}}],
        "current-context": "rehearsal",
    }


def write_yaml(path: Path, *documents: Mapping[str, Any], secret: bool = False) -> Path:
    """Write YAML documents; with `secret`, for the owner's eyes only."""
    path.touch(mode=0o600 if secret else 0o644)
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return path


def _client_of(kubeconfig: Path) -> Sequence[str]:
    return (
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
    )
