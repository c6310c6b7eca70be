"""`models stage`: a revision of a model from a folder or the hub into the stack's bucket, manifest last.

The manifest is what the warm-up Job waits for, so a revision is there as a whole or not at all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from botocore.exceptions import BotoCoreError, ClientError
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from components.scripts import warm_up
from ops import aws, pulumi_cli
from ops.console import OK, err, out, print_json
from ops.errors import FindingsError, MissingError, UsageError
from ops.project import models_of, plan_of, region_of
from ops.sources import Candidate, FolderSource, HubSource, Source, told_revision
from ops.uploads import PART_BYTES, WORKERS, LocalFile, Uploads
from planner import Plan
from planner.plan import RevisionPlan
from settings.errors import did_you_mean

_SCRATCH: Final = "inference-platform/staging"
_SAY_WHICH: Final = "say which with --repository, or with --model where it has one alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedFile:
    """One file of a revision."""

    path: str
    bytes: int
    sha256: str
    status: Literal["uploaded", "resumed", "already there"]
    parts_sent: int = 0
    parts_kept: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRevision:
    """A revision that is complete in the bucket."""

    model: str
    revision: str
    bucket: str
    prefix: str
    files: tuple[StagedFile, ...]
    bytes: int
    bytes_sent: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """What the command line says."""

    models: list[str] | None
    repository: str | None
    """One of what the models need: their own, a draft model's or an adapter's."""
    folder: Path | None
    bucket: str | None
    scratch: Path | None
    replace: bool
    abort: bool


def show_stage(stack: str, options: StageOptions, *, as_json: bool) -> int:
    """Stage the revisions of a stack's models, or abort what is unfinished."""
    plan = plan_of(stack)
    need_bucket(plan)
    region = region_of(plan)
    revisions = _revisions(plan, options)
    bucket = options.bucket or stack_bucket(stack)
    s3 = aws.client("s3", region, connections=WORKERS + 2)
    check_bucket(s3, bucket, region)
    if options.abort:
        counts = {
            weights.object_prefix: Uploads(s3, bucket, weights.object_prefix).abort_all() for weights in revisions
        }
        if as_json:
            print_json({"bucket": bucket, "aborted": counts})
        else:
            out.print(f"{sum(counts.values())} unfinished upload(s) aborted in {bucket}", markup=False)
        return OK
    staged: list[StagedRevision] = []
    for weights in revisions:
        source = _source(weights, options)
        with progress_of(weights, quiet=as_json) as progress:
            staged.append(stage(s3, bucket, weights, source, progress, replace=options.replace))
    if as_json:
        print_json(staged)
        return OK
    for one in staged:
        uploaded = sum(file.status != "already there" for file in one.files)
        out.print(
            f"{one.model} at {one.revision[:12]} is in s3://{one.bucket}/{one.prefix}: {len(one.files)} files, "
            f"{one.bytes / 1e9:.1f} GB; {uploaded} sent now, {one.bytes_sent / 1e9:.1f} GB in {one.seconds:.0f} s",
            markup=False,
            soft_wrap=True,
        )
    return OK


def _revisions(plan: Plan, options: StageOptions) -> tuple[RevisionPlan, ...]:
    """What is asked for: weights, draft models and adapters, and what comes next."""
    needed = [one for model in models_of(plan, options.models) for one in model.weights.held]
    if options.repository is not None:
        known = {one.hub_id: one for one in needed}
        if options.repository not in known:
            raise UsageError(
                f"these models need no repository `{options.repository}`", help=did_you_mean(options.repository, known)
            )
        needed = [one for one in needed if one.hub_id == options.repository]
    by_prefix = {one.object_prefix: one for one in needed}
    if options.folder is None or len(by_prefix) == 1:
        return tuple(by_prefix.values())
    told = [one for one in by_prefix.values() if told_revision(options.folder) == one.revision]
    if len(told) != 1:
        these = ", ".join(f"{one.hub_id} at {one.revision[:12]}" for one in by_prefix.values())
        raise UsageError(f"a folder holds one revision, and these are asked for: {these}", help=_SAY_WHICH)
    return tuple(told)


def need_bucket(plan: Plan) -> None:
    """Raises UsageError for a stack whose weights do not come through a bucket."""
    if not plan.cache.bucket:
        raise UsageError(
            f"stack {plan.stack} has no bucket of weights: Jobs in the cluster download them from the hub to its claim",
            help=f"`python -m ops wait --stack {plan.stack}` tells how far they are, `models evict` what lies there",
        )


def _source(one: RevisionPlan, options: StageOptions) -> Source:
    if options.folder is not None:
        return FolderSource(options.folder, one.revision, one.kind)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    scratch = (options.scratch or cache / _SCRATCH) / one.revision
    return HubSource(one.hub_id, one.revision, scratch, kind=one.kind)


def stack_bucket(stack: str) -> str:
    """The bucket that a stack made, from its outputs; raises MissingError where it cannot be told."""
    try:
        bucket = pulumi_cli.stack_outputs(stack).get("weights_bucket")
    except MissingError as error:
        raise MissingError(
            f"the bucket is not given and cannot be looked up: {error.args[0]}",
            help=f"name it with --bucket, or {error.help}",
        ) from None
    if not bucket:
        raise MissingError(f"stack {stack} has no output weights_bucket", help=f"`make up STACK={stack}` makes it")
    return str(bucket)


def check_bucket(s3: Any, bucket: str, region: str) -> None:
    """Raises MissingError where the bucket cannot be used."""
    try:
        s3.head_bucket(Bucket=bucket)
    except (ClientError, BotoCoreError) as error:
        code = aws.error_code(error)
        if code in {"404", "NoSuchBucket"}:
            raise MissingError(
                f"there is no bucket {bucket}", help="`make up` makes it; its name is the output weights_bucket"
            ) from None
        if code in {"301", "PermanentRedirect"}:
            raise MissingError(f"bucket {bucket} is not in {region}", help="name the stack's own bucket") from None
        raise aws.explained(error, doing=f"bucket {bucket}") from error


class StageProgress:
    """What a person sees meanwhile: a bar on a terminal, a line for each file in a log."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self._bar = bar
        self._task = task

    def total(self, size: int) -> None:
        """Bytes of the whole revision."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=size)

    def sent(self, size: int) -> None:
        """Bytes that S3 has taken."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, size)

    def file(self, file: StagedFile) -> None:
        """A file is done."""
        if self._bar is None:
            return
        if file.status == "already there":
            self.sent(file.bytes)
        if not self._bar.console.is_terminal:
            self._bar.console.print(f"{file.status}: {file.path}", markup=False)


@contextmanager
def progress_of(weights: RevisionPlan, *, quiet: bool) -> Generator[StageProgress]:
    """Progress on standard error."""
    if quiet:
        yield StageProgress(None, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        yield StageProgress(bar, bar.add_task(weights.hub_id, total=None))


def stage(
    s3: Any,
    bucket: str,
    weights: RevisionPlan,
    source: Source,
    progress: StageProgress,
    *,
    replace: bool = False,
    part_bytes: int = PART_BYTES,
    workers: int = WORKERS,
) -> StagedRevision:
    """Bring one revision into the bucket; called again after a kill, it sends what is missing and nothing twice.

    Raises:
        OpsError: something is wrong with the source, the bucket or the permissions, or the bucket holds other
            content under this revision and `replace` is not set.
    """
    began = time.monotonic()
    candidates = source.files()
    progress.total(sum(one.size for one in candidates))
    with (
        Uploads(
            s3, bucket, weights.object_prefix, sent=progress.sent, part_bytes=part_bytes, workers=workers
        ) as uploads,
        ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead,
    ):
        run = _Stage(uploads, source, _manifest_there(uploads, weights, replace=replace), replace=replace)
        files: list[StagedFile] = []
        bytes_sent = 0
        # While one file is uploaded, the next is read (and downloaded): one file ahead, never more.
        upcoming = ahead.submit(run.prepare, candidates[0])
        for index, candidate in enumerate(candidates):
            prepared = upcoming.result()
            if index + 1 < len(candidates):
                upcoming = ahead.submit(run.prepare, candidates[index + 1])
            done, sent = run.put(candidate, prepared)
            progress.file(done)
            files.append(done)
            bytes_sent += sent
        run.write_manifest(weights, files)
    source.finish()
    return StagedRevision(
        model=weights.hub_id,
        revision=weights.revision,
        bucket=bucket,
        prefix=weights.object_prefix,
        files=tuple(files),
        bytes=sum(file.bytes for file in files),
        bytes_sent=bytes_sent,
        seconds=round(time.monotonic() - began, 1),
    )


def _manifest_there(uploads: Uploads, weights: RevisionPlan, *, replace: bool) -> dict[str, str]:
    """What the manifest in the bucket says, as path -> sha256; empty where there is none."""
    raw = uploads.read(warm_up.MANIFEST)
    if raw is None:
        return {}
    try:
        manifest = warm_up.parse_manifest(raw, weights.hub_id, weights.revision)
    except warm_up.BrokenWeightsError as error:
        if replace:
            return {}
        raise FindingsError(f"the bucket's {error}", help="--replace writes it anew") from None
    return {entry.path: entry.sha256 for entry in manifest.files}


class _Stage:
    """The steps for one file, and what is known of the whole."""

    def __init__(self, uploads: Uploads, source: Source, there: dict[str, str], *, replace: bool) -> None:
        self._uploads = uploads
        self._source = source
        self._there = there
        self._replace = replace
        self._unfinished = frozenset(uploads.unfinished())
        self._manifest_removed = False

    def prepare(self, candidate: Candidate) -> LocalFile | None:
        """The file on this machine; None where the bucket has it already."""
        if candidate.sha256 is not None and self._uploads.has(candidate.path, candidate.size, candidate.sha256):
            return None
        return self._source.fetch(candidate)

    def put(self, candidate: Candidate, prepared: LocalFile | None) -> tuple[StagedFile, int]:
        """Upload what is missing of a file; also returns the bytes that were sent."""
        if prepared is None:
            return self._known(candidate.path, candidate.size, candidate.sha256 or ""), 0
        if self._uploads.has(prepared.path, prepared.size, prepared.sha256):
            self._source.release(prepared)
            return self._known(prepared.path, prepared.size, prepared.sha256), 0
        self._check_same(prepared)
        sent = self._uploads.upload(prepared)
        self._source.release(prepared)
        done = StagedFile(
            path=prepared.path,
            bytes=prepared.size,
            sha256=prepared.sha256,
            status="resumed" if sent.parts_kept else "uploaded",
            parts_sent=sent.parts_sent,
            parts_kept=sent.parts_kept,
        )
        return done, sent.bytes_sent

    def write_manifest(self, weights: RevisionPlan, files: list[StagedFile]) -> None:
        """The last step: from now on the revision counts."""
        if {file.path: file.sha256 for file in files} == self._there and not self._manifest_removed:
            return
        document = {
            "model": weights.hub_id,
            "revision": weights.revision,
            "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in files],
        }
        self._uploads.write(warm_up.MANIFEST, json.dumps(document, indent=1).encode())

    def _known(self, path: str, size: int, sha256: str) -> StagedFile:
        if path in self._unfinished:  # killed between the end of its upload and the end of its bookkeeping
            self._uploads.forget(path)
        return StagedFile(path=path, bytes=size, sha256=sha256, status="already there")

    def _check_same(self, file: LocalFile) -> None:
        """A revision never changes: other content under its name must be meant."""
        known = self._there.get(file.path)
        if known is None or known == file.sha256:
            return
        if not self._replace:
            raise FindingsError(
                f"{file.file} differs from what the bucket has under this revision ({file.path}, sha256 {known})",
                help="check that the folder holds the revision that the stack file names; --replace overwrites",
            )
        if not self._manifest_removed:
            # Before the first change, so that nobody takes the mixture for the revision.
            self._uploads.delete(warm_up.MANIFEST)
            self._manifest_removed = True
