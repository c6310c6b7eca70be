"""From a stack file to `Settings`, or to every problem in it with its line."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, cast

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from settings.base import WrongValueError
from settings.errors import PLATFORM_KEY, REGION_PATH, Path, Position, Problem, StackFileError, did_you_mean
from settings.root import Settings

REGION_KEY = "aws:region"

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a stack file says, before it is judged."""

    file: str
    """Name for messages."""
    platform: Mapping[str, Any]
    region: str | None
    text: str | None
    """The file's text where there is one, for positions."""
    config_keys: tuple[str, ...] = ()
    """All keys of `config`, so that a missing flat secret can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """`settings` where all is well; else the problems, and what is left of the file without the wrong parts."""

    document: Document
    settings: Settings | None
    remainder: Settings | None
    problems: tuple[Problem, ...]
    gone: tuple[Path, ...] = ()
    """Pools and models of the file that `remainder` lacks."""

    def merged(self, found: Iterable[Problem]) -> list[Problem]:
        """All problems: our own, and those that somebody found in `remainder`, placed in the file."""
        moved = [replace(problem, path=_original(problem.path, self.gone)) for problem in found]
        known = {problem.path for problem in self.problems}
        return [*self.problems, *place((p for p in moved if p.path not in known), self.document)]


def stack_file(directory: FilePath, stack: str) -> FilePath:
    """Path of the stack file of `stack`; raises StackFileError where there is none."""
    path = directory / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        known = [p.name.split(".")[1] for p in directory.glob("Pulumi.*.yaml")]
        raise StackFileError(
            path.name,
            [Problem(path=(), message=f"there is no stack `{stack}`", help=did_you_mean(stack, known))],
        )
    return path


def read(path: FilePath) -> Document:
    """Parse a stack file; raises StackFileError for what is not YAML or has no platform in it."""
    name = path.name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StackFileError(name, [Problem(path=(), message=f"cannot be read: {error}")]) from None
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        raise StackFileError(name, [_syntax_problem(error, text)]) from None
    except yaml.YAMLError as error:
        raise StackFileError(name, [Problem(path=(), message=f"is not YAML: {error}")]) from None
    config = cast(Mapping[str, Any], data).get("config") if isinstance(data, Mapping) else None
    if not isinstance(config, Mapping):
        raise StackFileError(
            name, [Problem(path=(), message="has no `config:`", help=f"it must hold `{PLATFORM_KEY}`")]
        )
    typed = cast(Mapping[str, Any], config)
    platform = typed.get(PLATFORM_KEY)
    if not isinstance(platform, Mapping):
        raise StackFileError(name, [_no_platform(typed, text)])
    region = typed.get(REGION_KEY)
    return Document(
        file=name,
        platform=cast(Mapping[str, Any], platform),
        region=None if region is None else str(region),
        text=text,
        config_keys=tuple(typed),
    )


def validate(document: Document) -> Validation:
    """Judge a document by the models alone. Never raises for what a user wrote."""
    try:
        settings = Settings.model_validate(document.platform)
    except ValidationError as error:
        problems, wrong = _problems(error, document.platform)
        remainder, gone = _without(document.platform, wrong)
        return Validation(
            document=document,
            settings=None,
            remainder=remainder,
            gone=gone,
            problems=tuple(place(problems, document)),
        )
    return Validation(document=document, settings=settings, remainder=settings, problems=())


def place(problems: Iterable[Problem], document: Document) -> list[Problem]:
    """Give each problem its position in the file."""
    found = list(problems)
    if document.text is None or not found:
        return found
    root = _compose(document.text)
    config = _child(root, "config")
    platform = _child(config, PLATFORM_KEY)
    lines = document.text.splitlines()
    placed: list[Problem] = []
    for problem in found:
        start, path = (config, problem.path) if problem.path == REGION_PATH else (platform, problem.path)
        mark = _mark(start, path) or _mark(platform, ())
        if mark is None:
            placed.append(problem)
            continue
        line = int(mark.line)
        position = Position(line=line + 1, column=int(mark.column) + 1, text=lines[line])
        placed.append(replace(problem, position=position))
    return placed


class _UniqueKeyLoader(_Loader):  # type: ignore[misc]
    """YAML takes the last of two equal keys in silence; here the second is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"`{key.value}` is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # pyright: ignore


def _compose(text: str) -> Any:
    return yaml.compose(text, Loader=_Loader)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _no_platform(config: Mapping[str, Any], text: str) -> Problem:
    """The platform is not there, or is no mapping."""
    if PLATFORM_KEY not in config:
        help_text = did_you_mean(PLATFORM_KEY, map(str, config)) or "start from Pulumi.dev.yaml"
        return Problem(path=(), message=f"has no `{PLATFORM_KEY}`", help=help_text)
    value = config[PLATFORM_KEY]
    mark = _mark(_child(_compose(text), "config"), (PLATFORM_KEY,))
    return Problem(
        path=(),
        message=f"`{PLATFORM_KEY}` is empty" if value is None else f"`{value}`: must be a mapping",
        help="the platform's settings belong below it, indented; start from Pulumi.dev.yaml",
        position=_position(mark, text),
    )


def _position(mark: Any, text: str) -> Position | None:
    if mark is None:
        return None
    lines = text.splitlines() or [""]
    line = min(int(mark.line), len(lines) - 1)
    return Position(line=line + 1, column=int(mark.column) + 1, text=lines[line])


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    position = _position(error.problem_mark or error.context_mark, text)
    reason = error.problem or error.context or "cannot be parsed"
    help_text = "check indentation, quotes and brackets, here and on the line above"
    if position is not None and "\t" in position.text[: position.column]:
        help_text = "YAML is indented with spaces: replace the tab"
    return Problem(path=(), message=f"is not valid YAML: {reason}", help=help_text, position=position)


def _child(node: Any, key: str) -> Any:
    for name, value in getattr(node, "value", None) or ():
        if name.value == key:
            return value
    return None


def _mark(node: Any, path: Path) -> Any:
    """The mark of the deepest part of `path` that the file has: of the key, where it is a key's value."""
    mark = getattr(node, "start_mark", None)
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pairs = cast(Sequence[tuple[Any, Any]], node.value)
            found = next(((name, value) for name, value in pairs if name.value == part), None)
            if found is None:
                return mark
            mark, node = found[0].start_mark, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            return mark
    return mark


def _problems(error: ValidationError, document: Mapping[str, Any]) -> tuple[list[Problem], list[Path]]:
    """Pydantic's errors in our words, and the paths of the values that are wrong."""
    by_path: dict[Path, Problem] = {}
    wrong: list[Path] = []
    for detail in error.errors(include_url=False, include_input=False):
        path, value, other_branch = _resolve(detail, document)
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


def _resolve(detail: ErrorDetails, document: Any) -> tuple[Path, Any, bool]:
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
        return f"`{tag}` is missing", "it says which form is meant"
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
        return f"{_shown(value)} must be a mapping", f"its keys: {_listed(names)}" if names else None
    if kind == "list_type":
        return f"{_shown(value)} must be a list", "write `[one, two]`, or each item on its own line after `- `"
    if kind == "too_short" and isinstance(value, list):  # not of a string
        return f"needs at least {context.get('min_length')}, has {context.get('actual_length')}", None
    if kind == "string_type":
        return f"{_shown(value)} must be a string", _UNQUOTED if isinstance(value, bool) else "put it in quotes"
    if kind in {"int_parsing", "int_type", "int_from_float"}:
        return f"{_shown(value)} must be a valid integer", "write digits alone, without unit or separators"
    if kind == "invalid_key":
        return f"key `{detail['loc'][-2]}` must be a word", "put it in quotes"
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
        nodes = below or nodes  # a union's tag names no key: stay
    return nodes


def _without(document: Mapping[str, Any], wrong: Sequence[Path]) -> tuple[Settings | None, tuple[Path, ...]]:
    """What is left after the wrong values are taken out, so that one run can report the planner's findings as well.

    Where a value cannot be left out, its whole pool or model goes (and the models of such a pool). Returns what is left
    and the pools and models that went.
    """
    data: Any = copy.deepcopy(dict(document))
    for path in sorted(set(wrong), key=_deepest_last_item_first, reverse=True):
        if not (len(path) == 2 and isinstance(path[1], int)):
            _drop(data, path)
    gone: set[Path] = {path[:2] for path in wrong if len(path) == 2 and isinstance(path[1], int)}
    for _ in range(4):
        kept = _without_items(data, gone)
        try:
            return Settings.model_validate(kept), tuple(gone)
        except ValidationError as error:
            found = {
                _original(_resolve(d, kept)[0], gone) for d in error.errors(include_url=False, include_input=False)
            }
            for path in found:
                if len(path) > 1 and path[0] in {"pools", "models"}:
                    gone.add(path[:2])
                elif stand_in := next((at for at in _STAND_INS if path[: len(at)] == at), None):
                    _put(data, stand_in, _STAND_INS[stand_in])
                elif path and path[0] in _OPTIONAL:
                    data.pop(path[0], None)
                else:
                    return None, tuple(gone)
    return None, tuple(gone)


# Something valid in place of a section that is wrong, so that the rest of the file can still be judged.
_STAND_INS: dict[Path, Any] = {
    ("environment",): "unknown",
    ("target", "endpoint"): {"access": "public_and_private", "admin_cidrs": ["192.0.2.0/24"]},
    ("target", "admins"): ["arn:aws:iam::000000000000:role/unknown"],
    ("cache",): {"kind": "s3"},
    ("network",): {"kind": "create"},
}


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


def _original(path: Path, gone: Iterable[Path]) -> Path:
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
