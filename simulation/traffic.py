"""Traffic to replay: requests of each second and model, with the lengths of prompts and answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from planner.performance import TokenLengths

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Profile = Literal["diurnal", "bursty", "flat"]

DAY_SECONDS = 86_400
LONGEST_HOURS = 168

_PEAK_HOUR = 14.5
_SWING = 0.65
"""Of the day's first harmonic: the busiest hour has about 4 times the requests of the quietest."""
_SHARPER = 0.1
"""Of its second harmonic: days are pointed and nights are flat."""
_BURSTS_PER_HOUR = 0.75
_BURST_SECONDS = (120, 900)
_BURST_FACTOR = (1.8, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraffic:
    """What one model is asked."""

    model: str
    """Its name in the stack."""
    counts: Counts
    """Requests of each second."""
    input: TokenLengths
    output: TokenLengths
    cached_share: float = 0.0

    @property
    def requests(self) -> int:
        """All of them."""
        return int(self.counts.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a stack is asked, from `start` on."""

    start: datetime
    """With its time zone."""
    seconds: int
    models: tuple[ModelTraffic, ...]
    origin: str
    """Where it comes from, for people."""

    @property
    def requests(self) -> int:
        """Of all models."""
        return sum(model.requests for model in self.models)


def rates(profile: Profile, *, start: datetime, seconds: int, per_day: float, seed: int) -> Floats:
    """Requests a second in each second of a profile whose mean day has `per_day` requests.

    `diurnal`: two harmonics, the most at half past two in the afternoon of `start`'s time zone. `bursty`: the same with
    bursts of 2 to 15 minutes at 1.8 to 4 times the rate. `flat`: the same at all times. The mean over the replay is
    `per_day` where it is a whole number of days. The shapes are made up, not measured: a trace of your own is better.
    """
    mean = per_day / DAY_SECONDS
    if profile == "flat":
        return np.full(seconds, mean)
    first = start.hour * 3600 + start.minute * 60 + start.second
    hours = (first + np.arange(seconds)) / 3600 % 24
    angle = 2 * math.pi * (hours - _PEAK_HOUR) / 24
    shape = 1 + _SWING * np.cos(angle) + _SHARPER * np.cos(2 * angle)
    if profile == "bursty":
        random = np.random.default_rng([seed, 3])
        bursts = np.ones(seconds)
        for _ in range(random.poisson(_BURSTS_PER_HOUR * seconds / 3600)):
            begin = int(random.integers(0, seconds))
            length = int(random.integers(*_BURST_SECONDS))
            bursts[begin : begin + length] = np.maximum(bursts[begin : begin + length], random.uniform(*_BURST_FACTOR))
        # The bursts are part of the day's requests, not on top of them.
        shape = shape * bursts / np.mean(bursts)
    return mean * shape


def mean_share(profile: Profile) -> float:
    """Mean rate of a profile's day over the rate of its busiest hour, bursts left out."""
    return 1.0 if profile == "flat" else 1 / (1 + _SWING + _SHARPER)


def drawn(expected: Floats, *, seed: int, stream: int) -> Counts:
    """Requests of each second, at random (Poisson) around what is expected."""
    return np.random.default_rng([seed, 4, stream]).poisson(expected).astype(np.int64)
