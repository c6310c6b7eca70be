"""What a control plane can fail with, told to a person."""

from __future__ import annotations


class ControlPlaneError(Exception):
    """A control plane that cannot be had or run.

    Args:
        what: what went wrong, and where.
        remedy: what the reader can do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy
