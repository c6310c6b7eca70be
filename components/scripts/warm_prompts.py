"""Startup probe of an engine: once it is healthy, computes the known prompts, so that their prefixes are cached.

Exits 0 when the engine is healthy and the prompts were replayed or given up; else 1, and is asked again. It tries once:
what fails or takes too long costs the first requests some time, never the pod its readiness. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRIED = Path(os.environ.get("WARM_PROMPTS_TRIED", "/tmp/warm-prompts-tried"))  # noqa: S108 - the container's own
_HEALTH_SECONDS = 5.0


def healthy(url: str) -> bool:
    """Whether the engine answers."""
    try:
        with urllib.request.urlopen(url, timeout=_HEALTH_SECONDS) as response:  # noqa: S310 - http of this pod
            return response.status == 200
    except OSError:
        return False


def replay(config: Mapping[str, Any], key: str | None) -> int:
    """Sends each prompt with an answer of one token; returns how many were answered within the limit."""
    deadline = time.monotonic() + config["limit_seconds"]
    answered = 0
    for prompt in config["prompts"]:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        body = {
            "model": config["model"],
            "messages": [{"role": "system", "content": prompt}, {"role": "user", "content": "."}],
            "max_tokens": 1,
        }
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(  # noqa: S310 - http of this pod
            config["completions"], data=json.dumps(body).encode(), headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=left) as response:  # noqa: S310
                response.read()
            answered += 1
        except OSError as error:
            sys.stderr.write(f"warm prompts: {error}\n")
    return answered


def main(config_file: str) -> int:
    """One look of the probe."""
    config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    if not healthy(config["health"]):
        return 1
    if not TRIED.exists():
        # First: a probe that the kubelet cuts short must not begin again.
        TRIED.touch()
        answered = replay(config, os.environ.get(config["key_variable"]))
        sys.stdout.write(f"warm prompts: {answered} of {len(config['prompts'])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
