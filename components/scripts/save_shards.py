"""Writes what each rank of a vLLM replica holds onto the cache, once: later starts read that, not the checkpoint.

Runs before the engine in each pod of a replica, in the engine's image and on the pod's own GPUs, which an init
container has to itself. The replica's first pod loads the checkpoint with the engine's own layout and calls
`save_sharded_state`, as vLLM 0.33.0 does it (examples/features/sharded_state/save_sharded_state_offline.py); the others
run the same replica's other ranks meanwhile. A later start reads its own node's part and holds it to the checksums that
were written with it: the engine then finds it in the node's memory (vllm/model_executor/model_loader/
sharded_state_loader.py maps files lazily, with one thread a rank).

Below the directory of shards, which is of one revision, layout, number format and image alone:

    sharded_state/      complete, with the model's config and tokenizer, and manifest.json of it all
    .ready              written last; without it nothing above counts
    .lock               held by who writes. The file system takes it from a writer that is killed, or whose node is gone
    .draft-<host>/      of a writer; the next one removes what is left of it

Exit codes: 0 the shards are there; 1 not now, worth another try.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import fnmatch
import importlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from components.scripts import warm_up

STATE = "sharded_state"
MARKER = ".ready"
LOCK = ".lock"
DRAFT = ".draft-"
PART_BYTES: Final = 5 * 1024**3
"""Of one file at most, as in vLLM's example."""

_SHARD = re.compile(r"model-(?:pp-(?P<stage>\d+)-tp|rank)-(?P<rank>\d+)-part-\d+\.safetensors")
"""vLLM's names, with and without pipeline stages (ShardedStateLoader)."""
_WEIGHTS = (".safetensors", ".bin")
"""What vLLM's example leaves out when it copies a model's other files, beside `warm_up.NOT_SERVED`."""
_POLL_SECONDS = 5.0
_TELL_EVERY = 60
"""Looks between two lines of the log: five minutes."""
_END_SECONDS = 30
"""For the other ranks' processes to end."""

log = logging.getLogger("save-shards")


class BrokenShardsError(Exception):
    """Shards that are not what they must be: the next try writes them anew."""


@dataclass(frozen=True)
class Asked:
    """A replica and where its shards go."""

    model: str
    revision: str
    checkpoint: Path
    directory: Path
    ranks: int
    nodes: int
    node: int
    line: tuple[str, ...]
    """What `vllm serve` is told, without the model, to load it as the engine will hold it."""
    deadline: float

    @property
    def marker(self) -> Path:
        """Says that the shards are complete."""
        return self.directory / MARKER


def prepare(asked: Asked) -> None:
    """Returns once this node's shards are there and are what was written.

    Raises:
        BrokenShardsError: they are not, on the only node; they count for nothing from now on.
        TryAgainError: time is up.
    """
    if not asked.marker.exists():
        if asked.node > 0:
            _run_other_ranks(asked)
        else:
            with _alone(asked):
                if not asked.marker.exists():  # who held the lock may have written them
                    write(asked)
                    return
    read(asked)


@contextlib.contextmanager
def _alone(asked: Asked) -> Generator[None]:
    """Held by one process of all nodes: Lustre is mounted with `flock`, so its locks count between clients."""
    with (asked.directory / LOCK).open("a") as file:
        looks = 0
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if looks % _TELL_EVERY == 0:
                    log.info("another replica writes the shards: waiting")
                looks += 1
                _pause(asked, "another replica still writes the shards")
        yield


def _pause(asked: Asked, lacks: str) -> None:
    if time.monotonic() > asked.deadline:
        raise warm_up.TryAgainError(lacks)
    time.sleep(_POLL_SECONDS)


def write(asked: Asked) -> None:
    """Loads the model and writes its shards; whoever calls it holds the lock."""
    state, draft = asked.directory / STATE, asked.directory / f"{DRAFT}{socket.gethostname()}"
    for left in (state, *asked.directory.glob(f"{DRAFT}*")):
        if left.exists():
            log.info("removing %s: an earlier try has not completed it, or it was found broken", left)
            shutil.rmtree(left)
    draft.mkdir()
    log.info("no shards of %s at %s for this layout yet: loading the checkpoint", asked.model, asked.revision)
    save(asked.checkpoint, asked.line, draft)
    check_ranks(draft, asked.ranks)
    copy_rest(asked.checkpoint, draft)
    files = describe(draft)
    document = {"model": asked.model, "revision": asked.revision, "files": files}
    warm_up.write_atomically(draft / warm_up.MANIFEST, json.dumps(document, indent=1).encode())
    draft.replace(state)
    warm_up.write_atomically(asked.marker, b"")
    log.info("written: %d files, %.1f GB in %s", len(files), sum(one["bytes"] for one in files) / 1e9, state)


def save(checkpoint: Path, line: Sequence[str], directory: Path) -> None:
    """vLLM's own part: all ranks write their state into the directory, which all of them see.

    Raises:
        TryAgainError: vLLM could not; the log has its reasons.
    """
    vllm = importlib.import_module("vllm")
    parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    given = importlib.import_module("vllm.entrypoints.common.cli_args").make_arg_parser(parser).parse_args(list(line))
    given.model = str(checkpoint)
    try:
        engine = vllm.LLM.from_engine_args(vllm.EngineArgs.from_cli_args(given)).llm_engine.engine_core
        try:
            engine.save_sharded_state(path=str(directory), pattern=None, max_size=PART_BYTES)
        finally:
            engine.shutdown()
    except Exception as error:  # of whatever kind: memory, GPUs, ranks that are gone
        log.exception("vLLM has not written the shards")
        raise warm_up.TryAgainError(f"vLLM has not written them: {error}") from error


def _run_other_ranks(asked: Asked) -> None:
    """Ranks of another node than the first's, until that one is done: they know no end of their own."""
    command = ["vllm", "serve", str(asked.checkpoint), *asked.line, "--headless"]
    while not asked.marker.exists():
        ranks = subprocess.Popen(command)
        try:
            while ranks.poll() is None and not asked.marker.exists():
                _pause(asked, "the replica's first pod has written no shards; its log says why")
        finally:
            ranks.terminate()
            try:
                ranks.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                ranks.kill()
        if not asked.marker.exists():
            log.info("these ranks have ended before the shards were written: they start again")
            _pause(asked, "the replica's first pod has written no shards; its log says why")


def check_ranks(directory: Path, ranks: int) -> None:
    """Whether each rank has written, whole files, and ranks that share layers the same tensors.

    Raises:
        BrokenShardsError: they have not.
    """
    found: dict[tuple[int, int], set[str]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        found.setdefault(rank_of(path.name), set()).update(tensors_of(path))
    if len(found) != ranks:
        raise BrokenShardsError(f"{len(found)} of {ranks} ranks have written")
    for (stage, rank), tensors in found.items():
        if different := tensors ^ found[stage, 0]:
            raise BrokenShardsError(f"rank {rank} of stage {stage} differs from rank 0 in {sorted(different)[0]}")


def rank_of(name: str) -> tuple[int, int]:
    """Pipeline stage and rank in it, by the name of a shard.

    Raises:
        BrokenShardsError: it is none.
    """
    match = _SHARD.fullmatch(name)
    if match is None:
        raise BrokenShardsError(f"{name} is no shard of vLLM's")
    return int(match["stage"] or 0), int(match["rank"])


def tensors_of(path: Path) -> set[str]:
    """Names of a safetensors file's tensors (eight bytes of length, a JSON header, the data).

    Raises:
        BrokenShardsError: the file is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(file.read(min(length, size)))
            header.pop("__metadata__", None)
            end = max((int(one["data_offsets"][1]) for one in header.values()), default=0)
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenShardsError(f"{path.name} has no header: {error!r}") from error
    if 8 + length + end != size:
        raise BrokenShardsError(f"{path.name} has {size} bytes, and its header says {8 + length + end}")
    return set(header)


def copy_rest(checkpoint: Path, directory: Path) -> None:
    """Config, tokenizer and what else lies beside the weights: the engine reads them from the shards' directory."""
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint)
        hidden = any(part.startswith(".") for part in name.parts)
        weights = path.suffix in _WEIGHTS or any(fnmatch.fnmatch(str(name), one) for one in warm_up.NOT_SERVED)
        if not path.is_file() or hidden or weights or str(name) == warm_up.MANIFEST:
            continue
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / name)


def describe(directory: Path) -> list[dict[str, Any]]:
    """All files of a directory with size and checksum, once they are on the file system's own disks."""

    def one(path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            os.fsync(file)
        name = path.relative_to(directory).as_posix()
        return {"path": name, "bytes": path.stat().st_size, "sha256": warm_up.sha256_of(path)}

    with concurrent.futures.ThreadPoolExecutor(_workers()) as pool:
        return list(pool.map(one, sorted(path for path in directory.rglob("*") if path.is_file())))


def read(asked: Asked) -> None:
    """Reads what this node's engine will read, and compares it with what was written.

    Where a file differs the marker goes. Of several nodes all must then begin anew together, and a group does so once
    all its pods have started and one has ended: what differs is removed, this pod goes on, and vLLM ends for lack of
    it.

    Raises:
        BrokenShardsError: a file differs, on the only node.
    """
    state = asked.directory / STATE

    def same(one: warm_up.Entry) -> bool:
        path = state / one.path
        return path.exists() and warm_up.sha256_of(path) == one.sha256

    entries: list[warm_up.Entry] = []
    try:
        raw = (state / warm_up.MANIFEST).read_bytes()
        entries = own_files(warm_up.parse_manifest(raw, asked.model, asked.revision), asked)
        with concurrent.futures.ThreadPoolExecutor(_workers()) as pool:
            wrong = [one.path for one, is_same in zip(entries, pool.map(same, entries), strict=True) if not is_same]
    except (OSError, warm_up.BrokenWeightsError) as error:
        wrong = [str(error)]
    if wrong:
        asked.marker.unlink(missing_ok=True)
        broken = f"not as they were written: {'; '.join(wrong)}"
        if asked.nodes == 1:
            raise BrokenShardsError(broken)
        for one in entries:
            if one.path in wrong:
                (state / one.path).unlink(missing_ok=True)
        log.error("%s: removed, so that the engine ends, the group starts anew, and its first pod writes them", broken)
        return
    log.info("%d files, %.1f GB are as they were written", len(entries), sum(one.size for one in entries) / 1e9)


def own_files(manifest: warm_up.Manifest, asked: Asked) -> list[warm_up.Entry]:
    """Files of the ranks on this node (stage by stage, as vLLM counts them), and those that are no weights."""
    shards = [one for one in manifest.files if _SHARD.fullmatch(one.path)]
    ranks = sorted({rank_of(one.path) for one in shards})
    first = asked.node * len(ranks) // asked.nodes
    own = set(ranks[first : first + len(ranks) // asked.nodes])
    # The largest first: started last, one would be read alone at the end.
    found = [one for one in manifest.files if one not in shards or rank_of(one.path) in own]
    return sorted(found, key=lambda one: one.size, reverse=True)


def _workers() -> int:
    """Checksums are a CPU's work: as many at once as the pod may use, and no more than reading gains from."""
    return max(1, min(32, len(os.sched_getaffinity(0))))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id")
    parser.add_argument("--revision", required=True, help="commit of the weights")
    parser.add_argument("--checkpoint", required=True, type=Path, help="where the weights lie")
    parser.add_argument("--shards", required=True, type=Path, help="where what ranks hold goes")
    parser.add_argument("--ranks", required=True, type=int, help="of the replica")
    parser.add_argument("--nodes", default=1, type=int, help="of the replica")
    parser.add_argument("--node", default=0, type=int, help="which of them this is")
    parser.add_argument("--limit-seconds", required=True, type=float)
    parser.add_argument("line", nargs=argparse.REMAINDER, help="after `--`: what `vllm serve` is told")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    asked = Asked(
        model=options.model,
        revision=options.revision,
        checkpoint=options.checkpoint,
        directory=options.shards,
        ranks=options.ranks,
        nodes=options.nodes,
        node=options.node,
        line=tuple(text for text in options.line if text != "--"),
        deadline=time.monotonic() + options.limit_seconds,
    )
    try:
        prepare(asked)
    except (BrokenShardsError, warm_up.TryAgainError, OSError) as error:
        return warm_up.fail(warm_up.EXIT_AGAIN, f"no shards: {error}. The next try writes them, or waits for them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
