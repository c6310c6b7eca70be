"""Cron expressions as KEDA's parser reads them, on the clocks of real time zones."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settings.cron import parse

BERLIN = ZoneInfo("Europe/Berlin")


def next_of(expression: str, moment: datetime, zone: ZoneInfo = BERLIN) -> str | None:
    found = parse(expression).after(moment, zone)
    return found.astimezone(zone).isoformat() if found else None


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("30 7 * * 1-5", "2026-06-17T06:00:00+02:00", "2026-06-17T07:30:00+02:00"),
        ("30 7 * * 1-5", "2026-06-19T07:30:00+02:00", "2026-06-22T07:30:00+02:00"),  # over the weekend
        ("0 9 * * mon,WED", "2026-06-16T00:00:00+02:00", "2026-06-17T09:00:00+02:00"),
        ("*/20 * * * *", "2026-06-17T06:01:00+02:00", "2026-06-17T06:20:00+02:00"),
        ("5/20 8-9 * * *", "2026-06-17T08:26:00+02:00", "2026-06-17T08:45:00+02:00"),
        ("0 0 29 2 *", "2026-06-17T06:01:00+02:00", "2028-02-29T00:00:00+01:00"),
        ("0 0 13 * 5", "2026-06-17T00:00:00+02:00", "2026-06-19T00:00:00+02:00"),  # both restricted: either
        ("0 0 13 * *", "2026-06-17T00:00:00+02:00", "2026-07-13T00:00:00+02:00"),
        ("0 0 13 * ?", "2026-06-17T00:00:00+02:00", "2026-07-13T00:00:00+02:00"),
        ("0 0 30 2 *", "2026-06-17T00:00:00+02:00", None),
        ("@daily", "2026-06-17T06:00:00+02:00", "2026-06-18T00:00:00+02:00"),
        # The clock goes from 02:00 to 03:00 on 29 March, and back from 03:00 to 02:00 on 25 October.
        ("30 2 * * *", "2026-03-29T00:00:00+01:00", "2026-03-30T02:30:00+02:00"),
        ("30 2 * * *", "2026-10-25T00:00:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"),
    ],
)
def test_the_next_time(expression, after, expected):
    assert next_of(expression, datetime.fromisoformat(after)) == expected


@pytest.mark.parametrize(
    ("expression", "word"),
    [
        ("0 0 * * 7", "day of week"),
        ("60 0 * * *", "minute"),
        ("0 5-3 * * *", "hour"),
        ("0 0 0 * *", "day of month"),
        ("0 0 * jam *", "jan"),
        ("*/0 * * * *", "step"),
        ("0 0 L * *", "day of month"),
        ("0 0 * *", "4 fields"),
        ("-1 0 * * *", "minute"),
    ],
)
def test_what_keda_refuses_is_refused(expression, word):
    with pytest.raises(ValueError, match=word):
        parse(expression)


@given(
    st.datetimes(min_value=datetime(2025, 1, 1), max_value=datetime(2027, 12, 31)),
    st.integers(0, 59),
    st.integers(0, 23),
    st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"]),
)
def test_the_next_time_is_later_and_matches(moment, minute, hour, name):
    zone = ZoneInfo(name)
    start = moment.replace(tzinfo=UTC)
    found = parse(f"{minute} {hour} * * *").after(start, zone)
    assert found is not None
    local = found.astimezone(zone)
    assert (local.hour, local.minute) == (hour, minute)
    assert 0 < (found - start).total_seconds() <= 49 * 3600  # a skipped hour costs a second day
