"""Whether revisions are in the bucket of weights as a whole, and a wait until they are.

An engine that streams from S3 ends where its revision is not there. So an init container runs this in the engine's own
image, with the pod's own identity: what streams from S3 there needs boto3 as well (runai-model-streamer-s3 asks for
it). `ops` asks the same of the bucket.

`models stage` writes `manifest.json` last and takes it away before it changes anything, so a revision counts from its
manifest on. Objects are listed, never asked for by name: a role that may list one prefix is told 403, not 404, of an
object that is not there.

Exit codes: 0 all are there; 1 time is up, and the last word says what is missing.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from components.scripts import warm_up

_POLL_SECONDS = 15.0
_TELL_EVERY = 40
"""Looks between two lines of the log that say the same: ten minutes."""
_NAMED = 3
"""Files that a message names; the others are counted."""

State = Literal["staged", "not staged", "incomplete", "wrong"]

log = logging.getLogger("wait-for-weights")


class Wanted(NamedTuple):
    """A revision and where it lies."""

    hub_id: str
    revision: str
    prefix: str
    """In the bucket, without a `/` at its end."""


@dataclass(frozen=True)
class Found:
    """A revision as the bucket has it."""

    state: State
    """`incomplete`: no manifest yet, or files of it are missing; `wrong`: files that the manifest does not name so."""
    content: dict[str, int]
    """Size of each file of it, by path."""
    problems: tuple[str, ...] = ()
    manifest: warm_up.Manifest | None = None


def look(s3: Any, bucket: str, wanted: Wanted) -> Found:
    """One revision, by names and sizes; `s3` is a client of boto3, whose errors come through."""
    prefix = f"{wanted.prefix}/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    sizes = {item["Key"].removeprefix(prefix): int(item["Size"]) for page in pages for item in page.get("Contents", ())}
    content = {
        path: size for path, size in sizes.items() if not path.startswith(".staging/") and path != warm_up.MANIFEST
    }
    if not sizes:
        return Found("not staged", content)
    if warm_up.MANIFEST not in sizes:
        return Found("incomplete", content, ("no manifest yet: its staging has not ended",))
    raw = s3.get_object(Bucket=bucket, Key=prefix + warm_up.MANIFEST)["Body"].read()
    try:
        manifest = warm_up.parse_manifest(raw, wanted.hub_id, wanted.revision)
    except warm_up.BrokenWeightsError as error:
        return Found("wrong", content, (str(error),))
    missing = [entry.path for entry in manifest.files if entry.path not in content]
    if missing:
        return Found("incomplete", content, (f"{_some(missing)} of the manifest not in the bucket",), manifest)
    wrong = tuple(
        f"{entry.path}: found {content[entry.path]} bytes, expected {entry.size}"
        for entry in manifest.files
        if content[entry.path] != entry.size
    )
    return Found("wrong" if wrong else "staged", content, wrong, manifest)


def _some(paths: list[str]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(paths[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def stage_command(stack: str, hub_id: str, state: State) -> str:
    """What brings a revision into the bucket; what is wrong there must be meant to be overwritten."""
    anew = " --replace" if state == "wrong" else ""
    return f"python -m ops models stage --stack {stack} --repository {hub_id}{anew}"


def missing(s3: Any, bucket: str, wanted: Wanted, stack: str) -> str | None:
    """What keeps a revision from being read, with what mends it; None where nothing does."""
    what = f"{wanted.hub_id} at {wanted.revision[:12]}"
    try:
        found = look(s3, bucket, wanted)
    except Exception as error:  # noqa: BLE001 - boto3's many errors: network, rights, credentials that come late
        return f"{what}: s3://{bucket}/{wanted.prefix} cannot be looked at: {error}"
    if found.state == "staged":
        return None
    why = f" ({'; '.join(found.problems[:_NAMED])})" if found.problems else ""
    return (
        f"{what} is {found.state} in s3://{bucket}/{wanted.prefix}{why}: "
        f"`{stage_command(stack, wanted.hub_id, found.state)}` stages it"
    )


def wait(
    s3: Any,
    bucket: str,
    revisions: list[Wanted],
    *,
    stack: str,
    limit_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> str | None:
    """Waits until all revisions are there. Returns what is missing when time is up, None where nothing is."""
    until = clock() + limit_seconds
    for wanted in revisions:
        said, looks = "", 0
        while (lacks := missing(s3, bucket, wanted, stack)) is not None:
            if clock() >= until:
                return lacks
            if lacks != said or looks % _TELL_EVERY == 0:
                log.info("waiting: %s", lacks)
            said, looks = lacks, looks + 1
            pause(_POLL_SECONDS)
        log.info("%s at %s is there", wanted.hub_id, wanted.revision)
    return None


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stack", required=True, help="whose weights these are")
    parser.add_argument("--bucket", required=True)
    parser.add_argument(
        "--revision", nargs=3, action="append", required=True, metavar=("HUB_ID", "COMMIT", "PREFIX"), dest="revisions"
    )
    parser.add_argument("--limit-seconds", type=float, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    # boto3 itself knows the other name of this variable only.
    s3 = importlib.import_module("boto3").client("s3", region_name=os.environ.get("AWS_REGION"))
    wanted = [Wanted(*one) for one in options.revisions]
    lacks = wait(s3, options.bucket, wanted, stack=options.stack, limit_seconds=options.limit_seconds)
    if lacks is None:
        return 0
    return warm_up.fail(warm_up.EXIT_AGAIN, f"after {options.limit_seconds:.0f} s {lacks}")


if __name__ == "__main__":
    sys.exit(main())
