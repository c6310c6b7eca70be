"""Uploads to S3 that can be killed at any moment and go on where they were.

A large file is a multipart upload whose id lies in the bucket beside it (`<prefix>/.staging/<path>.json`), so another
run, on another machine too, finds it: parts that S3 has and that match are kept, only the others are sent. What is
written always carries its SHA-256: S3 checks each part, and the object's metadata tells the whole file's.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from botocore.exceptions import BotoCoreError, ClientError

from ops.aws import error_code, explained
from ops.errors import FindingsError

PART_BYTES: Final = 32 * 1024**2
"""Small enough that a kill loses little, large enough that a file of 280 GB stays below S3's 10,000 parts."""
WORKERS: Final = 8
"""Parts under way at once; each is held in memory, so 8 x 32 MiB is what an upload needs."""
_MOST_PARTS: Final = 10_000
_MIB: Final = 1024**2
_GONE: Final = {"404", "NoSuchKey", "NoSuchUpload", "NotFound"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file as it was when its checksum was taken."""

    path: str
    """Relative, with `/`: the end of the object's key."""
    file: Path
    size: int
    modified_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What an upload did."""

    parts_sent: int
    parts_kept: int
    bytes_sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadState:
    """A multipart upload that is under way, as the bucket remembers it."""

    upload_id: str
    sha256: str
    bytes: int
    part_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    number: int
    offset: int
    size: int


class Uploads:
    """Uploads below one prefix of one bucket. A context manager: leaving it drops what has not begun."""

    def __init__(
        self,
        s3: Any,
        bucket: str,
        prefix: str,
        *,
        sent: Callable[[int], None] = lambda _: None,
        part_bytes: int = PART_BYTES,
        workers: int = WORKERS,
    ) -> None:
        """`s3` is a boto3 client, `sent` hears of every byte that S3 has taken."""
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix.rstrip("/")
        self._sent = sent
        self._part_bytes = part_bytes
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="upload")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def key(self, path: str) -> str:
        """The object's key."""
        return f"{self._prefix}/{path}"

    def has(self, path: str, size: int, sha256: str) -> bool:
        """Whether this very file is there already."""
        try:
            found = self._s3.head_object(Bucket=self._bucket, Key=self.key(path))
        except (ClientError, BotoCoreError) as error:
            if error_code(error) in _GONE:
                return False
            raise self._explained(error, path) from error
        return found["ContentLength"] == size and found["Metadata"].get("sha256") == sha256

    def read(self, path: str) -> bytes | None:
        """An object's content; None where there is none."""
        try:
            return self._s3.get_object(Bucket=self._bucket, Key=self.key(path))["Body"].read()
        except (ClientError, BotoCoreError) as error:
            if error_code(error) in _GONE:
                return None
            raise self._explained(error, path) from error

    def write(self, path: str, content: bytes) -> None:
        """A small object, checked by S3 on arrival."""
        digest = hashlib.sha256(content)
        self._put(path, content, digest.hexdigest(), digest.digest())

    def delete(self, path: str) -> None:
        """Removes an object (a version of it stays where the bucket keeps versions); one that is gone is fine."""
        try:
            self._s3.delete_object(Bucket=self._bucket, Key=self.key(path))
        except (ClientError, BotoCoreError) as error:
            raise self._explained(error, path) from error

    def upload(self, file: LocalFile) -> Sent:
        """Upload a file, going on where an earlier try was.

        Raises:
            FindingsError: the file changed meanwhile.
            MissingError: S3 refuses or cannot be reached; another run goes on.
        """
        try:
            state = self._state(file.path)
            if file.size <= self._part_bytes:
                if state is not None:  # the file was larger once
                    self._abort(file.path, state.upload_id)
                sent = self._whole(file)
            else:
                state, kept = self._begun(file, state)
                sent = self._parts(file, state, kept)
            if state is not None:
                self.delete(_state_path(file.path))
        except (ClientError, BotoCoreError) as error:
            raise self._explained(error, file.path) from error
        return sent

    def forget(self, path: str) -> None:
        """Drop an unfinished upload of a file that needs none any more."""
        state = self._state(path)
        if state is not None:
            self._abort(path, state.upload_id)
            self.delete(_state_path(path))

    def abort_all(self) -> int:
        """Abort every unfinished upload below the prefix, and forget them; returns how many there were."""
        try:
            aborted = 0
            pages = self._s3.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}/"):
                for upload in page.get("Uploads", ()):
                    self._s3.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    aborted += 1
            for path in self.unfinished():
                self.delete(_state_path(path))
        except (ClientError, BotoCoreError) as error:
            raise self._explained(error, "") from error
        return aborted

    def unfinished(self) -> tuple[str, ...]:
        """Files whose upload an earlier run began and did not finish."""
        start = self.key(_state_path(""))[: -len(".json")]
        try:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
            keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        except (ClientError, BotoCoreError) as error:
            raise self._explained(error, "") from error
        return tuple(key.removeprefix(start).removesuffix(".json") for key in keys)

    def _whole(self, file: LocalFile) -> Sent:
        content = file.file.read_bytes()
        self._check_unchanged(file)
        self._put(file.path, content, file.sha256, bytes.fromhex(file.sha256))
        self._sent(file.size)
        return Sent(parts_sent=1, parts_kept=0, bytes_sent=file.size)

    def _put(self, path: str, content: bytes, sha256: str, digest: bytes) -> None:
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=self.key(path),
                Body=content,
                Metadata={"sha256": sha256},
                ChecksumSHA256=base64.b64encode(digest).decode(),
            )
        except (ClientError, BotoCoreError) as error:
            raise self._explained(error, path) from error

    def _begun(self, file: LocalFile, state: UploadState | None) -> tuple[UploadState, Mapping[int, Any]]:
        """The upload to go on with and the parts it has; a new one where there is none of this very file."""
        if state is not None:
            same = (state.sha256, state.bytes) == (file.sha256, file.size)
            parts = self._listed(file.path, state.upload_id) if same else None
            if parts is not None:
                return state, parts
            self._abort(file.path, state.upload_id)
        smallest = -(-file.size // _MOST_PARTS)
        part_bytes = max(self._part_bytes, -(-smallest // _MIB) * _MIB)
        made = self._s3.create_multipart_upload(
            Bucket=self._bucket,
            Key=self.key(file.path),
            Metadata={"sha256": file.sha256},
            ChecksumAlgorithm="SHA256",
        )
        state = UploadState(upload_id=made["UploadId"], sha256=file.sha256, bytes=file.size, part_bytes=part_bytes)
        self.write(_state_path(file.path), json.dumps(asdict(state)).encode())
        return state, {}

    def _parts(self, file: LocalFile, state: UploadState, kept: Mapping[int, Any]) -> Sent:
        futures: list[Future[tuple[dict[str, Any], int]]] = []
        try:
            futures.extend(
                self._pool.submit(self._part, file, state, part, kept.get(part.number))
                for part in _split(file.size, state.part_bytes)
            )
            done = [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        self._check_unchanged(file)
        self._s3.complete_multipart_upload(
            Bucket=self._bucket,
            Key=self.key(file.path),
            UploadId=state.upload_id,
            MultipartUpload={"Parts": [part for part, _ in done]},
        )
        sizes = [size for _, size in done if size]
        return Sent(parts_sent=len(sizes), parts_kept=len(done) - len(sizes), bytes_sent=sum(sizes))

    def _part(self, file: LocalFile, state: UploadState, part: _Part, there: Any) -> tuple[dict[str, Any], int]:
        """One part as `complete` wants it, and the bytes that were sent for it."""
        with file.file.open("rb") as opened:
            opened.seek(part.offset)
            body = opened.read(part.size)
        if len(body) != part.size:
            raise _changed(file)
        checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
        named = {"PartNumber": part.number, "ChecksumSHA256": checksum}
        # Where S3 does not tell a checksum, the size and the state's checksum of the whole file must do.
        if there is not None and there["Size"] == part.size and there.get("ChecksumSHA256", checksum) == checksum:
            self._sent(part.size)
            return {**named, "ETag": there["ETag"]}, 0
        answer = self._s3.upload_part(
            Bucket=self._bucket,
            Key=self.key(file.path),
            UploadId=state.upload_id,
            PartNumber=part.number,
            Body=body,
            ChecksumSHA256=checksum,
        )
        self._sent(part.size)
        return {**named, "ETag": answer["ETag"]}, part.size

    def _listed(self, path: str, upload_id: str) -> Mapping[int, Any] | None:
        """Parts that S3 has, by number; None where it no longer knows the upload."""
        try:
            pages = self._s3.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=self.key(path), UploadId=upload_id
            )
            return {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}
        except ClientError as error:
            if error_code(error) in _GONE:
                return None
            raise

    def _state(self, path: str) -> UploadState | None:
        raw = self.read(_state_path(path))
        if raw is None:
            return None
        try:
            return UploadState(**json.loads(raw))
        except (ValueError, TypeError):  # of another version of this program; its upload expires by itself
            return None

    def _abort(self, path: str, upload_id: str) -> None:
        try:
            self._s3.abort_multipart_upload(Bucket=self._bucket, Key=self.key(path), UploadId=upload_id)
        except ClientError as error:
            if error_code(error) not in _GONE:
                raise

    def _check_unchanged(self, file: LocalFile) -> None:
        stat = file.file.stat()
        if (stat.st_size, stat.st_mtime_ns) != (file.size, file.modified_ns):
            raise _changed(file)

    def _explained(self, error: Exception, path: str) -> Exception:
        return explained(error, doing=f"s3://{self._bucket}/{self.key(path)}")


def _changed(file: LocalFile) -> FindingsError:
    return FindingsError(
        f"{file.file} changed while it was uploaded", help="let it rest and run the same command again"
    )


def _state_path(path: str) -> str:
    return f".staging/{path}.json"


def _split(size: int, part_bytes: int) -> Iterator[_Part]:
    for number, offset in enumerate(range(0, size, part_bytes), start=1):
        yield _Part(number=number, offset=offset, size=min(part_bytes, size - offset))
