"""A continuous-batching engine, step by step: what the queueing formulas are checked against.

Each step takes every running sequence one token further and prefills waiting prompts in chunks, first come first served,
within the token budget, as vLLM's scheduler does. Step times are the model's own: what is checked is the queueing.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import deque
from dataclasses import dataclass

from planner.performance import Replica, TokenLengths, Workload


@dataclass(slots=True)
class Request:
    arrival: float
    input: int
    output: int
    prompt: int
    prefilled: int = 0
    made: int = 0
    first: float = 0.0
    last: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    concurrency: float
    ttft_p50: float
    ttft_p99: float
    tpot_p50: float
    tpot_p99: float
    tokens_per_second: float


def draw(source: random.Random, lengths: TokenLengths) -> int:
    mu = math.log(lengths.mean) - lengths.sigma**2 / 2
    return max(1, round(source.lognormvariate(mu, lengths.sigma)))


def simulate(replica: Replica, workload: Workload, *, requests: int, seed: int) -> Outcome:
    """Outcome over the requests after a tenth of them has warmed it up."""
    source = random.Random(seed)
    costs = replica.costs
    arrivals: deque[Request] = deque()
    now = 0.0
    for _ in range(requests):
        now += source.expovariate(workload.requests_per_second / 1e3)
        fresh = max(1, round(draw(source, workload.input) * (1 - workload.cached_share)))
        arrivals.append(Request(arrival=now, input=fresh, output=draw(source, workload.output), prompt=fresh))
    everyone = list(arrivals)
    waiting: deque[Request] = deque()
    filling: list[Request] = []
    running: list[Request] = []
    clock, area, span = 0.0, 0.0, 0.0
    warm, end = everyone[requests // 10].arrival, everyone[-1].arrival
    while arrivals or waiting or filling or running:
        while arrivals and arrivals[0].arrival <= clock:
            waiting.append(arrivals.popleft())
        if not (waiting or filling or running):
            clock = arrivals[0].arrival
            continue
        held = sum(r.input + r.made for r in running) + sum(r.prompt for r in filling)
        while held + len(running) > replica.memory.kv_tokens and len(running) > 1:
            # Preempted: the last that came starts over with what it has made.
            last = running.pop()
            held -= last.input + last.made
            last.prompt, last.prefilled = last.input + last.made, 0
            waiting.appendleft(last)
        budget = costs.chunk - len(running)
        chunks: list[tuple[Request, int]] = []
        for request in filling:
            part = min(budget, request.prompt - request.prefilled)
            if part > 0:
                chunks.append((request, part))
                budget -= part
        while waiting and budget > 0 and len(running) + len(filling) < replica.max_running:
            if held + waiting[0].prompt > replica.memory.kv_tokens:
                break
            request = waiting.popleft()
            filling.append(request)
            held += request.prompt
            part = min(budget, request.prompt)
            chunks.append((request, part))
            budget -= part
        fresh = sum(part for _, part in chunks)
        rows = len(running) + fresh
        step = costs.matrices_ms(max(1, rows)) + rows * costs.sum_row_ms
        context = sum(r.input + r.made for r in running)
        if running:
            step += costs.cache_ms(len(running), context / len(running)) + len(running) * costs.sequence_ms
        step += costs.prefill_layers_ms + costs.sum_ms + costs.engine_ms if fresh else costs.step_ms
        step += sum(costs.attention_ms(part, request.prefilled) for request, part in chunks)
        clock += step
        if warm <= clock <= end:
            area += step * (len(running) + len(filling))
            span += step
        for request in list(running):
            request.made += 1
            request.last = clock
            if request.made >= request.output:
                running.remove(request)
        for request, part in chunks:
            request.prefilled += part
            if request.prefilled >= request.prompt:
                filling.remove(request)
                if not request.made:
                    request.first = request.last = clock
                    request.made = 1
                if request.output > 1:
                    running.append(request)
    seen = everyone[requests // 10 :]
    ttft = sorted(r.first - r.arrival for r in seen)
    tpot = sorted((r.last - r.first) / (r.output - 1) for r in seen if r.output > 1)
    return Outcome(
        concurrency=area / span,
        ttft_p50=statistics.median(ttft),
        ttft_p99=ttft[int(0.99 * len(ttft))],
        tpot_p50=statistics.median(tpot),
        tpot_p99=tpot[int(0.99 * len(tpot))],
        tokens_per_second=sum(r.output for r in everyone) / clock * 1e3,
    )
