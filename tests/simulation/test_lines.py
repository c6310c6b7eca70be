"""Lines of single requests: first come, first served, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.lines import ROW, Lines

WORK_MS = np.array([100.0, 700.0, 2500.0])
ALONE_MS = np.array([150.0, 700.0, 2600.0])
VARIANTS, SLOTS = 2, 3

came = st.lists(
    st.tuples(
        st.integers(0, VARIANTS - 1),
        st.integers(0, SLOTS - 1),
        st.integers(0, 2),
        st.floats(0, 9.99),
        st.integers(0, 4),
    ),
    max_size=60,
)


def rows_of(requests):
    rows = np.zeros(len(requests), dtype=ROW)
    for at, (variant, slot, prompt, moment, _) in enumerate(requests):
        rows[at]["variant"], rows[at]["slot"], rows[at]["prompt"], rows[at]["at"] = variant, slot, prompt, moment
    return rows


def lines(**changes):
    return Lines(WORK_MS, ALONE_MS, variants=VARIANTS, slots=SLOTS, **changes)


@settings(max_examples=150, deadline=None)
@given(requests=came)
def test_each_begins_when_those_before_it_are_done(requests):
    """Against the recursion written plainly, in five batches of ten seconds."""
    made, free = lines(), np.zeros((VARIANTS, SLOTS))
    for batch in range(5):
        mine = [(v, s, p, 10 * batch + at, b) for v, s, p, at, b in requests if b == batch]
        expected = []
        for variant, slot, prompt, at, _ in sorted(mine, key=lambda one: one[:2] + one[3:4]):
            begins = max(at, free[variant, slot])
            free[variant, slot] = begins + WORK_MS[prompt] / 1e3
            expected.append((variant, slot, at, begins, begins + ALONE_MS[prompt] / 1e3))
        before = len(made.rows)
        assert not len(made.add(rows_of(mine), 10.0 * (batch + 1)))
        got = [tuple(row[["variant", "slot", "at", "begins", "ends"]]) for row in made.rows[before:]]
        assert sorted(one[:2] for one in got) == sorted(one[:2] for one in expected)
        for one, other in zip(sorted(got), sorted(expected), strict=True):
            assert one == pytest.approx(other, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(requests=came, most=st.integers(0, 4))
def test_none_is_lost_and_the_last_are_refused(requests, most):
    made = lines(waiting=most)
    refused = done = 0
    for batch in range(5):
        mine = rows_of([(v, s, p, 10 * batch + at, b) for v, s, p, at, b in requests if b == batch])
        end = 10.0 * (batch + 1)
        gone = made.add(mine, end)
        refused += len(gone)
        done += len(made.through(end))
        waits = made.rows[made.rows["begins"] > end]
        for variant in range(VARIANTS):
            for slot in range(SLOTS):
                here = (waits["variant"] == variant) & (waits["slot"] == slot)
                assert here.sum() <= most
                away = gone[(gone["variant"] == variant) & (gone["slot"] == slot)]
                kept = mine[(mine["variant"] == variant) & (mine["slot"] == slot)]
                if len(away):
                    assert here.sum() == most, "nobody is refused who has room"
                    assert away["at"].min() >= np.sort(kept["at"])[len(kept) - len(away)], "the last are"
        in_flight = sum(1 for request in requests if request[4] <= batch) - refused - done
        assert in_flight == len(made.rows) == (made.running(end) + made.waiting(end)).sum()


def test_a_lost_replica_gives_back_its_line_and_no_other():
    made = lines()
    made.add(rows_of([(0, 0, 2, 1, 0), (0, 0, 2, 2, 0), (0, 1, 2, 1, 0), (1, 0, 2, 1, 0)]), 15)
    assert made.of(0, 0) == 2
    assert len(made.lose(0, 0)) == 2
    assert made.of(0, 0) == 0
    assert len(made.rows) == 2
    made.add(rows_of([(0, 0, 0, 20, 0)]), 30)
    assert made.rows[-1]["begins"] == 20, "who comes next in its place does not wait for what is gone"


def test_short_prompts_share_a_step():
    """Three at once in a step that has room for ten: the first is through with the last, and none is lost time for."""
    shared, alone = lines(step_ms=1000.0), lines()
    for made in (shared, alone):
        made.add(rows_of([(0, 0, 0, 0.0, 0), (0, 0, 0, 0.0, 0), (0, 0, 0, 0.0, 0), (0, 0, 0, 0.05, 0)]), 15)
    assert shared.rows["begins"] == pytest.approx(alone.rows["begins"])
    assert (shared.rows["ends"] >= alone.rows["ends"]).all()
    assert shared.rows["ends"][1] > alone.rows["ends"][1]
