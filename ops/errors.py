"""What a verb cannot go on after, told to a person: what, where, and how to mend it."""

from __future__ import annotations

from ops.console import ENVIRONMENT, FINDINGS, USAGE


class OpsError(Exception):
    """Ends a verb. `message` says what is wrong and where, `help` what to do; `exit_code` tells the kind."""

    exit_code = FINDINGS

    def __init__(self, message: str, *, help: str | None = None) -> None:  # noqa: A002 - what people know it as
        super().__init__(message)
        self.help = help

    def __str__(self) -> str:
        """As it is printed."""
        text = f"error: {self.args[0]}"
        return f"{text}\n  help: {self.help}" if self.help else text


class UsageError(OpsError):
    """The command line or the stack file asks for something that is not there."""

    exit_code = USAGE


class MissingError(OpsError):
    """A tool, a permission, an account or a cluster that the verb needs is missing or out of reach."""

    exit_code = ENVIRONMENT


class FindingsError(OpsError):
    """The verb ran and what it found forbids to go on."""

    exit_code = FINDINGS
