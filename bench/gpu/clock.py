"""Time on the GPU: CUDA graphs replayed under events, so that launch gaps and the host stay out of the numbers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import torch
import torch.distributed as dist


def graph_ms(body: Callable[[], object], *, budget_ms: float = 120, least: int = 3, most: int = 40) -> float:
    """Median milliseconds of one replay of `body`, captured as a CUDA graph after a warm-up.

    Replays until about `budget_ms` are spent, at least `least` and at most `most` times.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        body()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's watchdog asks CUDA things too
        body()
    first = _replays(graph, 2)[-1]
    count = max(least, min(most, int(budget_ms / max(first, 1e-3))))
    if dist.is_initialized():  # a body may hold collectives: every rank must replay it equally often
        agreed = torch.tensor(count, device="cuda")
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        count = int(agreed)
    times = _replays(graph, count)
    del graph
    torch.cuda.empty_cache()
    return statistics.median(times)


def _replays(graph: torch.cuda.CUDAGraph, count: int) -> list[float]:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(marks)]


def eager_us(body: Callable[[], object], count: int) -> float:
    """Microseconds of one launch when `count` of them are queued one by one from the host."""
    body()
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        body()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / count * 1000
