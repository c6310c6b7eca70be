"""What is left of a stack file without its wrong parts, so that one run can report the planner's findings as well."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from settings.errors import Path
from settings.messages import resolve
from settings.root import Settings


def without(document: Mapping[str, Any], wrong: Sequence[Path]) -> tuple[Settings | None, tuple[Path, ...]]:
    """What is left after the wrong values are taken out, so that one run can report the planner's findings as well.

    Where a value cannot be left out, its whole pool or model goes (and the models of such a pool). Returns what is left
    and the pools and models that went.
    """
    data: Any = copy.deepcopy(dict(document))
    for path in sorted(set(wrong), key=_deepest_last_item_first, reverse=True):
        if not (len(path) == 2 and isinstance(path[1], int)):
            _drop(data, path)
            if (anywhere := _in_any_item(path)) in _STAND_INS:  # else the planner would say that it is missing
                _put(data, path, _STAND_INS[anywhere])
    gone: set[Path] = {path[:2] for path in wrong if len(path) == 2 and isinstance(path[1], int)}
    replaced: set[Path] = set()
    for _ in range(4):
        kept = _without_items(data, gone)
        try:
            return Settings.model_validate(kept), tuple(gone)
        except ValidationError as error:
            found = {original(resolve(d, kept)[0], gone) for d in error.errors(include_url=False, include_input=False)}
            for path in found:
                at = next((path[: len(one)] for one in _STAND_INS if _in_any_item(path)[: len(one)] == one), None)
                if at is not None and at not in replaced:
                    replaced.add(at)
                    _put(data, at, _STAND_INS[_in_any_item(at)])
                elif len(path) > 1 and path[0] in {"pools", "models"}:
                    gone.add(path[:2])
                elif path and path[0] in _OPTIONAL:
                    data.pop(path[0], None)
                else:
                    return None, tuple(gone)
    return None, tuple(gone)


_ANY = -1
"""In place of an item's position in its list."""

# Something valid in place of a section that is wrong, so that the rest of the file can still be judged.
_STAND_INS: dict[Path, Any] = {
    ("environment",): "unknown",
    ("target", "endpoint"): {"access": "public_and_private", "admin_cidrs": ["192.0.2.0/24"]},
    ("target", "admins"): ["arn:aws:iam::000000000000:role/unknown"],
    ("cache",): {"kind": "s3"},
    ("network",): {"kind": "create"},
    ("models", _ANY, "revision"): "0" * 40,
    ("pools", _ANY, "capacity"): [{"kind": "on_demand", "nodes": {"min": 0, "max": 32}}],
}


def _in_any_item(path: Path) -> Path:
    return tuple(_ANY if isinstance(part, int) else part for part in path)


# Sections that may be left out where what is left of them is wrong.
_OPTIONAL = {name for name, field in Settings.model_fields.items() if not field.is_required()}


def _put(data: Any, path: Path, value: Any) -> None:
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = value


def _deepest_last_item_first(path: Path) -> tuple[tuple[str, int], ...]:
    return tuple((part, 0) if isinstance(part, str) else ("", part) for part in path)


def _without_items(data: Mapping[str, Any], gone: set[Path]) -> dict[str, Any]:
    """The document without the pools and models in `gone`; models of a pool that went go too."""
    kept = dict(data)
    lost_pools = {
        data["pools"][i].get("name") for key, i in gone if key == "pools" and isinstance(data["pools"][i], dict)
    }  # type: ignore[index]
    for index, model in enumerate(data.get("models", ())):
        if isinstance(model, dict) and model.get("pool") in lost_pools:  # pyright: ignore
            gone.add(("models", index))
    for key in ("pools", "models"):
        if isinstance(data.get(key), list):
            kept[key] = [item for index, item in enumerate(data[key]) if (key, index) not in gone]
    return kept


def original(path: Path, gone: Iterable[Path]) -> Path:
    """A path in what is left, as a path in the file."""
    if len(path) < 2 or not isinstance(path[1], int):
        return path
    index = path[1]
    for lost in sorted(item[1] for item in gone if item[0] == path[0] and isinstance(item[1], int)):
        if lost <= index:
            index += 1
    return (path[0], index, *path[2:])


def _drop(data: Any, path: Path) -> None:
    node = data
    for part in path[:-1]:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return
    try:
        del node[path[-1]]
    except (KeyError, IndexError, TypeError):
        return
