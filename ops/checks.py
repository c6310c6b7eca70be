"""What `doctor` found: one record a question, with the command or change that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ops import aws
from ops.errors import OpsError

Status = Literal["ok", "note", "fail", "unknown"]
"""`note`: works, but a person should know. `unknown`: could not be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The answer to one question."""

    name: str
    status: Status
    detail: str
    fix: str | None = None
    """A command or a change; always there for `fail`."""


def asked(name: str, question: Callable[[], Iterable[Check]], *, permission: str) -> list[Check]:
    """The answers to a question to AWS; where it cannot be asked, one that says why.

    Args:
        name: of the check, where it fails to answer.
        question: asks and answers.
        permission: the IAM actions that it takes.
    """
    try:
        return list(question())
    except OpsError as error:
        return [Check(name=name, status="unknown", detail=str(error.args[0]), fix=error.help)]
    except NotImplementedError as error:  # an emulator of AWS that lacks this one
        return [Check(name=name, status="unknown", detail=f"not answered here: {error}")]
    except aws.ERRORS as error:
        if aws.is_denied(error):
            return [Check(name=name, status="unknown", detail="not allowed to ask", fix=f"allow {permission}")]
        told = aws.explained(error)
        return [Check(name=name, status="unknown", detail=str(told.args[0]), fix=told.help)]
