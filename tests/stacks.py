"""Stack files for tests: the committed ones, and copies with something changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
STACKS = ("dev", "staging", "prod", "local")
PLATFORM = "inference-platform:platform"


def stack_path(stack: str) -> Path:
    """Path of a committed stack file."""
    return ROOT / f"Pulumi.{stack}.yaml"


def document(stack: str) -> dict[str, Any]:
    """A committed stack file as data, free to change."""
    return copy.deepcopy(yaml.safe_load(stack_path(stack).read_text(encoding="utf-8")))


def changed(directory: Path, stack: str, changes: dict[str, Any], *, removed: tuple[str, ...] = ()) -> Path:
    """A copy of a stack file with values set and removed by dotted path below the platform; `/` paths are below
    `config`. List positions are numbers."""
    data = document(stack)
    for path, value in changes.items():
        node, last = _descend(data, path)
        if isinstance(node, list) and last == len(node):
            node.append(value)
        else:
            node[last] = value
    for path in removed:
        node, last = _descend(data, path)
        del node[last]
    target = directory / f"Pulumi.{stack}.yaml"
    target.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return target


def _descend(data: dict[str, Any], path: str) -> tuple[Any, Any]:
    node: Any = data["config"]
    if path.startswith("/"):
        return node, path[1:]
    node = node[PLATFORM]
    parts = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts[:-1]:
        node = node[part]
    return node, parts[-1]
