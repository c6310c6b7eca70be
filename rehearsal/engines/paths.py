"""Pulumi property paths, such as `spec.replicas` or `metadata.annotations["example.com/x"]`, on plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from rehearsal.engines.values import Secret

Path = tuple[str | int, ...]

_STEP = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|\.?([^.\[\]"]+)')


def parse(path: str) -> Path:
    """The steps of a path: text for a key, a number for a place in a list.

    Raises:
        ValueError: not a property path.
    """
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise ValueError(f"{path!r} is no property path: see column {position + 1}")
        quoted, index, key = match.groups()
        steps.append(quoted.replace('\\"', '"') if quoted is not None else int(index) if index is not None else key)
        position = match.end()
    return tuple(steps)


def get(value: Any, path: Path) -> Any:
    """What is at the path, None where nothing is."""
    for step in path:
        value = _inside(value)
        if isinstance(value, Mapping):
            value = cast(Mapping[Any, Any], value).get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(cast(list[Any], value)):
            value = cast(list[Any], value)[step]
        else:
            return None
    return value


def put(value: Any, path: Path, new: Any) -> Any:
    """A copy of the value with `new` at the path; missing mappings on the way are made."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    inner = _inside(value)
    if isinstance(inner, list) and isinstance(step, int):
        items = cast(list[Any], inner)
        return [put(item, rest, new) if i == step else item for i, item in enumerate(items)]
    mapping: Mapping[Any, Any] = cast(Mapping[Any, Any], inner) if isinstance(inner, Mapping) else {}
    changed = {**mapping, step: put(mapping.get(step), rest, new)}
    return Secret(changed) if isinstance(value, Secret) else changed


def remove(value: Any, path: Path) -> Any:
    """A copy of the value without what is at the path."""
    inner = _inside(value)
    if not path or not isinstance(inner, Mapping) or path[0] not in inner:
        return value
    mapping = cast(Mapping[Any, Any], inner)
    if len(path) == 1:
        changed = {key: item for key, item in mapping.items() if key != path[0]}
    else:
        changed = {**mapping, path[0]: remove(mapping[path[0]], path[1:])}
    return Secret(changed) if isinstance(value, Secret) else changed


def _inside(value: Any) -> Any:
    return value.value if isinstance(value, Secret) else value
