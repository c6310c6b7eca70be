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
    """Make a `cls` of a mapping; `where` names the entry in messages.

    Raises:
        CatalogError: a key is missing or unknown, or a value has another type than the field.
    """
    try:
        return _build(cls, data)
    except CatalogError as problem:
        raise CatalogError(f"{where}{problem}") from None


def _build(cls: type[T], data: object) -> T:
    if not isinstance(data, dict):
        raise CatalogError(f": expected a mapping, got {data!r}")
    given = cast("dict[str, object]", data)
    hints, required = _fields(cls)
    if unknown := given.keys() - hints.keys():
        raise CatalogError(f": unknown key {', '.join(sorted(map(str, unknown)))}")
    if missing := required - given.keys():
        raise CatalogError(f": missing {', '.join(sorted(missing))}")
    values: dict[str, Any] = {}
    for key, value in given.items():
        values[key] = _at(key, hints[key], value)
    return cls(**values)


def _at(key: object, hint: Any, value: object) -> object:
    """The value, converted; a complaint gets its path here, on the way up, so that good data pays nothing for it."""
    try:
        return _value(hint, value)
    except CatalogError as problem:
        raise CatalogError(f".{key}{problem}") from None


def _value(hint: Any, value: object) -> object:
    """Check a value against a type and turn nested data into dataclasses, tuples and read-only mappings."""
    if hint in (str, int, bool, date):
        if type(value) is hint:
            return value
    elif hint is float:
        if type(value) in (int, float):
            return float(cast("float", value))
    elif dataclasses.is_dataclass(hint):
        return _build(cast("type[Any]", hint), value)
    else:
        return _generic(hint, value)
    raise CatalogError(f": expected {hint.__name__}, got {value!r}")


@functools.cache
def _shape(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _generic(hint: Any, value: object) -> object:
    origin, args = _shape(hint)
    if origin is Literal and value in args:
        return value
    if origin in (typing.Union, types.UnionType):  # every union here is `X | None`
        return None if value is None else _value(args[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(_at(index, args[0], item) for index, item in enumerate(cast("list[object]", value)))
    if origin is Mapping and isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return types.MappingProxyType({key: _at(key, args[1], item) for key, item in entries.items()})
    raise CatalogError(f": expected {hint}, got {value!r}")
