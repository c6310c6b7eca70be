"""All rules over a whole stack's resources, without the pulumi CLI.

`python -m policy.judge <file>` judges what `pulumi stack export` wrote; `-` reads standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from policy.records import UNKNOWN, Level, Resource, ResourceRule, Rule
from policy.rules import RULES

_SIGNATURE = "4dabf18193072939515e22adb298388d"
"""Key by which Pulumi marks secrets, assets and references inside properties (sdk/go/common/resource)."""


class Recorded(Protocol):
    """A resource as a recorder keeps it."""

    @property
    def type(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def urn(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...
    @property
    def depends_on(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that a resource breaks."""

    rule: str
    level: Level
    urn: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.rule}: {self.urn}\n  {self.message}"


def judge(resources: Sequence[Resource], rules: Sequence[Rule] = RULES) -> list[Violation]:
    """Every violation, in the order of the rules."""
    found: list[Violation] = []
    for rule in rules:

        def report(message: str, resource: Resource, rule: Rule = rule) -> None:
            found.append(Violation(rule=rule.name, level=rule.level, urn=resource.urn, message=message))

        if isinstance(rule, ResourceRule):
            for resource in resources:
                rule.check(resource, lambda message, resource=resource, report=report: report(message, resource))
        else:
            rule.check(resources, report)
    return found


def from_records(records: Iterable[Recorded], *, unknown: object = UNKNOWN) -> list[Resource]:
    """Resources of a recorder; `unknown` is what it writes for a value that is not known."""
    return [
        Resource(
            type=record.type,
            name=record.name,
            urn=record.urn,
            props=cast("Mapping[str, Any]", plain(record.inputs, unknown)),
            depends_on=frozenset(record.depends_on),
        )
        for record in records
    ]


def from_state(state: Mapping[str, Any]) -> list[Resource]:
    """Resources of an exported state (`pulumi stack export`); encrypted values count as not known."""
    deployment = cast("Mapping[str, Any]", state.get("deployment") or state)
    found: list[Resource] = []
    for entry in cast("Sequence[Mapping[str, Any]]", deployment.get("resources") or ()):
        urn = str(entry["urn"])
        props: dict[str, Any] = dict(cast("Mapping[str, Any]", entry.get("inputs") or {}))
        if "id" in entry:
            props["id"] = entry["id"]
        found.append(
            Resource(
                type=str(entry["type"]),
                name=urn.rsplit("::", 1)[1],
                urn=urn,
                props=cast("Mapping[str, Any]", plain(props, UNKNOWN)),
                depends_on=frozenset(cast("Sequence[str]", entry.get("dependencies") or ())),
            )
        )
    return found


def plain(value: object, unknown: object) -> object:
    """`value` in dicts and lists, with `UNKNOWN` for what is not known or not in clear."""
    if value is unknown:
        return UNKNOWN
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value)
        return UNKNOWN if _SIGNATURE in items else {key: plain(item, unknown) for key, item in items.items()}
    if isinstance(value, list | tuple):
        return [plain(item, unknown) for item in cast("Sequence[object]", value)]
    return value


def main(arguments: Sequence[str]) -> int:
    """Print the violations of an exported state; 0 fine, 1 mandatory rules broken, 2 usage."""
    if len(arguments) != 1:
        sys.stderr.write("usage: pulumi stack export --stack prod | python -m policy.judge -\n")
        return 2
    try:
        text = sys.stdin.read() if arguments[0] == "-" else Path(arguments[0]).read_text(encoding="utf-8")
        state = json.loads(text)
        resources = from_state(state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        sys.stderr.write(f"error: {arguments[0]} is not what `pulumi stack export` writes: {error}\n")
        return 2
    violations = judge(resources)
    for violation in violations:
        sys.stdout.write(f"{violation}\n")
    mandatory = sum(violation.level == "mandatory" for violation in violations)
    sys.stdout.write(
        f"{len(resources)} resources, {mandatory} violations, {len(violations) - mandatory} pieces of advice\n"
    )
    return 1 if mandatory else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
