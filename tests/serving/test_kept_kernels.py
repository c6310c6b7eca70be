"""Kernels from one pod to the next: the scripts of init container and hook, run by a shell on real directories."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from components.serving import kept_kernels
from planner.engines.request import COMPILED_DIRECTORY, KEPT_DIRECTORY
from tests.factories import model_of, stack_plan

PROD = stack_plan("prod")


class Node:
    """Where a pod compiles, and the cache's directory that pods of its model share."""

    def __init__(self, root: Path, kept: Path, rank: str = "") -> None:
        self.compiled, self.kept = root / "compiled", kept
        self.env = {"PATH": os.environ["PATH"], "HOSTNAME": root.name, **({"LWS_WORKER_INDEX": rank} if rank else {})}

    def seed(self) -> str:
        script = kept_kernels.SEED.replace(COMPILED_DIRECTORY, str(self.compiled))
        env = {**self.env, "KERNELS_READ": str(self.kept)}
        done = subprocess.run(["/bin/sh", "-c", script], env=env, capture_output=True, text=True, check=True)
        return done.stdout

    def keep(self) -> None:
        """The hook, with no planned start to wait for, and files that are quiet at once."""
        (*_, script) = kept_kernels.post_start(model_of(PROD, "deepseek-r1"))["postStart"]["exec"]["command"]
        script = script.replace(COMPILED_DIRECTORY, str(self.compiled)).replace(KEPT_DIRECTORY, str(self.kept))
        after = model_of(PROD, "deepseek-r1").start_limit_seconds // 2
        script = script.replace(f"KERNELS_AFTER={after}", "KERNELS_AFTER=1")
        script = script.replace("-mmin -3", "-mmin -0").replace(") >/dev/null 2>&1 &", ") 2>&1 & wait")
        self.script = script

    def compile(self, **files: bytes) -> None:
        for name, content in files.items():
            path = self.compiled / "vllm" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def run(self, **files: bytes) -> None:
        """A pod's life: the hook begins, the engine compiles, the hook keeps it."""
        self.keep()
        hook = subprocess.Popen(["/bin/sh", "-c", self.script], env=self.env)
        time.sleep(0.3)
        self.compile(**files)
        assert hook.wait(20) == 0


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    directory = tmp_path / "kept"
    directory.mkdir()
    return directory


def test_a_later_pod_finds_what_an_earlier_one_compiled(tmp_path: Path, kept: Path) -> None:
    first = Node(tmp_path / "a", kept)
    assert first.seed() == ""
    first.run(one=b"kernel", two=b"graph")
    assert [path.name for path in kept.iterdir()] == ["kernels-0.tar"]
    second = Node(tmp_path / "b", kept)
    assert "unpacked" in second.seed()
    assert (second.compiled / "vllm" / "one").read_bytes() == b"kernel"


def test_who_compiles_nothing_new_writes_nothing(tmp_path: Path, kept: Path) -> None:
    Node(tmp_path / "a", kept).run(one=b"kernel")
    before = (kept / "kernels-0.tar").stat()
    second = Node(tmp_path / "b", kept)
    second.seed()
    second.run()
    assert (kept / "kernels-0.tar").stat().st_mtime_ns == before.st_mtime_ns
    second.run(more=b"x" * 20_480)
    third = Node(tmp_path / "c", kept)
    third.seed()
    assert {path.name for path in (third.compiled / "vllm").iterdir()} == {"one", "more"}


def test_drafts_of_pods_that_ended_while_they_packed_go(tmp_path: Path, kept: Path) -> None:
    left, fresh = kept / "kernels-0.tar.gone.part", kept / "kernels-1.tar.other.part"
    left.write_bytes(b"x" * 9)
    os.utime(left, (1, 1))
    fresh.write_bytes(b"y")
    Node(tmp_path / "a", kept).run(one=b"kernel")
    assert {path.name for path in kept.iterdir()} == {"kernels-0.tar", fresh.name}


def test_less_never_takes_the_place_of_more(tmp_path: Path, kept: Path) -> None:
    Node(tmp_path / "a", kept).run(one=b"x" * 40_960)
    before = (kept / "kernels-0.tar").read_bytes()
    Node(tmp_path / "b", kept).run(small=b"x")  # it did not find the archive
    assert (kept / "kernels-0.tar").read_bytes() == before
    assert len(list(kept.iterdir())) == 1


def test_each_rank_of_a_group_has_its_own(tmp_path: Path, kept: Path) -> None:
    Node(tmp_path / "a", kept, "0").run(leader=b"1")
    Node(tmp_path / "b", kept, "1").run(worker=b"2")
    again = Node(tmp_path / "c", kept, "1")
    again.seed()
    assert {path.name for path in (again.compiled / "vllm").iterdir()} == {"worker"}


def test_an_archive_that_is_broken_costs_time_and_no_more(tmp_path: Path, kept: Path) -> None:
    (kept / "kernels-0.tar").write_bytes(b"no archive")
    node = Node(tmp_path / "a", kept)
    assert "compiled again" in node.seed()
    assert not node.compiled.exists()


def test_models_that_keep_nothing_have_no_hook() -> None:
    (streamed,) = stack_plan("dev").models
    assert kept_kernels.post_start(streamed) == {}
