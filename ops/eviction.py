"""`models evict`: takes revisions from the cache that nobody uses, the oldest first, and says what that frees.

Never one that the stack file names (served, drafted, adapted, or next), that a workload or pod of the cluster names, or
whose repository's new revision does not serve yet: until then the old one is the way back. In the bucket nothing
changes.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from ops import aws
from ops.cache_job import cache_claim, run_keeper
from ops.cluster import Json, Objects, Workbench, connect, pods_path, workload_collections
from ops.console import OK, err, out, print_json, table
from ops.errors import FindingsError, MissingError, UsageError
from ops.project import plan_of
from ops.readiness import is_ready
from planner import Plan
from planner.naming import SERVING_NAMESPACE

_REVISION: Final = re.compile(r"models/[\w.-]+/[\w.-]+/[0-9a-f]{40}")
_WRITTEN: Final = re.compile(r"(?:compiled|shards)/[\w.-]+/[0-9a-f]{12}")
_POLL_SECONDS: Final = 10.0

_TASK_PATHS: Final = 100
"""Paths that one task takes. Source: FSx API, CreateDataRepositoryTask."""

_RELEASED: Final = 0.01
"""Share of its bytes below which a revision lies in the bucket alone: a released file still has a block or two."""

Verdict = Literal["in use", "kept", "held", "released", "evict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """Something that lies on the cache, and what becomes of it."""

    path: str
    bytes: int
    bytes_on_disk: int
    ready: bool
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictOptions:
    """What the command line says."""

    keep: int | None
    """Earlier revisions of each repository; None: the stack file's `cache.keep_revisions`."""
    repository: str | None
    really: bool
    yes: bool
    kubeconfig: Path | None
    context: str | None


class Releases(Protocol):
    """Gives bytes of a Lustre file system back; what is released stays listed and comes from the bucket when read."""

    def release(self, paths: Sequence[str]) -> None:
        """Wait until the bytes of these directories are released; raises FindingsError where that failed."""
        ...


class FsxReleases:
    """FSx' own task. Source: FSx for Lustre user guide, "Releasing files"."""

    def __init__(self, fsx: Any, file_system_id: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._fsx = fsx
        self._id = file_system_id
        self._pause = pause

    def release(self, paths: Sequence[str]) -> None:
        """See `Releases.release`."""
        for start in range(0, len(paths), _TASK_PATHS):
            self._release(paths[start : start + _TASK_PATHS])

    def _release(self, paths: Sequence[str]) -> None:
        try:
            task = self._fsx.create_data_repository_task(
                Type="RELEASE_DATA_FROM_FILESYSTEM",
                FileSystemId=self._id,
                Paths=list(paths),
                Report={"Enabled": False},
                # Whoever read them last: the verb has seen that nobody does.
                ReleaseConfiguration={"DurationSinceLastAccess": {"Unit": "DAYS", "Value": 0}},
            )["DataRepositoryTask"]
            while task["Lifecycle"] in {"PENDING", "EXECUTING", "CANCELING"}:
                self._pause(_POLL_SECONDS)
                answer = self._fsx.describe_data_repository_tasks(TaskIds=[task["TaskId"]])
                task = answer["DataRepositoryTasks"][0]
        except aws.ERRORS as error:
            raise aws.explained(error, doing=f"release on {self._id}") from error
        if task["Lifecycle"] != "SUCCEEDED":
            said = task.get("FailureDetails", {}).get("Message", "FSx gives no reason")
            raise FindingsError(
                f"task {task['TaskId']} ended as {task['Lifecycle']}: {said}",
                help="the markers are gone, so nothing reads a half: run the same command again",
            )


def show_evict(stack: str, options: EvictOptions, *, as_json: bool) -> int:
    """Look, tell, ask, evict. Without --really it only tells."""
    plan = plan_of(stack)
    with connect(plan, kubeconfig=options.kubeconfig, context=options.context) as cluster:
        entries = survey(cluster, plan, keep=options.keep, repository=options.repository)
        going = [one for one in entries if one.verdict == "evict"]
        freed = sum(one.bytes_on_disk for one in going)
        done: list[str] = []
        if not as_json:
            _print(stack, entries, freed)
        if options.really and going:
            if not options.yes:
                _ask(going, freed)
            done = evict(cluster, plan, entries, _releases(cluster, plan))
    if as_json:
        print_json(
            {"stack": stack, "entries": entries, "bytes_freed": freed, "evicted": done, "dry_run": not options.really}
        )
    elif done:
        given = sum(one.bytes_on_disk for one in going if one.path in done)
        out.print(f"{len(done)} evicted, {given / 1e9:.1f} GB given back; the bucket has what it had", markup=False)
    elif going and options.really:
        out.print("nothing was evicted: all of it has been taken up meanwhile", markup=False)
    elif going:
        out.print("nothing was changed; --really evicts", markup=False)
    return OK


def survey(
    bench: Workbench, plan: Plan, *, keep: int | None = None, repository: str | None = None
) -> tuple[CacheEntry, ...]:
    """Everything on the cache with its verdict."""
    found = run_keeper(bench, plan)["entries"]
    return judge(found, plan, named_in(_objects(bench)), waiting_for(bench, plan), keep=keep, repository=repository)


def _objects(objects: Objects) -> list[Json]:
    """Whatever of the cluster may read the cache: pods, and what would make new ones. Also of models that have left the
    stack file but not the cluster: asleep, they have no pod."""
    return [
        *objects.list(pods_path(SERVING_NAMESPACE)),
        *(item for collection in workload_collections(SERVING_NAMESPACE) for item in objects.list(collection)),
    ]


def named_in(items: Iterable[Json]) -> frozenset[str]:
    """Paths on the cache that objects name anywhere: arguments, environment, mounts."""
    text = "\n".join(str(item.get("spec", "")) for item in items)
    return frozenset({*_REVISION.findall(text), *_WRITTEN.findall(text)})


def waiting_for(objects: Objects, plan: Plan) -> frozenset[str]:
    """Repositories of which some model's planned revision does not serve yet, where replicas of it are wanted."""
    pods = objects.list(pods_path(SERVING_NAMESPACE))
    ready = named_in(pod for pod in pods if is_ready(pod))
    waiting: set[str] = set()
    for model in plan.models:
        if model.weights.medium == "s3_stream" or model.scaling.min_replicas == 0:
            continue
        waiting |= {one.hub_id for one in model.weights.read if one.object_prefix not in ready}
    return frozenset(waiting)


def judge(
    found: Sequence[Json],
    plan: Plan,
    named: frozenset[str],
    waiting: frozenset[str],
    *,
    keep: int | None = None,
    repository: str | None = None,
) -> tuple[CacheEntry, ...]:
    """What becomes of each entry: what is used stays, then the newest `keep` of each repository."""
    keep = plan.cache.keep_revisions if keep is None else keep
    root = plan.cache.data_repository_path.strip("/")
    held = {one.object_prefix for model in plan.models for one in model.weights.held}
    written = {one.sub_path for model in plan.models for one in model.weights.directories}
    served = {one.hub_id for model in plan.models for one in model.weights.held}
    earlier: dict[str, int] = {}
    verdicts: dict[str, tuple[Verdict, str]] = {}
    for entry in sorted(found, key=lambda one: -(one["ready_at"] or 0.0)):
        path = str(entry["path"])
        hub_id = path.removeprefix(f"{root}/").rpartition("/")[0] if path.startswith(f"{root}/") else None
        if path in held or path in written:
            verdicts[path] = "in use", "the stack file names it"
        elif path in named:
            verdicts[path] = "in use", "a pod or workload of the cluster names it"
        elif plan.cache.fsx is not None and _is_released(entry):
            verdicts[path] = "released", "only in the bucket: listed here, and read from there when it is needed"
        elif repository is not None and hub_id != repository:
            verdicts[path] = "kept", "not asked for"
        elif hub_id is None:
            verdicts[path] = "evict", "of an image, layout or revision that is served no more"
        elif hub_id in waiting:
            verdicts[path] = "held", "the new revision does not serve yet: this is the way back"
        elif hub_id in served and entry["ready_at"] is not None and earlier.get(hub_id, 0) < keep:
            earlier[hub_id] = earlier.get(hub_id, 0) + 1
            verdicts[path] = "kept", f"one of {keep} earlier revision(s): cache.keep_revisions"
        elif hub_id in served:
            verdicts[path] = (
                "evict",
                f"beyond {keep} earlier revision(s)" if entry["ready_at"] else "never became ready",
            )
        else:
            verdicts[path] = "evict", "the stack serves nothing of this repository"
    return tuple(
        CacheEntry(
            path=str(entry["path"]),
            bytes=int(entry["bytes"]),
            bytes_on_disk=int(entry["bytes_on_disk"]),
            ready=entry["ready_at"] is not None,
            verdict=verdicts[str(entry["path"])][0],
            why=verdicts[str(entry["path"])][1],
        )
        for entry in found
    )


def _is_released(entry: Json) -> bool:
    return entry["ready_at"] is None and entry["bytes"] > 0 and entry["bytes_on_disk"] < _RELEASED * entry["bytes"]


def evict(bench: Workbench, plan: Plan, entries: Sequence[CacheEntry], releases: Releases | None) -> list[str]:
    """Evict what is to go. The cluster is asked once more who uses it: minutes may have passed since the survey."""
    now = named_in(_objects(bench))
    going = [one.path for one in entries if one.verdict == "evict" and one.path not in now]
    keep = sorted({one.path for one in entries if one.verdict != "evict"} | now)
    if not going:
        return []
    run_keeper(bench, plan, evict=going, keep=keep)
    root = plan.cache.data_repository_path.strip("/")
    revisions = [path for path in going if path.startswith(f"{root}/")]
    if releases is not None and revisions:
        releases.release(revisions)
    return going


def _releases(objects: Objects, plan: Plan) -> Releases | None:
    """The file system behind the claim; None for a volume whose files are removed."""
    if plan.cache.fsx is None or plan.region is None:
        return None
    claim = cache_claim(objects, plan)
    volume = objects.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
    if volume is None:
        raise MissingError("the cluster has no volume of the model cache", help="`make up` makes it")
    return FsxReleases(aws.client("fsx", plan.region), str(volume["spec"]["csi"]["volumeHandle"]))


def _print(stack: str, entries: Sequence[CacheEntry], freed: int) -> None:
    rows = [
        (one.path, f"{one.bytes / 1e9:.1f}", f"{one.bytes_on_disk / 1e9:.1f}", one.verdict, one.why) for one in entries
    ]
    columns = ("on the cache", "GB", "GB on disk", "", "why")
    out.print(table(f"{stack}: the cache", columns, rows, right=(1, 2)))
    out.print(f"to evict: {freed / 1e9:.1f} GB", markup=False)


def _ask(going: Sequence[CacheEntry], freed: int) -> None:
    err.print(f"This evicts {len(going)} directories of the cache, {freed / 1e9:.1f} GB.", markup=False)
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask", help="--yes says that you mean it")
    if input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise UsageError("not confirmed; nothing was changed")
