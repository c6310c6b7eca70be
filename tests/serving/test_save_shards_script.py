"""The script that writes a replica's shards, run as its container runs it: on real files, with a stand-in for vLLM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from components.scripts import save_shards, warm_up

ROOT = Path(__file__).parents[2]
MODEL = "acme/large"
REVISION = "0123456789abcdef0123456789abcdef01234567"

_VLLM = '''
"""Writes for each rank what vLLM would: as many tensors as there are layers, of the rank's own bytes."""
import json, os, time
from pathlib import Path

STAGES, TENSOR = int(os.environ.get("STAGES", "1")), int(os.environ.get("TENSOR", "2"))


class EngineArgs:
    @classmethod
    def from_cli_args(cls, given):
        made = cls()
        made.given = given
        return made


class Core:
    def __init__(self, given):
        self.given = given

    def save_sharded_state(self, path, pattern, max_size):
        assert pattern is None and max_size > 1e9
        for stage in range(STAGES):
            for rank in range(TENSOR):
                name = f"pp-{stage}-tp-{rank}" if STAGES > 1 else f"rank-{rank}"
                self.write(Path(path) / f"model-{name}-part-0.safetensors", stage, rank)
                time.sleep(float(os.environ.get("SLOW", "0")))

    def write(self, path, stage, rank):
        names = [f"layers.{stage}.weight", *(["odd"] if os.environ.get("ODD") == str(rank) else [])]
        header = json.dumps({n: {"dtype": "U8", "shape": [4], "data_offsets": [4 * i, 4 * i + 4]}
                             for i, n in enumerate(names)}).encode()
        data = len(header).to_bytes(8, "little") + header + bytes([rank]) * 4 * len(names)
        path.write_bytes(data[:-1] if os.environ.get("CUT") == str(rank) else data)

    def shutdown(self):
        pass


class LLM:
    @classmethod
    def from_engine_args(cls, args):
        with open(os.environ["LOADS"], "a") as log:
            log.write(json.dumps({"model": args.given.model, "line": args.given.line}) + "\\n")
        if os.environ.get("FAILS"):
            raise RuntimeError("no GPU has room")
        made = cls()
        made.llm_engine = cls()
        made.llm_engine.engine_core = Core(args.given)
        return made
'''
_PARSER = """
class FlexibleArgumentParser:
    def parse_args(self, line):
        import types
        return types.SimpleNamespace(line=line, model=None)
"""
_COMMAND = """#!/bin/sh
echo "$@" >> "$OTHER_RANKS"
[ -n "$ENDS" ] && exit 1
exec sleep 60
"""


class Node:
    """A pod's node: what its script sees, and the cache that all nodes share."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root, root / "cache"
        self.checkpoint, self.shards = self.cache / "models" / REVISION, self.cache / "shards"
        self.loads, self.others = root / "loads", root / "other-ranks"
        self.note = root / "termination-log"
        self.note.touch()
        for package in ("vllm/utils", "vllm/entrypoints/common"):
            (root / "python" / package).mkdir(parents=True)
        (root / "python/vllm/__init__.py").write_text(_VLLM)
        (root / "python/vllm/utils/argparse_utils.py").write_text(_PARSER)
        (root / "python/vllm/entrypoints/common/cli_args.py").write_text("def make_arg_parser(parser): return parser\n")
        (root / "bin").mkdir()
        (root / "bin/vllm").write_text(_COMMAND)
        (root / "bin/vllm").chmod(0o755)
        self.shards.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "model-00001.safetensors", ".ready", "manifest.json"):
            self.write(self.checkpoint / name, name.encode())
        self.write(self.checkpoint / "original/consolidated.00.pth", b"not served")
        self.write(self.checkpoint / "code/modeling.py", b"pass")

    @staticmethod
    def write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def start(
        self, *more: str, ranks: int = 2, limit: int = 60, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """The script, with short pauses."""
        code = (
            "from components.scripts import save_shards as s; s._POLL_SECONDS = 0.05; s._END_SECONDS = 5; "
            "import sys; sys.exit(s.main())"
        )
        line = [
            sys.executable, "-c", code, f"--model={MODEL}", f"--revision={REVISION}",
            f"--checkpoint={self.checkpoint}", f"--shards={self.shards}", f"--ranks={ranks}",
            f"--limit-seconds={limit}", *more, "--", "--tensor-parallel-size=2", "--enforce-eager",
        ]  # fmt: skip
        environment = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{self.root / 'python'}",
            "LOADS": str(self.loads), "OTHER_RANKS": str(self.others), "TERMINATION_LOG": str(self.note), **(env or {}),
        }  # fmt: skip
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *more: str, ranks: int = 2, limit: int = 60, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        process = self.start(*more, ranks=ranks, limit=limit, env=env)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    @property
    def state(self) -> Path:
        return self.shards / save_shards.STATE

    @property
    def marker(self) -> Path:
        return self.shards / save_shards.MARKER

    def loaded(self) -> int:
        return len(self.loads.read_text().splitlines()) if self.loads.exists() else 0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.02)


def test_the_first_start_writes_and_the_next_only_reads(node: Node) -> None:
    code, said = node.run()
    assert code == 0, said
    assert node.marker.exists()
    names = {path.relative_to(node.state).as_posix() for path in node.state.rglob("*") if path.is_file()}
    assert names == {
        "model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors", "config.json", "tokenizer.json",
        "code/modeling.py", "manifest.json",
    }  # fmt: skip
    # The manifest is of the shards, not the checkpoint's own.
    written = {one["path"] for one in json.loads((node.state / "manifest.json").read_text())["files"]}
    assert written == names - {"manifest.json"}
    (load,) = [json.loads(line) for line in node.loads.read_text().splitlines()]
    assert load == {"model": str(node.checkpoint), "line": ["--tensor-parallel-size=2", "--enforce-eager"]}
    code, said = node.run()
    assert code == 0
    assert "are as they were written" in said
    assert node.loaded() == 1


def test_a_writer_that_is_killed_leaves_nothing_that_counts_and_the_next_one_begins_anew(node: Node) -> None:
    first = node.start(env={"SLOW": "30"})
    until(lambda: any(node.shards.glob(".draft-*/*.safetensors")))
    first.kill()
    first.communicate(timeout=20)
    assert not node.marker.exists()
    assert not node.state.exists()
    node.write(node.shards / ".draft-gone-host/model-rank-7-part-0.safetensors", b"half")
    code, said = node.run()
    assert code == 0, said
    assert node.loaded() == 2
    assert not any(node.shards.glob(".draft-*"))
    assert node.run()[0] == 0


def test_killed_between_the_rename_and_the_marker_it_is_written_anew(node: Node) -> None:
    assert node.run()[0] == 0
    node.marker.unlink()
    assert node.run()[0] == 0
    assert node.loaded() == 2
    assert node.marker.exists()


def test_of_replicas_that_start_together_one_writes(node: Node) -> None:
    together = [node.start(env={"SLOW": "0.5"}) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in together]
    assert [process.returncode for process in together] == [0, 0, 0], said
    assert node.loaded() == 1
    assert sum("another replica writes the shards" in text for text in said) == 2
    assert sum("are as they were written" in text for text in said) == 2


def test_a_replica_that_waits_takes_over_from_a_writer_that_is_killed(node: Node) -> None:
    writer = node.start(env={"SLOW": "30"})
    until(lambda: node.loaded() == 1)
    waiting = node.start()
    time.sleep(1)
    assert waiting.poll() is None
    writer.send_signal(signal.SIGKILL)
    said, _ = waiting.communicate(timeout=60)
    writer.communicate(timeout=20)
    assert waiting.returncode == 0, said
    assert node.loaded() == 2
    assert node.marker.exists()


def test_who_waits_for_too_long_says_for_what(node: Node) -> None:
    writer = node.start(env={"SLOW": "30"})
    until(lambda: node.loaded() == 1)
    code, _ = node.run(limit=1)
    writer.kill()
    writer.communicate(timeout=20)
    assert code == warm_up.EXIT_AGAIN
    assert "another replica still writes the shards" in node.note.read_text()


@pytest.mark.parametrize(
    ("env", "ranks", "words"),
    [
        ({"CUT": "1"}, 2, "model-rank-1-part-0.safetensors has "),
        ({}, 4, "2 of 4 ranks have written"),
        ({"ODD": "1"}, 2, "rank 1 of stage 0 differs from rank 0 in odd"),
        ({"FAILS": "yes"}, 2, "vLLM has not written them: no GPU has room"),
    ],
)
def test_what_ranks_have_not_written_as_a_whole_is_never_marked(
    node: Node, env: dict[str, str], ranks: int, words: str
) -> None:
    code, _ = node.run(ranks=ranks, env=env)
    assert code == warm_up.EXIT_AGAIN
    assert words in node.note.read_text()
    assert not node.marker.exists()
    assert not node.state.exists()
    assert node.run(ranks=2)[0] == 0  # nothing of it is in the way


@pytest.mark.parametrize("name", ["model-rank-1-part-0.safetensors", "config.json"])
def test_a_file_that_has_changed_is_found_and_all_are_written_anew(node: Node, name: str) -> None:
    assert node.run()[0] == 0
    path = node.state / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, _ = node.run()
    assert code == warm_up.EXIT_AGAIN
    assert f"not as they were written: {name}" in node.note.read_text()
    assert not node.marker.exists()
    assert node.run()[0] == 0
    assert node.loaded() == 2
    assert node.run()[0] == 0


def test_a_file_that_is_gone_is_found_too(node: Node) -> None:
    assert node.run()[0] == 0
    shutil.rmtree(node.state)
    assert node.run()[0] == warm_up.EXIT_AGAIN
    assert node.run()[0] == 0


class TestTwoNodes:
    """Four ranks: two stages of two."""

    GROUP = ("--nodes=2", "--node=0")
    OTHER = ("--nodes=2", "--node=1")

    def test_the_other_pod_runs_its_ranks_until_the_first_has_written(self, node: Node) -> None:
        other = node.start(*self.OTHER, ranks=4)
        until(node.others.exists)
        assert node.others.read_text().split() == [
            "serve", str(node.checkpoint), "--tensor-parallel-size=2", "--enforce-eager", "--headless",
        ]  # fmt: skip
        assert node.loaded() == 0
        assert node.run(*self.GROUP, ranks=4, env={"STAGES": "2"})[0] == 0
        said, _ = other.communicate(timeout=30)
        assert other.returncode == 0, said
        assert "are as they were written" in said
        # A later start runs no ranks at all.
        node.others.unlink()
        assert node.run(*self.OTHER, ranks=4)[0] == 0
        assert not node.others.exists()

    def test_ranks_that_end_before_it_start_again(self, node: Node) -> None:
        other = node.start(*self.OTHER, ranks=4, env={"ENDS": "yes"})
        until(lambda: node.others.exists() and len(node.others.read_text().splitlines()) > 2)
        assert node.run(*self.GROUP, ranks=4, env={"STAGES": "2"})[0] == 0
        other.communicate(timeout=30)
        assert other.returncode == 0

    def test_each_node_reads_its_own_part(self, node: Node) -> None:
        assert node.run(*self.GROUP, ranks=4, env={"STAGES": "2"})[0] == 0
        broken = node.state / "model-pp-1-tp-0-part-0.safetensors"
        broken.write_bytes(broken.read_bytes()[:-1] + b"!")
        assert node.run(*self.GROUP, ranks=4)[0] == 0
        assert broken.exists()
        assert node.marker.exists()

    @pytest.mark.parametrize(("which", "stage"), [(GROUP, 0), (OTHER, 1)])
    def test_a_pod_with_a_broken_part_goes_on_without_it_so_that_the_whole_group_begins_anew(
        self, node: Node, which: tuple[str, ...], stage: int
    ) -> None:
        """A group is made anew only where none of its pods is still in an init container."""
        assert node.run(*self.GROUP, ranks=4, env={"STAGES": "2"})[0] == 0
        broken = node.state / f"model-pp-{stage}-tp-0-part-0.safetensors"
        broken.write_bytes(broken.read_bytes()[:-1] + b"!")
        code, said = node.run(*which, ranks=4)
        assert code == 0
        assert f"not as they were written: {broken.name}: removed" in said
        assert not broken.exists(), "vLLM must not load it"
        assert not node.marker.exists()
        assert node.run(*self.GROUP, ranks=4, env={"STAGES": "2"})[0] == 0
        assert node.loaded() == 2

    def test_it_does_not_wait_for_ever(self, node: Node) -> None:
        assert node.run(*self.OTHER, ranks=4, limit=1)[0] == warm_up.EXIT_AGAIN
        assert "the replica's first pod has written no shards" in node.note.read_text()
