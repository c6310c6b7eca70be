"""How a rehearsal is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

COMPRESSION: Final = 120.0
"""Planned seconds for each rehearsed second, where nothing is measured."""


class RehearsalError(Exception):
    """A rehearsal that could not be made; the message says what, where and how to mend it."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalOptions:
    """How to rehearse."""

    engine: Literal["in-process", "pulumi"] = "in-process"
    inject: str | None = None
    """A fault of `injections.INJECTIONS`."""
    capacity: Mapping[str, int] = field(default_factory=dict[str, int])
    """Machines that can be had, by rung; a rung that is not named has its maximum."""
    compression: float = COMPRESSION
    """Planned seconds for each rehearsed second."""
    settle_seconds: float = 300.0
    """How long models may take to become ready, on the wall's clock."""
    keda: bool = True
    """Run KEDA where a model is scaled by it."""
    crd_dir: Path | None = None
    """Upstream's CRDs; CRD_DIR of the environment where left out."""
    charts_dir: Path | None = None
    """Real charts to install; the others are stood in for."""
    climb: bool = False
    """Open every maintenance window: when withheld capacity comes, groups must climb back to it."""
    scenarios: tuple[str, ...] = ()
    """Failures of `scenarios.SCENARIOS` to play on the settled stack, one after the other."""
    spare_nodes: int = 0
    """Idle nodes that stand in each pool when a failure comes, as far as the rung in use has room."""
    port: int | None = None
    """Of the API server; a free one where left out."""
    progress: Callable[[str], None] = lambda _: None
