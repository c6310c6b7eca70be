"""Tells what lies on the cache, and takes from it what nobody uses: run by the Job of `ops models evict`.

The verb decides; this script looks and removes, and refuses what it was not told or was told to keep. Weights on Lustre
come from a bucket: their files stay listed and only the marker goes (the file system's own task then releases their
bytes, and reading brings them back). On any other volume the files themselves go.

Prints one line of JSON that begins with `CACHE_RESULT`. Standard library alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULT_MARK = "CACHE_RESULT "
MARKER = ".ready"
JOURNAL = ".warm-up.journal"
EXIT_REFUSED = 4
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WRITTEN = ("compiled", "shards")
"""Directories that pods write: below each, one of the model and one of the digest."""
_BLOCK = 512
"""What `st_blocks` counts, whatever the file system's own blocks are (POSIX)."""

log = logging.getLogger("cache-keeper")


class RefusedError(Exception):
    """Something that must not be removed."""


def look(root: Path, models: str) -> list[dict[str, Any]]:
    """Everything that can be evicted, with its size: revisions below `models`, and what pods wrote."""
    return [*_revisions(root, models), *_written(root)]


def _revisions(root: Path, models: str) -> Iterator[dict[str, Any]]:
    for directory in sorted((root / models).glob("*/*/*")):
        if not _COMMIT.fullmatch(directory.name) or directory.is_symlink() or not directory.is_dir():
            continue
        marker = directory / MARKER
        size, held = sizes(directory)
        yield {
            "path": directory.relative_to(root).as_posix(),
            "bytes": size,
            "bytes_on_disk": held,
            # Young markers are of revisions that served last: those stay longest.
            "ready_at": marker.stat().st_mtime if marker.exists() else None,
        }


def _written(root: Path) -> Iterator[dict[str, Any]]:
    for kind in _WRITTEN:
        for directory in sorted((root / kind).glob("*/*")):
            if directory.is_dir() and not directory.is_symlink():
                size, held = sizes(directory)
                path = directory.relative_to(root).as_posix()
                yield {"path": path, "bytes": size, "bytes_on_disk": held, "ready_at": directory.stat().st_mtime}


def sizes(directory: Path) -> tuple[int, int]:
    """Bytes of all files, and those that take room: a released file has its size and next to no blocks."""
    size = held = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            stat = (Path(folder) / name).lstat()
            size += stat.st_size
            held += min(stat.st_size, stat.st_blocks * _BLOCK)
    return size, held


def evict(root: Path, paths: list[str], keep: list[str], models: str, *, release: bool) -> list[dict[str, Any]]:
    """Removes each path; all are judged before the first goes.

    Raises:
        RefusedError: a path is in use, leads elsewhere, or is no revision and nothing that pods wrote.
    """
    known = {entry["path"]: entry for entry in look(root, models)}
    for path in paths:
        if path in keep:
            raise RefusedError(f"{path} is in use")
        if path not in known and (root / path).exists():
            raise RefusedError(f"{path} is no revision and nothing that pods wrote")
    gone: list[dict[str, Any]] = []
    for path in paths:
        if path not in known:  # an earlier try has removed it
            continue
        directory = root / path
        # First, and alone where the files stay: from now on pods wait for a warm-up.
        (directory / MARKER).unlink(missing_ok=True)
        (directory / JOURNAL).unlink(missing_ok=True)
        kept = release and path.startswith(f"{models}/")
        if not kept:
            shutil.rmtree(directory)
        gone.append({**known[path], "files": "kept" if kept else "removed"})
        log.info("%s %s", "marker of" if kept else "removed", path)
    return gone


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", required=True, help="where the cache is mounted")
    parser.add_argument("--models", required=True, help="directory of revisions below it")
    parser.add_argument("--evict", action="append", default=[], help="a path below the root")
    parser.add_argument("--keep", action="append", default=[], help="a path that must stay")
    parser.add_argument("--release", action="store_true", help="files of revisions come from a bucket and stay listed")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    root = Path(options.root)
    try:
        gone = evict(root, options.evict, options.keep, options.models, release=options.release)
    except RefusedError as error:
        log.error("refused: %s; nothing was removed", error)
        return EXIT_REFUSED
    usage = shutil.disk_usage(root)
    document = {"total": usage.total, "free": usage.free, "entries": look(root, options.models), "evicted": gone}
    sys.stdout.write(f"{RESULT_MARK}{json.dumps(document)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
