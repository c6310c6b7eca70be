"""The performance model against figures that engines and vendors published."""

from __future__ import annotations

import statistics

import pytest

from bench import published

FOUND = published.throughputs(published.verdicts())
HELD_OUT = [verdict for verdict in FOUND if verdict.held_out]


def miss(verdict: published.Verdict) -> float:
    """Factor off less one, whichever way."""
    return max(verdict.ratio, 1 / verdict.ratio) - 1


def test_enough_of_each_kind_was_held_out():
    models = [verdict.figure["model"] for verdict in HELD_OUT]
    assert len(HELD_OUT) >= 12
    assert sum("DeepSeek" in model for model in models) >= 2
    assert sum(verdict.figure["gpu"].startswith("A100") for verdict in HELD_OUT) >= 2


@pytest.mark.parametrize("found", [HELD_OUT, FOUND], ids=["held out", "all"])
def test_throughput_is_within_a_quarter_at_the_median(found):
    assert statistics.median(map(miss, found)) <= 0.25


@pytest.mark.parametrize("found", [HELD_OUT, FOUND], ids=["held out", "all"])
def test_nine_of_twelve_are_within_a_factor_of_1_4(found):
    assert sum(miss(verdict) <= 0.4 for verdict in found) >= 0.75 * len(found)


def test_the_band_holds_most_figures():
    """The band that a plan prints beside a figure is made for nine in ten."""
    inside = 0
    for verdict in FOUND:
        band = published.band(verdict.figure)
        inside += band.low <= 1 / verdict.ratio <= band.high
    assert inside >= 0.8 * len(FOUND)


def test_the_table_in_the_documentation_is_of_today():
    text = published.DOCUMENT.read_text(encoding="utf-8")
    assert published.with_table(text) == text
