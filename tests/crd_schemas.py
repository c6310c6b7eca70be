"""Validates custom resources against upstream CustomResourceDefinitions, unknown fields refused.

The definitions are no part of the project: the environment variable CRD_DIR names a directory of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

_INT_OR_STRING = {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def crd_dir() -> Path:
    """The directory, or the test is skipped."""
    given = os.environ.get("CRD_DIR")
    if not given:
        pytest.skip("CRD_DIR names no directory of upstream CustomResourceDefinitions")
    return Path(given)


@cache
def definition(directory: Path, api_version: str, kind: str) -> dict[str, Any]:
    """The structural schema of a served version, as a strict JSON schema."""
    group, _, version = api_version.rpartition("/")
    for path in sorted(directory.rglob("*.yaml")):
        if f"kind: {kind}\n" not in (text := path.read_text()):
            continue
        for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            spec = (document or {}).get("spec", {})
            if spec.get("group") != group or spec.get("names", {}).get("kind") != kind:
                continue
            for candidate in spec["versions"]:
                if candidate["name"] == version and candidate["served"]:
                    return strict(candidate["schema"]["openAPIV3Schema"])
    raise LookupError(f"no definition of {api_version} {kind} below {directory}")


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A structural schema with unknown fields refused, as the API server's strict field validation does."""
    if schema.get("x-kubernetes-int-or-string"):
        return dict(_INT_OR_STRING)
    out: dict[str, Any] = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes-") and k != "format"}
    if "properties" in schema:
        out["properties"] = {name: strict(sub) for name, sub in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            out["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), Mapping):
        out["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        out["items"] = strict(schema["items"])
    return out


def problems(manifest: Mapping[str, Any]) -> list[str]:
    """What the API server would refuse; empty where it would not."""
    schema = definition(crd_dir(), manifest["apiVersion"], manifest["kind"])
    # `metadata` is the API machinery's own.
    schema = {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    ]


def pod_template_problems(template: Mapping[str, Any]) -> list[str]:
    """The same for a pod template, by the copy of its schema that LeaderWorkerSet's definition carries."""
    schema = definition(crd_dir(), "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    group = schema["properties"]["spec"]["properties"]["leaderWorkerTemplate"]["properties"]
    return [
        f"{error.json_path}: {error.message}"
        for error in jsonschema.Draft202012Validator(group["leaderTemplate"]).iter_errors(template)
    ]
