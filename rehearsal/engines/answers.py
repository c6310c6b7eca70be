"""Answers a program from simulation alone: AWS as `rehearsal.aws` says, Kubernetes as if every object were accepted."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any, cast

from rehearsal.aws import simulated
from rehearsal.engines import kubernetes_rules as rules
from rehearsal.engines import values
from rehearsal.engines.program import STACK_TYPE, Answer, Registration
from rehearsal.engines.values import UNKNOWN, Properties, Secret


class UnsupportedResourceError(Exception):
    """The program declares a type that no stand-in answers for."""


class SimulatedAnswers:
    """Records every resource and answers it from simulation.

    Attributes:
        registrations: by URN, in the order in which they came.
        stack_outputs: what the program exports, with marks.
    """

    def __init__(self, *, environment: simulated.SimulatedEnvironment, preview: bool = False) -> None:
        self.registrations: dict[str, Registration] = {}
        self.stack_outputs: Mapping[str, Any] = {}
        self.component_outputs: dict[str, Mapping[str, Any]] = {}
        self._environment = environment
        self._preview = preview
        self._lock = threading.Lock()

    def resource(self, registration: Registration) -> Answer:
        """See `Answers.resource`."""
        self.record(registration)
        return create(registration, environment=self._environment, preview=self._preview)

    def record(self, registration: Registration) -> None:
        """Remembers what the program declared."""
        with self._lock:
            self.registrations[registration.urn] = registration

    def read(self, registration: Registration, resource_id: str) -> Answer:
        """See `Answers.read`: the object as the program already knows it."""
        self.record(registration)
        return Answer(id=resource_id, outputs=registration.inputs)

    def call(self, token: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Answers.call`."""
        answer = simulated.invoke(token, args, environment=self._environment)
        if token == "aws:secretsmanager/getSecretVersion:getSecretVersion":  # noqa: S105 a token of a function
            answer["secretString"] = Secret(answer["secretString"])
        return answer

    def stop(self) -> None:
        """See `Answers.stop`: simulation waits for nothing."""

    def outputs(self, urn: str, outputs: Mapping[str, Any]) -> None:
        """See `Answers.outputs`."""
        if urn.split("::")[2] == STACK_TYPE:
            self.stack_outputs = outputs
        else:
            with self._lock:
                self.component_outputs[urn] = outputs


def create(
    registration: Registration, *, environment: simulated.SimulatedEnvironment, preview: bool, generation: int = 0
) -> Answer:
    """The answer to a create without any effect.

    Args:
        registration: the resource.
        environment: the simulated account.
        preview: leave unknown what only a real create would tell.
        generation: how often the resource was replaced: the next one has another id.

    Raises:
        UnsupportedResourceError: no stand-in knows the type.
    """
    if registration.type.startswith("pulumi:providers:"):
        digest = hashlib.sha256(registration.urn.encode()).hexdigest()
        provider_id = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
        return Answer(id=None if preview else provider_id, outputs=registration.inputs)
    if not registration.custom:
        return Answer(id=None, outputs=_component(registration, preview))
    if simulated.is_aws(registration.type):
        return _aws(registration, environment, preview, generation)
    if registration.type == rules.RELEASE:
        return _release(registration, preview)
    if rules.is_object(registration.type):
        return _object(registration, preview)
    raise UnsupportedResourceError(
        f"{registration.urn}: nothing stands in for {registration.type}; teach rehearsal/engines/answers.py about it"
    )


def _component(registration: Registration, preview: bool) -> Properties:
    if registration.type != rules.CERT_MANAGER:
        return {}
    return {"status": UNKNOWN if preview else {"status": "deployed"}}


def _aws(
    registration: Registration, environment: simulated.SimulatedEnvironment, preview: bool, generation: int
) -> Answer:
    kind, inputs = registration.type, values.reveal(registration.inputs)
    name = simulated_name(registration, generation)
    if preview:
        outputs = simulated.preview(kind, name, inputs, unknown=UNKNOWN, environment=environment)
        return Answer(id=None, outputs=marked(outputs, registration))
    resource_id, outputs = simulated.create(kind, name, inputs, environment=environment)
    return Answer(id=resource_id, outputs=marked(outputs, registration))


def simulated_name(registration: Registration, generation: int) -> str:
    """The name from which the simulated account makes ids: another one for each replacement."""
    return registration.name if generation == 0 else f"{registration.name}-r{generation}"


def marked(outputs: Mapping[str, Any], registration: Registration) -> Properties:
    """Outputs with the secret marks of the inputs they come from, and of the outputs declared secret."""
    result = {**outputs, **{key: value for key, value in registration.inputs.items() if values.secret_paths(value)}}
    for key in registration.secret_outputs:
        if key in result and not isinstance(result[key], Secret):
            result[key] = Secret(result[key])
    return result


def _object(registration: Registration, preview: bool) -> Answer:
    declared = rules.named(registration.inputs, registration.name, registration.urn)
    metadata = cast(Properties, declared["metadata"])
    namespace, name = metadata.get("namespace"), metadata.get("name")
    resource_id = f"{namespace}/{name}" if namespace else str(name)
    return Answer(id=None if preview else resource_id, outputs=declared)


def _release(registration: Registration, preview: bool) -> Answer:
    declared = registration.inputs
    name = rules.release_name(declared, registration.name, registration.urn)
    namespace = declared.get("namespace") or "default"
    if preview:
        return Answer(id=None, outputs={**declared, "name": name, "status": UNKNOWN, "resourceNames": UNKNOWN})
    status = {"name": name, "namespace": namespace, "status": "deployed", "revision": 1, **_chart(declared)}
    outputs = {**declared, "name": name, "status": status, "resourceNames": {}}
    return Answer(id=f"{namespace}/{name}", outputs=outputs)


def _chart(declared: Mapping[str, Any]) -> Properties:
    return {"chart": declared.get("chart"), "version": declared.get("version"), "appVersion": None}
