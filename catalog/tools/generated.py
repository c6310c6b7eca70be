"""Pages and other files that the code writes: written, or held against what lies there."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(file: Path, text: str, module: str, arguments: list[str]) -> int:
    """Write a file; with `--check` among the arguments only compare it, and say by which module it is written.

    Returns the exit code: 1 where it is out of date.
    """
    if "--check" not in arguments:
        file.write_text(text, encoding="utf-8")
        return 0
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{file.name} is out of date: run `python -m {module}`\n")
    return 1
