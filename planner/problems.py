"""Collects what is wrong with a stack, so that one run tells all of it."""

from __future__ import annotations

from collections.abc import Sequence

from planner.plan import Finding
from settings.errors import Path, Problem


class PlanError(Exception):
    """No plan can be made. Holds every problem with its path in the stack file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.dotted()}: {problem.message}" for problem in problems))


class Findings:
    """What planning found: problems that stop it and remarks that do not."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.remarks: list[Finding] = []

    def problem(self, path: Path, message: str, help: str | None = None) -> None:  # noqa: A002
        """Note something that makes the stack impossible or unsafe."""
        self.problems.append(Problem(path=path, message=message, help=help))

    def remark(self, subject: str, message: str) -> None:
        """Note something that a user should know."""
        self.remarks.append(Finding(subject=subject, message=message))

    def take(self, other: Findings) -> None:
        """Note everything that another one holds."""
        for problem in other.problems:
            self.problem(problem.path, problem.message, problem.help)
        for remark in other.remarks:
            self.remark(remark.subject, remark.message)

    def raise_if_any(self) -> None:
        """Raise PlanError where there are problems."""
        if self.problems:
            raise PlanError(self.problems)
