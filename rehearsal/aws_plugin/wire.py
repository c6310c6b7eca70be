"""Between protobuf structs and plain Python values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct


def from_struct(struct: Struct) -> dict[str, Any]:
    """The struct as plain values; whole numbers as int, since protobuf knows only doubles."""
    return {key: each_leaf(value, _whole) for key, value in MessageToDict(struct).items()}


def to_struct(values: Mapping[str, Any]) -> Struct:
    """Plain values as a struct."""
    struct = Struct()
    struct.update(dict(values))
    return struct


def each_leaf(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with every scalar in it, at any depth, passed through `change`."""
    if isinstance(value, dict):
        return {key: each_leaf(item, change) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [each_leaf(item, change) for item in cast(list[Any], value)]
    return change(value)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
