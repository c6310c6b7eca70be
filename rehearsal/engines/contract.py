"""What every rehearsal engine offers, whichever way it runs the program.

Two engines implement this: the real `pulumi` CLI with a stand-in AWS plugin, and an in-process driver for machines
without the CLI. Scenarios, reports and tests speak to `Engine` and to the records below, never to one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

Operation = Literal["create", "update", "replace", "delete", "same", "read"]

UNKNOWN: Final = "<computed>"
"""What stands in `RunResult` for a value that a preview cannot know yet."""

SECRET: Final = "<secret>"  # noqa: S105 - the mark that replaces a secret, not one
"""What stands in `RunResult` for a value Pulumi holds as secret. Plain secrets never leave an engine."""


class EngineError(Exception):
    """A run that could not be made or did not end well; the message says what, where and how to mend it."""


class EngineUnavailable(EngineError):  # noqa: N818 - a state of this machine rather than a fault of the run
    """This engine cannot run on this machine; the message says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInputs:
    """Everything an engine needs to run one stack of the program against the rehearsal's stand-ins.

    Attributes:
        project_dir: The project's root: `Pulumi.yaml` and the program beside it. Read only.
        stack: The stack's name, such as `prod`.
        stack_file: A temporary copy of the stack file with stand-in values in the place of real ones. Every preview and
            up reads it anew, so that a change to it can be rehearsed.
        kubeconfig: Kubeconfig of the local control plane, for `target: existing_cluster` and the engine's reads.
        endpoint: The control plane's `https://` address; the simulated EKS cluster answers with it.
        ca_data: The control plane's certificate authority, base64 of PEM, as EKS gives it.
        token: Bearer token that the control plane accepts.
        helm: The `helm` executable, where the engine must run charts itself.
        workdir: A folder of this rehearsal; the engine makes and removes its own folders in it.
        region: The AWS region the stack names.
        progress: Takes one line of text for every step worth telling.
        environment: Variables added to the program's environment (for example where a chart mirror lies).
        account: The AWS account the simulated resources belong to (the one AWS' own documents use).
    """

    project_dir: Path
    stack: str
    stack_file: Path
    kubeconfig: Path
    endpoint: str
    ca_data: str
    token: str = field(repr=False)
    helm: Path | None = None
    workdir: Path
    region: str
    progress: Callable[[str], None]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    account: str = "123456789012"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRecord:
    """One resource of the state after a run (or as planned, after a preview).

    Attributes:
        urn: Pulumi's URN, which tells stack, project, component chain, type and name.
        type: Type token such as `aws:eks/cluster:Cluster`.
        name: Logical name.
        parent: URN of the parent, None for the stack itself.
        protect: Whether Pulumi refuses to delete it.
        depends_on: URNs it depends on, explicit and through its inputs, sorted.
        custom: True for resources a provider owns, False for components and the stack.
        inputs: Inputs in Pulumi's (camelCase) names, unknown values as `UNKNOWN`, secrets as `SECRET`.
        outputs: Outputs likewise; after a preview only what is known.
        id: The provider's id, None for components and for what a preview would create.
    """

    urn: str
    type: str
    name: str
    parent: str | None
    protect: bool
    depends_on: tuple[str, ...]
    custom: bool
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a run did (or would do) to one resource.

    Attributes:
        urn: The resource.
        operation: A replacement counts once, as `replace`, whatever steps it is made of.
        diff_keys: Paths of the inputs that changed, sorted; empty unless the operation is `update` or `replace`.
    """

    urn: str
    operation: Operation
    diff_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The outcome of one preview, up or destroy.

    Attributes:
        changes: One for each resource, unchanged ones included, in the order in which the engine finished them: after
            a destroy, the order of deletion.
        outputs: The stack's outputs, secrets as `SECRET`; after a preview only those that are known then, if any.
        resources: The state after the run; after a preview, the resources as planned.
        seconds: Wall-clock time of the run.
        problems: Errors and warnings of the run, one line each or a short block. Empty means a clean run.
        ok: Whether the run ended without an error. A run that failed still tells what it had done.
    """

    changes: tuple[Change, ...]
    outputs: Mapping[str, Any]
    resources: tuple[ResourceRecord, ...]
    seconds: float
    problems: tuple[str, ...] = ()
    ok: bool = True

    def of(self, *operations: Operation) -> tuple[Change, ...]:
        """The changes of these operations, in order."""
        return tuple(change for change in self.changes if change.operation in operations)

    @property
    def unchanged(self) -> bool:
        """True where a run found nothing to do (reads are nothing)."""
        return self.ok and not self.of("create", "update", "replace", "delete")


class Engine(Protocol):
    """Runs the project's own program, unmodified, against the rehearsal's stand-ins.

    A failed run is a `RunResult` with `ok` False and its errors in `problems`; `EngineError` is raised only where no
    run took place.
    """

    name: str

    def preview(self) -> RunResult:
        """What `up` would do now; changes nothing."""
        ...

    def up(self, targets: Sequence[str] = ()) -> RunResult:
        """Make it so. `targets` are URNs or URN globs (`**` matches across `::`); empty means everything."""
        ...

    def destroy(self) -> RunResult:
        """Delete everything in the temporary state, protected and retained resources too, dependents first."""
        ...

    def close(self) -> None:
        """Remove the engine's temporary state and end its processes; may be called twice."""
        ...
