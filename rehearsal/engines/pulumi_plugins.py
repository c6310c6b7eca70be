"""The provider plugins a rehearsal needs beside the stand-in for AWS: the real Kubernetes and cert-manager ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rehearsal.engines.contract import EngineUnavailable

_REAL = {"kubernetes": "pulumi-kubernetes", "kubernetes-cert-manager": "pulumi-kubernetes-cert-manager"}
_INSTALL_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A provider plugin in a folder of its own, at the version of the Python package that asks for it."""

    name: str
    version: str
    folder: Path


def aws_version() -> str:
    """The version the stand-in announces: that of the installed `pulumi-aws`, which is what the program asks for."""
    return version("pulumi-aws")


def real_plugins(*, pulumi: Path, variables: Mapping[str, str], cache: Path) -> tuple[Plugin, ...]:
    """Find the real plugins where Pulumi keeps them for this user; those that are absent are installed into `cache`.

    Args:
        pulumi: The CLI, which installs what is absent.
        variables: The user's environment, for PULUMI_HOME and for the installation's proxies.
        cache: A folder in PULUMI_HOME's shape that outlives the rehearsal.

    Raises:
        EngineUnavailable: a plugin is neither there nor installable.
    """
    home = Path(variables.get("PULUMI_HOME") or Path.home() / ".pulumi")
    return tuple(
        _find(name, version(package), (home, cache)) or _install(name, version(package), pulumi, variables, cache)
        for name, package in _REAL.items()
    )


def _find(name: str, wanted: str, homes: Sequence[Path]) -> Plugin | None:
    for home in homes:
        folder = home / "plugins" / f"resource-{name}-v{wanted}"
        # `.lock` and `.partial` files beside the folder belong to an installation that has not finished.
        if (
            os.access(folder / f"pulumi-resource-{name}", os.X_OK)
            and not folder.with_name(f"{folder.name}.partial").exists()
        ):
            return Plugin(name=name, version=wanted, folder=folder)
    return None


def _install(name: str, wanted: str, pulumi: Path, variables: Mapping[str, str], cache: Path) -> Plugin:
    cache.mkdir(parents=True, exist_ok=True)
    command = [str(pulumi), "--non-interactive", "plugin", "install", "resource", name, f"v{wanted}"]
    environment = {**variables, "PULUMI_HOME": str(cache), "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=_INSTALL_SECONDS, check=False
        )
        reason = done.stderr.strip() or done.stdout.strip()
    except subprocess.TimeoutExpired:
        reason = f"not done after {_INSTALL_SECONDS} s"
    found = _find(name, wanted, (cache,))
    if found is None:
        last = reason.splitlines()[-1] if reason else "no reason given"
        raise EngineUnavailable(
            f"The Pulumi provider plugin {name} v{wanted} is not installed and could not be: {last}. "
            f"Install it with `pulumi plugin install resource {name} v{wanted}`, or use ENGINE=in-process."
        )
    return found
