"""Inputs of explained numbers: facts and assumptions of the catalog with their sources."""

from __future__ import annotations

from catalog.assumptions import assumptions
from catalog.types import Sourced
from planner.plan import Input


def assumption(name: str, as_name: str | None = None) -> Input:
    """An assumption of the catalog as an input."""
    found = assumptions()[name]
    return Input(
        name=as_name or name,
        value=found.value,
        unit=found.unit,
        source=f"assumptions.yaml ({found.evidence}): {found.source}",
    )


def from_catalog(entry: Sourced, name: str, value: float, unit: str) -> Input:
    """A fact of the catalog as an input."""
    return Input(name=name, value=value, unit=unit, source=f"{entry.source}, {entry.as_of}")


def planned(name: str, value: float, unit: str, section: str) -> Input:
    """A number that another section explains."""
    return Input(name=name, value=value, unit=unit, source=f"section {section}, above")
