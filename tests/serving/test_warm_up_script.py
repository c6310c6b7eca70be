"""The warm-up script on real files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.scripts import warm_up

MODEL = "acme/tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def stage(directory: Path, content_by_path: dict[str, bytes], **overrides: Any) -> None:
    """What staging leaves: files and their manifest."""
    for path, content in content_by_path.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    entries = [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in content_by_path.items()
    ]
    manifest = {"model": MODEL, "revision": REVISION, "files": entries} | overrides
    (directory / warm_up.MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "models" / MODEL / REVISION
    found.mkdir(parents=True)
    return found


@pytest.fixture(autouse=True)
def termination_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    note = tmp_path / "termination-log"
    note.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(note))
    return note


def run(directory: Path, *more: str, timeout: int = 60) -> int:
    return warm_up.main(
        [
            f"--model={MODEL}",
            f"--revision={REVISION}",
            f"--directory={directory}",
            f"--marker={directory / '.ready'}",
            "--source=files",
            f"--timeout-seconds={timeout}",
            *more,
        ]
    )


FILES = {"config.json": b"{}", "model-1.safetensors": os.urandom(3_000_000), "sub/tokenizer.json": b"[]"}


def test_good_files_become_ready(directory: Path) -> None:
    stage(directory, FILES)
    assert run(directory) == 0
    written = json.loads((directory / ".ready").read_text())
    assert written["files"] == 3
    assert written["bytes"] == sum(map(len, FILES.values()))
    assert written["revision"] == REVISION
    # Nothing half-done is left behind.
    assert sorted(path.name for path in directory.iterdir()) == [
        ".ready", "config.json", "manifest.json", "model-1.safetensors", "sub"
    ]  # fmt: skip


def test_a_changed_byte_is_named_and_makes_nothing_ready(directory: Path, termination_log: Path) -> None:
    stage(directory, FILES)
    broken = bytearray(FILES["model-1.safetensors"])
    broken[1_500_000] ^= 1
    (directory / "model-1.safetensors").write_bytes(broken)
    assert run(directory) == warm_up.EXIT_BROKEN
    assert not (directory / ".ready").exists()
    assert "model-1.safetensors: found sha256" in termination_log.read_text()
    assert "config.json" not in termination_log.read_text()


def test_a_short_file_is_found_without_reading(directory: Path, termination_log: Path) -> None:
    stage(directory, FILES)
    (directory / "model-1.safetensors").write_bytes(b"short")
    assert run(directory) == warm_up.EXIT_BROKEN
    assert "found 5 bytes, expected 3000000" in termination_log.read_text()


def test_a_missing_file_is_worth_another_try(directory: Path, termination_log: Path) -> None:
    stage(directory, FILES)
    (directory / "config.json").unlink()
    assert run(directory) == warm_up.EXIT_AGAIN
    assert "config.json" in termination_log.read_text()


def test_a_manifest_is_waited_for_beyond_the_limit_of_the_reading(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Staged days after `make up`: a Job that had given up would not be tried again."""
    naps: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        clock[0] += seconds
        if clock[0] > 100_000:
            stage(directory, FILES)

    monkeypatch.setattr(warm_up.time, "sleep", sleep)
    monkeypatch.setattr(warm_up.time, "monotonic", lambda: clock[0])
    with caplog.at_level("INFO", logger="warm-up"):
        assert run(directory, timeout=60) == 0
    told = [line for line in caplog.messages if "ops models stage" in line]
    assert 1 < len(told) < len(naps) / 10


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"revision": "f" * 40}, "not of acme/tiny at 0123456789abcdef"),
        ({"model": "acme/other"}, "acme/other"),
        ({"files": []}, "no file"),
        ({"files": [{"path": "../other", "bytes": 1, "sha256": "a"}]}, "outside"),
        ({"files": [{"path": "/etc/passwd", "bytes": 1, "sha256": "a"}]}, "outside"),
        ({"files": [{"path": "x"}]}, "malformed"),
    ],
)
def test_a_wrong_manifest_is_refused(
    directory: Path, termination_log: Path, manifest: dict[str, Any], message: str
) -> None:
    stage(directory, FILES, **manifest)
    assert run(directory) == warm_up.EXIT_BROKEN
    assert message in termination_log.read_text()


def test_a_ready_revision_is_not_read_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(directory, FILES)
    assert run(directory) == 0
    monkeypatch.setattr(warm_up, "sha256_of", lambda path: pytest.fail(f"read {path}"))
    assert run(directory) == 0


def test_a_marker_of_another_manifest_counts_for_nothing(directory: Path) -> None:
    stage(directory, FILES)
    assert run(directory) == 0
    stage(directory, {**FILES, "added.json": b"1"})
    (directory / "added.json").write_bytes(b"2")
    assert run(directory) == warm_up.EXIT_BROKEN


def test_a_killed_try_goes_on_where_it_was(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(directory, FILES)
    read: list[str] = []
    whole = warm_up.sha256_of

    def killed_at_the_second(path: Path) -> str:
        read.append(path.name)
        if len(read) >= 2:
            raise OSError("the node is gone")
        return whole(path)

    monkeypatch.setattr(warm_up, "sha256_of", killed_at_the_second)
    assert run(directory, "--workers=1") == warm_up.EXIT_AGAIN
    assert read[:2] == ["model-1.safetensors", "config.json"]
    # A kill can cut the journal's last line off.
    with (directory / warm_up.JOURNAL).open("a") as journal:
        journal.write('["half a li')
    read.clear()
    monkeypatch.setattr(warm_up, "sha256_of", lambda path: (read.append(path.name), whole(path))[1])
    assert run(directory, "--workers=1") == 0
    assert sorted(read) == ["config.json", "tokenizer.json"]
    assert not (directory / warm_up.JOURNAL).exists()


def test_a_file_that_changed_since_is_read_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(directory, FILES)
    (directory / "config.json").rename(directory / "away")
    assert run(directory) == warm_up.EXIT_AGAIN
    (directory / "away").rename(directory / "config.json")
    manifest = warm_up.parse_manifest((directory / warm_up.MANIFEST).read_bytes(), MODEL, REVISION)
    journal = warm_up.Journal(directory / warm_up.JOURNAL, manifest.digest)
    for entry in manifest.files:
        journal.add(entry, (directory / entry.path).stat())
    (directory / "config.json").write_bytes(b"[]")
    os.utime(directory / "config.json", ns=(1, 1))
    assert run(directory) == warm_up.EXIT_BROKEN


def test_time_runs_out(directory: Path, termination_log: Path) -> None:
    stage(directory, FILES)
    assert run(directory, timeout=-1) == warm_up.EXIT_AGAIN
    assert "time is up" in termination_log.read_text()


class Hub:
    """The part of `huggingface_hub` that is used, over a dictionary."""

    def __init__(self, files: dict[str, bytes], *, corrupt: str | None = None) -> None:
        self.files, self.corrupt, self.downloads = files, corrupt, 0

    def HfApi(self) -> Any:  # noqa: N802 - the library's name
        siblings = [
            SimpleNamespace(
                rfilename=name,
                blob_id=hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest(),
                lfs=SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if "safetensors" in name else None,
            )
            for name, content in self.files.items()
        ]

        def model_info(model: str, *, revision: str, files_metadata: bool) -> Any:
            assert (model, revision, files_metadata) == (MODEL, REVISION, True)
            return SimpleNamespace(siblings=siblings)

        return SimpleNamespace(model_info=model_info)

    def snapshot_download(
        self, model: str, *, revision: str, local_dir: str, ignore_patterns: list[str], max_workers: int
    ) -> str:
        self.downloads += 1
        for name, content in self.files.items():
            if name.endswith(".pth"):
                assert "*.pth" in ignore_patterns
                continue
            path = Path(local_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(content[:-1] + b"?" if name == self.corrupt else content)
        return local_dir


def from_hub(directory: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return run(directory, "--source=hub")


def test_a_download_is_checked_and_described(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub({**FILES, "original.pth": b"not served"})
    assert from_hub(directory, hub, monkeypatch) == 0
    manifest = json.loads((directory / warm_up.MANIFEST).read_text())
    assert {entry["path"] for entry in manifest["files"]} == set(FILES)
    assert (directory / ".ready").exists()
    # The next Job finds everything there.
    assert from_hub(directory, hub, monkeypatch) == 0
    assert hub.downloads == 1


@pytest.mark.parametrize("broken", ["model-1.safetensors", "config.json"])
def test_a_broken_download_is_removed_and_fetched_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch, termination_log: Path, broken: str
) -> None:
    hub = Hub(FILES, corrupt=broken)
    assert from_hub(directory, hub, monkeypatch) == warm_up.EXIT_AGAIN
    assert broken in termination_log.read_text()
    assert not (directory / broken).exists()
    assert (directory / "sub/tokenizer.json").exists()
    hub.corrupt = None
    assert from_hub(directory, hub, monkeypatch) == 0


def test_a_hub_that_refuses_is_worth_another_try(
    directory: Path, monkeypatch: pytest.MonkeyPatch, termination_log: Path
) -> None:
    def refuse() -> Any:
        raise PermissionError("403: gated repository")

    hub = SimpleNamespace(HfApi=refuse)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert run(directory, "--source=hub") == warm_up.EXIT_AGAIN
    assert "gated" in termination_log.read_text()


def test_it_runs_as_a_script_with_the_standard_library_alone(directory: Path, tmp_path: Path) -> None:
    stage(directory, FILES)
    script = tmp_path / "warm_up.py"
    script.write_text(Path(warm_up.__file__).read_text())
    done = subprocess.run(
        [
            sys.executable, "-I", "-S", str(script), f"--model={MODEL}", f"--revision={REVISION}",
            f"--directory={directory}", f"--marker={directory / '.ready'}", "--source=files", "--timeout-seconds=60",
        ],
        capture_output=True, text=True, check=False, env={},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ready: 3 files" in done.stdout


def test_big_files_are_started_first(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage(directory, FILES)
    with caplog.at_level(logging.INFO):
        assert run(directory, "--workers=1") == 0
    checked = [record.args for record in caplog.records if record.msg == "checked %s"]
    assert checked[0] == ("model-1.safetensors",)


def test_a_directory_that_pods_write_lets_their_users_in(directory: Path, tmp_path: Path) -> None:
    stage(directory, {"config.json": b"{}"})
    shared = tmp_path / "compiled" / "m" / "0123456789ab"
    assert run(directory, f"--shared-directory={shared}") == 0
    assert shared.stat().st_mode & 0o777 == 0o777
    # Those above it stay closed: each model mounts its own alone.
    assert shared.parent.stat().st_mode & 0o022 == 0
    assert run(directory, f"--shared-directory={shared}") == 0
