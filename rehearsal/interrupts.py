"""Signals that end a rehearsal."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Generator
from types import FrameType


@contextlib.contextmanager
def ends_in_order() -> Generator[None]:
    """SIGTERM unwinds as Ctrl-C does, so that it, too, leaves no process and no file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
