"""The replay's queues and latencies against a simulation of single requests and steps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.simulation.days import ANSWERS, PROMPTS, day, fixed, served, stack, traffic
from tests.simulation.engine import simulate


@pytest.mark.parametrize(
    ("model", "load", "seconds"),
    [("llama-8b", 0.35, 6000), ("llama-8b", 0.75, 6000), ("r1-distill-70b", 0.6, 3000)],
)
def test_latencies_agree(model, load, seconds):
    subject, table = stack("prod")[2][model], served("prod", model).table
    rate = load * table.requests_per_second
    seen = simulate(
        subject.replica, rate=rate, prompts=PROMPTS, answers=ANSWERS, seconds=seconds, limit=table.limit, seed=5
    )
    plan = fixed(stack("prod")[1], model, 1)
    replayed = day("prod", traffic(model, [rate] * 12_000), plan)[0].model(model)
    assert replayed.refused == 0
    ttft, tpot = np.percentile(seen.ttft_ms, [50, 99]), np.percentile(seen.tpot_ms, [50, 99])
    assert replayed.ttft_p50_ms == pytest.approx(ttft[0], rel=0.25)
    assert replayed.ttft_p99_ms == pytest.approx(ttft[1], rel=0.3)
    assert replayed.tpot_p50_ms == pytest.approx(tpot[0], rel=0.15)
    assert replayed.tpot_p99_ms == pytest.approx(tpot[1], rel=0.3)
    running = [interval.running for interval in replayed.series[4:]]
    assert np.mean(running) == pytest.approx(seen.running / seen.seconds, rel=0.15)
