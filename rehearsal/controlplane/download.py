"""Downloading upstream's own builds of the control plane's programs, each checked against its published SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from rehearsal.controlplane.pins import Bundle, target

# The probe decides between a minute of downloads and many minutes of building, so it may not take long itself.
_PROBE_URL = "https://dl.k8s.io/release/stable.txt"
_PROBE_SECONDS = 3.0
_TIMEOUT_SECONDS = 60.0
_CHUNK = 1 << 20


class DownloadError(Exception):
    """A program that cannot be downloaded, or is not what its checksum says."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One published file.

    Args:
        url: where the file is.
        checksum_url: where its SHA-256 is.
        checksum: how it stands there: the digest alone, lines of `digest name`, or GitHub's description of a release.
        member: the program's path inside the archive; empty where the file is the program.
    """

    url: str
    checksum_url: str
    checksum: Literal["digest", "lines", "github"]
    member: str = ""


def offered(bundle: Bundle) -> bool:
    """Whether upstream publishes every program of the bundle for this machine."""
    return all(artifact(bundle, name) is not None for name in bundle.packages)


def reachable() -> bool:
    """Whether the network lets upstream's download site answer within a few seconds."""
    try:
        with urllib.request.urlopen(_PROBE_URL, timeout=_PROBE_SECONDS) as answer:
            return answer.read(1) == b"v"
    except (OSError, http.client.HTTPException):
        return False


def artifact(bundle: Bundle, program: str) -> Artifact | None:
    """Where upstream publishes a program for this machine, or None where it does not."""
    goos, goarch = target()
    version = bundle.versions.get(program, bundle.version)
    match program:
        case "kube-apiserver" | "kube-controller-manager" | "kube-scheduler":
            if goos == "linux":
                url = f"https://dl.k8s.io/release/v{version}/bin/{goos}/{goarch}/{program}"
                return Artifact(url=url, checksum_url=f"{url}.sha256", checksum="digest")
            # Kubernetes publishes its server programs for Linux alone; the KWOK project builds them for macOS.
            return _github("kwok-ci/k8s", f"v{version}-kwok.0-{goos}-{goarch}", program)
        case "etcd":
            archive = "tar.gz" if goos == "linux" else "zip"
            stem = f"etcd-v{version}-{goos}-{goarch}"
            release = f"https://github.com/etcd-io/etcd/releases/download/v{version}"
            return Artifact(
                url=f"{release}/{stem}.{archive}",
                checksum_url=f"{release}/SHA256SUMS",
                checksum="lines",
                member=f"{stem}/etcd",
            )
        case "helm":
            url = f"https://get.helm.sh/helm-v{version}-{goos}-{goarch}.tar.gz"
            return Artifact(url=url, checksum_url=f"{url}.sha256sum", checksum="lines", member=f"{goos}-{goarch}/helm")
        case "kwok":
            return _github("kubernetes-sigs/kwok", f"v{version}", f"kwok-{goos}-{goarch}")
        case _:
            return None


def fetch(bundle: Bundle, into: Path, progress: Callable[[str], None]) -> None:
    """Download every program of a bundle into the folder `into`.

    Raises:
        DownloadError: names the file and the reason.
    """
    for program in bundle.packages:
        source = artifact(bundle, program)
        if source is None:
            raise DownloadError(f"{program} is not published for {'/'.join(target())}")
        progress(f"Downloading {program} {bundle.versions.get(program, bundle.version)}")
        save(source, into / program)


def save(source: Artifact, path: Path) -> None:
    """Download one artifact, check it and write the program it holds to `path`, executable.

    Raises:
        DownloadError: names the file and the reason.
    """
    expected = _expected(source)
    partial = path.with_name(f"{path.name}.download")
    try:
        digest = hashlib.sha256()
        with _open(source.url) as answer, partial.open("wb") as file:
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != expected:
            raise DownloadError(f"{source.url} has another SHA-256 than {source.checksum_url} says")
        _extract(partial, source, path)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"{source.url} cannot be downloaded ({error})") from error
    except (tarfile.TarError, zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{source.url} holds no {source.member}") from error
    finally:
        partial.unlink(missing_ok=True)
    path.chmod(0o755)


def _github(repository: str, tag: str, name: str) -> Artifact:
    quoted = urllib.parse.quote(tag)
    return Artifact(
        url=f"https://github.com/{repository}/releases/download/{quoted}/{name}",
        checksum_url=f"https://api.github.com/repos/{repository}/releases/tags/{quoted}",
        checksum="github",
    )


def _expected(source: Artifact) -> str:
    try:
        with _open(source.checksum_url) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"the checksum {source.checksum_url} cannot be read ({error})") from error
    name = source.url.rsplit("/", 1)[1]
    match source.checksum:
        case "digest":
            return text.strip()
        case "lines":
            found = [line.split()[0] for line in text.splitlines() if line.endswith(name)]
        case "github":
            assets = cast("list[dict[str, Any]]", json.loads(text).get("assets", []))
            found = [
                str(asset.get("digest") or "").removeprefix("sha256:") for asset in assets if asset.get("name") == name
            ]
    if not found or not found[0]:
        raise DownloadError(f"{source.checksum_url} names no checksum of {name}")
    return found[0]


def _extract(archive: Path, source: Artifact, path: Path) -> None:
    if not source.member:
        archive.replace(path)
    elif source.url.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened, opened.open(source.member) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file)
    else:
        with tarfile.open(archive) as opened, path.open("wb") as file:
            member = cast("io.BufferedReader | None", opened.extractfile(source.member))
            if member is None:
                raise KeyError(source.member)
            shutil.copyfileobj(member, file)


def _open(url: str) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "inference-platform-rehearsal"})  # noqa: S310
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)  # noqa: S310 (the addresses are ours)
