"""Plain YAML data to frozen dataclasses: strict about keys and types, so that a mistyped fact cannot be loaded."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")


class CatalogError(Exception):
    """A catalog file is wrong: the message names the file, the path inside it and what was expected."""


@functools.cache
def _fields(cls: type) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Resolved types of a dataclass's fields by name, and the names of those without a default."""
    required = frozenset(
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    return typing.get_type_hints(cls), required


def build(cls: type[T], data: object, where: str) -> T:
    """Make a `cls` of a mapping.

    Raises:
        CatalogError: a key is missing or unknown, or a value has another type than the field.
    """
    if not isinstance(data, dict):
        raise CatalogError(f"{where}: expected a mapping, got {data!r}")
    given = cast("dict[str, object]", data)
    hints, required = _fields(cls)
    if unknown := given.keys() - hints.keys():
        raise CatalogError(f"{where}: unknown key {', '.join(sorted(map(str, unknown)))}")
    if missing := required - given.keys():
        raise CatalogError(f"{where}: missing {', '.join(sorted(missing))}")
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in given.items()})


def _value(hint: Any, value: object, where: str) -> object:
    """Check a value against a type and turn nested data into dataclasses, tuples and read-only mappings."""
    if hint in (str, bool, date):
        if type(value) is hint:
            return value
    elif hint is int:
        if type(value) is int:
            return value
    elif hint is float:
        if type(value) in (int, float):
            return float(cast("float", value))
    elif dataclasses.is_dataclass(hint):
        return build(cast("type[Any]", hint), value, where)
    else:
        return _generic(hint, value, where)
    raise CatalogError(f"{where}: expected {hint.__name__}, got {value!r}")


def _generic(hint: Any, value: object, where: str) -> object:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and value in args:
        return value
    if origin in (typing.Union, types.UnionType):  # every union here is `X | None`
        return None if value is None else _value(args[0], value, where)
    if origin is tuple and isinstance(value, list):
        items = cast("list[object]", value)
        return tuple(_value(args[0], item, f"{where}[{index}]") for index, item in enumerate(items))
    if origin is Mapping and isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return types.MappingProxyType({k: _value(args[1], v, f"{where}.{k}") for k, v in entries.items()})
    raise CatalogError(f"{where}: expected {hint}, got {value!r}")
