"""Provenance: where a fact comes from and when it was read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

Evidence = Literal["datasheet", "source", "measured", "unverified"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sourced:
    """Provenance that every entry carries: its own, else that of the file."""

    source: str
    as_of: date
