"""One replica, request by request and step by step: what the replay's queues and formulas are checked against.

Independent of simulation/: lengths are drawn, each step takes every running sequence one token further and carries the
next chunk of waiting prompts, and its time is asked of the performance model's contract.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

from planner.performance import Replica, TokenLengths, decode_step_ms, prefill_ms


@dataclass
class Request:
    at: float
    prompt: float
    answer: int
    left: float
    tokens: int = 0
    first: float = 0.0


@dataclass
class Seen:
    ttft_ms: list[float] = field(default_factory=list)
    tpot_ms: list[float] = field(default_factory=list)
    running: float = 0.0
    seconds: float = 0.0


def simulate(  # noqa: C901, PLR0912 - one loop, read from top to bottom
    replica: Replica,
    *,
    rate: float,
    prompts: TokenLengths,
    answers: TokenLengths,
    seconds: float,
    limit: int,
    seed: int,
) -> Seen:
    """Poisson arrivals at one replica that runs `limit` at most; the first tenth is not counted."""
    draw, seen = random.Random(seed), Seen()  # noqa: S311 - a simulation
    mean_context = prompts.mean + answers.mean * (1 + answers.cv2) / 2
    chunk = replica.costs.chunk
    decode = [decode_step_ms(replica, batch=max(1, b), context=mean_context) for b in range(limit + 1)]
    arrivals: deque[Request] = deque()
    clock = draw.expovariate(rate)
    while clock < seconds:
        prompt = max(1.0, draw.lognormvariate(_mu(prompts), prompts.sigma))
        answer = max(1, round(draw.lognormvariate(_mu(answers), answers.sigma)))
        arrivals.append(Request(at=clock, prompt=prompt, answer=answer, left=prompt))
        clock += draw.expovariate(rate)
    waiting: deque[Request] = deque()
    running: list[Request] = []
    now = 0.0
    while arrivals or waiting or running:
        if not waiting and not running:
            now = max(now, arrivals[0].at)
        while arrivals and arrivals[0].at <= now:
            waiting.append(arrivals.popleft())
        budget, prefilled, began = float(chunk), 0.0, []
        while waiting and budget > 0 and len(running) + len(began) < limit:
            part = min(budget, waiting[0].left)
            waiting[0].left -= part
            budget -= part
            prefilled += part
            if waiting[0].left <= 1e-9:
                began.append(waiting.popleft())
        batch = len(running)
        if prefilled:
            step = prefill_ms(replica, tokens=prefilled) + (decode[batch] - decode[1] if batch else 0.0)
        else:
            step = decode[batch]
        now += step / 1e3
        if now > seconds / 10:
            seen.running += batch * step / 1e3
            seen.seconds += step / 1e3
        for request in running:
            request.tokens += 1
        for request in began:
            request.tokens, request.first = 1, now
            if request.at > seconds / 10:
                seen.ttft_ms.append((now - request.at) * 1e3)
        for request in [one for one in running if one.tokens >= one.answer]:
            if request.at > seconds / 10 and request.answer > 1:
                seen.tpot_ms.append((now - request.first) * 1e3 / (request.answer - 1))
        running = [one for one in (*running, *began) if one.tokens < one.answer]
    return seen


def _mu(lengths: TokenLengths) -> float:
    return math.log(lengths.median)
