"""One rehearsal from a stack file to a report: preview, up, settle, checks, second run, destroy."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Final

import urllib3

from catalog.load import load as load_catalog
from planner import load_and_plan
from planner.plan import ModelPlan, Plan
from rehearsal import charts, checks, fidelity, keeper, scenarios, settle, verdicts
from rehearsal.controlplane import binaries
from rehearsal.controlplane.api import ApiError
from rehearsal.controlplane.binaries import Binaries, KedaBinaries
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.controlplane.keda import KedaProcesses
from rehearsal.controlplane.metrics import MetricsStandIn
from rehearsal.engines.contract import Engine, EngineError, EngineInputs, RunResult
from rehearsal.findings import Finding
from rehearsal.injections import INJECTIONS, NotApplicableError, World, forget_field, healthy_world
from rehearsal.interrupts import ends_in_order
from rehearsal.kube import DEPLOYMENTS, HPAS, LEADER_WORKER_SETS, STORAGE_CLASSES, Kube
from rehearsal.operators import Operators, operators
from rehearsal.options import RehearsalError, RehearsalOptions
from rehearsal.provisioner import default_class
from rehearsal.report import (
    ENVIRONMENT,
    USAGE,
    Phase,
    Report,
    autoscaler_lines,
    count_resources,
    pod_rows,
    pool_uses,
)
from rehearsal.snapshot import Snapshot
from rehearsal.stack_copy import copy_stack_file, own_charts
from rehearsal.stages import pod_stages
from rehearsal.standins import StandIns

PROJECT_DIRECTORY: Final = Path(__file__).resolve().parent.parent
_AUTOSCALER_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.25
_WARNINGS: Final = 8


def rehearse(stack_file: Path, options: RehearsalOptions) -> Report:
    """Rehearse a stack file; nothing is left on the machine, whichever way this ends.

    Raises:
        StackFileError: the stack file has problems.
        RehearsalError: the fault does not apply to this stack, or this machine cannot rehearse.
    """
    _, plan = load_and_plan(stack_file)
    world = _prepared(healthy_world(plan, options.capacity), options.scenarios)
    if options.inject is not None:
        world = _injected(world, options.inject)
    try:
        with (
            ends_in_order(),
            tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as workdir,
            contextlib.ExitStack() as stack,
        ):
            return _Rehearsal(stack_file, plan, world, options, Path(workdir), stack).run()
    except ControlPlaneError as error:
        raise RehearsalError(f"{error.what}\n  {error.remedy}", exit_code=ENVIRONMENT) from error
    except (EngineError, ApiError, urllib3.exceptions.HTTPError) as error:
        raise RehearsalError(str(error), exit_code=ENVIRONMENT) from error


def _injected(world: World, name: str) -> World:
    if name not in INJECTIONS:
        raise RehearsalError(f"no fault is called `{name}`\n  there are: {', '.join(INJECTIONS)}", exit_code=USAGE)
    try:
        return INJECTIONS[name].change(world)
    except NotApplicableError as error:
        raise RehearsalError(f"`{name}` breaks nothing in this stack: {error}", exit_code=USAGE) from error


def _prepared(world: World, names: tuple[str, ...]) -> World:
    for name in names:
        if name not in scenarios.SCENARIOS:
            known = ", ".join(scenarios.SCENARIOS)
            raise RehearsalError(f"no scenario is called `{name}`\n  there are: {known}", exit_code=USAGE)
    try:
        return scenarios.prepared(replace(world, scenarios=names), names)
    except NotApplicableError as error:
        which = ", ".join(names)
        raise RehearsalError(f"`{which}` does not apply to this stack: {error}", exit_code=USAGE) from error


class _Rehearsal:
    """The state of one rehearsal while it runs."""

    def __init__(
        self,
        stack_file: Path,
        plan: Plan,
        world: World,
        options: RehearsalOptions,
        workdir: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self._stack_file = stack_file
        self._plan = plan
        self._world = world
        self._options = options
        self._workdir = workdir
        self._stack = stack
        self._phases: list[Phase] = []
        self._findings: list[Finding] = []
        self._played: list[scenarios.ScenarioResult] = []
        self._notes = [f"{finding.subject}: {finding.message}" for finding in plan.findings]
        self._facts: set[fidelity.Fact] = {options.engine}
        if plan.target.kind == "eks":
            self._facts.add("aws")
        if plan.karpenter:
            self._facts.add("karpenter")

    def run(self) -> Report:
        """All phases in order."""
        options, plan = self._options, self._plan
        with self._phase("programs"):
            made = binaries.ensure(plan.target.kubernetes_version, options.progress)
            keda_made = self._keda_binaries()
        with self._phase("charts and CRDs"):
            mirror = self._mirror()
        with self._phase("control plane"):
            plane = self._stack.enter_context(self._control_plane(made))
            kube = Kube(endpoint=plane.endpoint, ca_data=plane.ca_data, token=plane.token)
            played = operators(kube, self._world, compression=options.compression, plane=plane)
            standins = self._stack.enter_context(StandIns(kube, played.members))
            self._furnish(kube, played)
            engine = self._engine(plane, made, mirror)
            baseline = Snapshot.take(kube).keys()
        with self._phase("preview"):
            preview = engine.preview()
            self._judge("preview", preview)
        with self._phase("up"):
            up = engine.up()
            self._judge("up", up)
        if up.ok:
            self._findings += verdicts.unforeseen(preview, up)
        keda = contextlib.ExitStack()
        self._stack.push(keda)
        states: tuple[settle.ModelState, ...] = ()
        with self._phase("settle"):
            if up.ok:
                if keda_made is not None:
                    self._start_keda(plane, keda_made, keda)
                limit = options.settle_seconds
                states = settle.settle(plan, standins.caches, played, limit_seconds=limit, alive=plane.check)
                self._await_autoscalers(kube)
        with self._phase("checks"):
            snapshot = Snapshot.take(kube)
            withheld = bool(options.capacity) and options.inject is None
            self._findings += settle.findings_of(states, capacity_withheld=withheld)
            self._findings += checks.check(snapshot, plan) if up.ok else []
        if up.ok:
            self._later(kube, standins, played, plane, withheld=withheld)
            with self._phase("second run"):
                self._second_run(kube, engine)
        with self._phase("destroy"):
            self._judge("destroy", engine.destroy())
            keda.close()
            self._findings += verdicts.leftovers(kube, baseline)
        self._findings += [
            Finding(check="stand-in", subject=text, field="", problem="could not be played", remedy="mend the object")
            for text in standins.errors
        ]
        self._see_the_fault()
        return self._report(engine, made, up, states, snapshot)

    def _report(
        self,
        engine: Engine,
        made: Binaries,
        up: RunResult,
        states: tuple[settle.ModelState, ...],
        snapshot: Snapshot,
    ) -> Report:
        plan, rows = self._plan, pod_rows(snapshot, self._plan)
        return Report(
            stack=plan.stack,
            environment=plan.environment,
            engine=engine.name,
            kubernetes_version=made.kubernetes_version,
            compression=self._options.compression,
            injected=self._options.inject,
            resources=count_resources(up.resources),
            models=states,
            pods=rows,
            pools=pool_uses(snapshot, plan, rows),
            autoscalers=autoscaler_lines(snapshot),
            notes=tuple(dict.fromkeys(self._notes + ([made.note] if made.note else []))),
            cost=plan.cost,
            fidelity=fidelity.parts(self._facts),
            phases=tuple(self._phases),
            findings=tuple(dict.fromkeys(self._findings)),
            scenarios=tuple(self._played),
        )

    @contextlib.contextmanager
    def _phase(self, name: str) -> Generator[None]:
        self._options.progress(f"{name} ...")
        began = time.monotonic()
        yield
        self._phases.append(Phase(name=name, seconds=round(time.monotonic() - began, 1)))

    def _keda_binaries(self) -> KedaBinaries | None:
        # Replicas stay as they are in a scenario: what comes back must not be mistaken for what is scaled.
        if not (self._options.keda and self._scaled_by_keda()) or self._options.scenarios:
            return None
        try:
            return binaries.ensure_keda(self._options.progress)
        except ControlPlaneError as error:
            self._notes.append(f"no HorizontalPodAutoscaler exists: KEDA could not be had ({error.what})")
            return None

    def _scaled_by_keda(self) -> list[ModelPlan]:
        return [model for model in self._plan.models if model.scaling.owner == "keda"]

    def _mirror(self) -> Path:
        crd_dir = self._options.crd_dir
        if crd_dir is None and (given := os.environ.get("CRD_DIR")):
            crd_dir = Path(given)
        catalog = load_catalog()
        mirror = charts.mirror(
            self._workdir / "charts",
            [catalog.versions.charts[name] for name in self._plan.charts],
            catalog.crds,
            crd_dir=crd_dir,
            real_charts=self._options.charts_dir or own_charts(self._plan, PROJECT_DIRECTORY),
        )
        self._facts.add("upstream CRDs" if crd_dir else "permissive CRDs")
        self._facts |= {"real charts"} if mirror.real else set()
        self._facts |= {"stand-in charts"} if mirror.stand_ins else set()
        if mirror.real and mirror.stand_ins:
            self._notes.append(f"charts that stood in: {', '.join(mirror.stand_ins)}")
        if self._world.unknown_field:
            forget_field(mirror.directory)
        return mirror.directory

    def _control_plane(self, made: Binaries) -> ControlPlane:
        return ControlPlane.start(
            self._workdir,
            made,
            token=secrets.token_urlsafe(),
            progress=self._options.progress,
            stages=pod_stages(self._world.outcomes, compression=self._options.compression),
            port=self._options.port,
        )

    def _furnish(self, kube: Kube, played: Operators) -> None:
        """What is there before the program comes: nodes, and on a cluster that exists a StorageClass."""
        played.autoscaler.make_minimum()
        if self._plan.target.kind == "existing_cluster":
            kube.create(STORAGE_CLASSES, default_class(self._plan.observability.storage_class or "standard"))

    def _engine(self, plane: ControlPlane, made: Binaries, mirror: Path) -> Engine:
        copy = copy_stack_file(
            self._stack_file,
            self._workdir / self._stack_file.name,
            self._plan,
            mirror=mirror,
            kubeconfig=plane.kubeconfig,
        )
        inputs = EngineInputs(
            project_dir=PROJECT_DIRECTORY,
            stack=self._plan.stack,
            stack_file=copy,
            kubeconfig=plane.kubeconfig,
            endpoint=plane.endpoint,
            ca_data=plane.ca_data,
            token=plane.token,
            helm=made.helm,
            workdir=self._workdir,
            # A cluster that exists names no region; nothing of AWS is declared then.
            region=self._plan.region or "us-east-1",
            progress=self._options.progress,
        )
        engine = self._new_engine(inputs)
        self._stack.callback(engine.close)
        return engine

    def _new_engine(self, inputs: EngineInputs) -> Engine:
        if self._options.engine == "pulumi":
            from rehearsal.engines.pulumi_cli import PulumiCliEngine  # noqa: PLC0415 - each takes 1 s to import

            return PulumiCliEngine(inputs)
        from rehearsal.engines.in_process import InProcessEngine  # noqa: PLC0415

        return InProcessEngine(inputs)

    def _judge(self, what: str, result: RunResult) -> None:
        """Errors of a run are findings; warnings of a good one are notes."""
        self._notes += result.problems[:_WARNINGS] if result.ok else ()
        self._findings += verdicts.errors(what, result)

    def _give_capacity(self, kube: Kube, standins: StandIns, played: Operators, plane: ControlPlane) -> None:
        """Models that waited become ready by themselves when machines can be had."""
        played.autoscaler.set_capacity({})
        limit = self._options.settle_seconds
        states = settle.settle(self._plan, standins.caches, played, limit_seconds=limit, alive=plane.check)
        self._findings += settle.findings_of(states, capacity_withheld=False)
        if all(state.ready for state in states):
            self._notes.append("when capacity came, every model that had waited became ready by itself")
        if self._options.climb:
            self._findings += keeper.await_climb(kube, played.keeper, self._plan, standins.caches, limit_seconds=limit)

    def _later(self, kube: Kube, standins: StandIns, played: Operators, plane: ControlPlane, *, withheld: bool) -> None:
        """What happens to a stack that has settled: failures, or capacity that was withheld comes."""
        options = self._options
        if options.scenarios:
            theatre = scenarios.Theatre(
                kube=kube,
                caches=standins.caches,
                plan=self._plan,
                world=self._world,
                operators=played,
                compression=options.compression,
                alive=plane.check,
            )
            with self._phase("scenarios"):
                results, found = scenarios.play(theatre, options.scenarios, spare_nodes=options.spare_nodes)
            self._facts.add("scenarios")
            self._played += results
            self._findings += found
        elif withheld:
            with self._phase("capacity comes"):
                self._give_capacity(kube, standins, played, plane)

    def _start_keda(self, plane: ControlPlane, made: KedaBinaries, keda: contextlib.ExitStack) -> None:
        metrics = keda.enter_context(MetricsStandIn())
        try:
            keda.enter_context(KedaProcesses.start(plane, made, proxy=metrics.url, progress=self._options.progress))
        except ControlPlaneError as error:
            self._notes.append(f"no HorizontalPodAutoscaler exists: {error.what}")
            return
        self._facts.add("keda")

    def _await_autoscalers(self, kube: Kube) -> None:
        if "keda" not in self._facts:
            self._facts.add("no keda")
            return
        wanted = {(model.namespace, model.name) for model in self._scaled_by_keda()}
        until = time.monotonic() + _AUTOSCALER_SECONDS
        missing = wanted
        while missing and time.monotonic() < until:
            found = kube.list(HPAS)
            missing = wanted - {(one["metadata"]["namespace"], one["spec"]["scaleTargetRef"]["name"]) for one in found}
            time.sleep(_POLL_SECONDS)
        self._findings += [
            Finding(
                check="autoscaler",
                subject=f"ScaledObject {namespace}/{name}",
                field="",
                problem=f"KEDA made no HorizontalPodAutoscaler in {_AUTOSCALER_SECONDS:.0f} s",
                remedy="read the status of the ScaledObject",
            )
            for namespace, name in sorted(missing)
        ]

    def _second_run(self, kube: Kube, engine: Engine) -> None:
        """A second run finds nothing to do, even after a person has scaled a workload."""
        self._notes += keeper.told(kube)
        scaled = next((one for one in self._scaled_by_keda()), None)
        if scaled is None:
            self._notes.append("no workload is scaled from outside: none was scaled by hand before the second run")
        else:
            kind = LEADER_WORKER_SETS if scaled.runtime == "leader_worker_set" else DEPLOYMENTS
            replicas = {"spec": {"replicas": scaled.scaling.min_replicas + 1}}
            kube.patch(kind, (scaled.namespace, scaled.name), replicas)
            self._notes.append(f"{kind.kind} {scaled.name} was scaled by hand before the second run")
        again = engine.up()
        self._judge("second run", replace(again, problems=() if again.ok else again.problems))
        self._findings += verdicts.changed_again(again)

    def _see_the_fault(self) -> None:
        """An injected fault that nothing noticed is a fault of the rehearsal."""
        name = self._options.inject
        if name is None:
            return
        injection = INJECTIONS[name]
        if not any(finding.check in injection.found_by for finding in self._findings):
            self._findings.append(
                Finding(
                    check="injection",
                    subject=name,
                    field="",
                    problem=f"{injection.breaks}, and no check of {', '.join(injection.found_by)} noticed",
                    remedy="mend the rehearsal: it would let this through",
                )
            )


__all__ = ["RehearsalError", "RehearsalOptions", "rehearse"]
