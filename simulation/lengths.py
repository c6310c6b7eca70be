"""Mean and 99th percentile of many lengths, one pass, in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from planner.performance import TokenLengths

_GROWTH = 1.01
_BINS = 1700
"""1 to 2 * 10^7 tokens in steps of 1 %."""


class LengthHistogram:
    """Lengths in tokens, counted in logarithmic bins; the mean is exact."""

    def __init__(self) -> None:
        self._bins = np.zeros(_BINS)
        self._sum = 0.0
        self._count = 0.0

    def add(self, lengths: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> None:
        """Count some more; `weights` is how many requests have each length."""
        index = np.minimum(_BINS - 1, (np.log(lengths) / math.log(_GROWTH)).astype(np.int64))
        self._bins += np.bincount(index, weights=weights, minlength=_BINS)
        self._sum += float((lengths * weights).sum())
        self._count += float(weights.sum())

    def lengths(self) -> TokenLengths:
        """The log-normal distribution with this mean and 99th percentile; the nearest there is."""
        if not self._count:
            return TokenLengths(mean=1, p99=1)
        mean = self._sum / self._count
        index = int(np.searchsorted(np.cumsum(self._bins), 0.99 * self._count))
        p99 = _GROWTH ** (index + 0.5)
        # No log-normal distribution has its 99th percentile below its mean or above 15 times it.
        return TokenLengths(mean=mean, p99=min(max(p99, mean), mean * 14.9))
