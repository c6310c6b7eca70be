"""What promotion asks of Pulumi, and the Automation API's answers on this checkout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from ops import pulumi_cli
from ops.console import PROJECT_DIRECTORY
from ops.errors import FindingsError, MissingError

Operation = Literal["create", "update", "replace", "delete"]

_OPERATIONS: Final[Mapping[str, Operation]] = {
    "create": "create",
    "update": "update",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
    "delete": "delete",
    "import": "create",
    "import-replacement": "replace",
}
_HISTORY: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """What a stack runs."""

    commits: tuple[str, ...]
    """Of the last full `up` and of the partial ones (`--target`) after it; more than one is a mixture."""
    dirty: bool
    """Whether one of them was made from files that no commit has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChange:
    """What an `up` would do to one resource."""

    operation: Operation
    type: str
    urn: str


class StackEngine(Protocol):
    """Previews and updates stacks, and knows what was deployed."""

    def deployed(self, stack: str) -> Deployed | None:
        """What a stack runs; None where it never was up, or nothing tells the commit."""
        ...

    def preview(self, stack: str) -> Sequence[PlannedChange]:
        """What `up` would do, unchanged resources left out; raises FindingsError where it fails."""
        ...

    def up(self, stack: str, tell: Callable[[str], None]) -> None:
        """Make it so; raises FindingsError where it fails."""
        ...


class AutomationEngine:
    """The user's own stacks in their own backend."""

    def __init__(self) -> None:
        """Raises MissingError where there is no pulumi CLI."""
        # The Automation API looks on PATH alone.
        os.environ["PATH"] = f"{pulumi_cli.find_pulumi().parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # Heavy, and no other verb needs it.
        from pulumi import automation  # noqa: PLC0415

        self._automation: Any = automation

    def deployed(self, stack: str) -> Deployed | None:
        """See `StackEngine.deployed`: pulumi notes the commit of every update."""
        try:
            history = self._select(stack).history(page_size=_HISTORY, page=1, show_secrets=False)
        except self._automation.CommandError as error:
            raise MissingError(f"pulumi does not tell the history of {stack}: {_said(error)}") from None
        return deployed_of([(one.kind, one.result, one.environment) for one in history])

    def preview(self, stack: str) -> Sequence[PlannedChange]:
        """See `StackEngine.preview`."""
        found: dict[str, PlannedChange] = {}

        def listen(event: Any) -> None:
            change = planned_change(event.resource_pre_event.metadata) if event.resource_pre_event else None
            known = found.get(change.urn) if change else None
            # A replacement comes as several steps, some of which have the name of something lesser.
            if change is not None and (known is None or known.operation != "replace"):
                found[change.urn] = change

        try:
            # As in `deploy`: what autoscalers changed must be known before anything is sent.
            self._select(stack).preview(on_event=listen, color="never", refresh=True)
        except self._automation.CommandError as error:
            raise FindingsError(
                f"the preview of {stack} failed: {_said(error)}", help="`make preview` shows all"
            ) from None
        return tuple(found.values())

    def up(self, stack: str, tell: Callable[[str], None]) -> None:
        """See `StackEngine.up`."""
        try:
            self._select(stack).up(on_output=tell, color="never", refresh=True)
        except self._automation.CommandError as error:
            raise FindingsError(
                f"the update of {stack} failed: {_said(error)}",
                help="what was done stays done; mend the cause and promote again",
            ) from None

    def _select(self, stack: str) -> Any:
        try:
            return self._automation.select_stack(stack_name=stack, work_dir=str(PROJECT_DIRECTORY))
        except self._automation.StackNotFoundError:
            raise MissingError(
                f"the backend has no stack {stack}", help=f"`pulumi stack init {stack}`, after `pulumi login`"
            ) from None
        except self._automation.CommandError as error:
            raise MissingError(f"pulumi cannot open stack {stack}: {_said(error)}", help="`pulumi login`") from None


def planned_change(step: Any) -> PlannedChange | None:
    """A step of the engine's as a change; None for one that changes nothing."""
    operation = _OPERATIONS.get(str(getattr(step.op, "value", step.op)))
    return PlannedChange(operation=operation, type=step.type, urn=step.urn) if operation else None


def deployed_of(history: Sequence[tuple[str, str, Mapping[str, str]]]) -> Deployed | None:
    """What a stack runs, from its history, the newest first: (kind, result, environment).

    Pulumi notes the commit (`git.head`), whether the tree was clean (`git.dirty`) and the flags (`pulumi.flag.target`)
    of every update. Source: pulumi/pulumi, pkg/backend/metadata.
    """
    commits: Counter[str] = Counter()
    dirty = False
    for kind, result, environment in history:
        if kind == "destroy" and result == "succeeded":
            return None
        if kind != "update":
            continue
        if "git.head" not in environment:
            return None
        # A failed update has changed something, too.
        commits[environment["git.head"]] += 1
        dirty = dirty or environment.get("git.dirty") == "true"
        if result == "succeeded" and "pulumi.flag.target" not in environment:
            return Deployed(commits=tuple(commits), dirty=dirty)
    return None


def _said(error: Exception) -> str:
    """The reason in a failed command's output, which holds the whole of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("error:")]
    return (reasons or lines or ["no reason given"])[-1].removeprefix("error:").strip()
