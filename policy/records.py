"""Resources as rules see them: plain data, whether they come from the engine, a recorder or an exported state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, cast


class Unknown(Enum):
    """Type of `UNKNOWN`, so that checkers can tell it from other values."""

    VALUE = "unknown"


UNKNOWN: Final = Unknown.VALUE
"""A value that a preview cannot know yet. A rule lets it pass: the same rule sees the value during the update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One declared resource."""

    type: str
    """Type token, for instance `aws:s3/bucket:Bucket`."""
    name: str
    """Logical name."""
    props: Mapping[str, Any]
    """Properties with the provider's own (camelCase) names."""
    urn: str
    depends_on: frozenset[str] = frozenset()
    """URNs of what it depends on, by its inputs or in so many words."""

    @property
    def kind(self) -> str | None:
        """Kind of a Kubernetes object; None for everything else."""
        kind = self.props.get("kind") if self.type.startswith("kubernetes:") else None
        return kind if isinstance(kind, str) else None


Level = Literal["mandatory", "advisory"]
"""`mandatory` stops the deployment, `advisory` is told."""

Report = Callable[[str], None]
"""Takes a violation: what is wrong and how to mend it."""

StackReport = Callable[[str, Resource], None]
"""Takes a violation and the resource that it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRule:
    """A rule that looks at one resource; the engine asks it before the resource is made."""

    name: str
    description: str
    check: Callable[[Resource, Report], None]
    level: Level = "mandatory"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRule:
    """A rule that looks at all resources together."""

    name: str
    description: str
    check: Callable[[Sequence[Resource], StackReport], None]
    level: Level = "mandatory"


Rule = ResourceRule | StackRule


def at(value: Any, path: str) -> Any:
    """The value below `value` at a dotted path; None where a part is missing, UNKNOWN where one is not known."""
    for part in path.split("."):
        if value is UNKNOWN:
            return UNKNOWN
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, Any]", value).get(part)
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def listed(value: Any) -> Sequence[Any]:
    """The known items of a list; of a lone text, that text."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return [item for item in cast("Sequence[Any]", value) if item is not UNKNOWN]
    return ()


def is_true(value: Any) -> bool:
    """Whether a provider's boolean is set: AWS writes some of them as text. A value not known yet counts as set."""
    return value is UNKNOWN or value is True or value == "true"


def linked(resource: Resource, property_path: str, target: Resource, *target_properties: str) -> bool:
    """Whether a property of `resource` names `target`: by value where both are known, else by dependency."""
    value = at(resource.props, property_path)
    if value is None:
        return False
    known = {at(target.props, name) for name in target_properties} - {None, UNKNOWN}
    if value is not UNKNOWN and known:
        return value in known
    return target.urn in resource.depends_on
