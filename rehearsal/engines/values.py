"""Property values as the engines hold them: plain Python, with marks for what is secret and what is not known yet."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from google.protobuf.struct_pb2 import Struct, Value
from pulumi.runtime import rpc

from rehearsal.engines import contract

# Pulumi's signatures for values that plain JSON cannot say (pulumi/sdk: resource/plugin/rpc.go).
_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 a signature, not a secret
_RESOURCE: Final = "5cf8f73096256a8f31e491e813e4eb8e"
_OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"

Properties = dict[str, Any]


class Unknown(enum.Enum):
    """The one value that stands for what only a real run would tell."""

    VALUE = "unknown"


UNKNOWN: Final = Unknown.VALUE


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret value at its place among plain ones; its text never shows it."""

    value: Any = field(repr=False)


def decode(struct: Struct) -> Properties:
    """A protobuf struct of the resource monitor as plain values; whole numbers become int again.

    Protobuf knows only doubles, and an API server that validates strictly refuses `replicas: 1.0`.
    """
    return {key: _decode(value) for key, value in struct.fields.items()}


def _decode(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value == rpc.UNKNOWN else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "struct_value":
        return _decode_special(value.struct_value)
    return None


def _decode_special(struct: Struct) -> Any:
    if _SIGNATURE not in struct.fields:
        return decode(struct)
    values = decode(struct)
    signature = values.pop(_SIGNATURE)
    if signature == _SECRET:
        return Secret(values.get("value"))
    if signature == _RESOURCE:
        return values.get("id") or values["urn"]
    if signature == _OUTPUT:
        inner = values.get("value", UNKNOWN)
        return Secret(inner) if values.get("secret") else inner
    return values  # an asset: its path, text or address


def encode(values: Mapping[str, Any]) -> Struct:
    """The other way round, as the monitor answers the program."""
    struct = Struct()
    struct.update({key: _encode(value) for key, value in values.items()})
    return struct


def _encode(value: Any) -> Any:
    if isinstance(value, Secret):
        return {_SIGNATURE: _SECRET, "value": _encode(value.value)}
    if value is UNKNOWN:
        return rpc.UNKNOWN
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in cast(list[Any], value)]
    return value


def reveal(value: Any) -> Any:
    """The value without its secret marks, for those who must act on it."""
    if isinstance(value, Secret):
        return reveal(value.value)
    if isinstance(value, Mapping):
        return {key: reveal(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list):
        return [reveal(item) for item in cast(list[Any], value)]
    return value


def shown(value: Any) -> Any:
    """The value as people and reports may see it: marks instead of secrets and unknown values."""
    if isinstance(value, Secret):
        return contract.SECRET
    if value is UNKNOWN:
        return contract.UNKNOWN
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list):
        return [shown(item) for item in cast(list[Any], value)]
    return value


def has_unknown(value: Any) -> bool:
    """Whether any part of the value is unknown."""
    if isinstance(value, Secret):
        return has_unknown(value.value)
    if isinstance(value, Mapping):
        return any(has_unknown(item) for item in cast(Mapping[str, Any], value).values())
    if isinstance(value, list):
        return any(has_unknown(item) for item in cast(list[Any], value))
    return value is UNKNOWN


def secret_paths(value: Any, path: str = "") -> list[str]:
    """Where the secrets are, as `a.b[0].c`."""
    if isinstance(value, Secret):
        return [path]
    if isinstance(value, Mapping):
        pairs = cast(Mapping[str, Any], value).items()
        return [found for key, item in pairs for found in secret_paths(item, f"{path}.{key}" if path else key)]
    if isinstance(value, list):
        items = enumerate(cast(list[Any], value))
        return [found for i, item in items for found in secret_paths(item, f"{path}[{i}]")]
    return []


def secret_texts(value: Any) -> list[str]:
    """Every text inside a secret, so that messages can be cleared of it."""
    if isinstance(value, Secret):
        return [text for text in _texts(value.value) if len(text) >= 6]  # shorter ones would blank ordinary words
    if isinstance(value, Mapping):
        return _collect(cast(Mapping[str, Any], value).values())
    return _collect(cast(list[Any], value)) if isinstance(value, list) else []


def _collect(values: Iterable[Any]) -> list[str]:
    return [text for item in values for text in secret_texts(item)]


def _texts(value: Any) -> list[str]:
    if isinstance(value, Secret):
        return _texts(value.value)
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in cast(Mapping[str, Any], value).values() for text in _texts(item)]
    return [text for item in cast(list[Any], value) for text in _texts(item)] if isinstance(value, list) else []
