"""Reads a trace of requests from CSV in bounded memory, however long it is, and tells every problem with its line.

Columns: `time` (seconds since the start of the replay, seconds since 1970, or ISO 8601), `input_tokens`,
`output_tokens`, and where the stack has several models `model`. Each row is one request; with a column `requests` it is
an interval with that many, of these mean lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from settings.errors import did_you_mean
from simulation.chunks import CHUNK_BYTES, LONGEST_LINE_BYTES, Chunk, parse_chunk
from simulation.lengths import LengthHistogram
from simulation.problems import SHOWN, TraceError, TraceProblem
from simulation.traffic import DAY_SECONDS, LONGEST_HOURS, ModelTraffic, Traffic

REQUIRED = ("time", "input_tokens", "output_tokens")
OPTIONAL = ("model", "requests")
_MOST_COLUMNS = 100
_LONGEST_PAUSE_SECONDS = 3600
"""Without a request for so long, a request-level trace has a gap rather than a quiet time."""
_EPOCH_FROM = 1e9
"""Numbers above are seconds since 1970."""
_COUNT_PER_SECOND = 1e6
"""More requests a second of one model are a mistake of the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceModel:
    """A model that a trace may name."""

    name: str
    context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How a trace is read."""

    models: Sequence[TraceModel]
    only: Sequence[str] = ()
    """Models that are replayed; rows of others are skipped. All where empty."""
    start: datetime
    """What second 0 is, where times count from the start."""
    hours: float | None = None
    """How much of it is replayed; all where None."""
    allow_gaps: bool = False


def read_trace(path: Path, options: TraceOptions) -> Traffic:
    """The traffic of a trace; raises TraceError with the first problems, each with its line."""
    return _Reader(path, options).read()


Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class _Reader:
    def __init__(self, path: Path, options: TraceOptions) -> None:
        self._path, self._options = path, options
        self._problems: list[TraceProblem] = []
        self._names = [model.name for model in options.models]
        self._context = np.array([model.context_tokens for model in options.models], dtype=np.float64)
        most = options.hours or LONGEST_HOURS
        self._seconds = int(most * 3600)
        self._counts = np.zeros((len(self._names), self._seconds), dtype=np.int64)
        self._input = [LengthHistogram() for _ in self._names]
        self._output = [LengthHistogram() for _ in self._names]
        self._origin: float | None = None
        """Epoch seconds of the replay's start, where times are absolute."""
        self._last: float | None = None
        self._last_line = 1
        self._interval: float | None = None
        self._done = False

    def read(self) -> Traffic:
        header, body_offset = self._header()
        line = 2
        rows = 0
        for block in self._blocks(body_offset):
            if self._done or len(self._problems) >= SHOWN:
                break
            chunk = parse_chunk(block, header, first_line=line, problems=self._problems)
            line = chunk.next_line
            if len(chunk.time):
                rows += len(chunk.time)
                self._take(chunk)
        if self._problems:
            raise TraceError(self._path, self._problems)
        if rows == 0:
            raise self._failed(1, "has a header and no rows", "each row is one request, or one interval")
        return self._traffic()

    def _header(self) -> tuple[tuple[str, ...], int]:
        try:
            with self._path.open("rb") as stream:
                first = stream.readline(LONGEST_LINE_BYTES + 1)
        except OSError as error:
            raise self._failed(None, f"cannot be read: {error.strerror}", "name a CSV file") from None
        if not first.strip():
            raise self._failed(None, "is empty" if not first else "starts with an empty line", _HEADER_HELP)
        if len(first) > LONGEST_LINE_BYTES:
            raise self._failed(
                1, f"the first line is longer than {LONGEST_LINE_BYTES} bytes: this is no trace", _HEADER_HELP
            )
        text = first.decode("utf-8-sig", errors="replace").strip()
        names = tuple(part.strip().strip('"').lower() for part in text.split(","))
        if len(names) > _MOST_COLUMNS:
            raise self._failed(1, f"{len(names)} columns, {_MOST_COLUMNS} at most are read", _HEADER_HELP)
        missing = [name for name in REQUIRED if name not in names]
        for name in missing:
            self._problems.append(
                TraceProblem(
                    line=1,
                    message=f"there is no column `{name}`",
                    help=did_you_mean(name, names) or _HEADER_HELP,
                )
            )
        for name in {name for name in names if names.count(name) > 1 and name in (*REQUIRED, *OPTIONAL)}:
            self._problems.append(TraceProblem(line=1, message=f"`{name}` stands twice", help="remove one"))
        if not missing and "model" not in names and len(self._replayed()) > 1:
            self._problems.append(
                TraceProblem(
                    line=1,
                    message=f"there is no column `model`, and the stack has {len(self._names)} models",
                    help="add it, or name the model with --model: " + ", ".join(self._names),
                )
            )
        if self._problems:
            raise TraceError(self._path, self._problems)
        return names, len(first)

    def _replayed(self) -> list[str]:
        return [name for name in self._names if not self._options.only or name in self._options.only]

    def _blocks(self, offset: int) -> Iterator[bytes]:
        """Whole lines, some megabytes at a time."""
        rest = b""
        with self._path.open("rb") as stream:
            stream.seek(offset)
            while data := stream.read(CHUNK_BYTES):
                end = data.rfind(b"\n")
                if end < 0:
                    rest += data
                    if len(rest) > LONGEST_LINE_BYTES:
                        # The parser tells the line and refuses it.
                        yield rest
                        return
                    continue
                yield rest + data[: end + 1]
                rest = data[end + 1 :]
        if rest.strip():
            yield rest + b"\n"

    def _take(self, chunk: Chunk) -> None:
        """Judge a chunk as a whole; name lines only where something is wrong."""
        model = self._models(chunk)
        times = self._times(chunk)
        self._check_order(chunk, times)
        counts = np.ones(len(times)) if chunk.requests is None else chunk.requests
        with np.errstate(invalid="ignore"):
            self._check(
                chunk,
                counts,
                ~((counts >= 0) & (counts <= _COUNT_PER_SECOND * DAY_SECONDS)),
                "requests",
                "must be a number, 0 or more",
                "how many arrived in the interval",
            )
            used = counts > 0
            for name, values in (("input_tokens", chunk.input_tokens), ("output_tokens", chunk.output_tokens)):
                self._check(
                    chunk,
                    values,
                    used & ~((values >= 1) & np.isfinite(values)),
                    name,
                    "must be 1 or more",
                    "a request without tokens is none: leave its row out",
                )
            total = chunk.input_tokens + chunk.output_tokens
            known = np.where(model >= 0, model, 0)
            limit = self._context[known]
            self._check(
                chunk,
                total,
                used & (model >= 0) & (total > limit),
                "input_tokens + output_tokens",
                "is more than the model's context_tokens",
                "raise context_tokens, or leave the row out: the engine would refuse it",
            )
        if len(self._problems) >= 1:
            return
        inside = (times < self._seconds) & (model >= 0) & (counts > 0)
        if not inside.any():
            self._done = bool(self._options.hours is not None and times.min() >= self._seconds)
            return
        if self._options.hours is not None and times[-1] >= self._seconds:
            self._done = True
        self._count(chunk, model, times, counts, inside)

    def _count(self, chunk: Chunk, model: Indices, times: Floats, counts: Floats, inside: Flags) -> None:
        present: list[int] = np.unique(model[inside]).tolist()
        for index in present:
            own = inside & (model == index)
            second = times[own].astype(np.int64)
            if chunk.requests is None:
                self._counts[index] += np.bincount(second, minlength=self._seconds)
            else:
                self._spread(index, second, counts[own])
            self._input[index].add(chunk.input_tokens[own], counts[own])
            self._output[index].add(chunk.output_tokens[own], counts[own])

    def _spread(self, model: int, seconds: Indices, counts: Floats) -> None:
        """The requests of an interval, spread evenly over its seconds: each second gets its whole share."""
        length = max(1, int(self._interval or 1))
        for begin, count in zip(seconds.tolist(), counts.tolist(), strict=True):
            edges: Floats = np.linspace(0.0, float(count), length + 1).round()
            end = min(self._seconds, begin + length)
            self._counts[model, begin:end] += np.diff(edges).astype(np.int64)[: end - begin]

    def _models(self, chunk: Chunk) -> Indices:
        """Index of each row's model; -1 where it is not replayed."""
        replayed = self._replayed()
        if chunk.model is None:
            return np.full(len(chunk.time), self._names.index(replayed[0]), dtype=np.int64)
        names, which = np.unique(chunk.model, return_inverse=True)
        numbers = np.full(len(names), -1, dtype=np.int64)
        for position, name in enumerate(names.tolist()):
            if name in self._names:
                numbers[position] = self._names.index(name) if name in replayed else -1
            else:
                for row in np.nonzero(which == position)[0][:SHOWN]:
                    self._tell(
                        chunk,
                        int(row),
                        f"the stack has no model `{name[:60]}`",
                        did_you_mean(name, self._names) or "it has " + ", ".join(self._names),
                    )
        return numbers[which]

    def _times(self, chunk: Chunk) -> Floats:
        """Seconds since the replay's start."""
        times = chunk.time
        bad = ~np.isfinite(times) | (times < 0)
        self._check(
            chunk,
            times,
            bad,
            "time",
            "must be a number of seconds, 0 or more, or ISO 8601",
            "for instance 12.5 or 2026-06-17T08:00:00Z",
        )
        if self._origin is None and (chunk.absolute or (len(times) and times[0] >= _EPOCH_FROM)):
            self._origin = float(times[0] // 60 * 60)
        return times - self._origin if self._origin is not None else times

    def _check_order(self, chunk: Chunk, times: Floats) -> None:
        before = np.concatenate(([self._last if self._last is not None else times[0]], times[:-1]))
        steps = times - before
        for row in np.nonzero(steps < 0)[0][:SHOWN]:
            self._tell(
                chunk,
                int(row),
                f"time {times[row]:g} s is before the row above ({before[row]:g} s)",
                "sort the rows by time",
            )
        longest = times[-1]
        limit = self._seconds if self._options.hours is None else np.inf
        if longest >= limit and not self._problems:
            row = int(np.argmax(times >= limit))
            self._tell(
                chunk,
                row,
                f"the trace is longer than {LONGEST_HOURS} hours ({times[row] / 3600:.4g} h here)",
                f"replay a part of it: --hours 24, {LONGEST_HOURS} at most",
            )
        if not self._options.allow_gaps:
            self._check_gaps(chunk, steps, first=self._last is None)
        elif chunk.requests is not None and self._interval is None:
            moving = steps[steps > 0]
            self._interval = float(moving.min()) if len(moving) else None
        self._last, self._last_line = float(longest), chunk.line_of(len(times) - 1)

    def _check_gaps(self, chunk: Chunk, steps: Floats, *, first: bool) -> None:
        help_text = "fill it with rows, or say --allow-gaps: nothing arrives then"
        if chunk.requests is None:
            for row in np.nonzero(steps > _LONGEST_PAUSE_SECONDS)[0][:SHOWN]:
                self._tell(chunk, int(row), f"a gap: nothing for {steps[row] / 3600:.4g} h before this row", help_text)
            return
        moving = steps[1:][steps[1:] > 0] if first else steps[steps > 0]
        if self._interval is None and len(moving):
            self._interval = float(np.median(moving))
        interval = self._interval
        if interval is None:
            return
        for row in np.nonzero(steps > interval * 1.5)[0][:SHOWN]:
            self._tell(
                chunk, int(row), f"a gap: {steps[row]:g} s since the row above, {interval:g} s elsewhere", help_text
            )

    def _check(self, chunk: Chunk, values: Floats, bad: Flags, name: str, message: str, help_text: str) -> None:
        for row in np.nonzero(bad)[0][:SHOWN]:
            found = "is no number" if np.isnan(values[row]) else f"is {values[row]:g}"
            self._tell(chunk, int(row), f"{name} {found}, {message}", help_text)

    def _tell(self, chunk: Chunk, row: int, message: str, help_text: str | None) -> None:
        self._problems.append(TraceProblem(line=chunk.line_of(row), message=message, help=help_text))

    def _failed(self, line: int | None, message: str, help_text: str) -> TraceError:
        return TraceError(self._path, [TraceProblem(line=line, message=message, help=help_text)])

    def _traffic(self) -> Traffic:
        options = self._options
        end = int(np.max(np.nonzero(self._counts.any(axis=0))[0], initial=0)) + 1
        seconds = self._seconds if options.hours is not None else -(-end // 60) * 60
        start = options.start
        if self._origin is not None:
            start = datetime.fromtimestamp(self._origin, UTC).astimezone(options.start.tzinfo)
        models = tuple(
            ModelTraffic(
                model=name,
                counts=self._counts[index, :seconds].copy(),
                input=self._input[index].lengths(),
                output=self._output[index].lengths(),
            )
            for index, name in enumerate(self._names)
            if self._counts[index].any()
        )
        if not models:
            raise self._failed(None, "has no request of " + ", ".join(self._replayed()), "look at --model and --hours")
        return Traffic(start=start, seconds=seconds, models=models, origin=self._path.name)


_HEADER_HELP = "the first line names the columns: time,model,input_tokens,output_tokens (model may be left out)"
