"""Writes docs/reference/rules.md from catalog/rules.yaml. `python -m catalog.tools.rules [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from catalog.rules import rules
from catalog.tools.generated import write_or_check

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "rules.md"


def page() -> str:
    """The page."""
    rows = "\n".join(f"| `{one.id}` | {one.rule} {one.why} | `{one.path}` | {one.source} |" for one in rules())
    return f"""# Rules that a stack file is held to

What AWS would refuse half-way through a deployment, or take and then not work, is told before anything is made: with
file, line and the way out. `python -m catalog.tools.rules` writes this table from `catalog/rules.yaml`, which also has
the smallest change that breaks each rule; `tests/settings/test_aws_rules.py` breaks them all. "Told at" is where that
change has its problem.

| rule | what and why | told at | source |
|---|---|---|---|
{rows}
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    return write_or_check(PAGE, page(), "catalog.tools.rules", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
