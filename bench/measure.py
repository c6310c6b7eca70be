"""Processes under the clock: wall time, processor time and peak memory, as the kernel counts them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of `ru_maxrss`: macOS counts bytes, Linux KiB."""


class BenchError(Exception):
    """A measured command failed; the message holds its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run of a command."""

    wall_seconds: float
    """From the start of the process to its end."""
    cpu_seconds: float
    """Of the process and the children it waited for: unlike wall time, hardly longer on a busy machine."""
    peak_mib: float
    """Most memory that it held at once; of children, the largest one's where that is more."""
    output: str


def run(command: Sequence[str], directory: Path) -> Sample:
    """Runs a command to its end; raises BenchError where it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdout=out, stderr=errors, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        output = out.read()
        if process.returncode != 0:
            last_words = "\n".join((output + errors.read()).strip().splitlines()[-8:])
            raise BenchError(f"`{' '.join(command)}` ended with {process.returncode}\n{last_words}")
    return Sample(
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss * _RSS_UNIT / 2**20,
        output=output,
    )


def repeated(command: Sequence[str], directory: Path, times: int) -> list[Sample]:
    """The command, several times; the first run also fills caches of bytecode and files."""
    return [run(command, directory) for _ in range(times)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where numbers were measured."""

    system: str
    processor: str
    cores: int
    memory_gib: float
    python: str
    load: float
    """Processes that wanted a core in the minute before: above `cores`, wall times say little."""

    def __str__(self) -> str:
        return (
            f"{self.cores} cores, {self.processor}, {self.memory_gib:.0f} GiB, {self.system}, Python {self.python}, "
            f"load {self.load:.1f}"
        )


def machine() -> Machine:
    """This machine."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        python=platform.python_version(),
        load=os.getloadavg()[0],
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
