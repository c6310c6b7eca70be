"""Installs and removes charts with the real `helm`, from the inputs of a `helm.v3.Release`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

from rehearsal.engines.values import Properties

# The provider's default (helm_release.go: defaultTimeoutSeconds); the rehearsal has no slow image to pull.
_TIMEOUT_SECONDS: Final = 300
_LONGEST_WAIT_SECONDS: Final = 150
_FLAGS: Final[Mapping[str, str]] = {
    "atomic": "--atomic",
    "cleanupOnFail": "--cleanup-on-fail",
    "createNamespace": "--create-namespace",
    "dependencyUpdate": "--dependency-update",
    "devel": "--devel",
    "disableOpenapiValidation": "--disable-openapi-validation",
    "disableWebhooks": "--no-hooks",
    "skipCrds": "--skip-crds",
}


class HelmError(Exception):
    """`helm` failed; the message is its own."""


class Helm:
    """The `helm` executable against one cluster. Safe to use from many threads."""

    def __init__(
        self, *, binary: Path, kubeconfig: Path, project_dir: Path, home: Path, environment: Mapping[str, str]
    ) -> None:
        """Relative chart folders start at `project_dir`; `home` takes helm's caches, so the user's stay untouched."""
        self._binary = binary
        self._kubeconfig = kubeconfig
        self._project_dir = project_dir
        self._home = home
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HELM_", "AWS_"))}
        self._environment = {
            **inherited,
            **environment,
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
        }

    def stop(self) -> None:
        """Ends every helm that runs; each then fails."""
        with self._lock:
            for process in self._running:
                process.terminate()

    def install(self, name: str, declared: Mapping[str, Any]) -> Properties:
        """Installs or upgrades a release, waiting for its objects unless it says `skipAwait`.

        Args:
            name: the release.
            declared: inputs of the Release, in clear.

        Returns:
            `status` and `resourceNames` as the provider reports them.

        Raises:
            HelmError: helm's own message.
        """
        namespace = str(declared.get("namespace") or "default")
        # On simulated nodes pods are ready within seconds: what is not by then never will be.
        timeout = min(int(declared.get("timeout") or _TIMEOUT_SECONDS), _LONGEST_WAIT_SECONDS)
        command = ["upgrade", "--install", name, *self._chart(declared), "--namespace", namespace, "--output", "json"]
        command += [flag for key, flag in _FLAGS.items() if declared.get(key)]
        if not declared.get("skipAwait"):
            command += ["--wait", "--timeout", f"{timeout}s"]
            command += ["--wait-for-jobs"] if declared.get("waitForJobs") else []
        self._home.mkdir(parents=True, exist_ok=True)
        # Values may hold secrets: a file that only we can read, gone when helm is done.
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=self._home) as values_file:
            yaml.safe_dump(dict(declared.get("values") or {}), values_file)
            values_file.flush()
            command += ["--values", values_file.name, *self._value_files(declared)]
            answer = self._run(command, timeout + 60)
        return _outputs(cast(Properties, json.loads(answer)), declared)

    def uninstall(self, name: str, namespace: str, *, seconds: int) -> None:
        """Removes a release and waits until its objects are gone; one that is gone already is fine."""
        command = ["uninstall", name, "--namespace", namespace, "--ignore-not-found"]
        self._run([*command, "--wait", "--timeout", f"{seconds}s"], seconds + 60)

    def _chart(self, declared: Mapping[str, Any]) -> list[str]:
        chart, options = str(declared["chart"]), cast(Mapping[str, Any], declared.get("repositoryOpts") or {})
        repository = str(options.get("repo") or "")
        unsupported = sorted({key for key, value in options.items() if value} - {"repo"})
        if unsupported:
            raise HelmError(f"repositoryOpts.{unsupported[0]}: the rehearsal takes charts from mirrors without a login")
        version = ["--version", str(declared["version"])] if declared.get("version") else []
        if not repository:
            return [chart, *version]
        if "://" not in repository:  # a folder of charts, as the provider also takes it
            return [str(Path(repository) / chart), *version]
        return [chart, "--repo", repository, *version]

    def _value_files(self, declared: Mapping[str, Any]) -> list[str]:
        files = cast(list[Mapping[str, Any]], declared.get("valueYamlFiles") or [])
        return [part for file in files for part in ("--values", str(file["path"]))]

    def _run(self, arguments: list[str], seconds: int) -> str:
        command = [str(self._binary), *arguments, "--kubeconfig", str(self._kubeconfig)]
        try:
            process = subprocess.Popen(
                command,
                cwd=self._project_dir,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError as error:
            raise HelmError(f"{self._binary}: no such program") from error
        with process, self._tracked(process):
            try:
                answer, complaint = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise HelmError(f"helm {arguments[0]} did not end within {seconds} s") from error
        if process.returncode != 0:
            lines = [line for line in complaint.splitlines() if line and not line.startswith(("W", "WARNING"))]
            raise HelmError("\n".join(lines[-8:]) or f"helm {arguments[0]} ended with {process.returncode}")
        return answer

    @contextlib.contextmanager
    def _tracked(self, process: subprocess.Popen[str]) -> Generator[None]:
        with self._lock:
            self._running.add(process)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)


def _outputs(release: Properties, declared: Mapping[str, Any]) -> Properties:
    metadata = cast(Properties, release.get("chart", {}).get("metadata", {}))
    status = {
        "name": release.get("name"),
        "namespace": release.get("namespace"),
        "revision": release.get("version"),
        "status": release.get("info", {}).get("status"),
        "chart": metadata.get("name") or declared.get("chart"),
        "version": metadata.get("version"),
        "appVersion": metadata.get("appVersion"),
    }
    return {"status": status, "resourceNames": _resource_names(str(release.get("manifest", "")))}


def _resource_names(manifest: str) -> dict[str, list[str]]:
    """Names by `Kind.group/version`, as the provider groups them."""
    names: dict[str, list[str]] = {}
    for document in yaml.load_all(manifest, Loader=_LOADER):
        if not isinstance(document, dict):
            continue
        item = cast(Properties, document)
        group, _, version = str(item.get("apiVersion", "")).rpartition("/")
        kind = f"{item.get('kind')}.{group}/{group}/{version}" if group else f"{item.get('kind')}/{version}"
        metadata = cast(Properties, item.get("metadata") or {})
        namespace = metadata.get("namespace")
        names.setdefault(kind, []).append(f"{namespace}/{metadata.get('name')}" if namespace else str(metadata["name"]))
    return names


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a chart's manifest can have 10,000 lines
