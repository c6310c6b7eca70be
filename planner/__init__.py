"""Pure decisions: from settings and the catalog to the Plan. Imports no Pulumi, no Kubernetes client and no boto3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from planner.plan import Plan
from planner.planning import plan
from planner.problems import PlanError
from settings.errors import StackFileError
from settings.load import Document, read, validate
from settings.root import Settings

__all__ = ["Plan", "PlanError", "StackFileError", "load_and_plan", "plan", "plan_document", "stack_name"]


def load_and_plan(stack_file: Path) -> tuple[Settings, Plan]:
    """Settings and Plan of a stack file named `Pulumi.<stack>.yaml`; raises StackFileError with every problem."""
    return plan_document(read(stack_file), stack=stack_name(stack_file))


def stack_name(stack_file: Path) -> str:
    """`prod` of `Pulumi.prod.yaml`."""
    return stack_file.name.removeprefix("Pulumi.").removesuffix(".yaml")


def plan_document(document: Document, *, stack: str) -> tuple[Settings, Plan]:
    """Settings and Plan of a document; raises StackFileError with every problem of both, placed in the file."""
    validation = validate(document)
    judged = validation.remainder
    found: Plan | None = None
    problems = list(validation.problems)
    if judged is not None:
        try:
            found = plan(judged, stack=stack, region=document.region)
        except PlanError as error:
            problems = validation.merged(error.problems)
    if problems or validation.settings is None or found is None:
        raise StackFileError(document.file, problems)
    return validation.settings, replace(found, aws_profile=document.aws_profile)
