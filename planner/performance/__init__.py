"""How fast a replica is: step times by roofline, continuous batching as a queue, capacity within objectives.

Pure Python and deterministic; `capacity` takes about a millisecond. Formulas and sources:
docs/explanation/performance.md; how far off they are: docs/explanation/calibration.md.
"""

from __future__ import annotations

from planner.performance.capacity import capacity, floor
from planner.performance.links import NodeLink
from planner.performance.queueing import performance
from planner.performance.replica import MAX_RUNNING, Replica, matrix_precision, replica_of
from planner.performance.workload import Band, Capacity, Floor, Performance, Quantiles, TokenLengths, Workload

__all__ = [
    "MAX_RUNNING",
    "Band",
    "Capacity",
    "Floor",
    "NodeLink",
    "Performance",
    "Quantiles",
    "Replica",
    "TokenLengths",
    "Workload",
    "capacity",
    "decode_step_ms",
    "floor",
    "matrix_precision",
    "performance",
    "prefill_ms",
    "replica_of",
]


def decode_step_ms(replica: Replica, *, batch: float, context: float) -> float:
    """Milliseconds of one token for each of `batch` sequences of `context` tokens, the engine's own time included."""
    return replica.costs.decode_ms(batch, context)


def prefill_ms(replica: Replica, *, tokens: float, context: float = 0) -> float:
    """Milliseconds of one request's prefill alone on the replica: `tokens` tokens after `context` cached ones."""
    return replica.costs.prefill_ms(tokens, context)
