"""What a scenario is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rehearsal.findings import Finding
from rehearsal.injections import World
from rehearsal.scenarios.results import ScenarioResult
from rehearsal.scenarios.world import Theatre


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Something bad that happens to a stack that runs."""

    name: str
    does: str
    holds: tuple[str, ...]
    """What must hold."""
    prepare: Callable[[World], World]
    """The world that the stack starts in. Raises NotApplicableError where the stack has nothing to be hit."""
    play: Callable[[Theatre], tuple[ScenarioResult, Sequence[Finding]]]
    """Do it to a stack that has settled, measure and judge."""
