"""The queues of one model: nothing is lost, and what theory says of steady states holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.queues import Queues
from tests.simulation.days import served

TABLE = served("prod", "llama-8b").table


def queues(*, replicas: int, seconds: float = 5, seed: int = 0, variants: int = 1) -> Queues:
    made = Queues(TABLE, variants=variants, slots=replicas + 1, seconds=seconds, seed=seed)
    accepts = np.zeros((variants, replicas + 1), dtype=bool)
    accepts[:, :replicas] = True
    made.set_accepting(accepts)
    return made


@settings(max_examples=40, deadline=None)
@given(
    arrivals=st.lists(st.integers(0, 400), min_size=1, max_size=60),
    replicas=st.integers(0, 4),
    lost=st.sets(st.integers(0, 59), max_size=3),
    seconds=st.sampled_from([1.0, 3.0, 5.0, 15.0]),
)
def test_no_request_is_lost(arrivals, replicas, lost, seconds):
    made = queues(replicas=replicas, seconds=seconds, variants=2)
    for step, count in enumerate(arrivals):
        if step in lost and replicas:
            made.release(0, 0)
        made.step(count)
        assert (made.arrived == made.served + made.refused + made.in_flight).all()
        assert made.running.min() >= 0
        assert made.running.max() <= TABLE.limit
        assert made.waiting.min() >= 0
        assert made.waiting.max() <= TABLE.queue_limit
    assert made.arrived[0] == sum(arrivals)


@pytest.mark.parametrize("seconds", [1.0, 3.0, 15.0])
def test_a_full_replica_serves_what_the_performance_model_says(seconds):
    made = queues(replicas=1, seconds=seconds)
    steps = int(7200 / seconds)
    for _ in range(steps):
        made.step(int(3 * TABLE.requests_per_second * seconds) + 1)
    assert made.served[0] / 7200 == pytest.approx(TABLE.requests_per_second, rel=0.03)
    assert made.refused[0] > 0


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_as_many_run_as_little_says(seconds):
    """Mean running = rate x time in the batch, whatever the step."""
    rate = 0.5 * TABLE.requests_per_second
    made, random, total = queues(replicas=1, seconds=seconds), np.random.default_rng(1), 0.0
    steps = int(20_000 / seconds)
    for _ in range(steps):
        total += made.running.sum()
        made.step(int(random.poisson(rate * seconds)))
    expected = float(np.interp(rate, TABLE.rates, TABLE.running))
    assert total / steps == pytest.approx(expected, rel=0.06)


def test_without_a_replica_everything_is_refused():
    made = queues(replicas=0)
    made.step(7)
    assert made.refused[0] == 7


def test_what_a_lost_replica_had_is_asked_again():
    made = queues(replicas=1)
    made.step(5)
    had = int(made.running.sum() + made.waiting.sum())
    made.release(0, 0)
    assert made.interrupted[0] == had > 0
    before = made.arrived[0]
    made.step(0)
    assert made.arrived[0] == before
    assert made.in_flight[0] + made.served[0] == 5
