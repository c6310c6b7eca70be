"""Starting and stopping a control plane: etcd, the API server, its controllers and KWOK as local processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import urllib3

from rehearsal.controlplane import components
from rehearsal.controlplane.api import Api, ApiError
from rehearsal.controlplane.binaries import Binaries
from rehearsal.controlplane.certificates import Authority, service_account_key
from rehearsal.controlplane.components import LOOPBACK, Pki, Ports, write_yaml
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.controlplane.processes import ProcessGroup
from rehearsal.controlplane.stages import DEFAULT_POD_STAGES, NODE_STAGES

#: Free disk that a rehearsal wants, in bytes; etcd's data of 400 objects and the logs took 150 MB when measured.
DISK_BYTES = 500 * 1024 * 1024

_LOCK = "control-plane.lock"
_COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")

# A start takes 3 to 5 s on 2 cores; a machine busy with something else gets this much.
_START_SECONDS = 90.0
_POLL_SECONDS = 0.1
_ATTEMPTS = 3


class ControlPlane:
    """A running control plane; `ControlPlane.start` makes one, and leaving the `with` block ends it.

    Attributes:
        endpoint: the API server's URL, on the loopback interface.
        kubeconfig: a kubeconfig file with the token in it.
        ca_data: the authority that signed the API server's certificate, PEM in base64.
        token: the bearer token of a cluster administrator.
        api: a client of the API server, for what the rehearsal itself puts there.
        processes: the group of its processes; more may join it and end with it.
        directory: everything that this control plane writes; removed by `stop`, but for `logs/`.
    """

    def __init__(self, directory: Path, binaries: Binaries, token: str, lock: IO[str]) -> None:
        self.directory = directory
        self.binaries = binaries
        self.token = token
        self.kubeconfig = directory / "kubeconfig"
        self.endpoint = ""
        self.ca_data = ""
        self.processes = ProcessGroup(directory / "logs")
        self._lock = lock
        self._api: Api | None = None

    @classmethod
    def start(
        cls,
        workdir: Path,
        binaries: Binaries,
        *,
        token: str,
        progress: Callable[[str], None],
        stages: Sequence[Mapping[str, Any]] = DEFAULT_POD_STAGES,
        port: int | None = None,
    ) -> ControlPlane:
        """Start a control plane below `workdir` and wait until it can take objects.

        Args:
            workdir: a folder for its files; one control plane at a time may run in it. What an earlier one left there
                after it was killed is removed.
            binaries: what `binaries.ensure` returned.
            token: the bearer token that is let in as a cluster administrator.
            progress: told what happens, in words for a person.
            stages: KWOK Stages for pods (and whatever else); they come after the node stages of `stages.NODE_STAGES`.
            port: the API server's port; a free one by default.

        Raises:
            ControlPlaneError: a port in use, no disk space, another control plane in `workdir`, or a component that
                ended or never became ready. Nothing is left running then.
        """
        lock = _take(workdir)
        directory = workdir / "control-plane"
        try:
            shutil.rmtree(directory, ignore_errors=True)
            for attempt in range(1, _ATTEMPTS + 1):
                plane = cls(directory, binaries, token, lock)
                try:
                    plane._run(port, stages, progress)
                except BaseException as error:
                    plane._end()
                    # Between finding a free port and using it, another program may have taken it.
                    if isinstance(error, _PortTakenError) and port is None and attempt < _ATTEMPTS:
                        continue
                    raise
                return plane
        except OSError as error:
            lock.close()
            raise _told(error, directory) from error
        except BaseException:
            lock.close()
            raise
        raise AssertionError("the last attempt returns or raises")

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process and remove every file but the logs. Calling it twice is fine."""
        self._end()
        for entry in self.directory.glob("*") if self.directory.exists() else ():
            if entry.name != "logs":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._lock.close()

    def check(self, *names: str) -> None:
        """Raise if one of the processes ended by itself: the control plane's own, or those named.

        Raises:
            ControlPlaneError: names the process and shows the end of its log.
        """
        for name, status in self.processes.exited().items():
            if name not in (names or _COMPONENTS):
                continue
            tail = self.processes.tail(name)
            if "address already in use" in tail:
                raise _PortTakenError(
                    f"{name} ended: its port is in use.", "End the program that uses it, or let a free one be chosen."
                )
            if "no space left" in tail:
                raise _told(OSError(errno.ENOSPC, "no space left"), self.directory)
            raise ControlPlaneError(
                f"{name} ended by itself with status {status}. The end of {self.processes.log(name)}:\n{tail}\n",
                "If the binaries were made elsewhere, remove them from the cache and run again.",
            )

    @property
    def api(self) -> Api:
        """A client of the API server, with the administrator's token."""
        if self._api is None:
            self._api = Api(self.endpoint, self.ca_data, self.token)
        return self._api

    def _run(self, port: int | None, stages: Sequence[Mapping[str, Any]], progress: Callable[[str], None]) -> None:
        began = time.monotonic()
        ports = _ports(port)
        self.endpoint = f"https://{LOOPBACK}:{ports.api_server}"
        pki = self._make_files(stages)
        binaries, run = self.binaries, self.processes.spawn
        progress(f"Starting Kubernetes {binaries.kubernetes_version} on {self.endpoint}")
        run("etcd", components.etcd(binaries.etcd, self.directory / "etcd", ports))
        self._wait("etcd", lambda: _healthy(ports.etcd))
        run(
            "kube-apiserver",
            components.kube_apiserver(binaries.kube_apiserver, ports, pki, self.directory / "tokens.csv"),
            environment={**os.environ, **components.API_SERVER_ENVIRONMENT},
        )
        self._wait("kube-apiserver", lambda: self.api.get("/readyz") is not None)
        run(
            "kube-controller-manager",
            components.kube_controller_manager(binaries.kube_controller_manager, self.kubeconfig, pki),
        )
        run(
            "kube-scheduler",
            components.kube_scheduler(binaries.kube_scheduler, self.directory / "scheduler.yaml", self.kubeconfig),
        )
        run("kwok", components.kwok(binaries.kwok, self.kubeconfig, self.directory / "stages.yaml"))
        # Pods need the namespace's default service account, which the controller manager makes.
        self._wait(
            "kube-controller-manager",
            lambda: self.api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None,
        )
        self.check()
        version = (self.api.get("/version") or {}).get("gitVersion", "of an unknown version")
        progress(f"Kubernetes {version} is ready after {time.monotonic() - began:.1f} s")

    def _make_files(self, stages: Sequence[Mapping[str, Any]]) -> Pki:
        directory = self.directory
        directory.chmod(0o700)
        authority = Authority(directory / "pki", "authority")
        front_proxy = Authority(directory / "pki", "front-proxy-authority")
        hosts = (LOOPBACK, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1")
        pki = Pki(
            authority=authority.certificate,
            serving=authority.issue("kube-apiserver", hosts=hosts),
            front_proxy_authority=front_proxy.certificate,
            front_proxy_client=front_proxy.issue("front-proxy-client"),
            service_account_key=service_account_key(directory / "pki" / "service-account.key"),
        )
        self.ca_data = authority.data
        tokens = directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.token},rehearsal,rehearsal,"system:masters"\n')
        write_yaml(self.kubeconfig, components.kubeconfig(self.endpoint, self.ca_data, self.token), secret=True)
        write_yaml(directory / "scheduler.yaml", components.scheduler_configuration(self.kubeconfig))
        write_yaml(directory / "stages.yaml", *NODE_STAGES, *stages)
        return pki

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            self.check()
            with contextlib.suppress(OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ApiError):
                if ready():
                    return
            time.sleep(_POLL_SECONDS)
        raise ControlPlaneError(
            f"{name} was not ready after {_START_SECONDS:.0f} s. The end of its log:\n{self.processes.tail(name)}\n",
            "Run again when the machine is less busy.",
        )

    def _end(self) -> None:
        if self._api is not None:
            self._api.close()
        self.processes.stop()


class _PortTakenError(ControlPlaneError):
    """A component found its port in use."""


def _take(workdir: Path) -> IO[str]:
    """Lock `workdir` for one control plane; the kernel releases the lock when this process ends in any way."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(workdir).free
        if free < DISK_BYTES:
            raise OSError(errno.ENOSPC, "no space left")
        lock = (workdir / _LOCK).open("a+")
    except OSError as error:
        raise _told(error, workdir) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ControlPlaneError(
            f"Another control plane is running in {workdir}.", "Wait until it ends, or use another folder."
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def owner(workdir: Path) -> int | None:
    """The id of the process whose control plane runs in `workdir`; None where none runs."""
    try:
        with (workdir / _LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read())
    except (FileNotFoundError, ValueError):
        pass
    return None


def _told(error: OSError, directory: Path) -> ControlPlaneError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ControlPlaneError(
            f"No disk space for a control plane in {directory}: it needs {DISK_BYTES // 2**20} MiB.",
            "Free some, or point the rehearsal at a folder on another disk.",
        )
    return ControlPlaneError(
        f"A control plane cannot use {directory}: {error.strerror}.", "Use a folder that you may write to."
    )


def _ports(api_server: int | None) -> Ports:
    if api_server is not None:
        with socket.socket() as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind((LOOPBACK, api_server))
            except OSError as error:
                raise ControlPlaneError(
                    f"Port {api_server} on {LOOPBACK} cannot be used: {error.strerror}.",
                    "End the program that uses it, or let a free port be chosen.",
                ) from error
    first, etcd, etcd_peer = free_ports(3)
    return Ports(api_server=api_server or first, etcd=etcd, etcd_peer=etcd_peer)


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that nobody listens on now, on the loopback interface."""
    with contextlib.ExitStack() as stack:  # all are held at the same time, so none comes twice
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind((LOOPBACK, 0))
        return tuple(one.getsockname()[1] for one in held)


def _healthy(etcd_port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, etcd_port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
