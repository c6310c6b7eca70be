"""Hours of the week: when a pool holds more nodes, and when it may be worked on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from settings import cron
from settings.base import Section, WrongValueError

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ClockTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
MINUTES_PER_WEEK = 7 * 24 * 60


def _known_zone(name: str) -> str:
    try:
        cron.zone_of(name)
    except ValueError as error:
        raise WrongValueError(str(error), help="use an IANA name such as Europe/Berlin, or UTC") from None
    return name


class MaintenanceWindow(Section):
    """When replicas may be moved to better capacity: each move restarts one of them."""

    timezone: str = "UTC"
    """IANA name, for instance `Europe/Berlin`."""
    days: list[Weekday] = Field(default_factory=lambda: list(WEEKDAYS), min_length=1, max_length=7)
    """Days on which it opens; every day where left out."""
    start: ClockTime
    """Local time at which it opens, quoted, for instance "03:00"."""
    hours: int = Field(ge=1, le=24)
    """How long it stays open."""

    _zone = field_validator("timezone")(_known_zone)


class ScheduledNodes(Section):
    """More nodes at known hours of the week, asked for before the pods that need them."""

    timezone: str = "UTC"
    """IANA name, for instance `Europe/Berlin`; one for all entries of a pool."""
    start: str = Field(pattern=r"^(\S+ ){4}\S+$")
    """Cron expression of the beginning: minute, hour, `*`, `*`, days of the week (0 is Sunday)."""
    end: str = Field(pattern=r"^(\S+ ){4}\S+$")
    """Cron expression of the end."""
    nodes: int = Field(ge=1, le=500)
    """Nodes that the pool has at least between start and end."""

    _zone = field_validator("timezone")(_known_zone)

    @field_validator("start", "end")
    @classmethod
    def _weekly(cls, expression: str) -> str:
        _minutes_of_week(expression)
        return expression

    @property
    def hours_per_week(self) -> float:
        """How long the nodes are held in a week."""
        return len(self.minutes) / 60

    @property
    def minutes(self) -> frozenset[int]:
        """Minutes of the week, from Sunday 00:00 on, in which the entry holds."""
        ends = _minutes_of_week(self.end)
        held: set[int] = set()
        for start in _minutes_of_week(self.start):
            length = min((end - start) % MINUTES_PER_WEEK or MINUTES_PER_WEEK for end in ends)
            held.update((start + minute) % MINUTES_PER_WEEK for minute in range(length))
        return frozenset(held)


def check_calendar(calendar: Sequence[ScheduledNodes], room: int) -> None:
    """Raises WrongValueError where entries overlap, differ in their zone, or want more than `room` nodes."""
    holder: dict[int, int] = {}
    for index, entry in enumerate(calendar):
        if entry.timezone != calendar[0].timezone:
            raise WrongValueError(
                "entries of one calendar differ in their time zone, so that nobody sees whether they overlap",
                help=f"write all of them in {calendar[0].timezone}",
                at=("calendar", index, "timezone"),
            )
        if entry.nodes > room:
            raise WrongValueError(
                f"{entry.nodes} nodes, and the pool's spot and on-demand rungs have {room} at most",
                help="lower it, or raise a rung's max; what is reserved needs no calendar",
                at=("calendar", index, "nodes"),
            )
        other = next((holder[minute] for minute in entry.minutes if minute in holder), None)
        if other is not None:
            raise WrongValueError(
                f"overlaps with entry {other + 1} of the calendar: the end of one would end both",
                help="let one end before the other starts",
                at=("calendar", index),
            )
        holder |= dict.fromkeys(entry.minutes, index)


def _minutes_of_week(expression: str) -> list[int]:
    """Minutes of the week, from Sunday 00:00 on, at which a weekly cron expression fires."""
    try:
        parsed = cron.parse(expression)
    except ValueError as error:
        raise WrongValueError(str(error), help='write it as in "30 7 * * 1-5"') from None
    if len(parsed.days) < 31 or len(parsed.months) < 12:
        raise WrongValueError(
            f"`{expression}` names days of the month or months", help="a calendar repeats every week: `30 7 * * 1-5`"
        )
    return sorted(
        day * 1440 + hour * 60 + minute for day in parsed.weekdays for hour in parsed.hours for minute in parsed.minutes
    )
