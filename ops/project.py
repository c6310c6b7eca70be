"""The checkout that a verb works in: its stack files and its commit."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ops.console import PROJECT_DIRECTORY
from ops.errors import MissingError, UsageError
from planner import Plan, load_and_plan
from planner.plan import EksPlan, ModelPlan
from settings.errors import did_you_mean
from settings.load import stack_file


def plan_of(stack: str) -> Plan:
    """The Plan of a stack; raises StackFileError with every problem of its file."""
    plan = load_and_plan(stack_file(PROJECT_DIRECTORY, stack))[1]
    if plan.aws_profile:
        os.environ.setdefault("AWS_PROFILE", plan.aws_profile)  # as `pulumi up` will ask
    return plan


def region_of(plan: Plan) -> str:
    """The AWS region of a stack that has one."""
    if plan.region is None or not isinstance(plan.target, EksPlan):
        raise UsageError(f"stack {plan.stack} is on a cluster that exists and has nothing in AWS")
    return plan.region


def models_of(plan: Plan, names: list[str] | None) -> tuple[ModelPlan, ...]:
    """The named models, or all of them; raises UsageError for a name that the stack does not have."""
    if not names:
        return plan.models
    known = {model.name: model for model in plan.models}
    for name in names:
        if name not in known:
            raise UsageError(f"stack {plan.stack} has no model `{name}`", help=did_you_mean(name, known))
    return tuple(known[name] for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What git says about this checkout."""

    commit: str
    changes: tuple[str, ...]
    """Files that differ from the commit or that it does not know."""


def checkout(directory: Path = PROJECT_DIRECTORY) -> Checkout:
    """The commit of a checkout; raises MissingError where there is no git or no repository."""
    try:
        commit = _git(directory, "rev-parse", "HEAD").strip()
        changes = _git(directory, "status", "--porcelain").splitlines()
    except FileNotFoundError:
        raise MissingError("git is not on PATH", help="install git") from None
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines()
        raise MissingError(
            f"{directory} has no commit to tell: {said[-1] if said else 'git failed'}", help="work in a git clone"
        ) from None
    return Checkout(commit=commit, changes=tuple(line[3:] for line in changes))


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
