"""The `pulumi` executable, run with an environment of our making instead of the user's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO

from pulumi.automation import CommandError, CommandResult, PulumiCommand
from semver import VersionInfo

from rehearsal.engines.contract import EngineUnavailable

BIN_VARIABLE = "PULUMI_BIN"
"""Names the `pulumi` executable where it is not on PATH."""

_HOW_TO_INSTALL = (
    "Install the Pulumi CLI (https://www.pulumi.com/docs/iac/download-install/), put `pulumi` on PATH or set "
    f"{BIN_VARIABLE} to it, or rehearse with the in-process engine (ENGINE=in-process), which needs no CLI."
)
_OLDEST = VersionInfo(3, 206)
"""The first CLI that sends its events over gRPC; older ones write a file that the SDK polls and may read half."""
_GRACE_SECONDS = 15.0
"""How long an interrupted `pulumi` may take to write its state before it is killed."""


def find_pulumi(variables: Mapping[str, str] = os.environ) -> Path:
    """The real `pulumi` executable, symbolic links resolved, so that its bundled plugins are found beside it.

    Raises:
        EngineUnavailable: there is none.
    """
    named = variables.get(BIN_VARIABLE)
    found = shutil.which(named or "pulumi", path=variables.get("PATH"))
    if found is None:
        what = f"{BIN_VARIABLE} names {named}, which is not executable." if named else "No `pulumi` on PATH."
        raise EngineUnavailable(f"{what} {_HOW_TO_INSTALL}")
    return Path(found).resolve()


class PulumiFailed(CommandError):  # noqa: N818 - what happened
    """A `pulumi` command failed; unlike the stock error it keeps what the command said."""

    def __init__(self, result: CommandResult) -> None:
        """Keep the result."""
        super().__init__(result)
        self.result = result

    @property
    def said(self) -> str:
        """What the command said, its errors first."""
        return (self.result.stderr or self.result.stdout).strip()


class RehearsalPulumi(PulumiCommand):
    """Runs `pulumi` in exactly the environment it is given; the stock class adds the whole of the user's."""

    def __init__(self, pulumi: Path) -> None:
        """Use this executable.

        Raises:
            EngineUnavailable: it does not run, or this SDK cannot work with its version.
        """
        # Not the stock constructor: it takes no executable, only a folder with `bin/pulumi` in it.
        self.command = str(pulumi)
        environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
        try:
            told = subprocess.run(
                [self.command, "version"], capture_output=True, text=True, env=environment, timeout=60, check=True
            ).stdout
            self.version = VersionInfo.parse(told.strip().removeprefix("v"))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise EngineUnavailable(f"{pulumi} does not tell its version: {error}. {_HOW_TO_INSTALL}") from error
        if self.version < _OLDEST or self.version.major > _OLDEST.major:
            raise EngineUnavailable(f"{pulumi} is version {self.version}; this needs 3.206 or later. {_HOW_TO_INSTALL}")

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], object] | None = None,
        on_error: Callable[[str], object] | None = None,
    ) -> CommandResult:
        """Run one command. Interrupted, it lets `pulumi` save its state first.

        Raises:
            PulumiFailed: the command did.
        """
        process: subprocess.Popen[str] | None = None
        try:
            with _signals_put_off():  # one that comes between start and assignment would leave a process nobody knows
                process = subprocess.Popen(
                    [self.command, "--non-interactive", *args],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=cwd,
                    env={**additional_env, "PULUMI_AUTOMATION_API": "true"},
                    encoding="utf-8",
                    start_new_session=True,  # a Ctrl-C reaches it once, from us; a second one would mean "now"
                )
            stdout, stderr = _read(process, on_output, on_error)
        except BaseException:
            if process is not None:
                _end(process)
            raise
        result = CommandResult(stdout=stdout, stderr=stderr, code=process.returncode)
        if process.returncode != 0:
            raise PulumiFailed(result)
        return result


@contextlib.contextmanager
def _signals_put_off() -> Generator[None]:
    """Lets Ctrl-C and SIGTERM take effect only after the block; signals are the main thread's alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append((number, frame))

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in arrived:
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            os.kill(os.getpid(), number)


def _read(
    process: subprocess.Popen[str],
    on_output: Callable[[str], object] | None,
    on_error: Callable[[str], object] | None,
) -> tuple[str, str]:
    collected: tuple[list[str], list[str]] = ([], [])

    def consume(stream: IO[str] | None, lines: list[str], tell: Callable[[str], object] | None) -> None:
        for line in stream or ():
            lines.append(line.rstrip())
            if tell is not None:
                tell(lines[-1])

    readers = [
        threading.Thread(target=consume, args=(process.stdout, collected[0], on_output), daemon=True),
        threading.Thread(target=consume, args=(process.stderr, collected[1], on_error), daemon=True),
    ]
    for reader in readers:
        reader.start()
    process.wait()
    for reader in readers:
        reader.join(_GRACE_SECONDS)  # a plugin that outlives the CLI keeps the pipe open
    return "\n".join(collected[0]), "\n".join(collected[1])


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    family = _descendants(process.pid)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        family += _descendants(process.pid)
        process.kill()
        process.wait()
    for pid in family:  # plugins run in process groups of their own, so killing the CLI's group would miss them
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        child, parent = line.split()
        children.setdefault(int(parent), []).append(int(child))
    found = [pid]
    for known in found:
        found.extend(children.get(known, []))
    return found[1:]
