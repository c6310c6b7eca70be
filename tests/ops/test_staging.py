"""Staging weights: complete, checked, resumable, and refused where something is wrong."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from components.scripts import warm_up
from ops import aws as ops_aws
from ops.errors import FindingsError, MissingError, OpsError, UsageError
from ops.sources import FolderSource, HubSource
from ops.staging import StagedRevision, StageProgress, check_bucket, stage
from ops.uploads import Uploads
from tests.factories import model_of, stack_plan

BUCKET = "weights-bucket"
MIB = 1024**2
PART = 5 * MIB  # the least that S3 takes
WEIGHTS = model_of(stack_plan("prod"), "llama-8b").weights
SILENT = StageProgress(None, None)


class Killed(BaseException):
    """What a kill looks like from inside: nothing may catch it and go on."""


class CountingS3:
    """The client of moto, with every call counted; from the given part on, uploads end the process."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: Counter[str] = Counter()
        self.parts: list[tuple[str, int]] = []
        self.kill_at_part: int | None = None

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.calls[name] += 1
            if name == "upload_part":
                if self.kill_at_part is not None and arguments["PartNumber"] >= self.kill_at_part:
                    raise Killed
                self.parts.append((arguments["Key"], arguments["PartNumber"]))
            return getattr(self.client, name)(**arguments)

        return self.client.get_paginator if name == "get_paginator" else call


@pytest.fixture
def s3(aws: None) -> CountingS3:
    client = ops_aws.client("s3", "us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    return CountingS3(client)


def write(folder: Path, path: str, size: int, seed: int) -> bytes:
    content = random.Random(seed).randbytes(size)  # noqa: S311 - any bytes will do
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two weight files, with things beside it that are not served."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text("{}")
    write(root, "model-00001-of-00002.safetensors", 18 * MIB, 1)
    write(root, "model-00002-of-00002.safetensors", MIB, 2)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    write(root, "original/consolidated.00.pth", 100, 3)
    write(root, "training.pt", 100, 4)
    write(root, ".git_like/objects", 100, 5)
    return root


def staged(s3: Any, folder: Path, *, replacing: bool = False) -> StagedRevision:
    source = FolderSource(folder, WEIGHTS.revision)
    return stage(s3, BUCKET, WEIGHTS, source, SILENT, part_bytes=PART, workers=2, replace=replacing)


def keys(s3: CountingS3) -> set[str]:
    listed = s3.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"].removeprefix(f"{WEIGHTS.object_prefix}/") for item in listed}


def content(s3: CountingS3, path: str) -> bytes:
    return s3.client.get_object(Bucket=BUCKET, Key=f"{WEIGHTS.object_prefix}/{path}")["Body"].read()


def test_a_folder_is_staged_as_the_warm_up_reads_it(s3: CountingS3, folder: Path, tmp_path: Path) -> None:
    result = staged(s3, folder)
    served = {
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert keys(s3) == {*served, "manifest.json"}
    assert {file.path for file in result.files} == served
    assert result.bytes == sum((folder / path).stat().st_size for path in served)
    # The reader in the cluster takes what is in the bucket for this revision, byte by byte.
    manifest = warm_up.parse_manifest(content(s3, "manifest.json"), WEIGHTS.hub_id, WEIGHTS.revision)
    cache = tmp_path / "cache"
    for entry in manifest.files:
        (cache / entry.path).parent.mkdir(parents=True, exist_ok=True)
        (cache / entry.path).write_bytes(content(s3, entry.path))
    warm_up.verify(cache, manifest, workers=2, deadline=float("inf"))


def test_the_manifest_comes_last(s3: CountingS3, folder: Path) -> None:
    order: list[str] = []
    s3.client.meta.events.register(
        "before-call.s3", lambda model, params, **_: order.append(f"{model.name} {params['url_path']}")
    )
    staged(s3, folder)
    writes = [entry for entry in order if entry.startswith(("PutObject", "CompleteMultipartUpload"))]
    assert writes[-1].endswith("/manifest.json")
    assert sum(entry.endswith("/manifest.json") for entry in writes) == 1


def test_a_second_run_sends_nothing(s3: CountingS3, folder: Path) -> None:
    staged(s3, folder)
    s3.calls.clear()
    again = staged(s3, folder)
    assert again.bytes_sent == 0
    assert {file.status for file in again.files} == {"already there"}
    assert not {"put_object", "upload_part", "create_multipart_upload"} & set(s3.calls)


def test_killed_in_the_middle_and_resumed_without_loss_or_repetition(s3: CountingS3, folder: Path) -> None:
    s3.kill_at_part = 3
    with pytest.raises(Killed):
        staged(s3, folder)
    assert "manifest.json" not in keys(s3)
    before = list(s3.parts)
    assert {number for _, number in before} == {1, 2}

    s3.kill_at_part = None
    result = staged(s3, folder)
    large = next(file for file in result.files if file.path.startswith("model-00001"))
    assert (large.status, large.parts_kept, large.parts_sent) == ("resumed", 2, 2)
    assert sorted(number for _, number in s3.parts) == [1, 2, 3, 4]  # each part once, over both runs
    assert content(s3, large.path) == (folder / large.path).read_bytes()
    assert not [key for key in keys(s3) if key.startswith(".staging/")]
    assert not s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_a_file_that_changed_after_the_kill_begins_anew(s3: CountingS3, folder: Path) -> None:
    s3.kill_at_part = 3
    with pytest.raises(Killed):
        staged(s3, folder)
    s3.kill_at_part = None
    changed = write(folder, "model-00001-of-00002.safetensors", 18 * MIB, 9)
    result = staged(s3, folder)
    large = next(file for file in result.files if file.path.startswith("model-00001"))
    assert (large.status, large.parts_sent) == ("uploaded", 4)
    assert content(s3, large.path) == changed
    assert not s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_an_upload_that_s3_has_forgotten_begins_anew(s3: CountingS3, folder: Path) -> None:
    s3.kill_at_part = 3
    with pytest.raises(Killed):
        staged(s3, folder)
    s3.kill_at_part = None
    upload = s3.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"][0]
    s3.client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    large = next(file for file in staged(s3, folder).files if file.path.startswith("model-00001"))
    assert (large.status, large.parts_sent) == ("uploaded", 4)


@pytest.mark.parametrize("told", [{"Size": 1}, {"ChecksumSHA256": "other"}])
def test_a_part_that_does_not_match_is_sent_again(s3: CountingS3, folder: Path, told: dict[str, Any]) -> None:
    """What S3 lists counts only where size and checksum are those of the file."""
    s3.kill_at_part = 3
    with pytest.raises(Killed):
        staged(s3, folder)
    s3.kill_at_part = None
    real = s3.client.get_paginator

    def paginator(name: str) -> Any:
        if name != "list_parts":
            return real(name)

        def pages(**arguments: Any) -> Iterator[dict[str, Any]]:
            for page in real(name).paginate(**arguments):
                wrong = [{**part, **(told if part["PartNumber"] == 1 else {})} for part in page["Parts"]]
                yield {**page, "Parts": wrong}

        return SimpleNamespace(paginate=pages)

    s3.client.get_paginator = paginator
    large = next(file for file in staged(s3, folder).files if file.path.startswith("model-00001"))
    assert (large.parts_kept, large.parts_sent) == (1, 3)


def test_killed_between_upload_and_bookkeeping(s3: CountingS3, folder: Path) -> None:
    """The object is whole, its note is still there: the next run tidies up and sends nothing."""
    staged(s3, folder)
    note = f"{WEIGHTS.object_prefix}/.staging/model-00001-of-00002.safetensors.json"
    state = {"upload_id": "done", "sha256": "x", "bytes": 1, "part_bytes": PART}
    s3.client.put_object(Bucket=BUCKET, Key=note, Body=json.dumps(state))
    assert staged(s3, folder).bytes_sent == 0
    assert not [key for key in keys(s3) if key.startswith(".staging/")]


def test_abort_leaves_nothing_behind(s3: CountingS3, folder: Path) -> None:
    s3.kill_at_part = 2
    with pytest.raises(Killed):
        staged(s3, folder)
    assert Uploads(s3, BUCKET, WEIGHTS.object_prefix).abort_all() == 1
    assert not s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    assert not [key for key in keys(s3) if key.startswith(".staging/")]


def test_other_content_under_a_staged_revision_is_refused_unless_meant(s3: CountingS3, folder: Path) -> None:
    staged(s3, folder)
    changed = write(folder, "model-00002-of-00002.safetensors", MIB, 7)
    with pytest.raises(FindingsError, match="differs from what the bucket has") as refused:
        staged(s3, folder)
    assert "--replace" in (refused.value.help or "")
    assert content(s3, "model-00002-of-00002.safetensors") != changed
    staged(s3, folder, replacing=True)
    assert content(s3, "model-00002-of-00002.safetensors") == changed
    manifest = warm_up.parse_manifest(content(s3, "manifest.json"), WEIGHTS.hub_id, WEIGHTS.revision)
    assert hashlib.sha256(changed).hexdigest() in {entry.sha256 for entry in manifest.files}


def test_a_file_that_changes_meanwhile_is_not_completed(s3: CountingS3, folder: Path) -> None:
    class Growing(FolderSource):
        def fetch(self, candidate: Any) -> Any:
            file = super().fetch(candidate)
            if candidate.path.startswith("model-00001"):
                with file.file.open("ab") as opened:
                    opened.write(b"more")
            return file

    with pytest.raises(FindingsError, match="changed while it was uploaded"):
        stage(s3, BUCKET, WEIGHTS, Growing(folder, WEIGHTS.revision), SILENT, part_bytes=PART, workers=2)
    assert "manifest.json" not in keys(s3)
    assert "model-00001-of-00002.safetensors" not in keys(s3)


# --- What is wrong with a folder ------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        FolderSource(tmp_path / "none", WEIGHTS.revision).files()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("config.json",), "has no config.json"),
        (("model-00002-of-00002.safetensors",), "lacks 1 of 2 weight files"),
        (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), r"has no \*.safetensors"),
    ],
)
def test_a_folder_that_no_engine_could_load(folder: Path, missing: tuple[str, ...], said: str) -> None:
    for path in missing:
        (folder / path).unlink()
    with pytest.raises(UsageError, match=said):
        FolderSource(folder, WEIGHTS.revision).files()


def test_a_folder_of_another_revision(folder: Path) -> None:
    note = folder / ".cache/huggingface/download/config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{'a' * 40}\netag\n0\n")
    with pytest.raises(UsageError, match=f"holds revision {'a' * 40}"):
        FolderSource(folder, WEIGHTS.revision).files()
    note.write_text(f"{WEIGHTS.revision}\netag\n0\n")
    assert FolderSource(folder, WEIGHTS.revision).files()


def test_a_snapshot_folder_tells_its_revision(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / ("b" * 40)
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    with pytest.raises(UsageError, match="b" * 40):
        FolderSource(snapshot, WEIGHTS.revision).files()


# --- The bucket -----------------------------------------------------------------------------------------------------


def test_a_bucket_that_is_not_there(s3: CountingS3) -> None:
    with pytest.raises(MissingError, match="there is no bucket nothing-here"):
        check_bucket(s3.client, "nothing-here", "us-east-1")


def denied(operation: str) -> ClientError:
    return ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized"}}, operation)


def test_a_permission_that_is_missing_is_told(s3: CountingS3, folder: Path) -> None:
    def refuse(**_: Any) -> Any:
        raise denied("CreateMultipartUpload")

    s3.client.create_multipart_upload = refuse
    with pytest.raises(MissingError, match="not allowed") as refused:
        staged(s3, folder)
    assert "s3://weights-bucket/models/" in str(refused.value)


# --- The hub --------------------------------------------------------------------------------------------------------


class FakeHub:
    """What `huggingface_hub` offers to us, from a folder."""

    def __init__(self, folder: Path, revision: str) -> None:
        self._folder = folder
        self.revision = revision
        self.downloads: list[str] = []
        self.error: Exception | None = None
        self.corrupt: str | None = None

    def HfApi(self) -> Any:  # noqa: N802 - the library's name
        return self

    def model_info(self, model: str, *, revision: str, files_metadata: bool) -> Any:
        if self.error is not None:
            raise self.error
        assert files_metadata
        return SimpleNamespace(sha=self.revision, siblings=[self._sibling(f) for f in sorted(self._folder.rglob("*"))])

    def _sibling(self, file: Path) -> Any:
        content = file.read_bytes() if file.is_file() else b""
        large = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if file.suffix == ".safetensors" else None
        name = file.relative_to(self._folder).as_posix() if file.is_file() else ".directory"
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
        return SimpleNamespace(rfilename=name, size=len(content), lfs=large, blob_id=blob)

    def hf_hub_download(self, model: str, path: str, *, revision: str, local_dir: str) -> str:
        self.downloads.append(path)
        target = Path(local_dir) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = (self._folder / path).read_bytes()
        target.write_bytes(b"?" + content[1:] if path == self.corrupt else content)
        return str(target)


@pytest.fixture
def hub(folder: Path) -> FakeHub:
    return FakeHub(folder, WEIGHTS.revision)


def from_hub(s3: CountingS3, hub: FakeHub, scratch: Path) -> StagedRevision:
    source = HubSource(WEIGHTS.hub_id, WEIGHTS.revision, scratch, hub=hub)
    return stage(s3, BUCKET, WEIGHTS, source, SILENT, part_bytes=PART, workers=2)


def test_the_hub_is_staged_file_by_file(s3: CountingS3, hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    from_hub(s3, hub, scratch)
    by_hub = content(s3, "manifest.json")
    assert not scratch.exists()
    assert "original/consolidated.00.pth" not in hub.downloads
    # Weights that the bucket has are not downloaded again.
    hub.downloads.clear()
    assert from_hub(s3, hub, scratch).bytes_sent == 0
    assert not [path for path in hub.downloads if path.endswith(".safetensors")]
    # A folder with the same files is the same revision.
    assert staged(s3, folder).bytes_sent == 0
    assert content(s3, "manifest.json") == by_hub


def test_a_download_that_is_not_what_the_hub_says(s3: CountingS3, hub: FakeHub, tmp_path: Path) -> None:
    for path in ("model-00002-of-00002.safetensors", "config.json"):
        hub.corrupt = path
        with pytest.raises(FindingsError, match="is not what the hub says"):
            from_hub(s3, hub, tmp_path / "scratch")
        assert not (tmp_path / "scratch" / path).exists()
        assert "manifest.json" not in keys(s3)


def test_the_hub_answers_another_revision(s3: CountingS3, hub: FakeHub, tmp_path: Path) -> None:
    hub.revision = "c" * 40
    with pytest.raises(UsageError, match="c" * 40):
        from_hub(s3, hub, tmp_path)


class RepositoryNotFoundError(Exception):
    """As the library names it."""


class GatedRepoError(RepositoryNotFoundError):
    """As the library names it."""


class RevisionNotFoundError(Exception):
    """As the library names it."""


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (GatedRepoError("403"), MissingError, "HF_TOKEN"),
        (RepositoryNotFoundError("404"), UsageError, "has no model"),
        (RevisionNotFoundError("404"), UsageError, "has no revision"),
        (ConnectionError("no route"), MissingError, "no route"),
    ],
)
def test_what_the_hub_refuses_is_told(
    s3: CountingS3, hub: FakeHub, tmp_path: Path, error: Exception, kind: type[OpsError], said: str
) -> None:
    hub.error = error
    with pytest.raises(kind, match=said):
        from_hub(s3, hub, tmp_path)


def test_no_room_for_the_download(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10 * MIB))
    with pytest.raises(MissingError, match="GB free") as refused:
        HubSource(WEIGHTS.hub_id, WEIGHTS.revision, tmp_path, hub=hub).files()
    assert "--scratch" in (refused.value.help or "")


def test_without_the_library_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingError, match="huggingface_hub") as refused:
        HubSource(WEIGHTS.hub_id, WEIGHTS.revision, tmp_path)
    assert "requirements-hub.txt" in (refused.value.help or "")


def test_the_prefix_is_the_plans(s3: CountingS3, folder: Path) -> None:
    other = replace(WEIGHTS, object_prefix="models/elsewhere/1")
    stage(s3, BUCKET, other, FolderSource(folder, other.revision), SILENT, part_bytes=PART)
    listed = s3.client.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert all(item["Key"].startswith("models/elsewhere/1/") for item in listed)
