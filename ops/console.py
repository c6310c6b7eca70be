"""What every verb shares: the project's directory, exit codes, tables for people and JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

PROJECT_DIRECTORY = Path(__file__).resolve().parent.parent

OK, FINDINGS, USAGE, ENVIRONMENT = 0, 1, 2, 3
INTERRUPTED = 130
"""What a shell reports for a program that ended by Ctrl-C."""

_PIPED_WIDTH = 140
"""Columns of a pipe or a file, which have no width of their own; rich's 80 would fold most tables."""

out = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH)
err = Console(stderr=True, highlight=False)


def to_json(value: object) -> Any:
    """Plain JSON data of dataclasses, settings, mappings and sequences."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in cast("Iterable[Any]", value)]
    return str(value) if isinstance(value, date | Path) else value


def print_json(value: object) -> None:
    """One JSON document on standard output, and nothing else."""
    sys.stdout.write(json.dumps(to_json(value), indent=2) + "\n")


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], *, right: tuple[int, ...] = ()) -> Table:
    """A table for people; `right` names the columns of numbers."""
    made = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
