"""Startup probe of an engine: once it is healthy, computes the known prompts, so that their prefixes are cached.

Exits 0 when the engine is healthy and the prompts were replayed or given up; else 1, and is asked again. It tries once:
what fails or takes too long costs the first requests some time, never the pod its readiness. An engine of several
groups of ranks keeps a cache in each, so each prompt is sent as often at once. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TRIED = Path(os.environ.get("WARM_PROMPTS_TRIED", "/tmp/warm-prompts-tried"))  # noqa: S108 - the pod's own
ENGINE = Path(os.environ.get("WARM_PROMPTS_ENGINE", "/proc/1/stat"))
"""Of the engine's process. The directory of the mark outlives it: a container that restarts has no cache, and finds
the mark of the one before."""
LOG = Path(os.environ.get("WARM_PROMPTS_LOG", "/proc/1/fd/1"))
"""The container's log: what a probe that passes writes is read by nobody."""
_HEALTH_SECONDS = 5.0
_FAILURES = (OSError, http.client.HTTPException)


def healthy(url: str) -> bool:
    """Whether the engine answers."""
    try:
        with urllib.request.urlopen(url, timeout=_HEALTH_SECONDS) as response:  # noqa: S310 - http of this pod
            return response.status == 200
    except _FAILURES:
        return False


def started() -> str:
    """When the engine's process began, in ticks of the node's clock (proc(5), field 22); empty where nobody says."""
    try:
        return ENGINE.read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def tried(began: str) -> bool:
    """Whether this engine's prompts were sent already."""
    try:
        return TRIED.read_text(encoding="utf-8") == began
    except OSError:
        return False


def say(text: str) -> None:
    """To the container's log, where that can be written."""
    try:
        with LOG.open("a", encoding="utf-8") as log:
            log.write(f"warm prompts: {text}\n")
    except OSError:
        sys.stdout.write(f"warm prompts: {text}\n")


def replay(config: Mapping[str, Any], key: str | None) -> int:
    """Sends each prompt with an answer of one token; returns how many every cache answered within the limit."""
    deadline = time.monotonic() + config["limit_seconds"]
    answered, caches = 0, config["caches"]
    with ThreadPoolExecutor(max_workers=caches) as pool:
        for prompt in config["prompts"]:
            if deadline <= time.monotonic():
                break
            sent = [pool.submit(_send, config, prompt, key, deadline) for _ in range(caches)]
            answered += sum(one.result() for one in sent) == caches
    return answered


def _send(config: Mapping[str, Any], prompt: str, key: str | None, deadline: float) -> bool:
    body = {
        "model": config["model"],
        "messages": [{"role": "system", "content": prompt}, {"role": "user", "content": "."}],
        "max_tokens": 1,
    }
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(  # noqa: S310 - http of this pod
        config["completions"], data=json.dumps(body).encode(), headers=headers
    )
    left = max(0.1, deadline - time.monotonic())
    try:
        with urllib.request.urlopen(request, timeout=left) as response:  # noqa: S310
            response.read()
    except _FAILURES as error:
        say(str(error))
        return False
    return True


def main(config_file: str) -> int:
    """One look of the probe."""
    config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    if not healthy(config["health"]):
        return 1
    engine = started()
    if not tried(engine):
        try:
            # First: a probe that the kubelet cuts short must not begin again.
            TRIED.write_text(engine, encoding="utf-8")
        except OSError as error:
            say(f"none, {error}")
            return 0
        began = time.monotonic()
        answered = replay(config, os.environ.get(config["key_variable"]))
        say(f"{answered} of {len(config['prompts'])} in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
