"""From what Pulumi reports (events, preview steps, state) to the records of the engine contract."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pulumi.automation.events import EngineEvent, StepEventMetadata
from pulumi.runtime.rpc import UNKNOWN as WIRE_UNKNOWN

from rehearsal.engines.contract import SECRET, UNKNOWN, Change, Operation, ResourceRecord

STACK_TYPE: Final = "pulumi:pulumi:Stack"

_SIGNATURE = "4dabf18193072939515e22adb298388d"
"""The key that marks an object as something special in Pulumi's JSON (`sdk/go/common/resource/sig`)."""
_SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a public marker
_BLINDED = "[secret]"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_COLOR = re.compile(r"<\{%.*?%\}>")

# A replacement is several steps, and an import creates as far as the state is concerned. What is absent here (refresh,
# discards, pending replaces) changes no resource by itself.
_OPERATIONS: Final[Mapping[str, Operation]] = {
    "same": "same",
    "create": "create",
    "import": "create",
    "update": "update",
    "delete": "delete",
    "read": "read",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
    "import-replacement": "replace",
    "read-replacement": "replace",
}


@dataclass(slots=True)
class ChangeLog:
    """Collects changes in the order in which the engine finishes them."""

    _operations: dict[str, Operation] = field(default_factory=dict[str, Operation])
    _keys: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def add(self, urn: str, step: str, diff_keys: Iterable[str]) -> Operation | None:
        """Note one finished step; gives its operation the first time the resource shows it, else None."""
        operation = _OPERATIONS.get(step)
        if operation is None or _is_default_provider(urn):
            return None
        self._keys.setdefault(urn, set()).update(diff_keys)
        if self._operations.get(urn) == operation:
            return None
        self._operations[urn] = operation
        return operation

    def changes(self) -> tuple[Change, ...]:
        """What was noted."""
        return tuple(
            Change(
                urn=urn,
                operation=operation,
                diff_keys=tuple(sorted(self._keys[urn])) if operation in ("update", "replace") else (),
            )
            for urn, operation in self._operations.items()
        )


def diff_keys(step: StepEventMetadata) -> frozenset[str]:
    """The input paths a step names as changed: the detailed ones where the provider gives them."""
    return frozenset(step.detailed_diff or step.diffs or step.keys or ())


def finished_step(event: EngineEvent) -> StepEventMetadata | None:
    """The step that an event reports as done."""
    return event.res_outputs_event.metadata if event.res_outputs_event else None


def problem_of(event: EngineEvent) -> tuple[str, str] | None:
    """The severity and text of an error or warning, named by its resource; None for everything else."""
    said = event.diagnostic_event
    if said is None or said.severity not in ("error", "warning"):
        return None
    return said.severity, problem_text(said.message, urn=said.urn, prefix=said.prefix)


def problem_text(message: str, *, urn: str | None, prefix: str | None = None) -> str:
    """A diagnostic without Pulumi's color marks, led by the type and name of its resource."""
    text = _without_traceback(_COLOR.sub("", f"{prefix or ''}{message}").strip())
    if not urn:
        return text
    _, _, types, name = urn.split("::", 3)
    return text if types == STACK_TYPE else f"{types.rsplit('$', 1)[-1]} {name}: {text}"


def _without_traceback(text: str) -> str:
    """An exception of the program in one line: what it says, and the innermost place that is not a library's."""
    head, found, frames = text.partition("Traceback (most recent call last):")
    if not found:
        return text
    places = [match for match in _FRAME.finditer(frames) if "site-packages" not in match["file"]]
    where = f" ({places[-1]['file']}:{places[-1]['line']})" if places else ""
    return f"{head.strip()} {frames.strip().splitlines()[-1].strip()}{where}"


def record(state: Mapping[str, Any]) -> ResourceRecord:
    """One resource of an exported state or of a preview's steps."""
    urn = state["urn"]
    return ResourceRecord(
        urn=urn,
        type=state["type"],
        name=urn.split("::", 3)[3],
        parent=state.get("parent") or None,
        protect=bool(state.get("protect")),
        depends_on=tuple(sorted(set(state.get("dependencies") or ()))),
        custom=bool(state.get("custom")),
        inputs=cast(dict[str, Any], plain(state.get("inputs") or {})),
        outputs=cast(dict[str, Any], plain(state.get("outputs") or {})),
        id=state.get("id") or None,
    )


def records(states: Iterable[Mapping[str, Any]]) -> tuple[ResourceRecord, ...]:
    """All resources that are there, without those that a failed replacement left to be deleted."""
    return tuple(
        record(state) for state in states if not state.get("delete") and not _is_default_provider(state["urn"])
    )


def _is_default_provider(urn: str) -> bool:
    """Whether the CLI made this provider by itself. No program names it, and a preview does not tell of it."""
    _, _, types, name = urn.split("::", 3)
    return types.startswith("pulumi:providers:") and (name == "default" or name.startswith("default_"))


def stack_outputs(resources: Iterable[ResourceRecord]) -> Mapping[str, Any]:
    """The outputs of the stack itself."""
    for resource in resources:
        if resource.type == STACK_TYPE:
            return resource.outputs
    return {}


def plain(value: Any) -> Any:
    """A property value without Pulumi's markers: secrets as `SECRET`, unknowns as `UNKNOWN`."""
    if isinstance(value, dict):
        mapping = cast(dict[str, Any], value)
        if mapping.get(_SIGNATURE) == _SECRET_SIGNATURE:
            return SECRET
        return {key: plain(item) for key, item in mapping.items()}
    if isinstance(value, list):
        return [plain(item) for item in cast(list[Any], value)]
    if value == WIRE_UNKNOWN:
        return UNKNOWN
    return SECRET if value == _BLINDED else value


def releasable(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """The state with every guard against deletion taken off, and without what an interrupted run left pending.

    A rehearsal must be able to take down its temporary copy whole; the guards themselves are seen in the records. An
    object that would go with its cluster (`deletedWith`) is deleted too, since the local control plane stays.
    """
    return {
        **deployment,
        "resources": [
            {**state, "protect": False, "retainOnDelete": False, "deletedWith": ""}
            for state in deployment.get("resources") or ()
        ],
        "pending_operations": [],
    }
