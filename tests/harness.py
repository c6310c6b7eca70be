"""Deploys a program in memory and hands back plain records to assert on: no applies, no callbacks.

    world = deploy(lambda: Cluster("eks", args))
    assert world["aws:eks/cluster:Cluster", "eks"].protect

The records say what the real engine would see; see `rehearsal.engines.program`. AWS answers by simulation, Kubernetes
objects are echoed. Duplicate URNs, unknown AWS types and exceptions anywhere in the program fail the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rehearsal.aws import simulated
from rehearsal.engines import values
from rehearsal.engines.answers import SimulatedAnswers
from rehearsal.engines.program import STACK_TYPE, Registration, run_program

UNKNOWN = values.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRecord:
    """One resource as the engine would see it.

    Attributes:
        urn: its URN.
        type: type token.
        name: logical name.
        parent: URN of the parent; None for the stack.
        custom: True for resources of a provider, False for components.
        inputs: camelCase, resolved, in clear; unknown values are `UNKNOWN`.
        secrets: paths of the inputs that Pulumi holds as secret, such as `stringData.key`.
        depends_on: URNs, explicit and through inputs.
        provider: URN of the explicit provider; None means the default provider.
        protect: refuse deletion.
        retain_on_delete: leave the real thing behind.
        delete_before_replace: None where the program does not say.
        deleted_with: URN of what takes it along when deleted.
        ignore_changes: property paths as the engine gets them.
        aliases: earlier identities.
    """

    urn: str
    type: str
    name: str
    parent: str | None
    custom: bool
    inputs: Mapping[str, Any]
    secrets: tuple[str, ...]
    depends_on: tuple[str, ...]
    provider: str | None
    protect: bool
    retain_on_delete: bool
    delete_before_replace: bool | None
    deleted_with: str | None
    ignore_changes: tuple[str, ...]
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that a program declared.

    Attributes:
        resources: every resource but the stack itself, in the order in which they were registered.
        outputs: the stack's exports in clear; unknown values are `UNKNOWN`.
        secret_outputs: paths of the exports that are secret.
        component_outputs: what each component registered as its outputs, by URN, in clear.
        warnings: what the program logged as warnings.
    """

    resources: tuple[ResourceRecord, ...]
    outputs: Mapping[str, Any]
    secret_outputs: tuple[str, ...]
    component_outputs: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...]

    def __getitem__(self, key: tuple[str, str]) -> ResourceRecord:
        type_token, name = key
        found = [record for record in self.resources if (record.type, record.name) == key]
        if len(found) == 1:
            return found[0]
        if found:
            raise KeyError(f"{len(found)} resources of type {type_token} are called {name}: {[r.urn for r in found]}")
        raise KeyError(f"no {type_token} called {name}; there are: {sorted(r.name for r in self.of_type(type_token))}")

    def __iter__(self) -> Iterator[ResourceRecord]:
        return iter(self.resources)

    def of_type(self, type_token: str) -> tuple[ResourceRecord, ...]:
        """All resources of a type, in order of registration."""
        return tuple(record for record in self.resources if record.type == type_token)

    def by_urn(self, urn: str) -> ResourceRecord:
        """The resource with this URN."""
        return next(record for record in self.resources if record.urn == urn)

    def children(self, parent: ResourceRecord) -> tuple[ResourceRecord, ...]:
        """The resources directly below a component."""
        return tuple(record for record in self.resources if record.parent == parent.urn)

    def objects(self, kind: str) -> tuple[ResourceRecord, ...]:
        """All Kubernetes objects of a kind, whatever their API version."""
        return tuple(r for r in self.resources if r.type.startswith("kubernetes:") and r.inputs.get("kind") == kind)

    def inventory(self) -> list[str]:
        """One sorted line a resource, for goldens: `type name parent-type [protect]`."""
        lines: list[str] = []
        for record in self.resources:
            parent = (record.parent or "").split("::")[2].rsplit("$", 1)[-1] if record.parent else "-"
            lines.append(f"{record.type} {record.name} {parent}{' protect' if record.protect else ''}")
        return sorted(lines)


def deploy(
    program: Callable[[], Any],
    *,
    preview: bool = False,
    project: str = "inference-platform",
    stack: str = "dev",
    config: Mapping[str, str] | None = None,
    environment: simulated.SimulatedEnvironment | None = None,
) -> World:
    """Runs the program to its end and returns what it declared.

    Args:
        program: declares resources; needs no decorator and returns nothing.
        preview: as a first preview, where computed outputs are unknown and applies on them do not run.
        project: Pulumi project name.
        stack: stack name.
        config: stack configuration, `namespace:key` to text.
        environment: the simulated AWS account.

    Raises:
        Exception: whatever the program or one of its applies raised.
        AssertionError: the program declares an AWS type that the simulation does not know.
    """
    answers = SimulatedAnswers(environment=environment or simulated.SimulatedEnvironment(), preview=preview)
    log = run_program(program, answers=answers, project=project, stack=stack, preview=preview, config=config)
    unknown = simulated.unknown_types & {r.type for r in answers.registrations.values()}
    assert not unknown, f"rehearsal/aws/resource_types.yaml lacks {sorted(unknown)}"
    return World(
        resources=tuple(_record(r) for r in answers.registrations.values() if r.type != STACK_TYPE),
        outputs=values.reveal(answers.stack_outputs),
        secret_outputs=tuple(values.secret_paths(answers.stack_outputs)),
        component_outputs={urn: values.reveal(outputs) for urn, outputs in answers.component_outputs.items()},
        warnings=tuple(log.warnings),
    )


def _record(registration: Registration) -> ResourceRecord:
    return ResourceRecord(
        urn=registration.urn,
        type=registration.type,
        name=registration.name,
        parent=registration.parent,
        custom=registration.custom,
        inputs=values.reveal(registration.inputs),
        secrets=tuple(values.secret_paths(registration.inputs)),
        depends_on=registration.depends_on,
        provider=registration.provider_urn,
        protect=registration.protect,
        retain_on_delete=registration.retain_on_delete,
        delete_before_replace=registration.delete_before_replace,
        deleted_with=registration.deleted_with,
        ignore_changes=registration.ignore_changes,
        aliases=registration.aliases,
    )
