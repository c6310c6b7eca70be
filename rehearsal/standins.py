"""The loop that runs the stand-ins: each looks at the cluster when something changed and does the next right thing."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

import urllib3

from rehearsal.controlplane.api import ApiError
from rehearsal.kube import Caches, Kind, Kube

_LONGEST_SLEEP_SECONDS = 2.0
# What changes at once is looked at once.
_SETTLE_SECONDS = 0.02


class StandIn(Protocol):
    """Something that plays a part which cannot run on this machine."""

    @property
    def kinds(self) -> Sequence[Kind]:
        """What it reads."""
        ...

    def reconcile(self, caches: Caches, now: float) -> float | None:
        """Do what is due at `now` (`time.monotonic`); returns when to be called again even if nothing changes."""
        ...


class StandIns:
    """All stand-ins of a rehearsal on one thread, over one set of caches."""

    def __init__(self, kube: Kube, members: Sequence[StandIn]) -> None:
        self.errors: list[str] = []
        """What a stand-in could not do; an entry is a fault of the rehearsal or of an object it should work for."""
        self._members = members
        self.caches = Caches(kube, tuple(dict.fromkeys(kind for member in members for kind in member.kinds)))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-ins", daemon=True)

    def __enter__(self) -> StandIns:
        self.caches.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.caches.changed.set()
        self._thread.join(10)
        self.caches.stop()

    def _run(self) -> None:
        due: float | None = 0.0
        while not self._stopped.is_set():
            sleep = _LONGEST_SLEEP_SECONDS if due is None else min(_LONGEST_SLEEP_SECONDS, due - time.monotonic())
            self.caches.changed.wait(max(sleep, _SETTLE_SECONDS))
            time.sleep(_SETTLE_SECONDS)
            self.caches.changed.clear()
            due = min((at for at in map(self._reconcile, self._members) if at is not None), default=None)

    def _reconcile(self, member: StandIn) -> float | None:
        now = time.monotonic()
        if self._stopped.is_set():
            return None
        try:
            return member.reconcile(self.caches, now)
        except ApiError as error:
            # A conflict means that the cache was behind; the next look gets it right.
            if error.status != 409:
                line = f"{type(member).__name__}: {error}"
                if line not in self.errors:
                    self.errors.append(line)
        except urllib3.exceptions.HTTPError:
            # The API server is busy or ending; the next look tells.
            pass
        return now + 0.5
