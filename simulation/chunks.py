"""Some megabytes of a trace, from text to arrays: fast where all is numbers, careful where it is not."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from simulation.problems import SHOWN, TraceProblem

Floats = npt.NDArray[np.float64]

CHUNK_BYTES = 8 * 2**20
LONGEST_LINE_BYTES = 64 * 2**10
_NUMERIC = np.zeros(256, dtype=bool)
_NUMERIC[np.frombuffer(b"0123456789.+-eE,\n\r ", dtype=np.uint8)] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows of a trace. What is no number is NaN, and told where the row is judged."""

    time: Floats
    input_tokens: Floats
    output_tokens: Floats
    requests: Floats | None
    model: npt.NDArray[np.str_] | None
    absolute: bool
    """Times are of the calendar, in seconds since 1970."""
    lines: npt.NDArray[np.int64] | int
    """Line of each row, or of the first where all follow each other."""
    next_line: int

    def line_of(self, row: int) -> int:
        """Line of a row in the file."""
        return self.lines + row if isinstance(self.lines, int) else int(self.lines[row])


def parse_chunk(block: bytes, columns: Sequence[str], *, first_line: int, problems: list[TraceProblem]) -> Chunk:
    """Rows of whole lines; adds a problem for a row that has not as many fields as there are columns."""
    fast = _numbers(block, len(columns))
    if fast is not None:
        at = {name: fast[:, index] for index, name in enumerate(columns)}
        return Chunk(
            time=at["time"],
            input_tokens=at["input_tokens"],
            output_tokens=at["output_tokens"],
            requests=at.get("requests"),
            model=at["model"].astype(str) if "model" in at else None,
            absolute=False,
            lines=first_line,
            next_line=first_line + len(fast),
        )
    return _careful(block, columns, first_line, problems)


def _numbers(block: bytes, columns: int) -> Floats | None:
    """A block that holds nothing but numbers in as many fields a line as there are columns; None: it does not."""
    raw = np.frombuffer(block, dtype=np.uint8)
    if not _NUMERIC[raw].all():
        return None
    ends = np.nonzero(raw == ord("\n"))[0]
    commas = np.nonzero(raw == ord(","))[0]
    expected = np.arange(1, len(ends) + 1) * (columns - 1)
    if not np.array_equal(np.searchsorted(commas, ends), expected):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = np.fromstring(block.replace(b"\n", b",").decode("ascii"), sep=",")
        except (ValueError, DeprecationWarning):
            return None
    return values.reshape(-1, columns) if len(values) == columns * len(ends) else None


def _careful(block: bytes, columns: Sequence[str], first_line: int, problems: list[TraceProblem]) -> Chunk:
    rows: list[Sequence[str]] = []
    lines: list[int] = []
    text = block.decode("utf-8", errors="replace")
    line = first_line
    for number, content in enumerate(io.StringIO(text, newline="\n"), start=first_line):
        line = number + 1
        if len(problems) >= SHOWN:
            break
        if not content.strip():
            continue
        if len(content) > LONGEST_LINE_BYTES:
            problems.append(
                TraceProblem(
                    line=number,
                    message=f"the line is longer than {LONGEST_LINE_BYTES} bytes",
                    help="a row has a handful of fields",
                )
            )
            break
        row = next(csv.reader([content])) if '"' in content else content.rstrip("\r\n").split(",")
        if len(row) != len(columns):
            problems.append(
                TraceProblem(
                    line=number,
                    message=f"{len(row)} fields, the header has {len(columns)}",
                    help="write all of " + ",".join(columns[:8]),
                )
            )
            continue
        rows.append(row)
        lines.append(number)
    fields = dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(columns, ())
    time, absolute = _times(fields["time"])
    return Chunk(
        time=time,
        input_tokens=_floats(fields["input_tokens"]),
        output_tokens=_floats(fields["output_tokens"]),
        requests=_floats(fields["requests"]) if "requests" in fields else None,
        model=np.array([name.strip() for name in fields["model"]], dtype=np.str_) if "model" in fields else None,
        absolute=absolute,
        lines=np.array(lines, dtype=np.int64),
        next_line=line,
    )


def _floats(texts: Sequence[str]) -> Floats:
    try:
        return np.array(texts, dtype=np.str_).astype(np.float64) if texts else np.zeros(0)
    except ValueError:
        return np.array([_float(text) for text in texts])


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _times(texts: Sequence[str]) -> tuple[Floats, bool]:
    """Seconds, and whether they are since 1970 because the trace writes dates."""
    if not texts or "-" not in texts[0][1:] or "e" in texts[0].lower():
        return _floats(texts), False
    return np.array([_instant(text) for text in texts]), True


def _instant(text: str) -> float:
    """Seconds since 1970 of an ISO time, in UTC where it names no zone; NaN where it is none."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return float("nan")
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
