"""Why options lost before anything was weighed: counted by reason, with one example each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.sizing.request import SizeRequest
from planner.sizing.serving import Failed, Failure, Trials

Kind = Literal["place", "layout", "memory", "ttft", "tpot", "load", "nodes", "price", "availability", "region"]

TITLES: dict[Kind, str] = {
    "place": "not to be had",
    "layout": "breaks the model's dimensions",
    "memory": "does not fit into memory",
    "ttft": "first token too slow, even alone",
    "tpot": "each token too slow, even alone",
    "load": "too slow as soon as requests meet",
    "nodes": "too many nodes for the load",
    "price": "no price",
    "availability": "not available enough",
    "region": "as dear or dearer, and no calmer, than the same in another region",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Options that lost for one reason."""

    kind: Kind
    reason: str
    count: int
    examples: tuple[str, ...]
    """The nearest to serving first, where that can be told."""


class Losses:
    """Collects them."""

    def __init__(self) -> None:
        self._found: dict[tuple[Kind, str], list[str]] = {}
        self._counts: dict[Kind, int] = {}

    def add(self, kind: Kind, subject: str, reason: str) -> None:
        """One option and why it lost."""
        self._found.setdefault((kind, reason), []).append(subject)

    def count(self, kind: Kind, number: int) -> None:
        """Options whose reason needs no example."""
        if number:
            self._counts[kind] = self._counts.get(kind, 0) + number

    def of_trials(self, trials: Trials, request: SizeRequest) -> None:
        """Replicas that do not serve: by reason, nearest first."""
        for reason, count in trials.broken.items():
            for _ in range(count):
                self.add("layout", "", reason)
        by_failure: dict[Failure, list[Failed]] = {}
        for failed in trials.failed:
            by_failure.setdefault(failed.failure, []).append(failed)
        for failure, members in by_failure.items():
            for failed in sorted(members, key=lambda f: _distance(f, request)):
                self.add(failure, _example(failed), _reason(failure, request))

    def groups(self) -> tuple[Lost, ...]:
        """In the order of TITLES."""
        order = list(TITLES)
        groups = [
            Lost(
                kind=kind,
                reason=reason,
                count=len(subjects),
                examples=tuple(dict.fromkeys(subject for subject in subjects if subject))[:3],
            )
            for (kind, reason), subjects in self._found.items()
        ]
        groups += [Lost(kind=kind, reason="", count=count, examples=()) for kind, count in self._counts.items()]
        return tuple(sorted(groups, key=lambda lost: (order.index(lost.kind), -lost.count)))


def _reason(failure: Failure, request: SizeRequest) -> str:
    if failure == "memory":
        return "no room for the weights and one full sequence"
    if failure == "ttft":
        return f"prefill of {request.input.p99:,.0f} tokens takes more than {request.ttft_p99_ms:g} ms"
    if failure == "tpot":
        return f"a decode step of one sequence takes more than {request.tpot_p99_ms:g} ms"
    return "p99 latencies break an objective at any load"


def _example(failed: Failed) -> str:
    if failed.floor is None:
        return f"{failed.words}: {failed.shortfall_gib:.0f} GiB short on each GPU"
    value = failed.floor.tpot_ms if failed.failure == "tpot" else failed.floor.ttft_ms
    words = "" if failed.failure == "load" else f": {value:,.0f} ms"
    return failed.words + words


def _distance(failed: Failed, request: SizeRequest) -> float:
    if failed.floor is None:
        return failed.shortfall_gib
    return max(failed.floor.ttft_ms / request.ttft_p99_ms, failed.floor.tpot_ms / request.tpot_p99_ms)
