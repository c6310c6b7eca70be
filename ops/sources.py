"""Where weights are taken from: a folder on this machine, or the model hub."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

from components.scripts import warm_up
from ops.errors import FindingsError, MissingError, OpsError, UsageError
from ops.uploads import LocalFile

NOT_SERVED: Final = warm_up.NOT_SERVED  # pyright: ignore[reportPrivateUsage]
"""Formats that no engine reads, by glob: the warm-up Job leaves out the same."""
_SPARE_BYTES: Final = 2 * 1024**3
"""Room on the disk that a download must leave."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
Kind = Literal["model", "draft", "adapter"]
_WEIGHTS: Final[dict[Kind, tuple[str, tuple[str, ...]]]] = {
    "model": ("config.json", (".safetensors",)),
    # Heads of EAGLE are often published as PyTorch wrote them; both engines read that, too.
    "draft": ("config.json", (".safetensors", ".bin")),
    "adapter": ("adapter_config.json", (".safetensors", ".bin")),
}
"""What engines cannot do without: a configuration, and weights in one of these formats."""
_INSTALL_HUB = (
    "`.venv/bin/pip install -r requirements-hub.txt`, or download the revision yourself and use --from FOLDER"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file of the revision."""

    path: str
    size: int
    sha256: str | None = None
    """Where it is known before the content is read."""
    git_blob: str | None = None


class Source(Protocol):
    """Gives the files of one revision."""

    def files(self) -> tuple[Candidate, ...]:
        """All files that are served, by path."""
        ...

    def fetch(self, candidate: Candidate) -> LocalFile:
        """The file on this machine, with its checksum."""
        ...

    def release(self, file: LocalFile) -> None:
        """The file is not needed any more."""
        ...

    def finish(self) -> None:
        """The revision is staged: leave nothing behind."""
        ...


class FolderSource:
    """A folder that holds one revision; nothing in it is changed."""

    def __init__(self, folder: Path, revision: str, kind: Kind = "model") -> None:
        """`revision` is the commit that the stack file names."""
        self._folder = folder
        self._revision = revision
        self._kind: Kind = kind

    def files(self) -> tuple[Candidate, ...]:
        """All files that are served.

        Raises:
            UsageError: no such folder, no model in it, or a model of another revision.
        """
        if not self._folder.is_dir():
            raise UsageError(f"{self._folder} is no folder")
        found: list[Candidate] = []
        for file in sorted(self._folder.rglob("*")):
            path = file.relative_to(self._folder).as_posix()
            if is_served(path) and file.is_file():
                found.append(Candidate(path=path, size=file.stat().st_size))
        check_complete((one.path for one in found), str(self._folder), self._kind)
        self._check_shards({one.path for one in found})
        told = told_revision(self._folder)
        if told is not None and told != self._revision:
            raise UsageError(
                f"{self._folder} holds revision {told}, the stack file names {self._revision}",
                help="download that revision, or change `revision` in the stack file",
            )
        return tuple(found)

    def fetch(self, candidate: Candidate) -> LocalFile:
        """The file and its checksum."""
        return local_file(self._folder / candidate.path, candidate.path)

    def release(self, file: LocalFile) -> None:
        """Nothing: the folder is the user's."""

    def finish(self) -> None:
        """Nothing."""

    def _check_shards(self, paths: set[str]) -> None:
        index = self._folder / "model.safetensors.index.json"
        if not index.is_file():
            return
        try:
            shards: set[str] = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{index} is malformed: {error}", help="download it again") from None
        missing = sorted(shards - paths)
        if missing:
            raise UsageError(
                f"{self._folder} lacks {len(missing)} of {len(shards)} weight files, the first is {missing[0]}",
                help="finish the download",
            )


def told_revision(folder: Path) -> str | None:
    """The commit that a folder says of itself: as the hub's tools or git leave it; None where nothing does."""
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    for note in sorted(folder.glob(".cache/huggingface/download/**/*.metadata")):
        first = note.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
        if first and _COMMIT.fullmatch(first[0]):
            return first[0]
    if (folder / ".git").exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None


class HubSource:
    """The model hub: one file at a time, downloaded, checked against the hub's checksum, and removed after use."""

    def __init__(
        self, hub_id: str, revision: str, scratch: Path, *, hub: Any = None, held: int = 2, kind: Kind = "model"
    ) -> None:
        """Use the `huggingface_hub` module, or what stands in for it in tests.

        Args:
            hub_id: repository such as `deepseek-ai/DeepSeek-R1`.
            revision: commit.
            scratch: folder for downloads; a file that a kill left half there is gone on with.
            hub: the module.
            held: files that lie in `scratch` at the same time.
            kind: what the repository is: a draft model and an adapter have other files.

        Raises:
            MissingError: the library is not installed.
        """
        self._id = hub_id
        self._revision = revision
        self._scratch = scratch
        self._hub = hub or _library()
        self._held = held
        self._kind: Kind = kind

    def files(self) -> tuple[Candidate, ...]:
        """All files that are served, as the hub lists them.

        Raises:
            UsageError: no such model or revision, or nothing in it that an engine reads.
            MissingError: no access, no network, or no room for the largest files.
        """
        try:
            info = self._hub.HfApi().model_info(self._id, revision=self._revision, files_metadata=True)
        except Exception as error:
            raise self._explained(error) from error
        if info.sha != self._revision:
            raise UsageError(f"the hub answered revision {info.sha} of {self._id} instead of {self._revision}")
        found: list[Candidate] = []
        for sibling in sorted(info.siblings, key=lambda one: one.rfilename):
            large = sibling.lfs
            if is_served(sibling.rfilename):
                found.append(
                    Candidate(
                        path=sibling.rfilename,
                        size=int(sibling.size or 0),
                        sha256=large.sha256 if large is not None else None,
                        git_blob=sibling.blob_id if large is None else None,
                    )
                )
        check_complete((one.path for one in found), f"{self._id} at {self._revision}", self._kind)
        self._check_room(sum(sorted((one.size for one in found), reverse=True)[: self._held]))
        return tuple(found)

    def fetch(self, candidate: Candidate) -> LocalFile:
        """Download a file and check it.

        Raises:
            FindingsError: it is not what the hub says.
            MissingError: the download failed.
        """
        self._check_room(candidate.size)
        try:
            path = self._hub.hf_hub_download(
                self._id, candidate.path, revision=self._revision, local_dir=str(self._scratch)
            )
        except Exception as error:
            raise self._explained(error) from error
        file = local_file(Path(path), candidate.path)
        right = (
            file.sha256 == candidate.sha256
            if candidate.sha256 is not None
            else candidate.git_blob is None or warm_up.git_blob_sha1(file.file) == candidate.git_blob
        )
        if not right:
            file.file.unlink(missing_ok=True)
            raise FindingsError(
                f"{candidate.path} of {self._id} is not what the hub says (sha256 {file.sha256})",
                help="it was removed; run the same command again to download it anew",
            )
        return file

    def release(self, file: LocalFile) -> None:
        """Remove the download."""
        file.file.unlink(missing_ok=True)

    def finish(self) -> None:
        """Remove the folder of downloads with the library's notes."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _check_room(self, needed: int) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._scratch).free
        if free < needed + _SPARE_BYTES:
            raise MissingError(
                f"{self._scratch} has {free / 1e9:.1f} GB free, and the download needs "
                f"{(needed + _SPARE_BYTES) / 1e9:.1f} GB",
                help="name a folder on a larger disk with --scratch",
            )

    def _explained(self, error: Exception) -> OpsError:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        what = f"{self._id} at {self._revision[:12]}"
        if "GatedRepoError" in kinds:
            return MissingError(
                f"{what} is gated and the hub does not let you in",
                help="accept its license on the hub, then set HF_TOKEN to a token of that account (or `hf auth login`)",
            )
        if "RevisionNotFoundError" in kinds:
            return UsageError(f"{self._id} has no revision {self._revision}", help="correct it in the stack file")
        if "RepositoryNotFoundError" in kinds:
            return UsageError(
                f"the hub has no model {self._id}, or it is private", help="correct the name, or set HF_TOKEN"
            )
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return MissingError(f"{what} could not be fetched: {reason}", help="check network and proxy, then run it again")


def is_served(path: str) -> bool:
    """Whether a file belongs to what engines read; hidden files and our own manifest do not."""
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and path != warm_up.MANIFEST and not any(fnmatch.fnmatch(path, glob) for glob in NOT_SERVED)


def check_complete(paths: Iterable[str], where: str, kind: Kind = "model") -> None:
    """Raises UsageError for what no engine could load."""
    known = set(paths)
    config, formats = _WEIGHTS[kind]
    lacking = [] if config in known else [config]
    lacking += [] if any(path.endswith(formats) for path in known) else [" or ".join(f"*{one}" for one in formats)]
    if lacking:
        raise UsageError(
            f"{where} has no {' and no '.join(lacking)}",
            help=f"engines load weights with their {config}; name the folder of the {kind} that holds both",
        )


def local_file(file: Path, path: str) -> LocalFile:
    """A file with its checksum; raises MissingError where it cannot be read."""
    try:
        stat = file.stat()
        sha256 = warm_up.sha256_of(file)
    except OSError as error:
        raise MissingError(f"{file} cannot be read: {error.strerror}") from None
    return LocalFile(path=path, file=file, size=stat.st_size, modified_ns=stat.st_mtime_ns, sha256=sha256)


def _library() -> Any:
    try:
        return cast(Any, importlib.import_module("huggingface_hub"))
    except ImportError:
        raise MissingError("staging from the hub needs the huggingface_hub package", help=_INSTALL_HUB) from None
