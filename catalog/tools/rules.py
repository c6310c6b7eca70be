"""Writes docs/reference/rules.md from catalog/rules.yaml. `python -m catalog.tools.rules [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from catalog.rules import rules

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
    if "--check" in arguments:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        if not same:
            sys.stderr.write(f"{PAGE.name} is out of date: run `python -m catalog.tools.rules`\n")
        return 0 if same else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
