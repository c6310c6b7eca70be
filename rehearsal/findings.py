"""What a rehearsal found to be wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that would not work on the real platform."""

    check: str
    """Short name of what found it, such as `secret`."""
    subject: str
    """The object: `Kind namespace/name`."""
    field: str
    """Path inside the object; empty where the whole object is meant."""
    problem: str
    """What is missing or wrong."""
    remedy: str
    """What to change."""

    def __str__(self) -> str:
        where = f" {self.field}" if self.field else ""
        return f"[{self.check}] {self.subject}{where}: {self.problem}. {self.remedy}."
