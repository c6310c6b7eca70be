"""What every section of the stack file shares: strictness, names and the error that a validator raises."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LONGEST_NAME = 40
"""Characters: what follows a name (a rung, a group, a revision's hash) must fit labels of 63."""

Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=LONGEST_NAME)]
"""Lower-case letters, digits and `-`: it becomes part of Kubernetes and AWS names."""

Email = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$", max_length=50)]
Arn = Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]*:.+$")]
AvailabilityZone = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9][a-z]$")]
Ipv4Cidr = Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$")]


class Section(BaseModel):
    """A part of the stack file: unknown keys are errors, values do not change after loading."""

    # Deferred: only the root is ever validated by itself, and `plan` must start in a blink.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)


class WrongValueError(ValueError):
    """A value that breaks a rule; `help` says how to mend it and `at` names the key below the section that is wrong."""

    def __init__(self, message: str, *, help: str | None = None, at: tuple[str | int, ...] = ()) -> None:  # noqa: A002
        super().__init__(message)
        self.help = help
        self.at = at
