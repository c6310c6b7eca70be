"""The user's `pulumi` on the user's own stacks: found, asked for outputs, and run with its output on the terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ops.console import PROJECT_DIRECTORY
from ops.errors import MissingError

BIN_VARIABLE = "PULUMI_BIN"
"""Names the executable where it is not on PATH, as for the rehearsal."""


def find_pulumi(variables: Mapping[str, str] = os.environ) -> Path:
    """The `pulumi` executable; raises MissingError where there is none."""
    found = shutil.which(variables.get(BIN_VARIABLE) or "pulumi", path=variables.get("PATH"))
    if found is None:
        raise MissingError(
            "the pulumi CLI is not on PATH",
            help=f"install it (https://www.pulumi.com/docs/iac/download-install/), or set {BIN_VARIABLE} to it",
        )
    return Path(found)


def run(arguments: Sequence[str]) -> int:
    """Run `pulumi` on the terminal; returns its exit code. A Ctrl-C reaches it as it reaches us: it ends in order."""
    process = subprocess.Popen([str(find_pulumi()), *arguments], cwd=PROJECT_DIRECTORY)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # pulumi got the signal too and saves its state; leaving now would cut it off from its terminal.
            continue


def stack_outputs(stack: str) -> Mapping[str, Any]:
    """The outputs of a stack that is up, secrets hidden.

    Raises:
        MissingError: no CLI, no such stack in the backend, or not logged in.
    """
    command = [str(find_pulumi()), "--non-interactive", "stack", "output", "--json", "--stack", stack]
    done = subprocess.run(command, cwd=PROJECT_DIRECTORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(
            f"pulumi does not tell the outputs of stack {stack}: {_last_line(done.stderr)}",
            help=f"`pulumi login`, then `make up STACK={stack}`",
        )
    try:
        outputs: Any = json.loads(done.stdout)
    except ValueError:
        raise MissingError(f"pulumi answered no JSON for the outputs of stack {stack}") from None
    return cast("Mapping[str, Any]", outputs) if isinstance(outputs, dict) else {}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "no reason given"
