"""From a stack file to `Settings`, or to every problem in it with its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, cast

import yaml
from pydantic import ValidationError

from settings.errors import PLATFORM_KEY, REGION_PATH, Path, Position, Problem, StackFileError, did_you_mean, shown
from settings.messages import problems_of
from settings.remainder import original, without
from settings.root import Settings

REGION_KEY = "aws:region"
PROFILE_KEY = "aws:profile"

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
    aws_profile: str | None = None
    """Profile of the AWS configuration files that the stack is deployed with; whoever calls, where None."""
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
        moved = [replace(problem, path=original(problem.path, self.gone)) for problem in found]
        told = [problem.path for problem in self.problems]
        return [*self.problems, *place((p for p in moved if not _follows(p.path, told)), self.document)]


def _follows(found: Path, told: Iterable[Path]) -> bool:
    """Whether a finding speaks of what was taken out of the file: of a section with a wrong part, or of its default."""
    if found[:1] in _COUNTED_BY_NODES and any(path[:1] == ("pools",) for path in told):
        return True
    for path in told:
        if len(found) > 2 and path[: len(found)] == found:
            return True
        if path[2:3] == ("replicas",) and path[:2] == found[:2] and found[2:3] in _COUNTED:
            return True
    return False


_COUNTED_BY_NODES = {("budget",), ("network",)}
"""Sections that are judged against the nodes that pools may have."""
_COUNTED = {("traffic",), ("autoscaling",), ("standby",), ("warm_replicas",)}
"""Keys of a model that are judged against its `replicas`."""


def stack_file(directory: FilePath, stack: str) -> FilePath:
    """Path of a stack file: by the stack's name, its path (`Pulumi.<name>.yaml`), or that of an example's folder.

    Raises:
        StackFileError: there is none.
    """
    if stack.endswith(".yaml"):
        return _named_file(FilePath(stack))
    path = directory / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        if "/" in stack:
            return _only_file(FilePath(stack))
        known = [p.name.split(".")[1] for p in directory.glob("Pulumi.*.yaml")]
        raise StackFileError(
            path.name,
            [Problem(path=(), message=f"there is no stack `{stack}`", help=did_you_mean(stack, known))],
        )
    return path


def _only_file(folder: FilePath) -> FilePath:
    found = sorted(folder.glob("Pulumi.*.yaml"))
    if len(found) == 1:
        return found[0]
    help_text = "name one: " + ", ".join(map(str, found)) if found else "name a Pulumi.<stack>.yaml, or its folder"
    raise StackFileError(str(folder), [Problem(path=(), message=f"has {len(found)} stack files", help=help_text)])


def _named_file(path: FilePath) -> FilePath:
    if not path.name.startswith("Pulumi."):
        problem = Problem(path=(), message="is no stack file by its name", help="call it Pulumi.<stack>.yaml")
        raise StackFileError(path.name, [problem])
    if not path.is_file():
        raise StackFileError(path.name, [Problem(path=(), message=f"{path} does not exist")])
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
        aws_profile=None if typed.get(PROFILE_KEY) is None else str(typed[PROFILE_KEY]),
        config_keys=tuple(typed),
    )


def validate(document: Document) -> Validation:
    """Judge a document by the models alone. Never raises for what a user wrote."""
    try:
        settings = Settings.model_validate(document.platform)
    except ValidationError as error:
        problems, wrong = problems_of(error, document.platform)
        remainder, gone = without(document.platform, wrong)
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
        position = Position(line=line + 1, column=int(mark.column) + 1, text=shown(lines[line]))
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
    return Position(line=line + 1, column=int(mark.column) + 1, text=shown(lines[line]))


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
