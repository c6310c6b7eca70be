"""Something that AWS still has of a stack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that is still there."""

    service: str
    kind: str
    id: str
    detail: str
    kept: bool
    """On purpose: the stack file protects it."""
    remove: str
    """The command that removes it."""
