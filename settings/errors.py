"""Problems of a stack file as data, and the one renderer of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PLATFORM_KEY = "inference-platform:platform"

Path = tuple[str | int, ...]
"""Keys and list positions below `inference-platform:platform`."""

REGION_PATH: Path = ("aws:region",)
"""The one path that lies beside the platform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a text file; line and column count from 1."""

    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong in a stack file: where, what, and how to mend it."""

    path: Path
    message: str
    help: str | None = None
    position: Position | None = None

    def dotted(self) -> str:
        """The path as people write it: `models[0].replicas.max`."""
        text = ""
        for part in self.path:
            if isinstance(part, int):
                text += f"[{part}]"
            else:
                text += f".{part}" if text else part
        return text or PLATFORM_KEY


class StackFileError(Exception):
    """The stack file cannot be used. Holds every problem that was found, in the order of the file."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(
            sorted(problems, key=lambda p: (p.position.line, p.position.column) if p.position else (10**9, 0))
        )
        super().__init__(render(file, self.problems))


def render(file: str, problems: Sequence[Problem]) -> str:
    """One text for all problems of one file: position, the line itself, what is wrong and what to do."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    blocks = [f"error: {file} has {count}"]
    for problem in problems:
        place = f"{file}:{problem.position.line}:{problem.position.column}" if problem.position else file
        blocks.append(f"  {place}  {problem.dotted()}" if problem.path else f"  {place}")
        margin = "         "
        if problem.position:
            blocks.append(f"  {problem.position.line:>6} | {problem.position.text.strip()}")
        blocks.append(f"{margin}= {problem.message}")
        if problem.help:
            blocks.append(f"{margin}= help: {problem.help}")
    return "\n".join(blocks)


_SECRET = re.compile(r"""((?:api[-_]?key|token|password)["']?\s*[=:]\s*)(?!\{)["']?[^\s,"'}\]]+""", re.IGNORECASE)


def shown(line: str) -> str:
    """A line of a stack file as messages quote it: what stands where a secret was looked for goes into no log."""
    return _SECRET.sub(r"\1(hidden)", line)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A help text that names the nearest known word, or the known words where there are few."""
    words = sorted(set(known))
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    if words and len(words) <= 12:
        return "known: " + ", ".join(words)
    return None
