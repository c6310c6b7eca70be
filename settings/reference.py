"""The reference page of the stack file, from the models' own docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from settings.root import Settings

REFERENCE_FILE = Path(__file__).parent.parent / "docs" / "reference" / "stack-file.md"

_HEAD = """# The stack file

Everything below `inference-platform:platform`. Written by `make schema` from the models in `settings/`; do not edit.
Fields without a default must be given. Beside the platform, `aws:region` names the region of an EKS target.
"""


def rendered() -> str:
    """The whole page: the platform, then every section it uses, in the order of first use."""
    schema = Settings.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    text = [_HEAD, *_section("Platform", schema)]
    for name in _in_order(schema, definitions):
        text += _section(name, definitions[name])
    return "\n".join(text).rstrip() + "\n"


def _in_order(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    found: list[str] = []
    queue = [schema]
    while queue:
        for name in _references(queue.pop(0)):
            if name not in found:
                found.append(name)
                queue.append(definitions[name])
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield str(node["$ref"]).rsplit("/", 1)[1]  # pyright: ignore[reportUnknownArgumentType]
        for key, value in node.items():  # pyright: ignore[reportUnknownVariableType]
            if key != "$defs":
                yield from _references(value)
    elif isinstance(node, list):
        for item in node:  # pyright: ignore[reportUnknownVariableType]
            yield from _references(item)


def _section(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"## {name}", "", _one_line(schema.get("description", "")), ""]
    lines += ["| field | type | default | what |", "|---|---|---|---|"]
    required = set(schema.get("required", []))
    for field, value in schema.get("properties", {}).items():
        default = "" if field in required else _default(value)
        lines.append(f"| `{field}` | {_type(value)} | {default} | {_one_line(value.get('description', ''))} |")
    return [*lines, ""]


def _default(value: dict[str, Any]) -> str:
    default = value.get("default", value.get("const", ""))
    if default in ({}, [], ""):
        return "empty"
    if isinstance(default, dict):
        return "its own defaults"
    return "none" if default is None else f"`{default}`".replace("|", "\\|")


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for key in ("oneOf", "anyOf"):
        if key in value:
            return " or ".join(_type(option) for option in value[key])
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"map of {_type(value['additionalProperties'])}"
    return str(value.get("type", "any"))


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
