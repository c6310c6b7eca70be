"""One preview or up of the in-process engine: answers the program resource by resource."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rehearsal.aws import simulated
from rehearsal.engines import answers, contract, kubernetes_rules, paths, values
from rehearsal.engines.contract import Change, Operation
from rehearsal.engines.diff import Decision, decide
from rehearsal.engines.effects import Effects, cert_manager_release
from rehearsal.engines.program import STACK_TYPE, Answer, Registration, RunError, make_urn
from rehearsal.engines.state import Entry, State
from rehearsal.engines.values import UNKNOWN, Properties


class ResourceFailedError(Exception):
    """A resource could not be made; the run has noted why."""


class Run(answers.SimulatedAnswers):
    """Answers one run of the program.

    Attributes:
        changes: what was done (or would be), in the order in which it was finished.
        problems: what went wrong, for people, without secrets.
        planned: the entries of a preview.
        replaced: entries whose old selves are still to be deleted.
        targeted: whether a URN is among the targets.
    """

    def __init__(
        self,
        *,
        state: State,
        effects: Effects,
        environment: simulated.SimulatedEnvironment,
        stack: str,
        project: str,
        progress: Callable[[str], None],
        preview: bool,
        targeted: Callable[[str], bool],
    ) -> None:
        super().__init__(environment=environment, preview=preview)
        self.changes: list[Change] = []
        self.problems: list[str] = []
        self.planned: list[Entry] = []
        self.replaced: list[Entry] = []
        self.targeted = targeted
        self._state = state
        self._effects = effects
        self._stack = stack
        self._project = project
        self._progress = progress
        self._skipped: set[str] = set()
        self._secret_texts: set[str] = set()

    def resource(self, registration: Registration) -> Answer:
        """See `Answers.resource`."""
        self.record(registration)
        self._secret_texts.update(values.secret_texts(registration.inputs))
        old = self._state.get(registration.urn)
        if not self.targeted(registration.urn) and registration.type != STACK_TYPE:
            return self._leave(registration, old)
        self._refuse_skipped(registration)
        if self.problems and not self._preview:
            # As the real engine: after a failure nothing new begins.
            raise ResourceFailedError(f"{registration.urn}: not begun, another resource failed")
        began = time.monotonic()
        try:
            decision, answer = self._answer(registration, old)
        except Exception as error:
            self.problems.append(self.cleared(f"{registration.type} {registration.name}: {error}"))
            raise ResourceFailedError(registration.urn) from error
        self._note(registration, decision, answer, old, seconds=time.monotonic() - began)
        return answer

    def read(self, registration: Registration, resource_id: str) -> Answer:
        """See `Answers.read`."""
        self.record(registration)
        if not kubernetes_rules.is_object(registration.type):
            error = f"{registration.type} {registration.name}: the rehearsal cannot look up {resource_id}; declare it"
            self.problems.append(error)
            raise ResourceFailedError(error)
        try:
            self._effects.check_provider(self._provider_inputs(registration))
            answer = self._effects.read(registration, resource_id)
        except Exception as error:
            self.problems.append(self.cleared(f"{registration.type} {registration.name}: {error}"))
            raise ResourceFailedError(registration.urn) from error
        decision = Decision(operation="same", inputs=registration.inputs)
        self._keep(replace(_entry(registration, decision, answer, 0), external=True))
        self._change(registration.urn, "read", ())
        return answer

    def outputs(self, urn: str, outputs: Mapping[str, Any]) -> None:
        """See `Answers.outputs`."""
        super().outputs(urn, outputs)
        entry = self._state.get(urn)
        if entry is not None and not self._preview:
            self._state.put(replace(entry, outputs=dict(outputs)))

    def stop(self) -> None:
        """See `Answers.stop`."""
        self._effects.stop()

    def cleared(self, text: str) -> str:
        """The text without any secret of the program."""
        for secret in sorted(self._secret_texts, key=len, reverse=True):
            text = text.replace(secret, contract.SECRET)
        return text

    def _answer(self, registration: Registration, old: Entry | None) -> tuple[Decision, Answer]:
        provider = self._provider_inputs(registration)
        in_cluster = kubernetes_rules.in_cluster(registration.type)
        # A first preview cannot know where the provider points: its kubeconfig comes from the cluster.
        if in_cluster and not (self._preview and values.has_unknown(provider)):
            self._effects.check_provider(provider)
        decision = decide(registration, old, provider or {})
        if registration.type == kubernetes_rules.CERT_MANAGER:
            return decision, self._cert_manager(registration)
        if old is not None and decision.operation == "same":
            return decision, Answer(id=old.id, outputs=old.outputs)
        effective = replace(registration, inputs=decision.inputs)
        if self._preview:
            return decision, self._foretell(effective, decision, old)
        if in_cluster:
            namespace = (provider or {}).get("namespace")
            return decision, self._effects.apply(effective, decision, old, namespace)
        return decision, self._simulate(effective, decision, old)

    def _simulate(self, registration: Registration, decision: Decision, old: Entry | None) -> Answer:
        """AWS, providers and components: nothing but an answer."""
        if old is None or decision.operation == "replace" or not simulated.is_aws(registration.type):
            generation = _generation(decision, old)
            return answers.create(registration, environment=self._environment, preview=False, generation=generation)
        outputs = simulated.update(
            registration.type,
            answers.simulated_name(registration, old.generation),
            values.reveal(registration.inputs),
            previous_outputs=values.reveal(old.outputs),
            environment=self._environment,
        )
        return Answer(id=old.id, outputs=answers.marked(outputs, registration))

    def _foretell(self, registration: Registration, decision: Decision, old: Entry | None) -> Answer:
        if old is None or decision.operation == "replace":
            return answers.create(registration, environment=self._environment, preview=True)
        outputs: Properties = {**old.outputs, **registration.inputs}
        if simulated.is_aws(registration.type):
            for path in simulated.computed_outputs(registration.type):  # fields of input blocks stay known
                steps = paths.parse(path)
                outputs = paths.put(outputs, steps, paths.get(old.outputs, steps))
        if "metadata" in outputs:
            outputs["metadata"] = {**old.outputs.get("metadata", {}), **registration.inputs.get("metadata", {})}
        if "latestVersion" in outputs:
            outputs["latestVersion"] = UNKNOWN
        return Answer(id=old.id, outputs=outputs)

    def _cert_manager(self, component: Registration) -> Answer:
        urn = make_urn(self._stack, self._project, component.urn, kubernetes_rules.RELEASE, f"{component.name}-helm")
        answer = self.resource(cert_manager_release(component, urn))
        return Answer(id=None, outputs={"status": answer.outputs.get("status")})

    def _provider_inputs(self, registration: Registration) -> Properties | None:
        urn = registration.provider_urn
        if urn is None:
            return None
        declared = self.registrations.get(urn)
        return None if declared is None else values.reveal(declared.inputs)

    def _leave(self, registration: Registration, old: Entry | None) -> Answer:
        """A resource that is no target stays as it is, or is not made."""
        if old is None:
            self._skipped.add(registration.urn)
            return Answer(id=None, outputs={}, skipped=True)
        self._change(registration.urn, "same", ())
        return Answer(id=old.id, outputs=old.outputs)

    def _refuse_skipped(self, registration: Registration) -> None:
        needed = {*registration.depends_on, registration.parent or "", registration.provider_urn or ""}
        for urn in sorted(needed & self._skipped):
            text = f"{registration.urn} depends on {urn}, which does not exist yet and is no target: target it as well"
            self.problems.append(text)
            raise ResourceFailedError(text)

    def _note(
        self, registration: Registration, decision: Decision, answer: Answer, old: Entry | None, *, seconds: float
    ) -> None:
        entry = _entry(registration, decision, answer, _generation(decision, old))
        if old is not None and decision.operation == "replace" and _another(old, entry):
            self.replaced.append(old)
        self._keep(entry)
        self._change(registration.urn, decision.operation, decision.diff_keys)
        if not self._preview and decision.operation != "same" and registration.custom:
            spent = f" ({seconds:.1f} s)" if seconds >= 1 else ""
            self._progress(f"{decision.operation}d {registration.type} {registration.name}{spent}")

    def _keep(self, entry: Entry) -> None:
        if self._preview:
            self.planned.append(entry)
        else:
            self._state.put(entry)

    def _change(self, urn: str, operation: Operation, keys: tuple[str, ...]) -> None:
        self.changes.append(Change(urn=urn, operation=operation, diff_keys=keys))


def _generation(decision: Decision, old: Entry | None) -> int:
    return 0 if old is None else old.generation + (decision.operation == "replace")


def _another(old: Entry, new: Entry) -> bool:
    """Whether the old self still exists beside the new one; in the cluster the same id means the same object."""
    return kubernetes_rules.is_object(old.type) and old.id != new.id


def _entry(registration: Registration, decision: Decision, answer: Answer, generation: int) -> Entry:
    return Entry(
        urn=registration.urn,
        type=registration.type,
        name=registration.name,
        parent=registration.parent,
        custom=registration.custom,
        protect=registration.protect,
        retain_on_delete=registration.retain_on_delete,
        depends_on=registration.depends_on,
        provider=registration.provider,
        ignore_changes=registration.ignore_changes,
        inputs=decision.inputs,
        outputs=dict(answer.outputs),
        id=answer.id,
        generation=generation,
    )


def matcher(targets: Sequence[str]) -> Callable[[str], bool]:
    """Whether a URN is one of the targets: `*` stands for anything within a segment, `**` for anything at all.

    Source: pulumi/pulumi pkg/resource/deploy/target.go. No targets means all.
    """
    if not targets:
        return lambda _urn: True
    patterns = [
        re.compile("".join({"**": ".*", "*": "[^:]*"}.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", t)))
        for t in targets
    ]
    return lambda urn: any(pattern.fullmatch(urn) for pattern in patterns)


def failure_text(error: Exception, project_dir: Path) -> str:
    """What a failed program says: its message alone, or for a mistake in the program also where it happened."""
    if isinstance(error, RunError):
        return str(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(project_dir)]
    frames = [f for f in frames if "site-packages" not in f.filename]
    place = f" ({Path(frames[-1].filename).relative_to(project_dir)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
