"""What a model is asked: how many requests, and how long prompts and answers are."""

from __future__ import annotations

from pydantic import Field, model_validator

from settings.base import Section, WrongValueError

_STEEPEST = 14
"""Times the mean: hardly any log-normal distribution has a 99th percentile further out."""


class Tokens(Section):
    """Tokens of a prompt or an answer, log-normal."""

    mean: float = Field(gt=0, le=10_000_000)
    p99: float | None = Field(default=None, gt=0, le=10_000_000)
    """99th percentile; four times the mean where left out."""

    @model_validator(mode="after")
    def _ordered(self) -> Tokens:
        if self.p99 is not None and not self.mean <= self.p99 <= _STEEPEST * self.mean:
            raise WrongValueError(
                f"a 99th percentile of {self.p99:g} does not go with a mean of {self.mean:g}",
                help=f"set it between {self.mean:g} (all alike) and {_STEEPEST * self.mean:g}",
                at=("p99",),
            )
        return self


class Peak(Section):
    """The busiest minutes, for which scaling adds replicas in time."""

    requests_per_second: float = Field(gt=0, le=1_000_000)
    """Of the whole model at the height."""
    ramp_minutes: float = Field(default=15, gt=0, le=1440)
    """How long the traffic takes from the mean of the busy hours to there."""


class Traffic(Section):
    """The load that a model is planned for; latencies, replicas and the cost of tokens are worked out at it."""

    requests_per_second: float = Field(gt=0, le=1_000_000)
    """Of the whole model in its busy hours, arriving at random."""
    peak: Peak | None = None
    """How far and how fast it grows from there; twice as much within a quarter of an hour where left out."""
    input_tokens: Tokens
    """Of a prompt, everything that the model reads."""
    output_tokens: Tokens
    """Of an answer, reasoning included."""
    cached_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the prompt's tokens that the prefix cache holds already: system prompts, turns before."""

    @model_validator(mode="after")
    def _higher(self) -> Traffic:
        if self.peak is not None and self.peak.requests_per_second < self.requests_per_second:
            raise WrongValueError(
                f"a peak of {self.peak.requests_per_second:g} requests/s is below the {self.requests_per_second:g} of "
                "the busy hours",
                help=f"set it to {self.requests_per_second:g} or more",
                at=("peak", "requests_per_second"),
            )
        return self
