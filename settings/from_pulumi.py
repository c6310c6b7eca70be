"""The stack file as Pulumi gives it to a running program. The only place that reads `pulumi.Config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pulumi

from settings.errors import PLATFORM_KEY, Problem, StackFileError
from settings.load import PROFILE_KEY, REGION_KEY, Document, stack_file


def current_document(directory: Path) -> Document:
    """What Pulumi's configuration of this run says; lines for messages come from the stack file where it lies there.

    Raises:
        StackFileError: the stack has no `inference-platform:platform`.
    """
    stack = pulumi.get_stack()
    try:
        platform = pulumi.Config().get_object("platform")
    except pulumi.ConfigTypeError:
        platform = None
    name = f"Pulumi.{stack}.yaml"
    if not isinstance(platform, Mapping):
        raise StackFileError(name, [Problem(path=(), message=f"has no `{PLATFORM_KEY}`", help="see Pulumi.dev.yaml")])
    group, region_key = REGION_KEY.split(":")
    _, profile_key = PROFILE_KEY.split(":")
    aws = pulumi.Config(group)
    try:
        text = stack_file(directory, stack).read_text(encoding="utf-8")
    except (StackFileError, OSError):
        text = None
    return Document(
        file=name,
        platform=cast("Mapping[str, Any]", platform),
        region=aws.get(region_key),
        text=text,
        aws_profile=aws.get(profile_key),
    )


def required_secret(name: str) -> pulumi.Output[str]:
    """A flat secret of this stack; raises pulumi.RunError, saying how to set it, where it is missing."""
    value = pulumi.Config().get_secret(name)
    if value is None:
        raise pulumi.RunError(
            f"secret `{name}` of this stack is not set\n"
            f"  help: pulumi config set --secret {name} --stack {pulumi.get_stack()}"
        )
    return value
