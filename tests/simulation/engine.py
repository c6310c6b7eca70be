"""One replica, request by request and step by step: what the replay's queues and formulas are checked against.

Independent of simulation/: lengths are drawn, each step takes every running sequence one token further and carries the
next chunk of waiting prompts, and its time is asked of the performance model's contract.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
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
    done: float = 0.0


@dataclass
class Seen:
    ttft_ms: list[float] = field(default_factory=list)
    tpot_ms: list[float] = field(default_factory=list)
    running: float = 0.0
    seconds: float = 0.0


def simulate(
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
    context = prompts.mean + answers.mean * (1 + answers.cv2) / 2
    requests = arrivals(rate=rate, prompts=prompts, answers=answers, seconds=seconds, seed=seed)
    seen = Seen()
    seen.running, seen.seconds = serve(replica, requests, limit=limit, context=context, since=seconds / 10)
    for request in requests:
        _note(seen, request, asked=request.at, since=seconds / 10)
    return seen


def simulate_apart(
    prefill: Replica,
    decode: Replica,
    *,
    rate: float,
    prompts: TokenLengths,
    answers: TokenLengths,
    seconds: float,
    limit: int,
    transfer_ms: Callable[[float], float],
    seed: int,
) -> Seen:
    """The same with one replica for prompts, one for answers, and caches that go over one by one."""
    context = prompts.mean + answers.mean * (1 + answers.cv2) / 2
    requests = arrivals(rate=rate, prompts=prompts, answers=answers, seconds=seconds, seed=seed)
    computed = [Request(at=one.at, prompt=one.prompt, answer=1, left=one.left) for one in requests]
    serve(prefill, computed, limit=prefill.max_running, context=prompts.mean, since=seconds)
    handed: list[Request] = []
    free = 0.0
    for one, whole in sorted(zip(computed, requests, strict=True), key=lambda pair: pair[0].first):
        free = max(free, one.first) + transfer_ms(one.prompt) / 1e3
        handed.append(Request(at=free, prompt=one.prompt, answer=whole.answer, left=1.0, done=whole.at))
    asked = {id(one): one.done for one in handed}
    seen = Seen()
    seen.running, seen.seconds = serve(decode, handed, limit=limit, context=context, since=seconds / 10)
    for one in handed:
        _note(seen, one, asked=asked[id(one)], since=seconds / 10)
    return seen


def arrivals(*, rate: float, prompts: TokenLengths, answers: TokenLengths, seconds: float, seed: int) -> list[Request]:
    """Poisson, of drawn lengths."""
    draw, found = random.Random(seed), []  # noqa: S311 - a simulation
    clock = draw.expovariate(rate)
    while clock < seconds:
        prompt = max(1.0, draw.lognormvariate(_mu(prompts), prompts.sigma))
        answer = max(1, round(draw.lognormvariate(_mu(answers), answers.sigma)))
        found.append(Request(at=clock, prompt=prompt, answer=answer, left=prompt))
        clock += draw.expovariate(rate)
    return found


def serve(
    replica: Replica, requests: list[Request], *, limit: int, context: float, since: float
) -> tuple[float, float]:
    """Each step takes all that run one token on, and the next prompts as far as a step has room; returns (running x
    seconds, seconds) from `since` on."""
    chunk = replica.costs.chunk
    decode = [decode_step_ms(replica, batch=max(1, b), context=context) for b in range(limit + 1)]
    coming, waiting = deque(requests), deque[Request]()
    running: list[Request] = []
    now = total = counted = 0.0
    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0].at)
        while coming and coming[0].at <= now:
            waiting.append(coming.popleft())
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
        if now > since:
            total += batch * step / 1e3
            counted += step / 1e3
        for request in running:
            request.tokens += 1
        for request in began:
            request.tokens, request.first = 1, now
        for request in (*running, *began):
            if request.tokens >= request.answer:
                request.done = now
        running = [one for one in (*running, *began) if one.tokens < one.answer]
    return total, counted


def _note(seen: Seen, request: Request, *, asked: float, since: float) -> None:
    if asked <= since:
        return
    seen.ttft_ms.append((request.first - asked) * 1e3)
    if request.answer > 1:
        seen.tpot_ms.append((request.done - request.first) * 1e3 / (request.answer - 1))


def _mu(lengths: TokenLengths) -> float:
    return math.log(lengths.median)
