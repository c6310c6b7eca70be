"""Numbers that are assumed, not known: each names its evidence so that a report can say so."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from catalog.records import build
from catalog.types import Evidence, Sourced

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumption(Sourced):
    """A number with its unit and how well it is known."""

    value: float
    unit: str
    evidence: Evidence


@functools.cache
def assumptions() -> Mapping[str, Assumption]:
    """All assumptions by name."""
    with (Path(__file__).parent / "assumptions.yaml").open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=_LOADER)  # noqa: S506 - both choices are safe loaders
    return {
        name: build(Assumption, {**document["defaults"], **entry}, f"assumptions.yaml: {name}")
        for name, entry in document["assumptions"].items()
    }


def assumed(name: str) -> float:
    """The value of one assumption; raises KeyError for an unknown name."""
    return assumptions()[name].value
