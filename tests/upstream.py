"""Upstream chart values for tests.

CHART_VALUES_DIR holds `<chart>-<version>/values.yaml`; where it is not set, `charts` beside CRD_DIR is used.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CRD_DIR = os.environ.get("CRD_DIR", "")
CHART_VALUES_DIR = os.environ.get("CHART_VALUES_DIR", "") or (str(Path(CRD_DIR).parent / "charts") if CRD_DIR else "")

needs_chart_values = pytest.mark.skipif(
    not CHART_VALUES_DIR, reason="neither CHART_VALUES_DIR nor CRD_DIR names a directory of upstream charts"
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads a bare `=`, which kube-prometheus-stack's values hold, as text."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


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
