"""The wait for what lies in the bucket: against moto, and as a process laid out as in the pod."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from components.scripts import staged, warm_up
from components.serving.mounted_scripts import MountedScripts
from components.serving.weights_wait import SCRIPTS
from ops import aws as ops_aws
from tests.harness import deploy

BUCKET = "weights"
WANTED = staged.Wanted("acme/tiny", "0" * 40, f"models/acme/tiny/{'0' * 40}")
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = ops_aws.client("s3", "us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def manifest(**changes: Any) -> bytes:
    entries = [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in FILES.items()
    ]
    return json.dumps({"model": WANTED.hub_id, "revision": WANTED.revision, "files": entries} | changes).encode()


def put(s3: Any, path: str, content: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{WANTED.prefix}/{path}", Body=content)


class Clock:
    """Time that passes while the script sleeps; `then` happens at that time."""

    def __init__(self, **then: Any) -> None:
        self.now = 0.0
        self.then = then

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at in [name for name in self.then if self.now >= float(name[1:])]:
            self.then.pop(at)()


def wait(s3: Any, clock: Clock, limit: float = 3600) -> str | None:
    return staged.wait(s3, BUCKET, [WANTED], stack="dev", limit_seconds=limit, clock=clock, pause=clock.sleep)


def test_a_revision_counts_from_its_manifest_on(s3: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def files() -> None:
        for path, content in FILES.items():
            put(s3, path, content)

    clock = Clock(t60=files, t120=lambda: put(s3, warm_up.MANIFEST, manifest()))
    assert wait(s3, clock) is None
    assert clock.now == 120
    told = [record.getMessage() for record in caplog.records]
    assert "acme/tiny at 000000000000 is not staged" in told[0]
    assert "`python -m ops models stage --stack dev --repository acme/tiny`" in told[0]
    assert "is incomplete" in told[1]
    assert "its staging has not ended" in told[1]
    # What is said again and again is said every ten minutes.
    assert len(told) == 3


def test_the_wait_is_bounded_and_ends_with_what_is_missing(s3: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    lacks = wait(s3, clock)
    assert clock.now == pytest.approx(3600, abs=15)
    assert lacks is not None
    assert f"not staged in s3://{BUCKET}/{WANTED.prefix}" in lacks
    assert len(caplog.records) == 6


@pytest.mark.parametrize(
    ("content", "files", "said"),
    [
        (manifest(), ("config.json",), "model.safetensors of the manifest not in the bucket"),
        (manifest(revision="1" * 40), tuple(FILES), "--replace"),
        (b"{", tuple(FILES), "--replace"),
    ],
    ids=["a file is gone", "of another revision", "cut off"],
)
def test_half_a_revision_is_never_taken(s3: Any, content: bytes, files: tuple[str, ...], said: str) -> None:
    for path in files:
        put(s3, path, FILES[path])
    put(s3, warm_up.MANIFEST, content)
    assert said in str(wait(s3, Clock(), limit=0))


def test_a_file_of_another_size_is_wrong(s3: Any) -> None:
    for path in FILES:
        put(s3, path, b"other content")
    put(s3, warm_up.MANIFEST, manifest())
    assert "config.json: found 13 bytes, expected 2" in str(wait(s3, Clock(), limit=0))


def test_rights_that_come_late_are_waited_for_and_said(s3: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    s3.delete_bucket(Bucket=BUCKET)

    def come() -> None:
        s3.create_bucket(Bucket=BUCKET)
        for path, content in FILES.items():
            put(s3, path, content)
        put(s3, warm_up.MANIFEST, manifest())

    assert wait(s3, Clock(t30=come)) is None
    assert "cannot be looked at: An error occurred (NoSuchBucket)" in caplog.records[0].getMessage()


_IN_THE_POD = """
import runpy, sys
import boto3

from moto import mock_aws
with mock_aws():
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="weights")
    while sys.argv[1] != "run":
        key, body = sys.argv.pop(1), sys.argv.pop(1)
        s3.put_object(Bucket="weights", Key=key, Body=body)
    sys.argv.pop(1)
    runpy.run_module("components.scripts.staged", run_name="__main__")
"""


def test_it_runs_from_what_the_pod_mounts(tmp_path: Path) -> None:
    """The ConfigMap's files where the volume puts them, and nothing else of the project."""
    world = deploy(_declare)
    data = world["kubernetes:core/v1:ConfigMap", "staged-weights-script"].inputs["data"]
    for item in SCRIPTS.volume()["configMap"]["items"]:
        path = tmp_path / "mount" / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data[item["key"]])
    note = tmp_path / "termination-log"
    note.touch()
    identity = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}

    def run(content: dict[str, bytes]) -> subprocess.CompletedProcess[str]:
        there = [text for path, body in content.items() for text in (f"{WANTED.prefix}/{path}", body.decode())]
        orders = ["--stack=dev", f"--bucket={BUCKET}", "--limit-seconds=0", "--revision", *WANTED]
        return subprocess.run(
            [sys.executable, "-c", _IN_THE_POD, *there, "run", *orders],
            cwd=tmp_path / "mount", env={**identity, "TERMINATION_LOG": str(note)}, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    ended = run(FILES)
    assert ended.returncode == 1, ended.stderr
    assert "after 0 s acme/tiny at 000000000000 is incomplete" in note.read_text(), ended.stderr
    ended = run({**FILES, warm_up.MANIFEST: manifest()})
    assert ended.returncode == 0, ended.stderr
    assert "acme/tiny at 0000000000000000000000000000000000000000 is there" in ended.stdout


def _declare() -> None:
    MountedScripts(SCRIPTS, "inference")
