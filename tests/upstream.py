"""Upstream reference data for tests: definitions under CRD_DIR, chart values under CHART_VALUES_DIR.

CHART_VALUES_DIR holds `<chart>-<version>/values.yaml`; where it is not set, `charts` beside CRD_DIR is used.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CRD_DIR = os.environ.get("CRD_DIR", "")
CHART_VALUES_DIR = os.environ.get("CHART_VALUES_DIR", "") or (str(Path(CRD_DIR).parent / "charts") if CRD_DIR else "")

needs_definitions = pytest.mark.skipif(not CRD_DIR, reason="CRD_DIR names no directory of upstream definitions")
needs_chart_values = pytest.mark.skipif(
    not CHART_VALUES_DIR, reason="neither CHART_VALUES_DIR nor CRD_DIR names a directory of upstream charts"
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads a bare `=`, which an operator's definition holds, as text."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


def read_yaml(text: str) -> Any:
    """One YAML document."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader


def chart_folder(name: str, version: str) -> Path:
    """Folder of a chart's values; fails the test where the pinned version is not there."""
    folder = Path(CHART_VALUES_DIR) / f"{name}-{version}"
    assert folder.is_dir(), f"{folder} is missing: bring the values of the pinned chart"
    return folder


@functools.cache
def chart_values(name: str, version: str) -> Mapping[str, Any]:
    """The chart's default values."""
    return read_yaml((chart_folder(name, version) / "values.yaml").read_text())


def faults(manifest: Mapping[str, Any]) -> list[str]:
    """What the API server would refuse in a custom resource, unknown fields included; empty where it is good."""
    group, _, version = str(manifest["apiVersion"]).partition("/")
    validator = _validator(group, version, str(manifest["kind"]))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(manifest)]


@functools.cache
def _validator(group: str, version: str, kind: str) -> jsonschema.Draft202012Validator:
    for definition in _definitions(kind):
        spec = definition["spec"]
        if spec["group"] == group and spec["names"]["kind"] == kind:
            for served in spec["versions"]:
                if served["name"] == version and served["served"]:
                    return jsonschema.Draft202012Validator(_strict(served["schema"]["openAPIV3Schema"], top=True))
    raise AssertionError(f"CRD_DIR has no {group}/{version} {kind}")


def _definitions(kind: str) -> Iterator[dict[str, Any]]:
    """Definitions that mention the kind; the files are large, so others are not parsed."""
    mention = re.compile(rf"^ +kind: {kind}$", re.MULTILINE)
    for file in sorted(Path(CRD_DIR).rglob("*.yaml")):
        for document in re.split(r"^---$", file.read_text(), flags=re.MULTILINE):
            if mention.search(document):
                found = read_yaml(document)
                if found and found.get("kind") == "CustomResourceDefinition":
                    yield found


def _strict(schema: dict[str, Any], *, top: bool = False) -> dict[str, Any]:
    """An OpenAPI v3 structural schema as JSON Schema that refuses unknown fields, as `fieldValidation=Strict` does."""
    node = {
        key: value for key, value in schema.items() if not key.startswith("x-") and key not in {"format", "nullable"}
    }
    if schema.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
        node["type"] = ["integer", "string"]
    for combined in ("allOf", "anyOf", "oneOf"):
        # Validation-only branches: structural schemas declare no fields there.
        node.pop(combined, None)
    node.pop("not", None)
    if "properties" in node:
        fields = {name: _strict(child) for name, child in node["properties"].items()}
        if top:
            fields |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        node["properties"] = fields
        if "additionalProperties" not in node and not schema.get("x-kubernetes-preserve-unknown-fields"):
            node["additionalProperties"] = False
    if isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = _strict(node["additionalProperties"])
    if isinstance(node.get("items"), dict):
        node["items"] = _strict(node["items"])
    if schema.get("nullable") and isinstance(node.get("type"), str):
        node["type"] = [node["type"], "null"]
    return node
