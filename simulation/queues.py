"""Queues of all replicas of one model, in several variants at once, one time step after the other.

Counts are whole requests, so that none is lost: arrived = served + refused + in flight. Requests leave a batch as in
M/M/infinity (the number running does not depend on how lengths spread, only on their mean); a full batch makes others
wait, first come, first served; more waiting than the engine's limit are refused. Requests reach replicas at random, as
kube-proxy spreads the connections of a Service. Without a replica they are refused, or held where an activator stands
before the model; those that are held go to the first replica all at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulation.replicas import ReplicaTable

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

RATE_SECONDS = 30.0
"""Over how long the rate of prompts is averaged."""

_BUSIEST = 0.97
"""Share of time that prompts may take: beyond, the performance model's largest rate is what limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """An activator before a model: requests wait for its first replica."""

    seconds: float
    """At most, before they are answered with 503."""
    requests: int
    """At once; more are answered with 503."""


@dataclass(frozen=True, slots=True)
class Released:
    """Requests that a first replica gets in one step: those that were held, and those that came in the step."""

    waited_seconds: Floats
    """Of each request, in ascending order; 0 for those that came in the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Requests by variant, at one moment: arrived = served + refused + in flight."""

    arrived: Counts
    served: Counts
    refused: Counts
    interrupted: Counts
    held: Counts
    """That an activator ever held."""
    in_flight: Counts
    running: Counts
    waiting: Counts


class _Held:
    """Requests that wait for a first replica, in one variant."""

    def __init__(self, limits: Hold) -> None:
        self.limits = limits
        self.number = 0
        self._since: deque[tuple[float, int]] = deque()

    def expire(self, second: float) -> int:
        """Those whose time is over are answered with 503; returns how many."""
        gone = 0
        while self._since and second - self._since[0][0] >= self.limits.seconds:
            gone += self._since.popleft()[1]
        self.number -= gone
        return gone

    def add(self, second: float, requests: int) -> int:
        """More that wait; returns how many find room."""
        taken = min(requests, self.limits.requests - self.number)
        if taken:
            self._since.append((second, taken))
            self.number += taken
        return taken

    def release(self, second: float, came: int) -> Released:
        """All of them, beside those that come just now."""
        waited = [np.zeros(came), *(np.full(number, second - since) for since, number in self._since)]
        self._since.clear()
        self.number = 0
        return Released(np.sort(np.concatenate(waited)))


@dataclass(slots=True)
class StepRecord:
    """What one step saw, for the latencies. All arrays: variant x replica."""

    entered: Counts
    """Requests that arrived and were not refused."""
    finished: Counts
    running: Counts
    """At the start of the step."""
    ahead: Counts
    """Requests that must leave before the first arrival finds a place in the batch; negative: places are free."""
    rate: Floats
    """Requests a second that the replica has taken up lately."""
    step_ms: Floats
    """Time of a token."""
    released: Mapping[int, Released]
    """By variant, where requests were held until this step."""


class Queues:
    """Replicas of one model. `slots` is the most that there are at once in any variant; `holds` says which variants
    hold requests while they have no replica, where others refuse them."""

    def __init__(
        self,
        table: ReplicaTable,
        *,
        variants: int,
        slots: int,
        seconds: float,
        seed: int,
        holds: Sequence[Hold | None] = (),
    ) -> None:
        shape = (variants, slots)
        self.table, self.seconds = table, seconds
        self.running: Counts = np.zeros(shape, dtype=np.int64)
        self.waiting: Counts = np.zeros(shape, dtype=np.int64)
        self.accepts: Flags = np.zeros(shape, dtype=bool)
        self.rate: Floats = np.zeros(shape)
        self.returned: Counts = np.zeros(variants, dtype=np.int64)
        """Requests whose replica went away: their clients ask again at the next step."""
        self.arrived: Counts = np.zeros(variants, dtype=np.int64)
        self.served: Counts = np.zeros(variants, dtype=np.int64)
        self.refused: Counts = np.zeros(variants, dtype=np.int64)
        self.interrupted: Counts = np.zeros(variants, dtype=np.int64)
        self.ever_held: Counts = np.zeros(variants, dtype=np.int64)
        self._held = {variant: _Held(limits) for variant, limits in enumerate(holds) if limits is not None}
        self._now = 0.0
        # One stream a variant, all alike: what does not differ between variants goes exactly the same way in each, and
        # none depends on which others run beside it.
        self._randoms = [np.random.default_rng([seed, 1]) for _ in range(variants)]
        self._shared = np.random.default_rng([seed, 0])
        self._chances: Floats = np.zeros(shape)
        self._open: Flags = np.zeros(variants, dtype=bool)
        self._refill = table.requests_per_second * seconds
        self._forget = float(np.exp(-seconds / RATE_SECONDS))

    def set_accepting(self, accepts: Flags) -> None:
        """Which replicas get new requests from now on."""
        self.accepts = accepts
        number = accepts.sum(axis=1, keepdims=True)
        self._open = number[:, 0] > 0
        self._chances = accepts / np.maximum(1, number)

    def release(self, variant: int, slot: int) -> None:
        """A replica is gone; what it had comes back as new attempts."""
        lost = int(self.running[variant, slot] + self.waiting[variant, slot])
        self.returned[variant] += lost
        self.interrupted[variant] += lost
        self.running[variant, slot] = self.waiting[variant, slot] = 0
        self.rate[variant, slot] = 0.0

    def idle(self, variant: int, slot: int) -> bool:
        """Whether a replica has nothing left to do."""
        return not (self.running[variant, slot] or self.waiting[variant, slot])

    def standing(self) -> Standing:
        """All counts, by variant."""
        return Standing(
            arrived=self.arrived,
            served=self.served,
            refused=self.refused,
            interrupted=self.interrupted,
            held=self.ever_held,
            in_flight=self.in_flight,
            running=self.running.sum(axis=1),
            waiting=self.waiting.sum(axis=1) + self.held,
        )

    @property
    def held(self) -> Counts:
        """Requests that wait for a first replica, by variant."""
        found: Counts = np.zeros_like(self.returned)
        for variant, held in self._held.items():
            found[variant] = held.number
        return found

    @property
    def in_flight(self) -> Counts:
        """Requests that are neither served nor refused, by variant."""
        return self.running.sum(axis=1) + self.waiting.sum(axis=1) + self.returned + self.held

    def step(self, arrivals: int) -> StepRecord:
        """One step with this many new requests, the same in all variants."""
        offered = self.returned + arrivals
        self.arrived += arrivals
        released = self._hold(offered) if self._held else {}
        # A Service without endpoints refuses the connection.
        self.refused += np.where(self._open, 0, offered)
        offered = np.where(self._open, offered, 0)
        came: Counts = np.zeros_like(self.running)
        for variant, stream in enumerate(self._randoms):
            came[variant] = stream.multinomial(offered[variant], self._chances[variant])
        # The last slot takes what rounding leaves over.
        stray = np.where(self.accepts, 0, came)
        self.returned = stray.sum(axis=1)
        return self._work(came - stray, released)

    def take(self, came: Counts) -> StepRecord:
        """One step with requests whose replicas were chosen already (variant x replica)."""
        self.arrived += came.sum(axis=1)
        return self._work(came, {})

    def _work(self, came: Counts, released: Mapping[int, Released]) -> StepRecord:
        table = self.table
        running, waiting = self.running, self.waiting
        ahead = waiting - (table.limit - running)
        queue = waiting + came
        # Places that are free, and those that become free while a full batch works.
        places = table.limit - running + int(self._refill + self._shared.random())
        entered = np.minimum(queue, places)
        left = queue - entered
        # Those who enter do so at a random time of the step.
        share = np.minimum(_BUSIEST, self.rate * table.prompt_ms[running] / 1e3)
        step_ms = table.decode_ms[running] / (1 - share)
        leaving = self.seconds * 1e3 / (table.tokens * step_ms)
        stay = np.exp(-leaving)
        stay_new = (1 - stay) / leaving
        stayed: Counts = np.zeros_like(running)
        for variant, stream in enumerate(self._randoms):
            stayed[variant] = stream.binomial(running[variant], stay[variant])
            stayed[variant] += stream.binomial(entered[variant], stay_new[variant])
        too_many = np.maximum(0, stayed - table.limit)
        finished = running + entered - stayed
        left += too_many
        refused = np.maximum(0, left - table.queue_limit)
        self.running = stayed - too_many
        self.waiting = left - refused
        self.served += finished.sum(axis=1)
        self.refused += refused.sum(axis=1)
        self.rate = self.rate * self._forget + (entered - too_many) * ((1 - self._forget) / self.seconds)
        return StepRecord(
            entered=np.maximum(0, came - refused),
            finished=finished,
            running=running,
            ahead=ahead,
            rate=self.rate,
            step_ms=step_ms,
            released=released,
        )

    def _hold(self, offered: Counts) -> dict[int, Released]:
        """Takes what must wait out of `offered`, and puts what need not wait any more into it."""
        found: dict[int, Released] = {}
        for variant, held in self._held.items():
            if not self._open[variant]:
                came = int(offered[variant])
                self.refused[variant] += held.expire(self._now)
                taken = held.add(self._now, came)
                self.ever_held[variant] += taken
                self.refused[variant] += came - taken
                offered[variant] = 0
            elif held.number:
                found[variant] = held.release(self._now, int(offered[variant]))
                offered[variant] = len(found[variant].waited_seconds)
        self._now += self.seconds
        return found
