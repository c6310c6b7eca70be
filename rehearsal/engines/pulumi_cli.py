"""The real engine: `pulumi` itself, with a stand-in for AWS and the real Kubernetes and cert-manager providers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pulumi import automation
from pulumi.automation.events import EngineEvent

from rehearsal.controlplane.pins import cache_directory
from rehearsal.engines.contract import EngineError, EngineInputs, RunResult
from rehearsal.engines.kubernetes_apply import KubernetesObjects
from rehearsal.engines.pulumi_command import PulumiFailed, RehearsalPulumi, find_pulumi
from rehearsal.engines.pulumi_plugins import real_plugins
from rehearsal.engines.pulumi_records import (
    ChangeLog,
    diff_keys,
    finished_step,
    problem_of,
    problem_text,
    record,
    records,
    releasable,
    stack_outputs,
)
from rehearsal.engines.pulumi_workspace import RehearsalWorkspace

_API_SECONDS = 30.0
_VERBS = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}


class PulumiCliEngine:
    """Runs the unmodified program by the Automation API in a temporary workspace; see `contract.Engine`."""

    name = "pulumi"

    def __init__(
        self, inputs: EngineInputs, *, variables: Mapping[str, str] = os.environ, plugin_cache: Path | None = None
    ) -> None:
        """Set up the workspace and an empty stack.

        Args:
            inputs: What to run and where.
            variables: The user's environment: PATH and PULUMI_BIN to find the CLI, PULUMI_HOME to find plugins.
            plugin_cache: Where provider plugins that the user lacks are kept between rehearsals; None for the
                rehearsal's own cache folder.

        Raises:
            EngineUnavailable: the CLI or a plugin is absent; the message says how to install it.
            EngineError: the project or stack file cannot be used.
        """
        self._inputs = inputs
        pulumi = find_pulumi(variables)
        self._command = RehearsalPulumi(pulumi)
        cache = plugin_cache or cache_directory() / "pulumi"
        plugins = real_plugins(pulumi=pulumi, variables=variables, cache=cache)
        self._workspace = RehearsalWorkspace(inputs, pulumi=pulumi, plugins=plugins)
        self._environment = self._workspace.environment(variables)
        try:
            local = automation.LocalWorkspace(
                work_dir=str(self._workspace.project),
                env_vars=self._environment,
                secrets_provider="passphrase",
                pulumi_command=self._command,
            )
            self._stack = automation.Stack.create(inputs.stack, local)
        except PulumiFailed as error:
            self.close()
            raise EngineError(self._workspace.hide_secrets(f"pulumi could not make the stack: {error.said}")) from None
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        """The version of the CLI."""
        return str(self._command.version)

    def preview(self) -> RunResult:
        """What `up` would do now. Asked as JSON, since the events of the Automation API leave out dependencies."""
        began = time.monotonic()
        self._workspace.copy_stack_file()
        arguments = ["preview", "--json", "--show-sames", "--stack", self._inputs.stack]
        failure: PulumiFailed | None = None
        try:
            stdout = self._command.run(arguments, str(self._workspace.project), self._environment).stdout
        except PulumiFailed as error:
            failure, stdout = error, error.result.stdout
        digest = _digest(stdout)
        log = ChangeLog()
        planned: dict[str, Any] = {}
        for step in digest.get("steps", []):
            log.add(step["urn"], step["op"], step.get("detailedDiff") or step.get("diffReasons") or ())
            if step.get("newState"):
                planned[step["urn"]] = step["newState"]
        resources = tuple(record(state) for state in planned.values())
        problems = [
            problem_text(said["message"], urn=said.get("urn"), prefix=said.get("prefix"))
            for said in digest.get("diagnostics", [])
            if said.get("severity") in ("error", "warning")
        ]
        if failure is not None and not problems:
            problems = [failure.said]
        return self._result(began, log, resources, problems, ok=failure is None)

    def up(self, targets: Sequence[str] = ()) -> RunResult:
        """Make it so, everything or only `targets` (URNs or globs)."""
        self._workspace.copy_stack_file()
        return self._operate(lambda tell: self._stack.up(target=list(targets) or None, on_event=tell, color="never"))

    def destroy(self) -> RunResult:
        """Delete everything, protected and retained resources too: their guards are taken off the temporary state."""
        state = self._stack.export_stack()
        deployment = releasable(state.deployment or {})
        self._stack.import_stack(automation.Deployment(state.version, deployment))
        if any(str(item["type"]).startswith("kubernetes:") for item in deployment["resources"]):
            self._remove_dead_api_services()
        return self._operate(lambda tell: self._stack.destroy(on_event=tell, color="never", refresh=False))

    def close(self) -> None:
        """Remove the workspace with its state, permit and credentials; may be called twice."""
        self._workspace.remove()

    def _remove_dead_api_services(self) -> None:
        objects = KubernetesObjects(
            endpoint=self._inputs.endpoint,
            ca_data=self._inputs.ca_data,
            token=self._inputs.token,
            await_seconds=_API_SECONDS,
        )
        for name in objects.remove_dead_api_services():
            self._inputs.progress(f"removed the aggregated API {name}, which nobody serves")

    def _operate(self, operation: Callable[[Callable[[EngineEvent], None]], object]) -> RunResult:
        began = time.monotonic()
        log = ChangeLog()
        problems: list[str] = []

        def tell(event: EngineEvent) -> None:
            if (said := problem_of(event)) is not None:
                problems.append(said[1])
            if (step := finished_step(event)) is None:
                return
            done = log.add(step.urn, str(step.op.value), diff_keys(step))
            if done in _VERBS:
                self._inputs.progress(f"{_VERBS[done]} {step.type} {step.urn.split('::', 3)[3]}")

        ok = True
        try:
            operation(tell)
        except PulumiFailed as error:
            ok = False
            problems = problems or [error.said]
        deployment = cast(dict[str, Any], self._stack.export_stack().deployment or {})
        return self._result(began, log, records(deployment.get("resources") or ()), problems, ok=ok)

    def _result(
        self, began: float, log: ChangeLog, resources: Sequence[Any], problems: Sequence[str], *, ok: bool
    ) -> RunResult:
        return RunResult(
            changes=log.changes(),
            outputs=stack_outputs(resources),
            resources=tuple(resources),
            seconds=time.monotonic() - began,
            problems=tuple(dict.fromkeys(self._workspace.hide_secrets(text) for text in problems)),
            ok=ok,
        )


def _digest(stdout: str) -> dict[str, Any]:
    try:
        loaded = json.loads(stdout)
    except json.JSONDecodeError:
        return {}
    return cast(dict[str, Any], loaded) if isinstance(loaded, dict) else {}
