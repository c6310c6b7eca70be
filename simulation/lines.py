"""Requests one by one, first come, first served, at each replica of each variant.

Prompts at prefill replicas and KV caches on the network of decode replicas wait in such lines: who comes begins when
those before it are done (Lindley's recursion, here for all replicas of all variants at once).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]

ROW = np.dtype(
    [
        ("variant", np.int64),
        ("slot", np.int64),  # of the replica in whose line it stands
        ("source", np.int64),  # of the prefill replica that has its KV cache
        ("prompt", np.int64),  # position in the table of prompts
        ("to_prefill", np.float64),  # which replicas the router chooses of those that are ready, from 0 to 1
        ("to_decode", np.float64),
        ("since", np.float64),  # when the client asked
        ("tried", np.float64),  # when this attempt came to prefill
        ("at", np.float64),  # when it came into this line
        ("begins", np.float64),
        ("ends", np.float64),
    ]
)
"""One request; times in seconds since the start of the replay."""


class Lines:
    """The lines of all replicas of one group. A request keeps its replica busy for `work_ms` and is through `alone_ms`
    after it begins, later where others that came behind it find room in its last step of `step_ms`; more than `waiting`
    that wait in one line are refused."""

    def __init__(
        self,
        work_ms: Floats,
        alone_ms: Floats,
        *,
        variants: int,
        slots: int,
        step_ms: float = 0.0,
        waiting: int | None = None,
    ) -> None:
        self._work, self._alone = work_ms / 1e3, alone_ms / 1e3
        self._room_left = np.mod(-self._work, step_ms / 1e3) if step_ms else np.zeros_like(self._work)
        self._variants, self._slots, self._most = variants, slots, waiting
        self._free: Floats = np.zeros(variants * slots)
        self.rows: Rows = np.zeros(0, dtype=ROW)
        """Those that are not through, in the order of their lines."""

    def add(self, came: Rows, until: float) -> Rows:
        """Take requests in, whose `variant`, `slot`, `prompt` and `at` are known; returns those refused at `until`."""
        if not len(came):
            return came
        keys: Counts = came["variant"] * self._slots + came["slot"]
        order = np.lexsort((came["at"], keys))
        rows, keys = came[order], keys[order]
        work, alone = self._work[rows["prompt"]], self._alone[rows["prompt"]]
        rows["begins"] = _begins(rows["at"], work, keys, self._free)
        behind = _behind(rows["at"], rows["begins"], work, keys)
        rows["ends"] = rows["begins"] + alone + np.minimum(behind, self._room_left[rows["prompt"]])
        kept = self._room(rows, keys, until)
        np.maximum.at(self._free, keys[kept], (rows["begins"] + work)[kept])
        self.rows = np.concatenate((self.rows, rows[kept]))
        return rows[~kept]

    def _room(self, rows: Rows, keys: Counts, until: float) -> Flags:
        """Who may stay: of those that still wait at `until`, the first in each line."""
        late = rows["begins"] > until
        if self._most is None or not late.any():
            return np.ones(len(rows), dtype=bool)
        number = len(self._free)
        before = np.bincount(self._keys(self.rows)[self.rows["begins"] > until], minlength=number)
        # Lines are sorted: who waits beyond `until` stands behind all of its line that do not.
        rank = np.cumsum(late) - late
        ahead = rank - np.concatenate(([0], np.cumsum(np.bincount(keys[late], minlength=number))))[keys]
        return ~late | (before[keys] + ahead < self._most)

    def through(self, until: float) -> Rows:
        """Takes out those that end by then."""
        done = self.rows["ends"] <= until
        found = self.rows[done]
        self.rows = self.rows[~done]
        return found

    def lose(self, variant: int, slot: int) -> Rows:
        """A replica is gone: takes its line out."""
        self._free[variant * self._slots + slot] = 0.0
        return self._take((self.rows["variant"] == variant) & (self.rows["slot"] == slot))

    def lose_source(self, variant: int, slot: int) -> Rows:
        """A prefill replica is gone: takes out those whose KV cache it had."""
        return self._take((self.rows["variant"] == variant) & (self.rows["source"] == slot))

    def running(self, now: float) -> Counts:
        """By variant."""
        return self._by_variant(self.rows["begins"] <= now)

    def waiting(self, now: float) -> Counts:
        """By variant."""
        return self._by_variant(self.rows["begins"] > now)

    def of(self, variant: int, slot: int, *, column: str = "slot") -> int:
        """Requests of one replica."""
        return int(((self.rows["variant"] == variant) & (self.rows[column] == slot)).sum())

    def _take(self, gone: Flags) -> Rows:
        found = self.rows[gone]
        self.rows = self.rows[~gone]
        return found

    def _by_variant(self, which: Flags) -> Counts:
        return np.bincount(self.rows["variant"][which], minlength=self._variants).astype(np.int64)

    def _keys(self, rows: Rows) -> Any:
        return rows["variant"] * self._slots + rows["slot"]


def _begins(at: Floats, work: Floats, keys: Counts, free: Floats) -> Floats:
    """When each begins, of lines sorted by key and time: work before it in its line + the largest lead of those up to
    it, where the lead of the first is when the line is free."""
    first = np.concatenate(([True], keys[1:] != keys[:-1]))
    line = np.cumsum(first) - 1
    total = np.cumsum(work)
    before = total - work
    before = before - before[first][line]
    lead = at - before
    lead[first] = np.maximum(lead[first], free[keys[first]])
    # One running maximum for all lines: each is lifted above those before it.
    apart = float(lead.max() - lead.min()) + 1.0
    return np.maximum.accumulate(lead + line * apart) - line * apart + before


def _behind(at: Floats, begins: Floats, work: Floats, keys: Counts) -> Floats:
    """Work that came to its line behind each, before it began."""
    apart = float(begins.max() - at.min()) + 1.0
    last = np.searchsorted(at + keys * apart, begins + keys * apart, side="right")
    total = np.concatenate(([0.0], np.cumsum(work)))
    return np.maximum(0.0, total[last] - total[1:])
