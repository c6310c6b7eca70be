"""Traces: what is read, and what is told about one that cannot be."""

from __future__ import annotations

import resource
from datetime import UTC, datetime

import numpy as np
import pytest

from simulation import chunks
from simulation.problems import TraceError
from simulation.trace import TraceModel, TraceOptions, read_trace
from tests.simulation.days import MIDNIGHT

MODELS = (TraceModel(name="small", context_tokens=8192), TraceModel(name="large", context_tokens=32768))
HEAD = "time,model,input_tokens,output_tokens\n"
ONE = "time,input_tokens,output_tokens\n"


def read(tmp_path, text, *, models=MODELS, only=(), hours=None, allow_gaps=False):
    path = tmp_path / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    options = TraceOptions(models=models, only=only, start=MIDNIGHT, hours=hours, allow_gaps=allow_gaps)
    return read_trace(path, options)


def told(tmp_path, text, **options):
    with pytest.raises(TraceError) as caught:
        read(tmp_path, text, **options)
    return str(caught.value)


def test_requests_of_several_models(tmp_path):
    found = read(tmp_path, HEAD + "0.5,small,100,10\n0.9,large,3000,300\n1.2,small,300,30\n61,small,200,20\n")
    small, large = found.models
    assert (found.start, found.seconds, found.requests) == (MIDNIGHT, 120, 4)
    assert small.counts[:3].tolist() == [1, 1, 0]
    assert small.counts[61] == 1
    assert (small.input.mean, small.output.mean) == (200, 20)
    assert large.requests == 1
    assert large.input.mean == 3000


def test_columns_in_any_order_quotes_blanks_and_windows_lines(tmp_path):
    text = 'user,output_tokens,time,input_tokens\r\n"a, b",10,0,100\r\n\r\nc,30,2.5,300\r\n'
    found = read(tmp_path, text, models=MODELS[:1])
    assert found.models[0].counts[:3].tolist() == [1, 0, 1]
    assert found.models[0].output.mean == 20


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2026-03-29T00:30:00+00:00", "2026-03-29T03:30:02+02:00"),
        ("2026-03-29T00:30:00Z", "2026-03-29 01:30:02"),
        ("1774744200", "1774747802"),
    ],
)
def test_times_of_the_calendar(tmp_path, first, second):
    found = read(tmp_path, f"{ONE}{first},100,10\n{second},100,10\n", models=MODELS[:1], allow_gaps=True)
    assert found.start == datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert np.nonzero(found.models[0].counts)[0].tolist() == [0, 3602]


def test_counts_by_interval_are_spread_and_none_is_lost(tmp_path):
    rows = "".join(f"{minute * 60},{count},500,50\n" for minute, count in enumerate((7, 0, 130, 61)))
    found = read(tmp_path, "time,requests,input_tokens,output_tokens\n" + rows, models=MODELS[:1])
    counts = found.models[0].counts
    assert counts.reshape(-1, 60).sum(axis=1).tolist()[:4] == [7, 0, 130, 61]
    assert counts[120:180].max() <= 3


def test_a_part_of_a_longer_trace(tmp_path):
    rows = "".join(f"{minute * 60},100,10\n" for minute in range(600))
    found = read(tmp_path, ONE + rows, models=MODELS[:1], hours=2)
    assert (found.seconds, found.requests) == (7200, 120)


BAD = [
    ("empty", "", "is empty", "columns"),
    ("a header alone", HEAD, "no rows", "each row"),
    (
        "a missing column",
        "time,model,input_token,output_tokens\n0,small,1,1\n",
        "trace.csv:1",
        "did you mean `input_token`",
    ),
    ("no model", ONE + "0,100,10\n", "2 models", "--model"),
    ("a column twice", "time,time,model,input_tokens,output_tokens\n", "stands twice", "remove"),
    ("an unknown model", HEAD + "0,small,100,10\n1,smal,100,10\n", "trace.csv:3", "did you mean `small`"),
    ("a negative time", HEAD + "-5,small,100,10\n", "trace.csv:2", "0 or more"),
    ("times that are no numbers", HEAD + "noon,small,100,10\n", "time is no number", "ISO 8601"),
    ("unsorted times", HEAD + "0,small,1,1\n10,small,1,1\n9,small,1,1\n", "trace.csv:4", "sort"),
    ("NaN tokens", HEAD + "0,small,nan,10\n", "input_tokens is no number", "leave its row out"),
    ("no tokens", HEAD + "0,small,100,0\n", "output_tokens is 0", "leave its row out"),
    ("a word for a number", HEAD + "0,small,many,10\n", "trace.csv:2", "1 or more"),
    ("infinite", HEAD + "0,small,inf,10\n", "input_tokens is inf", ""),
    ("too long for the model", HEAD + "0,small,8000,500\n", "8500", "context_tokens"),
    ("huge", HEAD + "0,large,1e300,1\n", "more than the model's", "refuse"),
    ("a gap", HEAD + "0,small,1,1\n9000,small,1,1\n", "a gap: nothing for 2.5 h", "--allow-gaps"),
    ("a row too short", HEAD + "0,small,1,1\n1,small,1\n", "trace.csv:3  3 fields, the header has 4", "write all"),
    ("a row too long", HEAD + "0,small,1,1,1\n", "5 fields", ""),
    ("weeks", HEAD + "".join(f"{hour * 3600},small,1,1\n" for hour in range(400)), "longer than 168 hours", "--hours"),
    ("binary", bytes(range(256)) * 40, "trace.csv", ""),
]


@pytest.mark.parametrize(("text", "what", "help_text"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_trace_is_told_with_its_line(tmp_path, text, what, help_text):
    message = told(tmp_path, text)
    assert what in message
    assert help_text in message
    assert "Traceback" not in message


def test_a_gap_between_intervals(tmp_path):
    rows = "".join(f"{second},5,100,10\n" for second in (0, 60, 120, 300, 360))
    text = "time,requests,input_tokens,output_tokens\n" + rows
    message = told(tmp_path, text, models=MODELS[:1])
    assert "trace.csv:5  a gap: 180 s since the row above, 60 s elsewhere" in message
    assert read(tmp_path, text, models=MODELS[:1], allow_gaps=True).requests == 25


def test_all_problems_are_told_twenty_at_most(tmp_path):
    message = told(tmp_path, HEAD + "0,small,-1,10\n0,smal,1,1\n1,small,1\n")
    assert "3 problems" in message
    many = told(tmp_path, HEAD + "0,small,-1,10\n" * 500)
    assert "first 20 problems" in many
    assert many.count("trace.csv:") == 20


def test_a_million_columns_are_refused_early(tmp_path):
    wide = ",".join(f"c{i}" for i in range(1_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "first line is longer" in told(tmp_path, wide + "\n" + "1," * 1_000_000 + "\n")
    assert "at most are read" in told(tmp_path, ",".join(f"c{i}" for i in range(500)) + "\n")
    assert "line is longer" in told(tmp_path, HEAD + "0,small,1,1\n" + "1" * 20_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_a_directory_and_a_missing_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(TraceError, match="cannot be read"):
            read_trace(path, TraceOptions(models=MODELS, start=MIDNIGHT))


def test_chunks_change_nothing(tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    times = np.sort(random.uniform(0, 3000, 5000))
    rows = [f"{at:.3f},{random.integers(1, 4000)},{random.integers(1, 500)}\n" for at in times]
    text = ONE + "".join(rows)
    whole = read(tmp_path, text, models=MODELS[:1])
    monkeypatch.setattr("simulation.trace.CHUNK_BYTES", 777)
    parts = read(tmp_path, text, models=MODELS[:1])
    assert (whole.models[0].counts == parts.models[0].counts).all()
    assert whole.models[0].input == parts.models[0].input
    broken = text.replace(rows[4321], "x,1,1\n")
    assert "trace.csv:4323" in told(tmp_path, broken, models=MODELS[:1])


def test_the_fast_and_the_careful_way_read_the_same(tmp_path, monkeypatch):
    text = ONE + "".join(f"{second}.25,{100 + second},{10 + second % 7}\n" for second in range(500))
    fast = read(tmp_path, text, models=MODELS[:1])
    monkeypatch.setattr(chunks, "_numbers", lambda *_: None)
    careful = read(tmp_path, text, models=MODELS[:1])
    assert (fast.models[0].counts == careful.models[0].counts).all()
    assert fast.models[0].output == careful.models[0].output
