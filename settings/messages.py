"""Pydantic's errors in the reader's words: which key, what is wrong with it, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from settings.base import WrongValueError
from settings.errors import Path, Problem, did_you_mean
from settings.root import Settings


def problems_of(error: ValidationError, document: Mapping[str, Any]) -> tuple[list[Problem], list[Path]]:
    """Pydantic's errors in our words, and the paths of the values that are wrong."""
    by_path: dict[Path, Problem] = {}
    wrong: list[Path] = []
    for detail in error.errors(include_url=False, include_input=False):
        path, value, other_branch = resolve(detail, document)
        if other_branch:
            continue
        cause = detail.get("ctx", {}).get("error")
        message, help_text = _words(detail, value)
        wrong.append(path)
        if isinstance(cause, WrongValueError):
            message, help_text, path = str(cause), cause.help, path + cause.at
        if path in by_path and message not in by_path[path].message:
            message = f"{by_path[path].message}, or {message}"
        by_path[path] = Problem(path=path, message=message, help=help_text)
    return list(by_path.values()), wrong


def resolve(detail: ErrorDetails, document: Any) -> tuple[Path, Any, bool]:
    """The path in the file of a pydantic location, which also names union branches.

    The third value tells an error of a branch that the user did not mean: of the object form of a field that was given
    as a word, or of the word where an object was given.
    """
    path: list[str | int] = []
    node: Any = document
    location = detail["loc"]
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, Mapping) and part in node:
            node = cast(Mapping[Any, Any], node)[part]
            path.append(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(cast(list[Any], node)):
            node = cast(list[Any], node)[part]
            path.append(part)
        elif last and detail["type"] == "missing":
            path.append(part)
        elif _is_other_branch(part, node, last=last, kind=detail["type"]):
            return tuple(path), cast(Any, node), True
    return tuple(path), cast(Any, node), False


def _is_other_branch(part: str | int, value: Any, *, last: bool, kind: str) -> bool:
    """Whether a location's part names the branch of a union that the value does not look like."""
    if not isinstance(part, str):
        return False
    if isinstance(value, Mapping):
        return part.startswith("literal[")
    return last and kind == "model_type" and part[:1].isupper()


def _words(detail: ErrorDetails, value: Any) -> tuple[str, str | None]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key", did_you_mean(str(detail["loc"][-1]), _field_names(detail["loc"][:-1]))
    if kind == "missing":
        return "is missing", _description(detail["loc"])
    if kind == "union_tag_not_found":
        tag = str(context.get("discriminator", "kind")).strip("'")
        forms = (node.get("properties", {}).get(tag, {}).get("const") for node in _schemas(detail["loc"]))
        known = [f"`{tag}: {form}`" for form in forms if form is not None]
        return f"`{tag}` is missing", f"add {' or '.join(known)}: it says which form is meant"
    if kind == "union_tag_invalid":
        expected = str(context.get("expected_tags", "")).replace("'", "").split(", ")
        return f"`{context.get('tag')}` is not a known form", did_you_mean(str(context.get("tag")), expected)
    if kind == "literal_error":
        return _choice_words(detail, value)
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        example = EXAMPLES.get(pattern)
        return f"`{value}` has the wrong form", f"it must match {pattern}" + (f", as {example} does" if example else "")
    return _type_words(detail, value)


def _choice_words(detail: ErrorDetails, value: Any) -> tuple[str, str | None]:
    expected = str(detail.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    near = None if isinstance(value, bool) else did_you_mean(str(value), expected)
    help_text = _UNQUOTED if isinstance(value, bool) else near if near and near.startswith("did") else None
    names = _field_names(detail["loc"][:-1]) if str(detail["loc"][-1]).startswith("literal[") else None
    forms = [*expected, f"a mapping of {_listed(names)}"] if names else expected  # a word or a mapping
    return f"`{value}` is not one of {', '.join(forms)}", help_text


def _type_words(detail: ErrorDetails, value: Any) -> tuple[str, str | None]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _MAPPING_TYPES:
        names = _field_names(detail["loc"])
        if "arn" in names and isinstance(value, str):
            return "a secret does not stand in a stack file", f"say where it is, its keys: {_listed(names)}"
        return f"{_shown(value)} must be a mapping", f"its keys: {_listed(names)}" if names else None
    if kind == "list_type":
        return f"{_shown(value)} must be a list", "write `[one, two]`, or each item on its own line after `- `"
    if kind == "too_short" and isinstance(value, list):  # not of a string
        return f"needs at least {context.get('min_length')}, has {context.get('actual_length')}", None
    if kind.startswith(("datetime", "timezone")):
        return f"{_shown(value)} is no moment with its time zone", 'write it in quotes, as "2027-02-01T11:30:00Z"'
    if kind == "string_type":
        return f"{_shown(value)} must be a string", _UNQUOTED if isinstance(value, bool) else "put it in quotes"
    if kind in {"int_parsing", "int_type", "int_from_float"}:
        return f"{_shown(value)} must be a valid integer", "write digits alone, without unit or separators"
    if kind == "invalid_key":
        return "keys must be words", "put a key that is a number in quotes, or remove it"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{_shown(value)} must be {message}" if detail["msg"].startswith("Input should") else message, None


_MAPPING_TYPES = {"model_type", "model_attributes_type", "dict_type"}
_UNQUOTED = "YAML reads a bare yes, no, on and off as true or false: put it in quotes"

EXAMPLES = {
    r"^[a-z]([-a-z0-9]*[a-z0-9])?$": "llama-8b",
    r"^arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]*:.+$": "arn:aws:iam::111122223333:role/platform",
    r"^[a-z]{2}(-[a-z]+)+-[0-9][a-z]$": "us-east-1a",
    r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$": "203.0.113.0/24",
    r"^tgw-[0-9a-f]{8,17}$": "tgw-0123456789abcdef0",
    r"^subnet-[0-9a-f]{8,17}$": "subnet-0123456789abcdef0",
    r"^vpc-[0-9a-f]{8,17}$": "vpc-0123456789abcdef0",
    r"^cr-[0-9a-f]{8,17}$": "cr-0123456789abcdef0",
    r"^[0-9a-f]{40}$": "0e9e39f249a16976918f6564b8830bc894c89659",
    r"^[\w.-]+/[\w.-]+$": "my-org/my-model",
    r"^(\S+ ){4}\S+$": "30 7 * * 1-5",
}
"""A value of each form that is written as a regular expression."""


def _shown(value: Any) -> str:
    return "it is empty:" if value is None else f"`{value}`:"


def _listed(names: Iterable[str]) -> str:
    """In the order of the alphabet, but first what tells the form."""
    return ", ".join(sorted(names, key=lambda name: (name not in {"kind", "access"}, name)))


def _field_names(location: tuple[str | int, ...]) -> set[str]:
    """Names that are allowed at a place."""
    return {name for node in _schemas(location) for name in node.get("properties", {})}


def _description(location: tuple[str | int, ...]) -> str | None:
    """What the field at a place is, in the words of its documentation."""
    name = str(location[-1])
    for node in _schemas(location[:-1]):
        text = node.get("properties", {}).get(name, {}).get("description")
        if text:
            return str(text)
    return None


def _schemas(location: tuple[str | int, ...]) -> list[dict[str, Any]]:
    """The JSON Schemas of the forms that a place may have."""
    schema = Settings.model_json_schema()
    definitions: dict[str, Any] = schema.get("$defs", {})

    def expand(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return expand(definitions[node["$ref"].rsplit("/", 1)[1]])
        branches = [*node.get("oneOf", []), *node.get("anyOf", [])]
        return [leaf for branch in branches for leaf in expand(branch)] if branches else [node]

    nodes = expand(schema)
    for part in location:
        below: list[dict[str, Any]] = []
        for node in nodes:
            child = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
            below.extend(expand(child) if child else [])
        # A union's tag names no key: stay with the form that it means.
        nodes = below or [node for node in nodes if _has_tag(node, part)] or nodes
    return nodes


def _has_tag(node: dict[str, Any], tag: int | str) -> bool:
    return any(field.get("const") == tag for field in node.get("properties", {}).values())
