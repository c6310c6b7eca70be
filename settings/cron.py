"""Cron expressions of scheduled floors, as KEDA reads them.

KEDA's cron scaler parses with robfig/cron v3: five fields with lists, ranges, steps and names; a day matches both day
fields where one of them is `*` or `?`, else either; Sunday is 0 alone; a time that the clock skips does not happen, one
that it repeats happens twice. Other libraries (croniter) take another dialect: `7`, `L`, `#`, six fields; a floor that
they accept KEDA may refuse. Source: robfig/cron parser.go and spec.go, kedacore/keda pkg/scalers/cron_scaler.go.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_LONGEST_WAIT = timedelta(days=5 * 366)
"""robfig/cron gives up after five years, too."""

_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    name: str
    low: int
    high: int
    names: Mapping[str, int]


_FIELDS = (
    _Field(name="minute", low=0, high=59, names={}),
    _Field(name="hour", low=0, high=23, names={}),
    _Field(name="day of month", low=1, high=31, names={}),
    _Field(name="month", low=1, high=12, names=_MONTHS),
    _Field(name="day of week", low=0, high=6, names=_DAYS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A parsed expression."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    """Whether one matching day field is enough: both are restricted."""

    def matches_day(self, day: date) -> bool:
        """Whether it fires on that day at all."""
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_date or by_weekday) if self.either_day else (by_date and by_weekday)

    def after(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """The first time after an aware `moment` on the clocks of `zone`, in UTC; None: not within five years."""
        day = moment.astimezone(zone).date()
        last = day + _LONGEST_WAIT
        while day <= last:
            if self.matches_day(day):
                first = min((at for at in self._times(day, zone) if at > moment), default=None)
                if first is not None:
                    return first
            day += timedelta(days=1)
        return None

    def _times(self, day: date, zone: ZoneInfo) -> Iterator[datetime]:
        for hour in self.hours:
            for minute in self.minutes:
                local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                for fold in (0, 1):
                    at = local.replace(fold=fold).astimezone(UTC)
                    back = at.astimezone(zone)
                    # A time that the clock skips comes back as another one.
                    if (back.hour, back.minute, back.fold) == (hour, minute, fold):
                        yield at


def parse(expression: str) -> Cron:
    """A cron expression; raises ValueError that names the field that is wrong and what it may be."""
    text = _DESCRIPTORS.get(expression.strip(), expression)
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise ValueError(f"`{expression}` has {len(parts)} fields, cron needs 5: minute hour day month weekday")
    minutes, hours, days, months, weekdays = (_parse_field(part, f) for part, f in zip(parts, _FIELDS, strict=True))
    return Cron(
        minutes=tuple(sorted(minutes[0])),
        hours=tuple(sorted(hours[0])),
        days=days[0],
        months=months[0],
        weekdays=weekdays[0],
        either_day=not (days[1] or weekdays[1]),
    )


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its IANA name; raises ValueError where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"`{name}` is no IANA time zone") from None


def _parse_field(text: str, field: _Field) -> tuple[frozenset[int], bool]:
    """The values, and whether the field is unrestricted (`*`)."""
    values: set[int] = set()
    star = False
    for part in text.split(","):
        found, is_star = _parse_range(part, field)
        values |= set(found)
        star = star or is_star
    return frozenset(values), star


def _parse_range(text: str, field: _Field) -> tuple[range, bool]:
    base, slash, step_text = text.partition("/")
    step = _number(step_text, field, {}) if slash else 1
    if step < 1:
        raise ValueError(f"{field.name} `{text}`: a step is 1 or more")
    if base in {"*", "?"}:
        # As in robfig/cron v3: `*/2` restricts, `*` does not.
        return range(field.low, field.high + 1, step), step == 1
    first, dash, last = base.partition("-")
    low = _number(first, field, field.names)
    high = _number(last, field, field.names) if dash else (field.high if slash else low)
    if not field.low <= low <= high <= field.high:
        raise ValueError(f"{field.name} `{text}` is not within {field.low} to {field.high}")
    return range(low, high + 1, step), False


def _number(text: str, field: _Field, names: Mapping[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{field.name} `{text}` is no number" + (f" or name ({', '.join(names)})" if names else ""))
    return int(text)
