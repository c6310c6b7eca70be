"""The Pulumi program: stack file -> settings -> Plan -> resources -> outputs."""

from __future__ import annotations

from pathlib import Path

import pulumi

import program
from planner import plan_document
from settings.errors import StackFileError
from settings.from_pulumi import current_document

try:
    settings, plan = plan_document(current_document(Path(__file__).parent), stack=pulumi.get_stack())
except StackFileError as error:
    raise pulumi.RunError(str(error)) from None

for name, value in program.build(plan).items():
    pulumi.export(name, value)
