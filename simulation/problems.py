"""Problems of a trace, told like those of a stack file: where, what, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SHOWN = 20
"""Problems that are told; a wrong column would fill the screen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceProblem:
    """Something wrong in a trace."""

    line: int | None
    """Counted from 1; None: the file as a whole."""
    message: str
    help: str | None


class TraceError(Exception):
    """A trace that cannot be replayed. Holds the first problems, in the order of the file."""

    def __init__(self, path: Path, problems: Iterable[TraceProblem]) -> None:
        self.path = path
        found = sorted(problems, key=lambda problem: problem.line or 0)
        self.problems = tuple(found[:SHOWN])
        super().__init__(_render(path.name, self.problems, more=len(found) >= SHOWN))


def _render(file: str, problems: tuple[TraceProblem, ...], *, more: bool) -> str:
    count = f"the first {len(problems)} problems" if more else f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    lines = [f"error: {file} has {count}"]
    for problem in problems:
        place = f"{file}:{problem.line}" if problem.line else file
        lines.append(f"  {place}  {problem.message}")
        if problem.help:
            lines.append(f"         = help: {problem.help}")
    return "\n".join(lines)
