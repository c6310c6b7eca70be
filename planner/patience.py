"""How long pods wait before something counts as dead: coarse on purpose.

Such limits stand in pod templates, and a changed template restarts pods. What a start takes moves a little with every
other model that loads from the same cache: limits that moved along would have an edit of one model restart all others.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Final

SHORTEST_SECONDS: Final = 600
"""What NCCL (torch.distributed.init_process_group), vLLM and Ray Serve LLM wait by themselves."""
_STEP_SECONDS: Final = 900


def limit_seconds(at_least: float) -> int:
    """10 minutes, 15, or so many doublings of those that it is no less than `at_least`."""
    if at_least <= SHORTEST_SECONDS:
        return SHORTEST_SECONDS
    return _STEP_SECONDS * 2 ** max(0, ceil(log2(at_least / _STEP_SECONDS)))


def start_limit_seconds(startup_seconds: int) -> int:
    """After which a start is called dead: twice what is planned, at least."""
    return limit_seconds(2 * startup_seconds)
