"""The engine for machines without the `pulumi` CLI: the same program, run in this process.

AWS answers by simulation; Kubernetes objects go to the real API server and charts through the real helm, many at once.
It keeps what it did, so that a second run changes only what changed, and deletes in reverse order of dependency.

What it leaves out of the real engine: aliases (a renamed resource is deleted and created), `import`, refresh, policy
packs and transforms. The real engine's rules on replacement are those of `diff.py`.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from rehearsal.aws.simulated import SimulatedEnvironment
from rehearsal.engines import kubernetes_rules, values
from rehearsal.engines.contract import Change, EngineInputs, RunResult
from rehearsal.engines.effects import Effects
from rehearsal.engines.project import Project
from rehearsal.engines.run import Run, failure_text, matcher
from rehearsal.engines.state import Entry, State, dependents_first

# Most rehearsed objects are ready in 1 to 5 s; what takes longer waits for something that will not come. The real
# provider waits 5 to 10 minutes.
_AWAIT_SECONDS: Final = 90.0
_DELETE_THREADS: Final = 32


class InProcessEngine:
    """See `rehearsal.engines.contract.Engine`."""

    name = "in-process"

    def __init__(self, inputs: EngineInputs, *, await_seconds: float = _AWAIT_SECONDS) -> None:
        """Prepares a state of nothing; raises `EngineError` where the project or stack file cannot be read.

        Args:
            inputs: the project, the stack file and the control plane.
            await_seconds: how long to wait for an object that does not say so itself.
        """
        self._inputs = inputs
        self._await_seconds = await_seconds
        self._folder = inputs.workdir / "in-process"
        Project.read(inputs)  # so that a file that cannot be read is told before anything is started
        self._state = State(self._folder / "state.json")
        self._environment = SimulatedEnvironment(
            cluster_endpoint=inputs.endpoint,
            cluster_ca_data=inputs.ca_data,
            account=inputs.account,
            region=inputs.region,
        )

    def preview(self) -> RunResult:
        """See `Engine.preview`."""
        return self._run(targets=(), preview=True)

    def up(self, targets: Sequence[str] = ()) -> RunResult:
        """See `Engine.up`."""
        return self._run(targets=targets, preview=False)

    def destroy(self) -> RunResult:
        """See `Engine.destroy`."""
        began = time.monotonic()
        effects = self._effects()
        if any(kubernetes_rules.in_cluster(entry.type) for entry in self._state.all()):
            for name in effects.remove_dead_api_services():
                self._inputs.progress(f"removed the aggregated API {name}, which nobody serves")
        deletion = _Deletion(self._state, effects, self._inputs.progress)
        deletion.run(self._state.all())
        self._state.save()
        return RunResult(
            changes=tuple(deletion.changes),
            outputs={},
            resources=tuple(entry.record() for entry in self._state.all()),
            seconds=time.monotonic() - began,
            problems=tuple(deletion.problems),
            ok=not deletion.problems,
        )

    def close(self) -> None:
        """See `Engine.close`."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _effects(self) -> Effects:
        return Effects(self._inputs, await_seconds=self._await_seconds)

    def _run(self, *, targets: Sequence[str], preview: bool) -> RunResult:
        began = time.monotonic()
        effects, project = self._effects(), Project.read(self._inputs)
        run = Run(
            state=self._state,
            effects=effects,
            environment=self._environment,
            stack=self._inputs.stack,
            project=project.name,
            progress=self._inputs.progress,
            preview=preview,
            targeted=matcher(targets),
        )
        try:
            log = project.run(run, preview=preview)
            run.problems += [run.cleared(text) for text in log.errors]
            warnings = [run.cleared(text) for text in log.warnings]
        except Exception as error:  # noqa: BLE001 a failed program is a result, not a crash of the engine
            warnings = []
            if not run.problems:  # a failed resource has said what went wrong; the program only fell over it
                run.problems.append(run.cleared(failure_text(error, self._inputs.project_dir)))
        changes = list(run.changes)
        if not run.problems:
            changes += self._delete_undeclared(run, effects, preview=preview)
        if not preview:
            self._state.save()
        return RunResult(
            changes=tuple(changes),
            outputs=values.shown(run.stack_outputs),
            resources=tuple(entry.record() for entry in (run.planned if preview else self._state.all())),
            seconds=time.monotonic() - began,
            problems=(*run.problems, *warnings),
            ok=not run.problems,
        )

    def _delete_undeclared(self, run: Run, effects: Effects, *, preview: bool) -> list[Change]:
        gone = [e for e in self._state.all() if e.urn not in run.registrations and run.targeted(e.urn)]
        held = [entry for entry in gone if entry.protect]
        run.problems += [
            f"{entry.urn} is no longer declared but protected: unprotect it first, or declare it again"
            for entry in held
        ]
        if preview:
            return [Change(urn=entry.urn, operation="delete") for entry in gone]
        if held:
            return []
        deletion = _Deletion(self._state, effects, self._inputs.progress)
        deletion.run([*run.replaced, *gone])
        run.problems += deletion.problems
        replaced = {entry.urn for entry in run.replaced}
        return [change for change in deletion.changes if change.urn not in replaced]


@dataclass(slots=True)
class _Deletion:
    """Deletes entries, dependents first, as many at once as the graph allows."""

    state: State
    effects: Effects
    progress: Callable[[str], None]
    changes: list[Change] = field(default_factory=list[Change])
    problems: list[str] = field(default_factory=list[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, entries: Iterable[Entry]) -> None:
        """Deletes them all; what something undeletable depends on stays."""
        waiting = {entry.urn: entry for entry in entries}
        blockers = dependents_first(waiting.values())
        running: dict[Future[bool], str] = {}
        with ThreadPoolExecutor(_DELETE_THREADS, thread_name_prefix="delete") as pool, self._stopping():
            while waiting or running:
                for urn in [urn for urn in waiting if not blockers[urn]]:
                    running[pool.submit(self._delete, waiting.pop(urn))] = urn
                if not running:
                    return  # the rest is held by what could not be deleted
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    urn = running.pop(future)
                    if future.result():
                        for others in blockers.values():
                            others.discard(urn)

    @contextlib.contextmanager
    def _stopping(self) -> Generator[None]:
        """Whatever ends the loop early, such as Ctrl-C, also ends the waits of the deletions under way."""
        try:
            yield
        except BaseException:
            self.effects.stop()
            raise

    def _delete(self, entry: Entry) -> bool:
        try:
            self.effects.delete(entry)
        except Exception as error:  # noqa: BLE001 told to the user; the others go on
            with self._lock:
                self.problems.append(f"{entry.type} {entry.name}: {error}")
            return False
        with self._lock:
            self.changes.append(Change(urn=entry.urn, operation="delete"))
        current = self.state.get(entry.urn)
        if current is not None and current.generation == entry.generation:
            self.state.remove(entry.urn)
        if entry.custom and not entry.type.startswith("pulumi:"):
            self.progress(f"deleted {entry.type} {entry.name}")
        return True
