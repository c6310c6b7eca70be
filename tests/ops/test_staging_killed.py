"""Staging in a process of its own that is killed outright, SIGKILL, in the middle of a file; another one goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from components.scripts import warm_up
from ops import aws as ops_aws
from tests.factories import ROOT, model_of, stack_plan

BUCKET = "weights-bucket"
MIB = 1024**2
PART = 5 * MIB  # the least that S3 takes
WEIGHTS = model_of(stack_plan("prod"), "llama-8b").weights
CHILD = f"""
import sys
from pathlib import Path
from ops import aws
from ops.sources import FolderSource
from ops.staging import StageProgress, stage
from tests.factories import model_of, stack_plan
weights = model_of(stack_plan("prod"), "llama-8b").weights
source = FolderSource(Path(sys.argv[1]), weights.revision)
done = stage(aws.client("s3", "us-east-1"), {BUCKET!r}, weights, source, StageProgress(None, None), part_bytes={PART},
             workers=2)
print(done.bytes_sent)
"""


class Bridge:
    """S3 on the loopback interface: hands requests of other processes to moto, which lives in this one."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self.reached = threading.Event()
        """Set when `hold_from` parts have arrived; from then on parts get no answer."""
        self.hold_from: int | None = None
        self.released = threading.Event()
        bridge = self

        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                bridge.answer(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815 - the library's names

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        number = parse_qs(urlsplit(request.path).query).get("partNumber")
        if request.command == "PUT" and number:
            if self.hold_from is not None and sum(self.parts.values()) >= self.hold_from:
                self.reached.set()
                self.released.wait(60)
                return  # the caller is dead: its part never arrived
            self.parts[number[0]] += 1
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        told = requests.request(
            request.command,
            f"https://s3.us-east-1.amazonaws.com{request.path}",
            headers=headers,
            data=body,
            timeout=30,
            stream=True,  # the answer to HEAD has a length and no body
        )
        content = b"" if request.command == "HEAD" else told.content
        request.send_response(told.status_code)
        for name, value in told.headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "content-encoding"}:
                request.send_header(name, value)
        length = told.headers.get("Content-Length") if request.command == "HEAD" else None
        request.send_header("Content-Length", length or str(len(content)))
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def bridge(aws: None) -> Iterator[Bridge]:
    made = Bridge()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.released.set()
    made.server.shutdown()
    made.server.server_close()


def test_a_killed_process_loses_nothing_and_repeats_nothing(bridge: Bridge, tmp_path: Path) -> None:
    s3 = ops_aws.client("s3", "us-east-1")
    s3.create_bucket(Bucket=BUCKET)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    content = random.Random(1).randbytes(28 * MIB)  # noqa: S311 - any bytes will do
    (folder / "model.safetensors").write_bytes(content)

    bridge.hold_from = 3
    first = child(bridge, folder)
    assert bridge.reached.wait(60), first.communicate(timeout=5)
    first.send_signal(signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL
    assert keys(s3).isdisjoint({"manifest.json", "model.safetensors"})
    assert sum(bridge.parts.values()) == 3

    bridge.hold_from = None
    bridge.released.set()
    second = child(bridge, folder)
    output, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    # Six parts, each once over both processes: three were sent before the kill, three after it.
    assert bridge.parts == Counter({str(number): 1 for number in range(1, 7)})
    assert int(output) == 28 * MIB - 3 * PART
    assert s3.get_object(Bucket=BUCKET, Key=f"{WEIGHTS.object_prefix}/model.safetensors")["Body"].read() == content
    manifest = s3.get_object(Bucket=BUCKET, Key=f"{WEIGHTS.object_prefix}/manifest.json")["Body"].read()
    assert {entry.path for entry in warm_up.parse_manifest(manifest, WEIGHTS.hub_id, WEIGHTS.revision).files} == {
        "config.json",
        "model.safetensors",
    }
    assert not [key for key in keys(s3) if key.startswith(".staging/")]
    assert not s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    assert json.loads(manifest)["revision"] == WEIGHTS.revision


def child(bridge: Bridge, folder: Path) -> subprocess.Popen[str]:
    """The staging in another process, whose S3 is the bridge."""
    env = {**os.environ, "AWS_ENDPOINT_URL_S3": bridge.url, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def keys(s3: Any) -> set[str]:
    listed = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"].removeprefix(f"{WEIGHTS.object_prefix}/") for item in listed}
