"""A continuous-batching engine, step by step: what the queueing formulas are checked against.

Each step takes every running sequence one token further and prefills waiting prompts in chunks, first come first
served, within the token budget, as vLLM's scheduler does; where the cache is full, the last that came starts over. Step
times are the model's own: what is checked is the queueing.
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
    """What must be prefilled: the input, and after a preemption also what was made of the answer."""
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


class Engine:
    """Requests in their three states, and the clock in milliseconds."""

    def __init__(self, replica: Replica, arrivals: list[Request]) -> None:
        self.replica, self.costs = replica, replica.costs
        self.arrivals = deque(arrivals)
        self.waiting: deque[Request] = deque()
        self.filling: list[Request] = []
        self.running: list[Request] = []
        self.clock = 0.0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.filling or self.running)

    def step(self) -> float:
        """One step; its milliseconds."""
        while self.arrivals and self.arrivals[0].arrival <= self.clock:
            self.waiting.append(self.arrivals.popleft())
        if not self.busy:
            self.clock = self.arrivals[0].arrival
            return 0.0
        chunks = self._schedule()
        took = self._time(chunks)
        self.clock += took
        self._advance(chunks)
        return took

    def _schedule(self) -> list[tuple[Request, int]]:
        memory = self.replica.memory.kv_tokens
        held = sum(r.input + r.made for r in self.running) + sum(r.prompt for r in self.filling)
        while held + len(self.running) > memory and len(self.running) > 1:
            last = self.running.pop()
            held -= last.input + last.made
            last.prompt, last.prefilled = last.input + last.made, 0
            self.waiting.appendleft(last)
        budget = self.costs.chunk - len(self.running)
        chunks: list[tuple[Request, int]] = []
        for request in self.filling:
            if (part := min(budget, request.prompt - request.prefilled)) > 0:
                chunks.append((request, part))
                budget -= part
        room = self.replica.max_running - len(self.running) - len(self.filling)
        while self.waiting and budget > 0 and room > 0 and held + self.waiting[0].prompt <= memory:
            request = self.waiting.popleft()
            self.filling.append(request)
            part = min(budget, request.prompt)
            chunks.append((request, part))
            held, budget, room = held + request.prompt, budget - part, room - 1
        return chunks

    def _time(self, chunks: list[tuple[Request, int]]) -> float:
        costs, count = self.costs, len(self.running)
        fresh = sum(part for _, part in chunks)
        took = costs.matrices_ms(max(1, count + fresh), count + len(chunks)) + (count + fresh) * costs.sum_row_ms
        if count:
            took += costs.cache_ms(1, sum(r.input + r.made for r in self.running)) + count * costs.sequence_ms
        took += (costs.prefill_layers_ms if fresh else costs.decode_layers_ms) + costs.sum_ms + costs.engine_ms
        return took + sum(costs.attention_ms(part, request.prefilled) for request, part in chunks)

    def _advance(self, chunks: list[tuple[Request, int]]) -> None:
        for request in self.running:
            request.made += 1
            request.last = self.clock
        for request, part in chunks:
            request.prefilled += part
            if request.prefilled < request.prompt:
                continue
            self.filling.remove(request)
            if not request.made:
                request.first = request.last = self.clock
                request.made = 1
            self.running.append(request)
        self.running = [request for request in self.running if request.made < request.output]


def draw(source: random.Random, lengths: TokenLengths) -> int:
    mu = math.log(lengths.mean) - lengths.sigma**2 / 2
    return max(1, round(source.lognormvariate(mu, lengths.sigma)))


def simulate(replica: Replica, workload: Workload, *, requests: int, seed: int) -> Outcome:
    """Outcome over the requests after a tenth of them has warmed it up, while others still come."""
    source = random.Random(seed)  # noqa: S311 - traffic, no secret
    everyone: list[Request] = []
    now = 0.0
    for _ in range(requests):
        now += source.expovariate(workload.requests_per_second / 1e3)
        fresh = max(1, round(draw(source, workload.input) * (1 - workload.cached_share)))
        everyone.append(Request(arrival=now, input=fresh, output=draw(source, workload.output), prompt=fresh))
    engine = Engine(replica, everyone)
    warm, end = everyone[requests // 10].arrival, everyone[-1].arrival
    area = span = 0.0
    while engine.arrivals or engine.busy:
        took = engine.step()
        if warm <= engine.clock <= end:
            area += took * (len(engine.running) + len(engine.filling))
            span += took
    seen = everyone[requests // 10 :]
    ttft = sorted(r.first - r.arrival for r in seen)
    tpot = sorted((r.last - r.first) / (r.output - 1) for r in seen if r.output > 1)
    return Outcome(
        concurrency=area / span,
        ttft_p50=statistics.median(ttft),
        ttft_p99=ttft[int(0.99 * len(ttft))],
        tpot_p50=statistics.median(tpot),
        tpot_p99=tpot[int(0.99 * len(tpot))],
    )
