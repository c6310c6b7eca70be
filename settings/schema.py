"""The JSON Schema of the stack file and its reference page.

`python -m settings.schema` writes both, `--check` compares them with the models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from settings import reference
from settings.errors import PLATFORM_KEY
from settings.load import REGION_KEY
from settings.root import Settings

SCHEMA_FILE = Path(__file__).parent / "stack.schema.json"


def stack_schema() -> dict[str, Any]:
    """Schema of a whole `Pulumi.<stack>.yaml`."""
    platform = Settings.model_json_schema()
    definitions = platform.pop("$defs", {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "inference-platform stack file",
        "type": "object",
        "required": ["config"],
        "properties": {
            "config": {
                "type": "object",
                "required": [PLATFORM_KEY],
                "properties": {
                    REGION_KEY: {"type": "string", "description": "AWS region; not needed for an existing cluster."},
                    PLATFORM_KEY: platform,
                },
            }
        },
        "$defs": definitions,
    }


def rendered() -> str:
    """The text of the schema file."""
    return json.dumps(stack_schema(), indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` say whether they are up to date (exit code 1 where one is not)."""
    files = {SCHEMA_FILE: rendered(), reference.REFERENCE_FILE: reference.rendered()}
    if "--check" in arguments:
        stale = [p.name for p, text in files.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
        for name in stale:
            sys.stderr.write(f"error: {name} differs from the models: run `make schema`\n")
        return 1 if stale else 0
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
