"""The rules of AWS that a stack file is held to, each with the change that breaks it; what tests and docs read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "rules.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule."""

    id: str
    rule: str
    why: str
    source: str
    stack: str
    """Committed stack file that keeps it."""
    change: dict[str, Any]
    """Values by dotted path that break it."""
    path: str
    """Where the problem is told."""
    says: str
    """Words of the message or of its help."""


def rules(path: Path = FILE) -> tuple[Rule, ...]:
    """All rules, in the order of the file; raises TypeError for an entry with other keys."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(Rule(**entry) for entry in document["rules"])
