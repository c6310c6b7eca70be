"""Adds or replaces one entry of a list in a stack file and leaves every other byte as it was."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from settings.errors import PLATFORM_KEY

ListName = Literal["pools", "models"]

_STEP = 2
"""Columns that a level is indented by where a file shows none."""
_WIDEST = 120
_BLOCK_SCALARS = frozenset("|>")


class EditError(Exception):
    """The file cannot be edited so; `help` says what to do."""

    def __init__(self, message: str, *, help: str | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.help = help


def with_entry(
    text: str, section: ListName, entry: Mapping[str, Any], *, replace: bool, without: Collection[str] = ()
) -> str:
    """The text of a stack file with `entry` at the end of `pools` or `models`, or in place of the one of its name.

    A replaced entry keeps its comments and the keys that neither `entry` nor `without` names.

    Raises:
        EditError: there is an entry of this name and `replace` is not set, or the list is written in one line.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    items = _list_node(text, section)
    column = items.start_mark.column
    found = next((node for node in items.value if _name_of(node) == entry["name"]), None)
    if found is None:
        at = _last_line(items.value[-1]) + 1
        added = _rendered([dict(entry)], column)
        result = [*lines[:at], *added, *lines[at:]]
    else:
        if not replace:
            raise EditError(
                f"{section} has `{entry['name']}` already (line {found.start_mark.line + 1})",
                help="another name, or --replace",
            )
        first, last = _first_line(found, lines, column), _last_line(found)
        result = [*lines[:first], *_merged(lines[first : last + 1], entry, without, column), *lines[last + 1 :]]
    edited = newline.join(result)
    _check(text, edited, section, entry)
    return edited


def entry_of(text: str, section: ListName, name: str) -> Mapping[str, Any] | None:
    """The entry of this name as data; None where there is none. Raises EditError for a file without the list."""
    if name not in (_name_of(node) for node in _list_node(text, section).value):
        return None
    items = yaml.safe_load(text)["config"][PLATFORM_KEY][section]
    return next(item for item in items if item.get("name") == name)


def _list_node(text: str, section: ListName) -> Any:
    root = cast("Any", yaml.compose(text, Loader=yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]
    node = _child(_child(_child(root, "config"), PLATFORM_KEY), section)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise EditError(f"there is no list `{section}` in it", help="start from Pulumi.dev.yaml")
    if node.flow_style:
        raise EditError(
            f"`{section}` is written in one line (line {node.start_mark.line + 1})",
            help="write each entry on lines of its own, with `- `",
        )
    return node


def _child(node: Any, key: str) -> Any:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _name_of(node: Any) -> str:
    name = _child(node, "name")
    return "" if name is None else str(name.value)


def _first_line(node: Any, lines: Sequence[str], column: int) -> int:
    """The line of the entry's dash, which may stand above its first key."""
    at = int(node.start_mark.line)
    while not lines[at][column:].startswith("-"):
        at -= 1
    return at


def _last_line(node: Any) -> int:
    """The last line that belongs to a node: of its deepest last part, since a block's own end is where the next token
    starts, comments and empty lines included."""
    if isinstance(node, yaml.ScalarNode):
        block = node.style in _BLOCK_SCALARS if node.style else False
        ended_before = block and node.end_mark.column == 0
        return int(node.end_mark.line) - ended_before
    if node.flow_style or not node.value:
        return int(node.end_mark.line)
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in cast("list[tuple[Any, Any]]", node.value) for part in pair]
    else:
        parts = cast("list[Any]", node.value)
    # An alias stands for a node elsewhere: only what lies below this node's own start counts.
    return max(line for line in map(_last_line, parts) if line >= node.start_mark.line)


def _rendered(items: Sequence[Any], column: int) -> list[str]:
    """A block sequence in the style of the committed files: innermost mappings in one line."""
    stream = io.StringIO()
    _writer().dump([_styled(item, outermost=True) for item in items], stream)  # pyright: ignore[reportUnknownMemberType]
    return [" " * column + line if line else line for line in _without_offset(stream.getvalue())]


def _merged(old: Sequence[str], entry: Mapping[str, Any], without: Collection[str], column: int) -> list[str]:
    """The old entry with the values of the new one; comments and other keys stay."""
    item = "\n".join(line[column:] if line[:column].isspace() or not column else line.lstrip() for line in old) + "\n"
    loader = _writer()
    parsed = cast("CommentedSeq", loader.load(item))  # pyright: ignore[reportUnknownMemberType]
    kept = cast("CommentedMap", parsed[0])
    for key in without:
        if key in kept and key not in entry:
            del kept[key]
    for key, value in entry.items():
        if key not in kept or _plain(kept[key]) != _plain(value):
            kept[key] = _styled(value)
    stream = io.StringIO()
    loader.dump(parsed, stream)  # pyright: ignore[reportUnknownMemberType]
    return [" " * column + line if line else line for line in _without_offset(stream.getvalue())]


def _writer() -> YAML:
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = _WIDEST
    writer.indent(mapping=_STEP, sequence=2 * _STEP, offset=_STEP)  # pyright: ignore[reportUnknownMemberType]
    return writer


def _without_offset(text: str) -> list[str]:
    """Lines without the two columns that ruamel puts before the outermost dash."""
    return [line[_STEP:] if line.startswith(" " * _STEP) else line for line in text.rstrip("\n").split("\n")]


def _styled(value: Any, *, in_list: bool = False, outermost: bool = False) -> Any:
    """Data for ruamel, in the style of the committed files: items of lists and mappings of plain values in one line."""
    if isinstance(value, Mapping):
        typed = cast("Mapping[str, Any]", value)
        made = CommentedMap((key, _styled(item, in_list=in_list)) for key, item in typed.items())
        if not outermost and (in_list or not any(isinstance(item, Mapping | list) for item in typed.values())):
            made.fa.set_flow_style()  # pyright: ignore[reportUnknownMemberType]
        return made
    if isinstance(value, list | tuple):
        return CommentedSeq(_styled(item, in_list=True) for item in cast("Sequence[Any]", value))
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    return value


def _check(before: str, after: str, section: ListName, entry: Mapping[str, Any]) -> None:
    """Refuses an edit that changed anything but its own entry: indentation that this module does not expect, say."""
    try:
        old, new = yaml.safe_load(before), yaml.safe_load(after)
        was, now = (data["config"][PLATFORM_KEY] for data in (old, new))
        mine = [item for item in now[section] if item["name"] == entry["name"]]
        as_meant = len(mine) == 1 and all(_plain(mine[0].get(key)) == _plain(value) for key, value in entry.items())
        was[section] = [item for item in was[section] if item["name"] != entry["name"]]
        now[section] = [item for item in now[section] if item["name"] != entry["name"]]
        same = old == new
    except (yaml.YAMLError, KeyError, TypeError):
        as_meant = same = False
    if not (as_meant and same):
        raise EditError(
            f"the way this file writes `{section}` is not understood well enough to add to it",
            help="indent its entries by two columns, as the committed stack files do, or add the entry by hand",
        )
