"""Two stack files side by side, by settings path; lists of named things are compared by name, not by position."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from ops.console import to_json
from settings.root import Settings

ABSENT: Final = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One setting that differs."""

    path: str
    source: str | None
    """None: not there."""
    target: str | None


def differences(source: Settings, target: Settings) -> tuple[Difference, ...]:
    """All settings that differ, defaults included, sorted by path."""
    ours, theirs = dict(_leaves("", to_json(source))), dict(_leaves("", to_json(target)))
    return tuple(
        Difference(path=path, source=ours.get(path, ABSENT), target=theirs.get(path, ABSENT))
        for path in sorted({*ours, *theirs})
        if ours.get(path, ABSENT) != theirs.get(path, ABSENT)
    )


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping) and value:
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from _leaves(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list) and value:
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _leaves(f"{path}[{_label(item, index)}]", item)
    else:  # numbers, booleans, and what is empty
        yield path, json.dumps(value)


def _label(item: Any, index: int) -> str:
    """Names of pools and models, kinds of rungs, ids of subnets: what stays when the order changes."""
    if isinstance(item, Mapping):
        named = cast("Mapping[str, Any]", item)
        for key in ("name", "id", "kind"):
            if key in named:
                return str(named[key])
    return str(index)
