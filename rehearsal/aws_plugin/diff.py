"""What changed between two sets of inputs, as Pulumi's detailed diff."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, cast

from pulumi.runtime.proto.provider_pb2 import DiffResponse, PropertyDiff

_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$]*")


def changed_paths(old: Any, new: Any, path: str = "") -> dict[str, str]:
    """The property paths at which two values differ, each `add`, `delete` or `update`.

    Paths are Pulumi's: `a.b[0]["c.d"]`. Lists are compared by position, as the engine does for inputs.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        before, after = cast(Mapping[str, Any], old), cast(Mapping[str, Any], new)
        pairs = [
            (_join(path, key), before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in sorted({*before, *after})
        ]
    elif isinstance(old, list) and isinstance(new, list):
        first, second = cast(list[Any], old), cast(list[Any], new)
        pairs = [(f"{path}[{i}]", _at(first, i), _at(second, i)) for i in range(max(len(first), len(second)))]
    else:
        return {} if old == new else {path: "update"}
    changed: dict[str, str] = {}
    for inner, left, right in pairs:
        if left is _ABSENT:
            changed[inner] = "add"
        elif right is _ABSENT:
            changed[inner] = "delete"
        else:
            changed |= changed_paths(left, right, inner)
    return changed


def diff_response(
    old: Mapping[str, Any], new: Mapping[str, Any], *, replacing: Collection[str], delete_first: bool = False
) -> DiffResponse:
    """The engine's answer for a resource whose inputs went from `old` to `new`.

    Args:
        old: The inputs of the last run.
        new: The inputs now; may hold unknown values, which differ from every known one.
        replacing: The changed inputs (dotted for a field of a block) that AWS cannot change in place.
        delete_first: Whether the old one must go before the new one comes, as where both have one fixed name.
    """
    paths = changed_paths(old, new)
    replaced = {path for path in paths if any(_within(path, key) for key in replacing)}
    return DiffResponse(
        changes=DiffResponse.DIFF_SOME if paths else DiffResponse.DIFF_NONE,
        diffs=sorted({_top(path) for path in paths}),
        replaces=sorted({_top(path) for path in replaced}),
        deleteBeforeReplace=bool(replaced) and delete_first,
        hasDetailedDiff=True,
        detailedDiff={
            path: PropertyDiff(kind=_KINDS[kind, path in replaced], inputDiff=True) for path, kind in paths.items()
        },
    )


_ABSENT: Any = object()
_KINDS = {
    ("add", False): PropertyDiff.ADD,
    ("add", True): PropertyDiff.ADD_REPLACE,
    ("delete", False): PropertyDiff.DELETE,
    ("delete", True): PropertyDiff.DELETE_REPLACE,
    ("update", False): PropertyDiff.UPDATE,
    ("update", True): PropertyDiff.UPDATE_REPLACE,
}


def _at(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else _ABSENT


def _join(path: str, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def _top(path: str) -> str:
    return re.split(r"[.\[]", path, maxsplit=1)[0] or path


def _within(path: str, key: str) -> bool:
    return path == key or path.startswith((f"{key}.", f"{key}["))
