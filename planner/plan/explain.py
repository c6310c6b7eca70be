"""The Plan: numbers that can be traced. Each names its formula, what went into it, and where that came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Something that went into a number: a fact of the catalog, a setting, or a number explained elsewhere."""

    name: str
    """As the formula calls it."""
    value: float | str
    unit: str
    """Empty for a word or a bare count."""
    source: str
    """Where it comes from: the stack file's key, the catalog's source and date, or the section that explains it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A number of the Plan, its formula in the names of its inputs, and each input's source."""

    section: str
    """What it belongs to: `memory`, `performance`, `cost`, `load`, ..."""
    name: str
    """Unique in its section."""
    value: float
    unit: str
    formula: str
    inputs: tuple[Input, ...]

    def __post_init__(self) -> None:
        """A number without formula, inputs or sources is a programming error: raises ValueError."""
        untold = [given.name for given in self.inputs if not given.source.strip()]
        if not self.formula.strip() or not self.inputs or untold:
            message = f"{self.section}: {self.name} lacks its formula, its inputs or the source of {untold}"
            raise ValueError(message)
