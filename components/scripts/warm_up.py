"""Makes one revision of a model ready on the cache: fetch or find its files, check every byte, then write the marker.

Runs in the engine's image with the standard library alone (and `huggingface_hub`, which every engine image has, where
weights come from the hub). `manifest.json` beside the files says what must be there:

    {"model": "<hub id>", "revision": "<commit>", "files": [{"path": "...", "bytes": 1, "sha256": "<hex>"}]}

Exit codes: 0 ready; 1 not now, worth another try; 3 the files are not what the manifest says, another try cannot help.
Reading a file for its checksum also pulls it out of S3 onto the file system, which fetches content on first read.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib
import json
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

EXIT_AGAIN = 1
EXIT_BROKEN = 3
MANIFEST = "manifest.json"
JOURNAL = ".warm-up.journal"
_BLOCK_BYTES = 8 * 1024 * 1024
_POLL_SECONDS = 15.0
_TELL_EVERY = 40
"""Looks for a manifest between two lines of the log: ten minutes."""
# Formats that no engine of ours reads: training checkpoints and other runtimes' copies of the same weights.
NOT_SERVED = ("original/*", "*.pth", "*.pt", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "*.ot")

log = logging.getLogger("warm-up")


class TryAgainError(Exception):
    """Something that time may mend."""


class BrokenWeightsError(Exception):
    """Files that differ from what they must be."""

    def __init__(self, message: str, paths: tuple[str, ...] = ()) -> None:
        """`paths`: the files, where single ones are to blame."""
        super().__init__(message)
        self.paths = paths


@dataclass(frozen=True)
class Entry:
    """One file of the manifest."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a revision consists of."""

    model: str
    revision: str
    files: tuple[Entry, ...]
    digest: str
    """SHA-256 of the manifest itself."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)


def parse_manifest(raw: bytes, model: str, revision: str) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        BrokenWeightsError: it is malformed, leads out of its directory, or belongs to something else.
    """
    try:
        document: Any = json.loads(raw)
        files = tuple(
            Entry(path=str(item["path"]), size=int(item["bytes"]), sha256=str(item["sha256"]).lower())
            for item in document["files"]
        )
        found = (str(document["model"]), str(document["revision"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenWeightsError(f"{MANIFEST} is malformed: {error!r}") from error
    if found != (model, revision):
        raise BrokenWeightsError(f"{MANIFEST} is of {found[0]} at {found[1]}, not of {model} at {revision}")
    if not files:
        raise BrokenWeightsError(f"{MANIFEST} names no file")
    for entry in files:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise BrokenWeightsError(f"{MANIFEST} names {entry.path!r}, which is outside of its directory")
    return Manifest(model=model, revision=revision, files=files, digest=hashlib.sha256(raw).hexdigest())


def sha256_of(path: Path) -> str:
    """Checksum of a whole file."""
    digest = hashlib.sha256()
    buffer = bytearray(_BLOCK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that others see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class Journal:
    """Files that an earlier try has checked already, so that a killed Job goes on where it was."""

    def __init__(self, path: Path, manifest_digest: str) -> None:
        """Opens the journal of this manifest; one of another manifest counts for nothing."""
        self._path = path
        self._digest = manifest_digest
        self._lock = threading.Lock()
        self._known: set[tuple[str, int, int]] = set()
        if path.exists():
            for line in path.read_text().splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            digest, path, size, modified = json.loads(line)
        except ValueError:  # a line cut off by the kill
            return
        if digest == self._digest:
            self._known.add((path, size, modified))

    def has(self, entry: Entry, stat: os.stat_result) -> bool:
        """Whether this very file was checked."""
        return (entry.path, stat.st_size, stat.st_mtime_ns) in self._known

    def add(self, entry: Entry, stat: os.stat_result) -> None:
        """Remembers a checked file."""
        line = json.dumps([self._digest, entry.path, stat.st_size, stat.st_mtime_ns])
        with self._lock, self._path.open("a") as file:
            # A newline before as well: a line that a kill cut off must not take this one with it.
            file.write(f"\n{line}\n")

    def remove(self) -> None:
        """Forgets all: the marker says it now."""
        self._path.unlink(missing_ok=True)


def verify(directory: Path, manifest: Manifest, *, workers: int, deadline: float) -> None:
    """Checks size and checksum of every file, many at a time.

    Raises:
        BrokenWeightsError: files differ; the message names each.
        TryAgainError: files are missing, or time is up.
    """
    stats: dict[str, os.stat_result] = {}
    missing: list[str] = []
    broken: dict[str, str] = {}
    for entry in manifest.files:
        try:
            stats[entry.path] = (directory / entry.path).stat()
        except FileNotFoundError:
            missing.append(entry.path)
            continue
        if stats[entry.path].st_size != entry.size:
            broken[entry.path] = f"found {stats[entry.path].st_size} bytes, expected {entry.size}"
    _refuse(broken)
    if missing:
        raise TryAgainError(f"{len(missing)} file(s) are not there yet, the first is {missing[0]}")

    journal = Journal(directory / JOURNAL, manifest.digest)
    todo = [entry for entry in manifest.files if not journal.has(entry, stats[entry.path])]
    log.info("%d of %d files to check, %.1f GB", len(todo), len(manifest.files), sum(e.size for e in todo) / 1e9)

    def check(entry: Entry) -> None:
        if time.monotonic() > deadline:
            raise TryAgainError("time is up; the next try goes on with the files that are left")
        found = sha256_of(directory / entry.path)
        if found != entry.sha256:
            broken[entry.path] = f"found sha256 {found}, expected {entry.sha256}"
            return
        journal.add(entry, stats[entry.path])
        log.info("checked %s", entry.path)

    # The largest first: started last, one would run alone at the end.
    ordered = sorted(todo, key=lambda entry: entry.size, reverse=True)
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        running = [pool.submit(check, entry) for entry in ordered]
        try:
            for future in running:
                future.result()
        except BaseException:
            # Whatever ended one check (no time left, a file system that is gone) would end the others too.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    _refuse(broken)


def _refuse(broken: dict[str, str]) -> None:
    """Raises BrokenWeightsError where a path has a problem."""
    if broken:
        text = "; ".join(f"{path}: {problem}" for path, problem in sorted(broken.items()))
        raise BrokenWeightsError(text, tuple(sorted(broken)))


def is_ready(marker: Path, directory: Path, manifest: Manifest) -> bool:
    """Whether the marker is of this very manifest and no file has another size since."""
    try:
        written: Any = json.loads(marker.read_bytes())
        same = written["manifest_sha256"] == manifest.digest
        return same and all((directory / e.path).stat().st_size == e.size for e in manifest.files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def wait_for_manifest(directory: Path, hint: str) -> bytes:
    """The manifest, once it is there: however late, since a Job that has given up is not tried again by itself.

    `hint`, in the log now and then, says what brings it.
    """
    waited = 0
    while True:
        try:
            return (directory / MANIFEST).read_bytes()
        except FileNotFoundError:
            if waited % _TELL_EVERY == 0:
                log.info("waiting for %s; %s", directory / MANIFEST, hint)
            waited += 1
            time.sleep(_POLL_SECONDS)


def git_blob_sha1(path: Path) -> str:
    """What git calls a file, which is how the hub names files that are not in its large-file store."""
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def download(directory: Path, model: str, revision: str, *, workers: int, hub: Any = None) -> bytes:
    """Downloads a revision from the model hub, checks it against the hub's own checksums and writes the manifest.

    Files that are there already are not fetched again. `hub` is the `huggingface_hub` module.

    Raises:
        BrokenWeightsError: a file differs from what the hub says.
        TryAgainError: the hub does not answer, or refuses.
    """
    hub = hub or importlib.import_module("huggingface_hub")
    try:
        info = hub.HfApi().model_info(model, revision=revision, files_metadata=True)
        hub.snapshot_download(
            model, revision=revision, local_dir=str(directory), ignore_patterns=list(NOT_SERVED), max_workers=workers
        )
    except Exception as error:
        # Network, quota and access errors of many libraries: all are worth another try, and none is ours.
        raise TryAgainError(
            f"{model} at {revision} could not be downloaded: {error}. "
            "A gated model needs the hub token of an account that has accepted its license"
        ) from error
    files: list[dict[str, Any]] = []
    broken: dict[str, str] = {}
    for sibling in info.siblings:
        path = directory / sibling.rfilename
        if not path.exists():  # left out on purpose
            continue
        sha256 = sha256_of(path)
        large = getattr(sibling, "lfs", None)
        if large is not None and sha256 != large.sha256:
            broken[sibling.rfilename] = f"found sha256 {sha256}, expected {large.sha256}"
        if large is None and git_blob_sha1(path) != sibling.blob_id:
            broken[sibling.rfilename] = f"not the git blob {sibling.blob_id}"
        files.append({"path": sibling.rfilename, "bytes": path.stat().st_size, "sha256": sha256})
    _refuse(broken)
    raw = json.dumps({"model": model, "revision": revision, "files": files}, indent=1).encode()
    write_atomically(directory / MANIFEST, raw)
    return raw


def make_shared(directory: Path) -> None:
    """A directory that pods of one model write: theirs is the only mount of it, so its mode lets any user in.

    The engines' images run as different users, none of whom may make it: the cache belongs to root.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not directory.exists():
        # Complete when it appears: pods wait for it.
        draft = directory.with_name(f"{directory.name}.part")
        draft.mkdir(exist_ok=True)
        draft.chmod(0o777)
        draft.replace(directory)
    if directory.stat().st_mode & 0o777 != 0o777:
        directory.chmod(0o777)


def warm_up(options: argparse.Namespace) -> None:
    """All of it, for one revision."""
    for shared in options.shared_directory:
        make_shared(Path(shared))
    directory, marker = Path(options.directory), Path(options.marker)
    if options.source == "files":
        hint = f"`python -m ops models stage` uploads {options.model} at {options.revision[:12]} to the bucket"
        raw = wait_for_manifest(directory, hint)
        prepare(raw, marker, directory, options, time.monotonic() + options.timeout_seconds)
        return
    deadline = time.monotonic() + options.timeout_seconds
    directory.mkdir(parents=True, exist_ok=True)
    written = directory / MANIFEST
    try:
        raw = (
            written.read_bytes()
            if written.exists()
            else download(directory, options.model, options.revision, workers=options.workers)
        )
        prepare(raw, marker, directory, options, deadline)
    except BrokenWeightsError as error:
        # What came from the hub can come again: only the broken files, and the manifest that is then written anew.
        for path in (MANIFEST, *error.paths):
            (directory / path).unlink(missing_ok=True)
        raise TryAgainError(f"removed what differs, to be downloaded again: {error}") from error


def prepare(raw: bytes, marker: Path, directory: Path, options: argparse.Namespace, deadline: float) -> None:
    """Checks the files of a manifest and writes the marker."""
    manifest = parse_manifest(raw, options.model, options.revision)
    if is_ready(marker, directory, manifest):
        log.info("%s is ready already", marker)
        return
    verify(directory, manifest, workers=options.workers, deadline=deadline)
    state = {
        "model": manifest.model,
        "revision": manifest.revision,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "manifest_sha256": manifest.digest,
    }
    write_atomically(marker, json.dumps(state).encode())
    Journal(directory / JOURNAL, manifest.digest).remove()
    log.info("ready: %d files, %.1f GB, %s", len(manifest.files), manifest.size / 1e9, marker)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id")
    parser.add_argument("--revision", required=True, help="commit of the weights")
    parser.add_argument("--directory", required=True, help="where the files are or go")
    parser.add_argument("--marker", required=True, help="file that says that all is there")
    parser.add_argument("--source", choices=["files", "hub"], required=True)
    parser.add_argument("--timeout-seconds", type=int, required=True)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--shared-directory", action="append", default=[], help="one that pods of the model write")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        warm_up(options)
    except BrokenWeightsError as error:
        again = "`models stage --replace`, then `models warm`"
        return fail(
            EXIT_BROKEN, f"broken weights: {error}. Stage the revision again ({again}); pods do not start before"
        )
    except (TryAgainError, OSError) as error:
        return fail(EXIT_AGAIN, f"not ready: {error}")
    return 0


def fail(code: int, message: str) -> int:
    """The last word of a container: in its log, and where Kubernetes looks for it. Returns the code."""
    log.error(message)
    note = Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log"))
    if note.exists():
        note.write_text(message[:4000])
    return code


if __name__ == "__main__":
    sys.exit(main())
