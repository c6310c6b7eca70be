"""Local processes that never outlive the Python process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from rehearsal.controlplane.errors import ControlPlaneError

# Reads until the parent closes the pipe or is gone (kill -9 included), then ends the whole process group, itself too.
_GUARD = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read()
os.killpg(0, signal.SIGKILL)
"""


class ProcessGroup:
    """A group of child processes that ends as a whole: on `stop`, or when this Python process ends in any way.

    A small guard process leads the group and holds the reading end of a pipe. The kernel closes that pipe when this
    process dies, so even `kill -9` leaves nothing behind. The children are in a process group of their own, so Ctrl-C
    reaches this process alone, which then stops them in an orderly way.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of everything that was started and not stopped, the guard included."""
        guard = () if self._guard is None else (self._guard.pid,)
        return guard + tuple(child.pid for child in self._children.values())

    def log(self, name: str) -> Path:
        """The file that the process `name` writes its output to."""
        return self._logs / f"{name}.log"

    def spawn(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start one process of the group; its output goes to `log(name)`.

        Raises:
            ControlPlaneError: the program cannot be started.
        """
        if self._guard is None:
            raise ControlPlaneError(f"{name} cannot start: the group was stopped.", "Start a new control plane.")
        output: IO[bytes]
        with self.log(name).open("wb") as output:
            try:
                child = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(os.environ if environment is None else environment),
                    cwd=directory,
                    process_group=self._guard.pid,
                )
            except OSError as error:
                raise ControlPlaneError(
                    f"{name} cannot start: {error.strerror} ({command[0]}).",
                    "Remove that program's folder from the cache and run again, so that it is made anew.",
                ) from error
        with self._lock:
            self._children[name] = child
        return child

    def end(self, name: str, grace_seconds: float = 5.0) -> None:
        """End one process: politely first, by force after `grace_seconds`. A process that is gone already is fine."""
        with self._lock:
            child = self._children.pop(name, None)
        if child is None:
            return
        child.terminate()
        try:
            child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def exited(self) -> dict[str, int]:
        """The processes that ended by themselves, with their exit status."""
        found = {name: child.poll() for name, child in self._children.items()}
        return {name: status for name, status in found.items() if status is not None}

    def tail(self, name: str, lines: int = 8) -> str:
        """The last lines of a process' log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def stop(self, grace_seconds: float = 0.0) -> None:
        """End every process of the group. What they hold is thrown away, so by default none is given time."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        if grace_seconds:
            for child in self._children.values():
                child.terminate()
            until = time.monotonic() + grace_seconds
            while len(self.exited()) < len(self._children) and time.monotonic() < until:
                time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guard.pid, signal.SIGKILL)
        for child in (*self._children.values(), guard):
            child.wait()
        if guard.stdin is not None:
            guard.stdin.close()
        self._children.clear()
