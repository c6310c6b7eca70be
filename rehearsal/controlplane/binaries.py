"""Having the control plane's programs on this machine: from the cache, by download, or built."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rehearsal.controlplane import download, golang, pins
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.controlplane.pins import KEDA, KWOK, Bundle

Source = Literal["built", "downloaded", "cached"]

#: What a build writes to Go's caches and ours, in bytes, measured: 4.4 GB of modules, 3 GB of compiled packages.
BUILD_BYTES = 8 * 1024**3
#: What the downloads take, in bytes.
DOWNLOAD_BYTES = 1024**3

#: `build` or `download` forces the way; anything else probes the network first.
WAY_VARIABLE = "INFERENCE_PLATFORM_CONTROL_PLANE"

_SUPPORTED = {("linux", "amd64"), ("linux", "arm64"), ("darwin", "arm64")}


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """The programs of a control plane.

    Args:
        kubernetes_version: the version that runs, such as "1.35.4".
        note: what the report should say about the version; empty where it is the minor version that was asked for.
        source: where the programs came from this time.
    """

    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    etcd: Path
    kwok: Path
    helm: Path
    kubernetes_version: str
    note: str
    source: Source


@dataclass(frozen=True, kw_only=True)
class KedaBinaries:
    """KEDA's operator and its metrics adapter."""

    operator: Path
    adapter: Path
    version: str
    source: Source


def ensure(kubernetes_version: str, progress: Callable[[str], None]) -> Binaries:
    """Return the control plane's programs, making them first where they are not in the cache.

    Args:
        kubernetes_version: a minor version such as "1.35"; the nearest pinned one is taken, and `note` says so.
        progress: told what happens, in words for a person.

    Raises:
        ControlPlaneError: no disk space, no Go and no download, an unsupported machine or a build that failed.
    """
    try:
        bundle, note = pins.kubernetes(kubernetes_version)
    except ValueError as error:
        raise ControlPlaneError(f"{error}.", "Mend target.kubernetes_version in the stack file.") from error
    folder, source = _have(bundle, progress)
    kwok_folder, kwok_source = _have(KWOK, progress)
    return Binaries(
        kube_apiserver=folder / "kube-apiserver",
        kube_controller_manager=folder / "kube-controller-manager",
        kube_scheduler=folder / "kube-scheduler",
        etcd=folder / "etcd",
        helm=folder / "helm",
        kwok=kwok_folder / "kwok",
        kubernetes_version=bundle.version,
        note=note,
        source=source if source != "cached" else kwok_source,
    )


def cached(kubernetes_version: str) -> bool:
    """Whether `ensure` would find the programs at hand: nothing to download or build."""
    bundles = (pins.kubernetes(kubernetes_version)[0], KWOK)
    return all(_complete(one, pins.cache_directory() / one.key() / "bin") for one in bundles)


def ensure_keda(progress: Callable[[str], None]) -> KedaBinaries:
    """Return KEDA's programs; they are always built, for upstream publishes container images only.

    Raises:
        ControlPlaneError: as `ensure`. A rehearsal goes on without KEDA then, and its report says so.
    """
    folder, source = _have(KEDA, progress)
    return KedaBinaries(
        operator=folder / "keda-operator", adapter=folder / "keda-adapter", version=KEDA.version, source=source
    )


def _have(bundle: Bundle, progress: Callable[[str], None]) -> tuple[Path, Source]:
    if pins.target() not in _SUPPORTED:
        raise ControlPlaneError(
            f"No control plane for {'/'.join(pins.target())}.",
            "Use Linux (x86-64 or arm64; on Windows by WSL2) or macOS on arm64.",
        )
    cache = pins.cache_directory()
    folder = cache / bundle.key()
    if _complete(bundle, folder / "bin"):
        return folder / "bin", "cached"
    try:
        with _locked(cache, progress):
            if _complete(bundle, folder / "bin"):  # another rehearsal made it while this one waited
                return folder / "bin", "cached"
            return folder / "bin", _make(bundle, cache, folder, progress)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _no_space(cache, BUILD_BYTES) from error
        raise ControlPlaneError(
            f"The cache {cache} cannot be used: {error.strerror}.",
            "Make it writable, or set XDG_CACHE_HOME to a folder that is.",
        ) from error


def _make(bundle: Bundle, cache: Path, folder: Path, progress: Callable[[str], None]) -> Source:
    for left in cache.glob("*.partial-*"):  # a rehearsal was killed here; the lock says that none is at work now
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        (partial / "bin").mkdir(parents=True)
        source = _fill(bundle, cache, partial / "bin", progress)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return source


def _fill(bundle: Bundle, cache: Path, into: Path, progress: Callable[[str], None]) -> Source:
    way = os.environ.get(WAY_VARIABLE, "auto")
    refusal = ""
    if way != "build" and download.offered(bundle):
        _need(cache, DOWNLOAD_BYTES)
        if way == "download" or download.reachable():
            try:
                download.fetch(bundle, into, progress)
            except download.DownloadError as error:
                if way == "download":
                    raise ControlPlaneError(
                        f"{error}.", f"Unset {WAY_VARIABLE} to let the programs be built instead."
                    ) from error
                refusal = f" Downloading them was tried first: {error}."
                progress(f"{error}; building instead")
            else:
                return "downloaded"
        else:
            refusal = " Downloading them was tried first: the network does not let it."
    _need(cache, BUILD_BYTES)
    try:
        golang.build(bundle, golang.find(cache, progress), into, progress)
    except ControlPlaneError as error:
        raise ControlPlaneError(error.what + refusal, error.remedy) from error
    return "built"


def _complete(bundle: Bundle, folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in bundle.packages)


def _need(cache: Path, size: int) -> None:
    if shutil.disk_usage(cache).free < size:
        raise _no_space(cache, size)


def _no_space(cache: Path, size: int) -> ControlPlaneError:
    return ControlPlaneError(
        f"No disk space in {cache}: making the control plane's programs needs {size / 1024**3:.0f} GiB.",
        "Free some, or set XDG_CACHE_HOME (and GOCACHE and GOMODCACHE) to folders on another disk.",
    )


@contextlib.contextmanager
def _locked(cache: Path, progress: Callable[[str], None]) -> Generator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another rehearsal that is making the control plane's programs")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
