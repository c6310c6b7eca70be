"""The lines of a stack file that a policy changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def snippet(changed: Mapping[str, list[dict[str, Any]]]) -> str:
    """The changed entries as YAML, below `inference-platform:platform`; each key replaces that of the entry's name."""
    return yaml.dump(dict(changed), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Small mappings on one line, as stack files are written."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - the parent's
        """Lists are indented below their key."""
        super().increase_indent(flow, False)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """In flow style where it holds nothing but words and numbers."""
        node = super().represent_mapping(tag, mapping, flow_style)
        flat = all(isinstance(value, yaml.ScalarNode) for _, value in node.value)
        node.flow_style = flat
        return node
